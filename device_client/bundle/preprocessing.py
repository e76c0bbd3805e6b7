"""Preprocessing as data: how raw values become the tensors that the model gets. A closed list, never code.

The contract's ``inputs`` describe what the runtime gets, that is the values *after* these steps, and so do the golden
probes. The program that feeds the model applies them, in order, to the input they name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from device_client.bundle.fields import Fields
from device_client.errors import FormatError

MAX_STEPS = 32
MAX_CHANNELS = 4096


@dataclass(frozen=True)
class Scale:
    """``x * factor + offset`` on every element of the input ``input``."""

    input: str
    factor: float
    offset: float

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {"op": "scale", "input": self.input, "factor": self.factor, "offset": self.offset}


@dataclass(frozen=True)
class Normalise:
    """``(x - mean[c]) / std[c]`` along ``axis``; ``mean`` and ``std`` have one number per channel, ``std`` above 0."""

    input: str
    axis: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {"op": "normalise", "input": self.input, "axis": self.axis, "mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class Clip:
    """``min(max(x, minimum), maximum)`` on every element."""

    input: str
    minimum: float
    maximum: float

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {"op": "clip", "input": self.input, "minimum": self.minimum, "maximum": self.maximum}


PreprocessingStep = Scale | Normalise | Clip


def read_step(value: object, where: str) -> PreprocessingStep:
    """Reads one step.

    Raises:
        FormatError: an unknown operation or field. A step that a reader skips would feed the model other numbers than
            were evaluated and audited.
    """
    op = Fields(value, where=where).text("op", choices=tuple(_READERS))
    return _READERS[op](value, where)


def _read_scale(value: object, where: str) -> Scale:
    fields = Fields(value, where=where, known=("op", "input", "factor", "offset"))
    return Scale(fields.text("input", max_chars=128), fields.number("factor"), fields.number("offset"))


def _read_normalise(value: object, where: str) -> Normalise:
    fields = Fields(value, where=where, known=("op", "input", "axis", "mean", "std"))
    step = Normalise(
        fields.text("input", max_chars=128),
        fields.integer("axis", maximum=31),
        fields.items("mean", read_number, max_items=MAX_CHANNELS),
        fields.items("std", read_number, max_items=MAX_CHANNELS),
    )
    if not step.mean or len(step.mean) != len(step.std) or min(step.std) <= 0:
        raise FormatError("mean and std do not fit", code="field_value", where=where, expected="same length, std above 0")
    return step


def _read_clip(value: object, where: str) -> Clip:
    fields = Fields(value, where=where, known=("op", "input", "minimum", "maximum"))
    step = Clip(fields.text("input", max_chars=128), fields.number("minimum"), fields.number("maximum"))
    if step.minimum > step.maximum:
        raise FormatError("minimum above maximum", code="field_value", where=where)
    return step


def read_number(value: object, where: str) -> float:
    """Element reader for arrays of numbers; booleans are not numbers."""
    if type(value) is int or type(value) is float:
        return float(value)
    raise FormatError("wrong type", code="field_type", where=where, expected="a number", actual=type(value).__name__)


_READERS: dict[str, Callable[[object, str], PreprocessingStep]] = {
    "scale": _read_scale,
    "normalise": _read_normalise,
    "clip": _read_clip,
}
