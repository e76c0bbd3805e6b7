"""``sealift device serve``: the local inference service, in the foreground until it gets SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import click

from device_client.console import json_option, show, step


@click.command()
@click.option(
    "--dir",
    "path",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SEALIFT_DEVICE_DIR",
    required=True,
    help="The device's folder (or SEALIFT_DEVICE_DIR).",
)
@json_option
def serve(path: Path, *, as_json: bool) -> None:
    """Run models for other programs of this machine, over a Unix socket. Ends well on SIGTERM."""
    from device_client.inference.confine import forbid_dumps
    from device_client.install.folder import open_device
    from device_client.service.listener import socket_path
    from device_client.service.server import InferenceServer

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    forbid_dumps()  # models pass through this process' memory
    device = open_device(path.absolute())
    where = str(socket_path(device.folder, device.config.service))
    with InferenceServer(device) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        step(f"serving {', '.join(map(str, device.config.models))} on {where}")
        server.run()
        step("ending")
    show({"ok": True, "socket": where, "process": os.getpid()}, f"served on {where}", as_json=as_json)
