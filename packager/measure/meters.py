"""Power meters that Linux shows as files: RAPL (powercap) and sensors of the INA2xx kind (hwmon).

Reads numbers; the run that they are read around is in ``metered_run.py``. Readings belong in ``measurements.json``, never in
a bundle. Nothing here needs root by itself, but most systems let only root read RAPL; then the meter says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys")
_MAX_FILE_BYTES = 64
_MAX_METERS = 64  # folders looked at; a system has a handful
_INA = re.compile(r"ina\d{3}.*")


@dataclass(frozen=True)
class Meter:
    """One or more files that together give energy or power.

    ``read_uj``: microjoules since some moment, wrapping at ``wraps_at_uj``; or ``read_uw``: microwatts now. One of them
    is set.
    """

    name: str
    read_uj: Callable[[], int] | None = None
    wraps_at_uj: int = 0
    read_uw: Callable[[], int] | None = None


@dataclass(frozen=True)
class NoMeter:
    """Why there is no meter."""

    reason: str


def find_meter(*, sysfs: Path = SYSFS) -> Meter | NoMeter:
    """The best meter of this machine: a sensor on the supply first, as it sees the whole board, then RAPL."""
    found = [*_hwmon(sysfs / "class/hwmon"), *_rapl(sysfs / "class/powercap")]
    reasons = [item.reason for item in found if isinstance(item, NoMeter)]
    meters = [item for item in found if isinstance(item, Meter)]
    if meters:
        return meters[0]
    return NoMeter(reasons[0] if reasons else "this machine shows no power meter: no RAPL in powercap, no INA2xx in hwmon")


def read_number(path: Path) -> int:
    """An integer from a file of sysfs.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no integer.
    """
    with path.open("rb") as file:
        return int(file.read(_MAX_FILE_BYTES))


def _rapl(folder: Path) -> list[Meter | NoMeter]:
    """Package domains; their cores and memory controllers are parts of them, so those are not added."""
    found: list[Meter | NoMeter] = []
    for zone in _folders(folder, "intel-rapl:*"):
        if zone.name.count(":") != 1 or not _text(zone / "name").startswith("package"):
            continue
        found.append(_counter(f"RAPL {_text(zone / 'name')}", zone / "energy_uj", zone / "max_energy_range_uj"))
    meters = [item for item in found if isinstance(item, Meter)]
    if len(meters) < 2:
        return found
    counters = [meter.read_uj for meter in meters if meter.read_uj is not None]
    ranges = {meter.wraps_at_uj for meter in meters}
    if len(ranges) > 1:
        return [meters[0]]
    return [Meter(f"RAPL, {len(counters)} packages", lambda: sum(read() for read in counters), ranges.pop())]


def _hwmon(folder: Path) -> list[Meter | NoMeter]:
    found: list[Meter | NoMeter] = []
    for sensor in _folders(folder, "hwmon*"):
        name = _text(sensor / "name")
        if not _INA.fullmatch(name):
            continue
        if (sensor / "power1_input").exists():
            found.append(_gauge(f"{name} (hwmon)", _product(sensor / "power1_input")))
        elif (sensor / "in1_input").exists() and (sensor / "curr1_input").exists():
            found.append(_gauge(f"{name} (hwmon)", _product(sensor / "in1_input", sensor / "curr1_input")))  # mV x mA
    return found


def _product(*paths: Path) -> Callable[[], int]:
    return lambda: math.prod(read_number(path) for path in paths)


def _counter(name: str, path: Path, range_path: Path) -> Meter | NoMeter:
    try:
        read_number(path)
        return Meter(name, lambda: read_number(path), wraps_at_uj=read_number(range_path))
    except PermissionError:
        return NoMeter(f"{name} is there, but this user may not read it")
    except (OSError, ValueError):
        return NoMeter(f"{name} is there, but gives no number")


def _gauge(name: str, read: Callable[[], int]) -> Meter | NoMeter:
    try:
        read()
    except PermissionError:
        return NoMeter(f"{name} is there, but this user may not read it")
    except (OSError, ValueError):
        return NoMeter(f"{name} is there, but gives no number")
    return Meter(name, read_uw=read)


def _folders(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))[:_MAX_METERS] if folder.is_dir() else []


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return ""
