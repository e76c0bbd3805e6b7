"""The front door: ``sealift GROUP ...``. Loads a group only when it is used.

A group whose optional dependencies are missing is one error that prints the install line. Composes the demo and
hands the audits their compressor; nothing else imports several packages at once.
"""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

import click

from device_client import __version__
from device_client.console import needs_extra, run_main


class _Entry(NamedTuple):
    target: str  # module:attribute of the click command
    extra: str  # the extra that its imports need; "" for the base install
    help: str  # shown by `sealift --help` without importing the group


COMMANDS = {
    "demo": _Entry("demo.commands:demo", "all", "The whole chain on this machine, then seven attacks on it."),
    "pack": _Entry("packager.commands_pack:pack", "packager", "Compress a model and seal it into a bundle."),
    "inspect": _Entry("device_client.commands_inspect:inspect", "", "Show what is inside a bundle, verified or not, and by whom."),
    "keys": _Entry("packager.commands_keys:keys", "", "Make keys, hold the first ceremony, show who may sign what."),
    "sign": _Entry("packager.commands_sign:sign", "", "Sign a bundle for a role, or add a signature to what is prepared."),
    "publish": _Entry("packager.commands_sign:publish", "", "Send blobs and signed metadata in one transaction."),
    "export": _Entry("packager.commands_export:export", "", "Write an offline file for devices that no network reaches."),
    "audit": _Entry("audits.commands:audit", "audit", "Attack the exact bytes, report, attest, verify."),
    "server": _Entry("update_server.commands:server", "server", "Distribute models to devices."),
    "device": _Entry("device_client.commands:device", "", "Poll, verify, install, run."),
}


class _LazyGroup(click.Group):
    """A click group that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else _load(entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def _load(entry: _Entry) -> click.Command:
    module_name, _, attribute = entry.target.partition(":")
    with needs_extra(entry.extra or "device"):
        command = getattr(importlib.import_module(module_name), attribute)
    if not isinstance(command, click.Command):
        raise TypeError(f"{entry.target} is not a command")
    return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sealift")
def cli() -> None:
    """Compress AI models, audit what the bytes leak, seal them, and deliver them to devices that verify everything."""


def main() -> None:
    """Entry point of the ``sealift`` program."""
    sys.exit(run_main(cli, prog_name="sealift"))


if __name__ == "__main__":
    main()
