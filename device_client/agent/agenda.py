"""``agent.json``: the plan on disk, so that an agent that is restarted again and again does not poll again and again.

Whole or absent (written beside, synced, renamed, folder synced). Holds nothing that trust rests on: a lost or damaged file
costs a random wait, no more, and is written anew.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict

from device_client.agent.schedule import Plan

NAME = "agent.json"
SCHEMA = 1
_MAX_BYTES = 4096


def load_plan(folder: str) -> Plan | None:
    """What ``save_plan`` wrote; None if there is nothing, or nothing that can be read."""
    try:
        descriptor = os.open(os.path.join(folder, NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)  # noqa: PTH118  # pathlib is memory
        try:
            data = os.read(descriptor, _MAX_BYTES)
        finally:
            os.close(descriptor)
        return _parse(json.loads(data))
    except (OSError, ValueError, RecursionError):
        return None


def save_plan(folder: str, plan: Plan) -> None:
    """Replaces the plan on disk.

    Raises:
        OSError: the disk refused; what was there is unchanged.
    """
    path = os.path.join(folder, NAME)  # noqa: PTH118
    making = f"{path}.new"
    data = json.dumps({"schema": SCHEMA, **asdict(plan)}).encode() + b"\n"
    try:
        descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(making, path)  # noqa: PTH105
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(making)  # noqa: PTH108
        raise
    _sync(folder)


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(value: object) -> Plan:
    names = ("boot", "poll_at", "tend_at", "interval_s", "failures", "busy", "tend_failures")
    if not isinstance(value, dict) or set(value) != {"schema", *names} or value["schema"] != SCHEMA:
        raise ValueError("not a plan")
    boot, tend_at = value["boot"], value["tend_at"]
    if not isinstance(boot, str):
        raise ValueError("not a boot")  # noqa: TRY004
    return Plan(
        boot=boot,
        poll_at=_number(value["poll_at"]),
        tend_at=None if tend_at is None else _number(tend_at),
        interval_s=int(_number(value["interval_s"])),
        failures=int(_number(value["failures"])),
        busy=int(_number(value["busy"])),
        tend_failures=int(_number(value["tend_failures"])),
    )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:  # also refuses NaN
        raise ValueError("not a number of seconds")
    return value
