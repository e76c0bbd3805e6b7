"""Golden probes survive the round trip, bite on any change beyond the tolerance, and are refused when malformed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from device_client.errors import FormatError, LimitError, SelfTestError
from device_client.inference.golden import GoldenProbes, compare, encode_golden, parse_golden, record
from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from device_client.limits import Limits
from tests.unit.inference import models

INPUTS = {"x": np.arange(12, dtype=np.float32).reshape(4, 3)}
PROBES = GoldenProbes(INPUTS, {"int8": {"y": INPUTS["x"] * 2}})


@dataclass(frozen=True)
class Allowed:
    kind: str
    value: float


EXACT = Allowed("exact", 0.0)


def check(expected: dict[str, Any], actual: dict[str, Any], allowed: Allowed = EXACT) -> None:
    compare(expected, actual, allowed)  # type: ignore[arg-type]


def test_round_trip_keeps_probes_and_bytes() -> None:
    data = encode_golden(PROBES)
    again = parse_golden(data)
    assert encode_golden(again) == data
    assert again.count == 4
    np.testing.assert_array_equal(again.inputs["x"], INPUTS["x"])
    np.testing.assert_array_equal(again.expected_for("int8")["y"], INPUTS["x"] * 2)


@pytest.mark.parametrize("batch", ["N", 1])
def test_recorded_outputs_have_one_row_for_each_probe(batch: int | str) -> None:
    with open_session(check_model(models.linear(batch=batch).SerializeToString())) as session:
        outputs = record(session, INPUTS)
    np.testing.assert_array_equal(outputs["y"], INPUTS["x"] * 2)
    check(dict(PROBES.expected_for("int8")), outputs)


def test_a_model_with_a_fixed_batch_takes_one_batch_for_each_probe() -> None:
    inputs = {"x": np.arange(24, dtype=np.float32).reshape(4, 2, 3)}
    with open_session(check_model(models.linear(batch=2).SerializeToString())) as session:
        outputs = record(session, inputs)
    np.testing.assert_array_equal(outputs["y"], inputs["x"] * 2)


def test_a_changed_model_is_caught() -> None:
    with open_session(check_model(models.linear(scale=2.2).SerializeToString())) as session, pytest.raises(SelfTestError) as caught:
        check(dict(PROBES.expected_for("int8")), record(session, INPUTS), Allowed("absolute", 0.1))
    assert caught.value.code == "selftest_mismatch"


def test_the_tolerance_is_the_largest_difference_that_passes() -> None:
    want = {"y": np.array([1.0, 2.0])}
    check(want, {"y": np.array([1.0, 2.25])}, Allowed("one_lsb", 0.25))
    with pytest.raises(SelfTestError):
        check(want, {"y": np.array([1.0, 2.26])}, Allowed("one_lsb", 0.25))
    with pytest.raises(SelfTestError):
        check(want, {"y": np.array([1.0, np.nextafter(2.0, 3.0)])})


MISMATCH: dict[str, tuple[Any, Any]] = {
    "not a number": (np.array([1.0]), np.array([np.nan])),
    "not a number on both sides": (np.array([np.nan]), np.array([np.nan])),
    "infinite": (np.array([np.inf]), np.array([np.inf])),
    "another dtype": (np.array([1.0]), np.array([1], np.int64)),
    "another shape": (np.array([1.0]), np.array([[1.0]])),
    "integers that floats cannot tell apart": (np.array([2**60]), np.array([2**60 + 1])),
    "flipped truth": (np.array([True]), np.array([False])),
}


@pytest.mark.parametrize(("want", "have"), MISMATCH.values(), ids=MISMATCH.keys())
def test_unequal_or_not_finite_outputs_fail_whatever_the_tolerance(want: Any, have: Any) -> None:
    with pytest.raises(SelfTestError):
        check({"y": want}, {"y": have}, Allowed("absolute", 1e9) if want.dtype.kind != "i" else EXACT)


def test_missing_or_extra_outputs_fail() -> None:
    one = np.ones(1)
    for actual in ({}, {"z": one}, {"y": one, "z": one}):
        with pytest.raises(SelfTestError):
            check({"y": one}, actual)


ONE = np.ones((1, 2), np.float32)
MALFORMED: dict[str, tuple[bytes, str]] = {
    "not safetensors": (b"hello", "golden_syntax"),
    "empty": (b"", "golden_syntax"),
    "unknown name": (save({"input/x": ONE, "other": ONE}), "golden_name"),
    "no output name": (save({"input/x": ONE, "expected/v": ONE}), "golden_name"),
    "no inputs": (save({"expected/v/y": ONE}), "golden_count"),
    "no outputs": (save({"input/x": ONE}), "golden_count"),
    "no probes": (save({"input/x": ONE[:0], "expected/v/y": ONE[:0]}), "golden_count"),
    "different counts": (save({"input/x": ONE, "expected/v/y": np.ones((2, 2), np.float32)}), "golden_count"),
}


@pytest.mark.parametrize(("data", "code"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_golden_files_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_golden(data)
    assert caught.value.code == code


def test_a_variant_without_outputs_and_a_file_beyond_its_bound_are_refused() -> None:
    with pytest.raises(FormatError, match="no golden outputs"):
        PROBES.expected_for("fp32")
    with pytest.raises(LimitError):
        parse_golden(encode_golden(PROBES), limits=Limits(max_golden_bytes=100))
