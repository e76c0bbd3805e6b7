"""What this machine is: architecture, CPU features, memory, runtime. Read once per poll, without loading the runtime."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from device_client import __version__
from device_client.errors import MissingExtraError, StateError
from device_client.inference.session import ALLOWED_PROVIDERS
from device_client.policy.selection import DeviceFacts

_CPU_INFO = Path("/proc/cpuinfo")
_MAX_CPU_INFO_BYTES = 1 << 20
_FEATURE_KEYS = ("flags", "Features")  # x86 and Arm spell the same line differently


def read_facts(*, cpu_info: Path = _CPU_INFO) -> DeviceFacts:
    """The facts that variant selection and enrolment use.

    Raises:
        MissingExtraError: onnxruntime is not installed, so that nothing could run here.
        StateError: the disk does not tell (``facts_unreadable``).
    """
    return DeviceFacts(
        arch=platform.machine().lower(),
        cpu_features=read_cpu_features(cpu_info),
        ram_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        providers=ALLOWED_PROVIDERS,
        runtime=f"onnxruntime {_runtime_version()}",
        client=f"sealift {__version__}",
    )


def read_cpu_features(path: Path) -> frozenset[str]:
    """The kernel's feature names of the first CPU; empty where the kernel gives none."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CPU_INFO_BYTES).decode("ascii", "replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator and key.strip() in _FEATURE_KEYS:
            return frozenset(value.lower().split())
    return frozenset()


def _runtime_version() -> str:
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError as e:
        raise MissingExtraError("device", missing="onnxruntime") from e
    except OSError as e:
        raise StateError(
            "cannot read which runtime is installed", code="facts_unreadable", where="onnxruntime", actual=e.strerror
        ) from e
