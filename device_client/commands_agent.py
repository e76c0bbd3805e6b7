"""``sealift device run``: checks the device's folder, then becomes the agent.

``exec``, not a call: what this process has loaded for the command line and for reading the configuration would otherwise stay in
the memory of a device for as long as it is switched on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from device_client.console import json_option

_START = "from device_client.agent.supervisor import main; sys.exit(main(sys.argv[1:]))"


@click.command()
@click.option(
    "--dir",
    "path",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SEALIFT_DEVICE_DIR",
    required=True,
    help="The device's folder (or SEALIFT_DEVICE_DIR).",
)
@click.option("--once", is_flag=True, help="One poll if the schedule says that it is time, then end; for cron.")
@json_option
def run(path: Path, *, once: bool, as_json: bool) -> None:
    """Stay: poll when it is time, keep the inference service up. SIGHUP polls now, SIGTERM ends it.

    Events go to stderr, one a line (JSON with --json). How it runs is in docs/agent.md, `[agent]` of device.toml sets it.
    """
    command = agent_command(path, once=once, as_json=as_json)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)  # noqa: S606  # the same program, by its own path


def agent_command(path: Path, *, once: bool, as_json: bool) -> list[str]:
    """The command line of the agent for a device's folder.

    Raises:
        StateError, UsageError: no device there, or a configuration that is not sound.
    """
    from device_client.agent.child import python_command
    from device_client.commands import device
    from device_client.install.folder import open_device

    settings = open_device(path).config.agent
    serve = "serve" in device.commands if settings.serve is None else settings.serve
    flags = {"--serve": serve, "--recover": "recover" in device.commands, "--once": once, "--json": as_json}
    given = [flag for flag, is_given in flags.items() if is_given]
    module_path = [str(Path(entry).resolve()) for entry in sys.path]
    return python_command(module_path, _START, str(path.resolve()), str(settings.poll_deadline_s), *given)
