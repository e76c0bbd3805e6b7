"""Every command has help and appears in the documents; every command line in the documents is one that exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import sealift
from tests.architecture.project import ROOT, CommandPath, commands, documents

SHELL_BLOCK = re.compile(r"```(?:sh|bash|console)\n(.*?)```", re.DOTALL)
# What ends one command of a shell line.
SEPARATORS = {"|", "||", "&&", ";", ">", ">>", "<", "2>", "&"}
ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=.*")


def _documented_lines() -> Iterator[tuple[Path, str]]:
    for path in documents():
        for block in SHELL_BLOCK.findall(path.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                yield path, line.strip().removeprefix("$ ")


def _sealift_calls(line: str) -> Iterator[list[str]]:
    """The arguments of each ``sealift ...`` in a shell line."""
    call: list[str] | None = None
    for word in _split(line):
        if word in SEPARATORS:
            if call is not None:
                yield call
            call = None
        elif call is not None:
            call.append(word)
        elif word == "sealift" or word.endswith("/sealift"):
            call = []
    if call is not None:
        yield call


def _split(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    return list(lexer)


CALLS = [(path, line, call) for path, line in _documented_lines() for call in _sealift_calls(line)]


@pytest.fixture(scope="module")
def every_command() -> list[CommandPath]:
    return commands()


def test_every_command_and_every_option_has_help(every_command: list[CommandPath]) -> None:
    silent = [str(path) for path in every_command if not (path.command.help or path.command.short_help)]
    for path in every_command:
        options = [parameter for parameter in path.command.params if isinstance(parameter, click.Option) and not parameter.hidden]
        silent += [f"{path} {option.opts[0]}" for option in options if not option.help]
    assert not silent, silent


def test_every_command_appears_in_the_documents(every_command: list[CommandPath]) -> None:
    text = "\n".join(document.read_text() for document in documents() if document.name != "CHANGELOG.md")
    missing = [str(path) for path in every_command if not re.search(rf"\b{re.escape(str(path))}\b", text)]
    assert not missing, missing


def test_every_command_of_the_front_door_has_a_line_of_help_of_its_own() -> None:
    for name, entry in sealift.COMMANDS.items():
        assert entry.help.endswith("."), name


def test_the_documents_show_command_lines() -> None:
    assert len([call for path, _, call in CALLS if path == ROOT / "README.md"]) >= 15


@pytest.mark.parametrize(("document", "line", "call"), CALLS, ids=[" ".join(call)[:60] for _, _, call in CALLS])
def test_every_command_line_in_the_documents_parses(document: Path, line: str, call: list[str]) -> None:
    command: click.Command = sealift.cli
    context = click.Context(command, info_name="sealift")
    words = list(call)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{document.name}: no command {words[0]!r} in: {line}"
        command, context = found, click.Context(found, info_name=words.pop(0), parent=context)
    if isinstance(command, click.Group):
        return
    values, rest, _ = command.make_parser(context).parse_args(args=words)
    assert not rest, f"{document.name}: too many arguments {rest} in: {line}"
    given = {name for name, value in values.items() if _is_given(value)}
    required = [parameter for parameter in command.params if parameter.required and not parameter.envvar]
    missing = [parameter.name for parameter in required if parameter.name not in given]
    assert "help" in given or not missing, f"{document.name}: {missing} missing in: {line}"


def _is_given(value: object) -> bool:
    return value is not None and value not in ([], ()) and "UNSET" not in repr(value)
