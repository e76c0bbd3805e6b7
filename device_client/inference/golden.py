"""Golden probes: synthetic inputs and, for each variant, the outputs that its bytes gave when they were packed.

The packager writes them (``record``, ``encode_golden``); the self-test reads them on the device, in the real runtime,
before a bundle is activated. A safetensors file; names are ``input/<input name>`` and ``expected/<variant id>/<output
name>``, the first axis of every tensor is the probe. Never training or patient data (DESIGN 3).

    probes = parse_golden(data)
    compare(probes.expected_for("int8"), record(session, probes.inputs), tolerance)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from device_client.bundle.fields import shown
from device_client.errors import FormatError, LimitError, MissingExtraError, SelfTestError
from device_client.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    import numpy as np

    from device_client.bundle.contract import Tolerance
    from device_client.inference.session import Session

    Array = np.ndarray[Any, Any]

_MAX_TENSORS = 4096  # a header of a million empty tensors


@dataclass(frozen=True)
class GoldenProbes:
    """Parsed golden file.

    ``inputs``: input name to array, (count, ...). ``expected``: variant id to output name to array, (count, ...).
    """

    inputs: Mapping[str, Array]
    expected: Mapping[str, Mapping[str, Array]]

    @property
    def count(self) -> int:
        """Number of probes."""
        return int(next(iter(self.inputs.values())).shape[0])

    def expected_for(self, variant_id: str) -> Mapping[str, Array]:
        """Expected outputs of a variant.

        Raises:
            FormatError: the file has none for it; such a variant cannot be tested and so not be installed.
        """
        found = self.expected.get(variant_id)
        if not found:
            raise FormatError(
                "no golden outputs for the variant",
                code="golden_variant",
                where=f"variant {variant_id}",
                expected=sorted(self.expected),
            )
        return found


def parse_golden(data: bytes, *, where: str = "golden", limits: Limits = DEFAULT_LIMITS) -> GoldenProbes:
    """Reads a golden file whose digest was checked.

    Raises:
        LimitError: larger than ``max_golden_bytes``, or too many tensors.
        FormatError: not safetensors, unknown names, no probe, or tensors of different counts.
    """
    if len(data) > limits.max_golden_bytes:
        raise LimitError("golden file too large", code="too_large", where=where, expected=limits.max_golden_bytes, actual=len(data))
    tensors = _load(data, where=where)
    if len(tensors) > _MAX_TENSORS:
        raise LimitError("too many golden tensors", code="too_many", where=where, expected=_MAX_TENSORS, actual=len(tensors))
    inputs: dict[str, Array] = {}
    expected: dict[str, dict[str, Array]] = {}
    for name, array in sorted(tensors.items()):
        kind, _, rest = name.partition("/")
        variant, _, output = rest.partition("/")
        if kind == "input" and rest:
            inputs[rest] = array
        elif kind == "expected" and variant and output:
            expected.setdefault(variant, {})[output] = array
        else:
            raise FormatError("unknown golden tensor", code="golden_name", where=f"{where}: {shown(name)}")
    counts = {array.shape[0] if array.ndim else 0 for array in tensors.values()}
    if not inputs or not expected or len(counts) != 1 or 0 in counts:
        raise FormatError(
            "golden probes are incomplete",
            code="golden_count",
            where=where,
            expected="one number of probes above 0",
            actual=sorted(counts),
        )
    return GoldenProbes(inputs, expected)


def encode_golden(probes: GoldenProbes) -> bytes:
    """The file form; the same probes give the same bytes."""
    import numpy as np
    from safetensors.numpy import save

    tensors = {f"input/{name}": np.ascontiguousarray(array) for name, array in probes.inputs.items()}
    for variant, outputs in probes.expected.items():
        tensors.update({f"expected/{variant}/{name}": np.ascontiguousarray(array) for name, array in outputs.items()})
    data: bytes = save(dict(sorted(tensors.items())))
    return data


def record(session: Session, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Runs the probes one at a time, as a device does, and stacks what comes out.

    Args:
        session: the variant's session.
        inputs: input name to array, (count, ...). Where the array has the rank that the model declares, a probe keeps
            a first axis of length 1 (a batch of one); where it has one more, that axis is taken off.

    Returns:
        Output name to array; the batch axis of length 1 of a single run becomes the probe axis, any other output is
        stacked on a new first axis. Where its size differs from probe to probe, as that of selected boxes does, the smaller
        ones are filled up with ``filler``.
    """
    import numpy as np

    ranks = {spec.name: None if spec.shape is None else len(spec.shape) for spec in session.inputs}
    count = next(iter(inputs.values())).shape[0]
    runs = []
    for index in range(count):
        probe = {
            name: np.asarray(array[index]) if ranks.get(name) == array.ndim - 1 else array[index : index + 1]
            for name, array in inputs.items()
        }
        runs.append(session.run(probe))
    stacked: dict[str, Array] = {}
    for spec in session.outputs:
        parts = [np.asarray(run[spec.name]) for run in runs]
        is_batched = all(part.ndim > 0 and part.shape[0] == 1 for part in parts)
        if len({part.shape for part in parts}) > 1 and len({part.ndim for part in parts}) == 1:
            largest = tuple(int(size) for size in np.max([part.shape for part in parts], axis=0))
            parts = [_filled(part, largest) for part in parts]
            is_batched = is_batched and largest[0] == 1
        stacked[spec.name] = np.concatenate(parts) if is_batched else np.stack(parts)
    return stacked


def filler(dtype: np.dtype[Any]) -> int | float | bool:
    """What fills outputs up to one size: a value that no output has, so that another size is a mismatch.

    Booleans have none to spare and get ``False``.
    """
    import numpy as np

    if dtype.kind in "fc":
        return float(np.finfo(dtype).min)
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max)
    return False


def _filled(array: Array, shape: tuple[int, ...]) -> Array:
    import numpy as np

    whole = np.full(shape, filler(array.dtype), dtype=array.dtype)
    whole[tuple(slice(size) for size in array.shape)] = array
    return whole


def compare(expected: Mapping[str, Array], actual: Mapping[str, Array], tolerance: Tolerance) -> None:
    """Passes only if every output is there, finite, and within the signed tolerance everywhere.

    Raises:
        SelfTestError: ``selftest_mismatch``, with the output and the largest difference.
    """
    import numpy as np

    allowed = 0.0 if tolerance.kind == "exact" else tolerance.value
    if sorted(expected) != sorted(actual):
        raise _mismatch("outputs", expected=", ".join(sorted(expected)), actual=", ".join(sorted(actual)))
    for name, want in expected.items():
        have = actual[name]
        if want.dtype != have.dtype or want.shape != have.shape:
            raise _mismatch(name, expected=f"{want.dtype} {want.shape}", actual=f"{have.dtype} {have.shape}")
        if want.dtype.kind in "fc" and not bool(np.isfinite(have).all() and np.isfinite(want).all()):
            raise _mismatch(name, expected="finite numbers", actual="NaN or infinity")
        if want.size == 0 or np.array_equal(want, have):
            continue
        if want.dtype.kind not in "iufc":
            raise _mismatch(name, expected="equal values", actual="different values")
        wide = np.complex128 if want.dtype.kind == "c" else np.float64
        difference = float(np.abs(want.astype(wide) - have.astype(wide)).max())
        if not 0.0 < difference <= allowed:
            raise _mismatch(name, expected=f"differences of at most {allowed:g}", actual=f"{difference:g}")


def _mismatch(output: str, *, expected: object, actual: object) -> SelfTestError:
    return SelfTestError(
        "the model does not reproduce its golden probes", code="selftest_mismatch", where=output, expected=expected, actual=actual
    )


def _load(data: bytes, *, where: str) -> dict[str, Array]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load
    except ModuleNotFoundError as e:
        raise MissingExtraError("device", missing=e.name or "safetensors") from e
    try:
        tensors: dict[str, Array] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as e:
        raise FormatError(f"not a safetensors file: {' '.join(str(e).split())[:120]}", code="golden_syntax", where=where) from e
    return tensors
