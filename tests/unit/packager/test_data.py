from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.errors import UsageError
from device_client.inference.walker import ValueSpec
from packager.data import Dataset, fit_dataset, read_arrays
from packager.feed import feed_rows, rows_per_run
from packager.split import split_dataset

from .models import TRAINER, rows, save_npz

X = (ValueSpec("image", "float32", ("N", 6)),)
TOKENS = (ValueSpec("ids", "int64", ("N", 4)), ValueSpec("mask", "float32", ("N", 4)))


def fit(**arrays: Any) -> Dataset:
    return fit_dataset({name: np.asarray(array) for name, array in arrays.items()}, X, where="data.npz")


def split(data: Dataset, *, seed: int = 0, calibration: float = 0.2, validation: float = 0.2, rows_at_most: int = 512) -> Any:
    return split_dataset(
        data, seed=seed, calibration_share=calibration, validation_share=validation, max_calibration_rows=rows_at_most
    )


def test_x_stands_for_the_only_input(tmp_path: Path) -> None:
    arrays = read_arrays(save_npz(tmp_path, x=rows(5), y=np.arange(5)))
    assert list(fit_dataset(arrays, X, where="d").inputs) == ["image"]


def test_several_inputs_are_named_and_brought_to_their_types() -> None:
    data = fit_dataset({"ids": np.ones((3, 4), np.int32), "mask": np.ones((3, 4), np.float64)}, TOKENS, where="d")
    assert {name: array.dtype.name for name, array in data.inputs.items()} == {"ids": "int64", "mask": "float32"}


def test_an_object_array_is_refused_because_it_is_a_pickle(tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return sys.exit, (3,)

    path = save_npz(tmp_path, x=np.array([Boom()], dtype=object))
    with pytest.raises(UsageError) as caught:
        read_arrays(path)
    assert caught.value.code == "data_syntax"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(None, "data_missing", id="no such file"),
        pytest.param(b"not a zip", "data_syntax", id="not an archive"),
        pytest.param(b"PK\x03\x04broken", "data_syntax", id="broken archive"),
        pytest.param(b"", "data_syntax", id="empty file"),
    ],
)
def test_a_wrong_data_file_names_the_file_and_the_remedy(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_arrays(str(path))
    assert caught.value.code == code
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert "unsafe" not in str(caught.value)  # numpy's own advice on what is no archive is to unpickle it


def test_a_single_npy_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with path.open("wb") as file:
        np.save(file, rows(3))
    with pytest.raises(UsageError, match=r"not an \.npz archive"):
        read_arrays(str(path))


def test_a_data_function_must_return_a_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trainer_for_data.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UsageError) as caught:
        read_arrays("trainer_for_data:bare_array")
    assert caught.value.code == "data_type"


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        pytest.param({"z": rows(3)}, "data_names", id="wrong name"),
        pytest.param({"x": rows(3), "extra": rows(3)}, "data_names", id="unknown array"),
        pytest.param({"x": rows(3), "y": np.arange(4)}, "data_rows", id="other length"),
        pytest.param({"x": rows(0)}, "data_rows", id="no row"),
        pytest.param({"x": rows(3, (7,))}, "data_shape", id="wrong inner shape"),
        pytest.param({"x": rows(3, (6, 1))}, "data_shape", id="one axis more"),
        pytest.param({"x": np.full((3, 6), np.nan)}, "data_value", id="not a number"),
        pytest.param({"x": np.full((3, 6), "a")}, "data_type", id="text"),
        pytest.param({"x": np.full((3, 6), 1j)}, "data_type", id="complex"),
        pytest.param({"x": rows(3), "y": np.array(["cat", "dog", "cat"])}, "data_type", id="labels as text"),
        pytest.param({"x": rows(3), "y": np.array([0, np.nan, 1])}, "data_value", id="label that is no number"),
        pytest.param({"x": rows(3), "groups": rows(3)}, "data_type", id="groups of floats"),
        pytest.param({"x": rows(3), "y": np.array([0, np.inf, 1])}, "data_value", id="infinite target"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(arrays: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        fit(**arrays)
    assert caught.value.code == code


def test_integers_that_do_not_fit_the_input_type_are_refused() -> None:
    specs = (ValueSpec("x", "int8", ("N", 2)),)
    with pytest.raises(UsageError, match="do not fit int8"):
        fit_dataset({"x": np.full((3, 2), 300)}, specs, where="d")


def test_seeded_parts_share_no_row_and_use_all_rows() -> None:
    data = fit(x=rows(200))
    parts = split(data)
    found = [set(part.row_digests()) for part in (parts.calibration, parts.validation, parts.test)]
    assert [len(item) for item in found] == [40, 40, 120]
    assert len(set.union(*found)) == 200
    assert parts.origin == "seed"


def test_the_seeded_split_does_not_depend_on_the_order_of_rows() -> None:
    x = rows(100)
    order = np.random.default_rng(3).permutation(100)
    one, other = split(fit(x=x)), split(fit(x=x[order]))
    assert set(one.test.row_digests()) == set(other.test.row_digests())


def test_another_seed_gives_another_split() -> None:
    data = fit(x=rows(100))
    assert set(split(data, seed=1).test.row_digests()) != set(split(data, seed=2).test.row_digests())


def test_the_seeded_split_keeps_groups_and_equal_rows_together() -> None:
    x = rows(120)
    x[7] = x[90]  # the same row in groups 0 and 9
    groups = np.repeat(np.arange(12), 10)
    parts = split(fit(x=x, groups=groups))
    of_group: dict[int, set[str]] = {}
    for name in ("calibration", "validation", "test"):
        for group in getattr(parts, name).groups.tolist():
            of_group.setdefault(group, set()).add(name)
    assert all(len(names) == 1 for names in of_group.values())
    assert of_group[0] == of_group[9]


def test_a_given_split_is_used_as_it_is() -> None:
    names = np.array(["calibration"] * 3 + ["test"] * 7)
    parts = split(fit(x=rows(10), split=names))
    assert (len(parts.calibration), parts.validation, len(parts.test), parts.origin) == (3, None, 7, "given")


def test_training_rows_are_a_part_of_their_own_and_stand_in_the_digests() -> None:
    names = np.array(["calibration", "train", "test", "train", "validation"])
    x = rows(5)
    parts = split(fit(x=x, y=np.arange(5), split=names))
    assert np.array_equal(parts.train.inputs["image"], x[[1, 3]])
    assert parts.train.labels.tolist() == [1, 3]
    assert [name for name, _ in parts.digests()] == ["calibration", "test", "train", "validation"]
    assert len({digest for _, digest in parts.digests()}) == 4


def test_the_seeded_split_gives_no_row_to_training() -> None:
    assert split(fit(x=rows(50))).train is None


def test_a_row_or_group_that_is_trained_on_cannot_be_tested_on() -> None:
    names = np.array(["calibration", "train", "test", "test"])
    x = rows(4)
    x[3] = x[1]
    for arrays in ({"x": x}, {"x": rows(4), "groups": np.array([0, 1, 2, 1])}):
        with pytest.raises(UsageError) as caught:
            split(fit(**arrays, split=names))
        assert caught.value.code == "data_leak"


def test_a_dynamic_axis_takes_any_size_but_none() -> None:
    specs = (ValueSpec("x", "float32", ("N", "T")),)
    assert fit_dataset({"x": rows(3, (9,))}, specs, where="d").inputs["x"].shape == (3, 9)
    with pytest.raises(UsageError) as caught:
        fit_dataset({"x": rows(3, (0,))}, specs, where="d")
    assert caught.value.code == "data_shape"


STATE = (ValueSpec("x", "float32", ("N", 3)), ValueSpec("state", "float32", (2, "N", 4)), ValueSpec("rate", "int64", ()))


def test_a_recurrent_state_and_a_scalar_have_one_whole_tensor_per_row() -> None:
    arrays = {"x": rows(5, (3,)), "state": rows(5, (2, 1, 4)), "rate": np.full(5, 16000)}
    data = fit_dataset(arrays, STATE, where="d")
    fed = feed_rows(STATE, data.inputs, start=4)
    assert {name: array.shape for name, array in fed.items()} == {"x": (1, 3), "state": (2, 1, 4), "rate": ()}
    assert np.array_equal(fed["state"], arrays["state"][4])
    assert rows_per_run(STATE, data.inputs, limit=9) == 1
    with pytest.raises(UsageError) as caught:
        fit_dataset({**arrays, "state": rows(5, (3, 1, 4))}, STATE, where="d")
    assert (caught.value.code, caught.value.expected) == ("data_shape", "(rows, 2, N, 4)")


def test_a_state_of_one_layer_may_have_the_layer_or_not() -> None:
    specs = (ValueSpec("x", "float32", ("N", 3)), ValueSpec("state", "float32", (1, "N", 4)))
    whole = rows(5, (1, 1, 4))
    for state in (whole, whole[:, 0]):
        data = fit_dataset({"x": rows(5, (3,)), "state": state}, specs, where="d")
        fed = feed_rows(specs, data.inputs, start=4)
        assert fed["state"].shape == (1, 1, 4)
        assert np.array_equal(fed["state"], whole[4])
        assert rows_per_run(specs, data.inputs, limit=9) == 1
    with pytest.raises(UsageError) as caught:
        fit_dataset({"x": rows(5, (3,)), "state": rows(5, (2, 1, 4))}, specs, where="d")
    assert caught.value.code == "data_shape"


def test_an_input_whose_first_axis_is_time_may_be_given_whole() -> None:
    specs = (ValueSpec("x", "float32", ("T", "N", 3)),)
    x = rows(5, (7, 1, 3))
    data = fit_dataset({"x": x}, specs, where="d")
    assert np.array_equal(feed_rows(specs, data.inputs, start=4)["x"], x[4])
    assert rows_per_run(specs, data.inputs, limit=9) == 1
    with pytest.raises(UsageError):
        fit_dataset({"x": rows(5, (7, 1, 4))}, specs, where="d")


def test_a_given_split_may_be_bytes() -> None:
    assert len(split(fit(x=rows(4), split=np.array([b"calibration", b"test", b"test", b"test"]))).test) == 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"duplicate": True}, "data_leak", id="one row in two parts"),
        pytest.param({"groups": np.array([0, 0, 1, 1])}, "data_leak", id="one group in two parts"),
        pytest.param({"split": np.array(["calibration", "tset", "test", "test"])}, "data_split", id="unknown part"),
        pytest.param({"split": np.array(["test"] * 4)}, "data_split", id="no calibration part"),
    ],
)
def test_a_given_split_that_leaks_or_misses_a_part_is_refused(change: dict[str, Any], code: str) -> None:
    x = rows(4)
    if change.pop("duplicate", False):
        x[3] = x[0]
    arrays = {"x": x, "split": np.array(["calibration", "test", "test", "test"]), **change}
    with pytest.raises(UsageError) as caught:
        split(fit(**arrays))
    assert caught.value.code == code


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="part has no row"):
        split(fit(x=rows(10), groups=np.zeros(10, np.int64)))


def test_calibration_rows_above_the_bound_are_used_for_nothing() -> None:
    parts = split(fit(x=rows(100)), rows_at_most=5)
    assert (len(parts.calibration), len(parts.validation), len(parts.test)) == (5, 20, 60)


def test_part_digests_change_with_rows_labels_and_groups() -> None:
    x, y, groups = rows(6), np.arange(6), np.array(["a", "b", "c", "d", "e", "f"])
    base = fit(x=x, y=y, groups=groups).digest()
    changed = x.copy()
    changed[0, 0] += 1
    variants = [
        fit(x=changed, y=y, groups=groups),
        fit(x=x, y=y + 1, groups=groups),
        fit(x=x, y=y),
        fit(x=x[::-1], y=y, groups=groups),
    ]
    assert len({base, *(item.digest() for item in variants)}) == 5
    assert fit(x=x.copy(), y=y, groups=groups).digest() == base
