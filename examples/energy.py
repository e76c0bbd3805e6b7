"""Modelled energy of one inference, from the packager's device profiles; says so where there is none."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

_COUNTS, _DEVICES, _PROFILES = "packager.measure.workload", "packager.measure.device_model", "packager.measure.profiles"


def modelled_microjoules(data: bytes, *, profile: str) -> float | None:
    """Microjoules of one row on a profile, by counted operations and bytes; ``None`` where the packager has no such model.

    Args:
        data: an ONNX file.
        profile: its name, such as ``watch``.
    """
    if find_spec("packager.measure") is None:
        return None
    device = next(found for found in import_module(_PROFILES).PROFILES if found.name == profile)
    figures = import_module(_DEVICES).model_on(import_module(_COUNTS).count_workload(data), device)
    value: float | None = figures.energy.value
    return value
