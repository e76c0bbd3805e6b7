"""``<bundle>.measurements.json``: every reading of a clock, beside the bundle and never in it.

The bundle must be the same bytes on every run; times are not. The file names the manifest it belongs to, and the release
entry names the file's digest, so readings are signed with the release all the same.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError
from device_client.limits import MIB
from device_client.trust.files import write_new

SCHEMA = "1.0"
MAX_MEASUREMENTS_BYTES = MIB


def measurements_path(bundle: Path) -> Path:
    """Where the measurements of a bundle folder lie."""
    return bundle.with_name(f"{bundle.name}.measurements.json")


def write_measurements(
    bundle: Path,
    *,
    manifest: Digest,
    latency: Mapping[str, Mapping[str, object]],
    durations_s: Mapping[str, float],
    search: Mapping[str, object] | None = None,
    energy: Mapping[str, Mapping[str, object]] | None = None,
) -> Path:
    """Writes the file beside the bundle.

    Args:
        bundle: the bundle folder.
        manifest: the digest of its manifest.
        latency: per variant id, ``LatencyRatio.to_json()``, or why there is none.
        durations_s: seconds that the steps of packing took.
        search: how a search went, where there was one.
        energy: per variant id, ``MeteredPair.to_json()``; left out where nobody looked for a meter.

    Raises:
        UsageError: the file exists.
    """
    value: dict[str, object] = {
        "schema": SCHEMA,
        "manifest": str(manifest),
        "machine": describe_machine(),
        "latency": {variant: dict(reading) for variant, reading in latency.items()},
        "energy": {variant: dict(reading) for variant, reading in (energy or {}).items()},
        "durations_s": {name: round(seconds, 3) for name, seconds in durations_s.items()},
        **({} if search is None else {"search": dict(search)}),
    }
    path = measurements_path(bundle)
    write_new(path, canonical_json(value) + b"\n")
    return path


def copy_measurements(source: Path, target: Path, *, manifest: Digest) -> None:
    """Takes the readings of one bundle over to its re-issue: the same layers, so the same readings.

    Raises:
        FormatError: the source's file is not what ``write_measurements`` writes.
        UsageError: the target's file exists.
    """
    path = measurements_path(source)
    if not path.exists():
        return
    with path.open("rb") as file:
        value = parse_strict(file.read(MAX_MEASUREMENTS_BYTES + 1), max_bytes=MAX_MEASUREMENTS_BYTES, where=path.name)
    if not isinstance(value, dict) or "manifest" not in value:
        raise FormatError("not a measurements file", code="field_missing", where=path.name, expected="manifest")
    value = {**value, "manifest": str(manifest), "reissued_from": value.get("reissued_from", value["manifest"])}
    write_new(measurements_path(target), canonical_json(value) + b"\n")


def describe_machine() -> dict[str, Any]:
    """What the readings were taken on; no name or address of the machine."""
    return {
        "system": platform.system(),
        "arch": platform.machine(),
        "cpus": os.cpu_count() or 0,
        "cpu_features": _cpu_features(),
        "python": platform.python_version(),
    }


def _cpu_features() -> list[str]:
    """The features that decide which integer kernels ran; empty where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    relevant = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
    flags = {word for line in text.splitlines() if line.lower().startswith(("flags", "features")) for word in line.split()}
    return [name for name in relevant if name in flags]
