"""What a model's inputs must be, worked out once per model, so that the check of a call costs microseconds.

Sits between ``Model.run`` and the session. Both the signed contract and the file itself say what an input is; a call must fit
both. Nothing is skipped for speed: names, element type, rank, every fixed size, one size for each named dimension, every
number finite and in the signed range. What costs time is looking at every number: smallest and largest say it all, and numpy finds
*where* they are (``argmin``, ``argmax``) in a fraction of the time in which it tells what they are. Both stop at a NaN, which
then fails every comparison. float16 is compared by its bits, since processors have no instructions for it.

    plan = InputPlan(contract.inputs, session.inputs)
    feed = plan.check({"x": array})
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from device_client.bundle.contract import TensorSpec
from device_client.errors import UsageError
from device_client.inference.walker import ValueSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_NEGATIVE_16, _INFINITE_16 = 0x8000, 0x7C00  # sign bit and infinity of a float16


class InputPlan:
    """The rules of one model's inputs.

    Args:
        specs: the contract's inputs.
        declared: the same inputs as the file declares them; a size that only one of the two fixes counts.
    """

    def __init__(self, specs: Sequence[TensorSpec], declared: Sequence[ValueSpec] = ()) -> None:
        shapes = {value.name: value.shape for value in declared}
        uses: Counter[object] = Counter(size for spec in specs for size in spec.shape)
        uses.update(("file", size) for shape in shapes.values() for size in shape or ())
        self._rules = tuple(_Rule(spec, shapes.get(spec.name), uses) for spec in specs)
        self._names = frozenset(spec.name for spec in specs)

    def check(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs, each a plain array that the runtime may get.

        Raises:
            UsageError: what differs, with expected and actual (``input_mismatch``).
        """
        if inputs.keys() != self._names:
            names = (", ".join(sorted(map(str, found))) for found in (self._names, inputs))
            raise _mismatch("inputs differ", "input names", expected=next(names), actual=next(names))
        sizes: dict[object, int] = {}
        feed = {}
        for rule in self._rules:
            feed[rule.name] = rule.check(inputs[rule.name], sizes)
        return feed


class _Rule:
    """One input. The attributes are what ``check`` needs, in the form in which it needs it."""

    def __init__(self, spec: TensorSpec, declared: tuple[int | str, ...] | None, uses: Mapping[object, int]) -> None:
        import numpy as np

        self.name = spec.name
        self._np = np
        self._spec = spec
        self._is_text = spec.dtype == "string"
        try:
            self._dtype = None if self._is_text else np.dtype(spec.dtype)
        except TypeError:
            self._dtype = None  # an element type that no plain array has
        file_sizes = declared if declared is not None and len(declared) == len(spec.shape) else None
        self._impossible = declared if declared is not None and file_sizes is None else None
        self._fixed = {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, int)}
        self._named: list[tuple[int, object]] = [
            (axis, name) for axis, name in enumerate(spec.shape) if isinstance(name, str) and uses[name] > 1
        ]
        for axis, size in enumerate(file_sizes or ()):
            if isinstance(size, int):
                self._impossible = self._impossible or (declared if self._fixed.get(axis, size) != size else None)
                self._fixed[axis] = size
            elif size and uses["file", size] > 1:
                self._named.append((axis, ("file", size)))
        is_fixed = len(self._fixed) == len(spec.shape) and not self._named and self._impossible is None
        self._exact = tuple(self._fixed[axis] for axis in range(len(spec.shape))) if is_fixed else None
        self._rank = len(spec.shape)
        self._array = np.ndarray
        self._check_numbers = self._choose()

    def check(self, given: object, sizes: dict[object, int]) -> Array:
        if type(given) is self._array and self._dtype is not None and given.dtype == self._dtype:  # nearly every call
            array: Array = given
        else:
            array = self._plain(given)
        if array.shape != self._exact:
            self._check_shape(array.shape, sizes)
        if self._check_numbers is not None and array.size:
            self._check_numbers(array)
        return array

    def _plain(self, given: object) -> Array:
        np = self._np
        if not isinstance(given, np.ndarray):
            raise _mismatch("not an array", self.name, expected="numpy array", actual=type(given).__name__)
        # A subclass may answer other questions than the runtime asks: a masked array hides numbers from its own minimum.
        array: Array = given if type(given) is np.ndarray else given.view(np.ndarray)
        if array.dtype.kind not in "OUS" if self._is_text else self._dtype is None or array.dtype != self._dtype:
            raise _mismatch("wrong element type", self.name, expected=self._spec.dtype, actual=array.dtype.str)
        return array

    def _check_shape(self, shape: tuple[int, ...], sizes: dict[object, int]) -> None:
        fits = len(shape) == self._rank and self._impossible is None
        for axis, size in self._fixed.items() if fits else ():
            fits = fits and shape[axis] == size
        for axis, name in self._named if fits else ():
            fits = fits and sizes.setdefault(name, shape[axis]) == shape[axis]
        if not fits:
            expected = [self._fixed.get(axis, name) for axis, name in enumerate(self._spec.shape)]
            raise _mismatch("wrong shape", self.name, expected=expected, actual=list(shape))

    def _choose(self) -> Any:
        """The cheapest complete look at the numbers; None where any pattern of bits will do."""
        kind = None if self._dtype is None else self._dtype.kind
        if kind == "f" and self._dtype == self._np.float16:
            return self._check_half
        if self._spec.range is not None and kind is not None and kind in "iufb":
            self._low, self._high = self._spec.range
            return self._check_range
        return {"f": self._check_finite, "c": self._check_each}.get(kind or "")

    def _check_range(self, array: Array) -> None:
        low, high = array.item(array.argmin()), array.item(array.argmax())
        if not (self._low <= low and high <= self._high):
            self._judge(array, low, high)

    def _check_finite(self, array: Array) -> None:
        if not (math.isfinite(array.item(array.argmin())) and math.isfinite(array.item(array.argmax()))):
            raise self._not_finite()

    def _check_half(self, array: Array) -> None:
        """Extremes of a float16 array by its bits: the processor compares those some hundred times faster."""
        np = self._np
        bits = np.ascontiguousarray(array).view(np.uint16)
        signs = bits.view(np.int16)
        top = bits.item(bits.argmax())  # with the sign bit set: the one furthest below zero
        signed = signs.item(signs.argmax())  # 0 or above: the largest
        least = bits.item(bits.argmin()) if signed < 0 or top < _NEGATIVE_16 else 0
        low, high = (top if top >= _NEGATIVE_16 else least), (signed if signed >= 0 else least)
        if low & ~_NEGATIVE_16 >= _INFINITE_16 or high & ~_NEGATIVE_16 >= _INFINITE_16:
            raise self._not_finite()
        if self._spec.range is not None:
            low_value, high_value = np.array([low, high], np.uint16).view(np.float16).tolist()
            self._judge(array, low_value, high_value)

    def _check_each(self, array: Array) -> None:
        if not self._np.isfinite(array).all():
            raise self._not_finite()

    def _judge(self, array: Array, low: float, high: float) -> None:
        allowed = self._spec.range
        if allowed is None or (allowed[0] <= low and high <= allowed[1]):
            return
        if array.dtype.kind == "f":
            self._check_each(array)
        expected, actual = f"{allowed[0]:g}..{allowed[1]:g}", f"{low:g}..{high:g}"
        raise _mismatch("input outside the contract's range", self.name, expected=expected, actual=actual)

    def _not_finite(self) -> UsageError:
        return _mismatch("not finite", self.name, expected="finite numbers", actual="NaN or infinity")


def _mismatch(what: str, where: str, *, expected: object, actual: object) -> UsageError:
    return UsageError(what, code="input_mismatch", where=where, expected=expected, actual=actual)
