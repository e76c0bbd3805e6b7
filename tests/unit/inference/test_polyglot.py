"""A file that the runtime and an ONNX reader take for two different models: refused, and by a second layer harmless."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from device_client.errors import FormatError
from device_client.inference import walker
from device_client.inference.session import open_session
from device_client.inference.walker import CheckedModel, check_model
from tests.unit.inference import models
from tests.unit.inference.bare import bare
from tests.unit.inference.polyglot import as_ort, polyglot

X = np.array([[1.0, 2.0, 3.0]], np.float32)


@pytest.fixture(scope="module")
def two_in_one(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Times 9 as an ORT model, times 2 as an ONNX model."""
    ort = as_ort(models.linear(scale=9.0).SerializeToString(), tmp_path_factory.mktemp("ort"))
    return polyglot(ort=ort, onnx=models.linear(scale=2.0).SerializeToString())


def test_a_polyglot_that_the_bare_runtime_runs_as_another_model_than_onnx_reads_is_refused(two_in_one: bytes) -> None:
    assert bare(two_in_one, default_options=True).row == [9.0, 18.0, 27.0]
    read = onnx.load_from_string(two_in_one)
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[0]), np.full(3, 2.0, np.float32))
    with pytest.raises(FormatError) as caught:
        check_model(two_in_one)
    assert caught.value.code == "model_ortm"


def test_a_plain_ort_model_is_refused(tmp_path: Path) -> None:
    ort = as_ort(models.linear().SerializeToString(), tmp_path)
    assert bare(ort, default_options=True).row == [2.0, 4.0, 6.0]
    with pytest.raises(FormatError) as caught:
        check_model(ort)
    assert caught.value.code == "model_ortm"


def test_a_polyglot_that_got_past_the_walker_would_run_as_the_onnx_model_that_was_read(
    two_in_one: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = check_model(models.linear(scale=2.0).SerializeToString())
    forged = CheckedModel(two_in_one, good.digest, good.opset, good.inputs, good.outputs, seal=walker._SEAL)
    with open_session(forged) as session:
        np.testing.assert_array_equal(session.run({"x": X})["y"], 2 * X)


def test_the_two_layers_against_a_polyglot_do_not_hang_on_each_other(two_in_one: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the check of the four bytes the unknown field that every such file needs is what the walker refuses.
    monkeypatch.setattr(walker, "_ORT_FORMAT", b"none")
    with pytest.raises(FormatError) as caught:
        check_model(two_in_one)
    assert caught.value.code == "model_field_unknown"
