"""What every command group shares: JSON or text on stdout, steps and progress on stderr, errors with a hint.

Used by the command files only; libraries never print. ``run_main`` is the one place that turns an error into an
exit status: 0 done, 1 refused or failed, 2 usage.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from device_client.errors import MissingExtraError, SealiftError, UsageError
from device_client.text import printable

_OUR_PACKAGES = frozenset({"device_client", "packager", "update_server", "audits", "demo"})
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
logger = logging.getLogger(__name__)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout.")


def show(result: dict[str, object], text: str, *, as_json: bool) -> None:
    """Prints a result on stdout: ``result`` as JSON, ``ok`` true unless it says otherwise, or the human form ``text``."""
    click.echo(json.dumps({"ok": True, **result}, ensure_ascii=False) if as_json else text)


def step(message: str) -> None:
    """One line on stderr saying what happened."""
    click.echo(message, err=True)


@contextmanager
def progress(label: str, *, length: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, one line when done elsewhere; yields ``advance(n)``."""
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        yield bar.update
    if not sys.stderr.isatty():
        step(f"{label}: done")


def track(items: Iterable[T], *, label: str, length: int) -> Iterator[T]:
    """Iterates ``items`` under a progress bar."""
    with progress(label, length=length) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around the imports of a command: a library that is not installed is one error that prints the install line.

    Raises:
        MissingExtraError: a module of another project is missing; one of ours missing is a fault and stays one.
    """
    try:
        yield
    except ModuleNotFoundError as e:
        if e.name is None or e.name.partition(".")[0] in _OUR_PACKAGES:
            raise
        raise MissingExtraError(extra, missing=e.name) from e


def run_main(command: click.Command, *, prog_name: str, args: list[str] | None = None) -> int:
    """Runs a click command and returns the exit status; the border where errors become messages.

    With ``--json`` among the arguments a refusal is also one JSON object ``{"ok": false, "code", ...}`` on stdout. Faults of
    this software are not caught: their traceback is what a report of them needs.
    """
    arguments = sys.argv[1:] if args is None else args
    as_json = "--json" in arguments
    try:
        outcome = command.main(args=arguments, prog_name=prog_name, standalone_mode=False)
    except SealiftError as error:
        return _refused(error, as_json=as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _refused(_wrong_use(error), as_json=as_json)
    except click.Abort:
        _refused(SealiftError("interrupted", code="interrupted", hint="start the command again"), as_json=as_json)
        return 130
    except OSError as error:
        return _refused(_system_error(error), as_json=as_json)
    return outcome if isinstance(outcome, int) else 0  # outside its standalone mode click returns the status of `Exit`


def _refused(error: SealiftError, *, as_json: bool) -> int:
    hint = error.hint or f"docs/errors.md says what to do about {error.code}"
    if as_json:
        click.echo(json.dumps({"ok": False, **error.to_json(), "hint": hint}, ensure_ascii=False))
    click.echo(f"error: {printable(str(error))} [{error.code}]", err=True)  # parts of it may come from outside
    click.echo(f"hint: {printable(hint)}", err=True)
    return error.exit_status


def _wrong_use(error: click.ClickException) -> UsageError:
    """What click says about options and arguments, in the form of every other error."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    what = " ".join(error.format_message().split()).removesuffix(".")
    return UsageError(what[:1].lower() + what[1:], code="usage", hint=f"{context.command_path if context else 'sealift'} --help")


def _system_error(error: OSError) -> SealiftError:
    """A path or a disk that the library did not expect to fail; `errno` says more than a traceback would."""
    return SealiftError(
        "the system refused a file or a connection",
        code="system_error",
        where=None if error.filename is None else str(error.filename),
        actual=error.strerror or str(error),
        hint="check the path, its permissions and the free space",
    )
