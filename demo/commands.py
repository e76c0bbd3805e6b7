"""`sealift demo`: the whole chain on this machine, on real data, and then seven attacks on it."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from types import FrameType

import click

from demo.chain import Chain
from demo.processes import Workshop
from demo.report import Report
from device_client.console import json_option, show
from device_client.errors import SealiftError, UsageError


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Keep everything here, to go on by hand; must be empty.")
@json_option
def demo(folder: Path | None, as_json: bool) -> None:
    """Run the whole chain on this machine, on real data; explain each step; attack it at the end.

    Trains a network on handwritten digits, compresses, audits, seals and signs it, serves it, and installs it on a
    device, all in separate processes on the loopback address. Nothing is left behind unless --dir is given.
    """
    place = _prepare(folder)
    workshop = Workshop(place)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        report = Chain(workshop).run()
    except KeyboardInterrupt as e:
        workshop.close()
        _empty(place)  # no half state: the folder was empty when the demo began
        raise click.Abort from e
    finally:
        workshop.close()
        signal.signal(signal.SIGTERM, previous)
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
    show(report.to_json(), _closing(report, workshop, kept=folder), as_json=as_json)
    if not report.ok:
        raise SealiftError("the demo did not end as it must", code="demo_failed", hint="the lines above say where")


def _prepare(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="sealift-demo-"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("the folder is not empty", code="folder_not_empty", where=str(folder), hint="give a new folder with --dir")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _closing(report: Report, workshop: Workshop, *, kept: Path | None) -> str:
    lines = [report.summary()]
    if kept is not None:
        lines += ["", f"everything is in {workshop.folder}; to go on by hand:", *report.by_hand(workshop.folder, url=workshop.url)]
    return "\n".join(lines)
