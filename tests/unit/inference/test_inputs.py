"""Every input of every call is checked against contract and file, whatever the check saves itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from device_client.bundle.contract import TensorSpec
from device_client.errors import UsageError
from device_client.inference.inputs import InputPlan
from device_client.inference.walker import ValueSpec

PLAN = InputPlan(
    (
        TensorSpec("x", "float32", ("batch", 3), "numbers", (-2.0, 2.0)),
        TensorSpec("n", "int64", ("batch",), "counts", (0.0, 9.0)),
        TensorSpec("h", "float16", (2, 2), "half"),
        TensorSpec("free", "float32", ("anything",), "no range"),
    ),
    (ValueSpec("x", "float32", (2, 3)),),
)
Change = Callable[[dict[str, Any]], object]


def good() -> dict[str, Any]:
    return {
        "x": np.ones((2, 3), np.float32),
        "n": np.array([1, 2]),
        "h": np.ones((2, 2), np.float16),
        "free": np.zeros(5, np.float32),
    }


def at(name: str, value: float) -> Change:
    return lambda inputs: inputs[name].reshape(-1).__setitem__(-1, value)


REFUSED: dict[str, Change] = {
    "an input is missing": lambda i: i.pop("n"),
    "an unknown input": lambda i: i.update(y=i["x"]),
    "a list": lambda i: i.update(x=[[1.0, 2.0, 3.0]] * 2),
    "wider numbers": lambda i: i.update(x=i["x"].astype(np.float64)),
    "bytes in the other order": lambda i: i.update(x=i["x"].astype(">f4")),
    "one axis too many": lambda i: i.update(x=i["x"][None]),
    "another fixed size": lambda i: i.update(x=np.ones((2, 4), np.float32)),
    "a size that the file fixes and the contract does not": lambda i: i.update(x=np.ones((1, 3), np.float32), n=i["n"][:1]),
    "two sizes for one name": lambda i: i.update(n=np.array([1])),
    "above the range": at("x", np.nextafter(np.float32(2), np.float32(3))),
    "below the range": at("x", -2.5),
    "an integer above the range": at("n", 10),
    "NaN where there is a range": at("x", np.nan),
    "infinity where there is a range": at("x", np.inf),
    "NaN where there is none": at("free", np.nan),
    "minus infinity where there is none": at("free", -np.inf),
    "NaN in half precision": at("h", np.nan),
    "minus infinity in half precision": at("h", -np.inf),
    "a masked array that hides a number": lambda i: i.update(
        x=np.ma.masked_greater(np.array([[1, 1, 1], [1, 1, 9]], np.float32), 2)
    ),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_an_input_that_the_contract_does_not_allow_is_refused(change: Change) -> None:
    inputs = good()
    change(inputs)
    with pytest.raises(UsageError) as caught:
        PLAN.check(inputs)
    assert caught.value.code == "input_mismatch"


def test_what_the_contract_allows_passes_unchanged() -> None:
    inputs = good()
    feed = PLAN.check(inputs)
    assert all(feed[name] is inputs[name] for name in inputs)


def test_numbers_whose_squares_overflow_are_finite_all_the_same() -> None:
    inputs = good()
    inputs["free"][:] = np.finfo(np.float32).max
    assert PLAN.check(inputs)["free"] is inputs["free"]


def test_an_empty_batch_has_no_number_outside_the_range() -> None:
    plan = InputPlan((TensorSpec("x", "float32", ("batch", 3), "", (0.0, 1.0)), TensorSpec("f", "float32", ("n",), "")))
    plan.check({"x": np.zeros((0, 3), np.float32), "f": np.zeros(0, np.float32)})


def test_text_and_types_without_an_array_form() -> None:
    plan = InputPlan((TensorSpec("t", "string", ("n",), ""),))
    plan.check({"t": np.array(["a", "b"])})
    with pytest.raises(UsageError):
        plan.check({"t": np.zeros(2, np.float32)})
    with pytest.raises(UsageError):
        InputPlan((TensorSpec("b", "bfloat16", (1,), ""),)).check({"b": np.zeros(1, np.float32)})


def test_contract_and_file_that_no_array_fits_refuse_every_array() -> None:
    for declared in ((2, 2), (3,)):
        plan = InputPlan((TensorSpec("x", "float32", (2, 3), ""),), (ValueSpec("x", "float32", declared),))
        with pytest.raises(UsageError):
            plan.check({"x": np.zeros((2, 3), np.float32)})


def test_a_name_that_only_the_file_uses_twice_has_one_size() -> None:
    plan = InputPlan((TensorSpec("x", "float32", ("a", "b"), ""),), (ValueSpec("x", "float32", ("N", "N")),))
    plan.check({"x": np.zeros((2, 2), np.float32)})
    with pytest.raises(UsageError):
        plan.check({"x": np.zeros((2, 3), np.float32)})


KINDS = [np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_]


@settings(max_examples=300, deadline=None)
@given(
    arrays.arrays(st.sampled_from(KINDS), arrays.array_shapes(max_dims=2)),
    st.one_of(st.none(), st.tuples(st.floats(-70000, 0, width=32), st.floats(0, 70000, width=32))),
)
def test_the_check_decides_as_one_that_looks_at_each_number(
    array: np.ndarray[Any, Any], bounds: tuple[float, float] | None
) -> None:
    expected = all(
        np.isfinite(number) and (bounds is None or bounds[0] <= number <= bounds[1]) for number in array.reshape(-1).tolist()
    )
    plan = InputPlan((TensorSpec("x", array.dtype.name, array.shape, "", bounds),))
    try:
        plan.check({"x": array})
    except UsageError:
        assert not expected
    else:
        assert expected
