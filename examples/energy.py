"""Modelled energy of one inference, from the packager's device profiles."""

from __future__ import annotations

from packager.measure.device_model import model_on
from packager.measure.profiles import PROFILES
from packager.measure.workload import count_workload


def modelled_microjoules(data: bytes, *, profile: str) -> float | None:
    """Microjoules of one row on a profile, by counted operations and bytes; ``None`` where an operator has no count.

    Args:
        data: an ONNX file.
        profile: its name, such as ``watch``.
    """
    device = next(found for found in PROFILES if found.name == profile)
    return model_on(count_workload(data), device).energy.value
