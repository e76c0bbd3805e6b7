"""What the project consists of, for the tests of its shape: files, sources, documents, error codes, commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

import sealift

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("device_client", "packager", "update_server", "audits", "demo", "examples")
SKIPPED_FOLDERS = {".git", ".venv", "__pycache__", "results"}


def all_files() -> list[Path]:
    """What git tracks or would track; in a tree without git, everything but what tools leave."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listing.returncode == 0:
        found = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:
        found = [path for path in ROOT.rglob("*") if not _is_left_by_tools(path)]
    return sorted(path for path in found if path.is_file())


def _is_left_by_tools(path: Path) -> bool:
    return any(part in SKIPPED_FOLDERS or part.endswith("_cache") for part in path.relative_to(ROOT).parts)


def text_files() -> Iterator[tuple[Path, str]]:
    """Every file that is text, with its content."""
    for path in all_files():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def documents() -> list[Path]:
    return [path for path in all_files() if path.suffix == ".md"]


def sources(package: str) -> Iterator[tuple[Path, ast.Module]]:
    """Every module of a package, parsed."""
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Absolute names imported anywhere in a module, inside functions as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def is_standard_library(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


@dataclass(frozen=True)
class CommandPath:
    """One command of the front door, as it is typed: ``sealift keys new``."""

    words: tuple[str, ...]
    command: click.Command

    def __str__(self) -> str:
        return " ".join(("sealift", *self.words))


def commands() -> list[CommandPath]:
    """Every group and command that ``sealift --help`` leads to."""
    return list(_walk(sealift.cli, ()))


def _walk(command: click.Command, words: tuple[str, ...]) -> Iterator[CommandPath]:
    if words:
        yield CommandPath(words, command)
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=words[-1] if words else "sealift")
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _walk(found, (*words, name))
