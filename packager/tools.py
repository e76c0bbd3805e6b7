"""Versions of everything that shaped the bundle's bytes, for lineage and bill of materials."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from device_client import __version__

_ALWAYS = ("numpy", "onnx", "onnxruntime", "safetensors", "zstandard")


def tool_versions(extra: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """Name and version of each tool, sorted by name; ``extra`` for those that only some models need."""
    found = {name: version(name) for name in (*_ALWAYS, *extra)}
    return tuple(sorted({**found, "sealift": __version__}.items()))
