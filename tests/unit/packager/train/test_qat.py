from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from device_client.errors import UsageError
from device_client.inference.walker import check_model
from packager.ptq.saturation import is_saturation_safe
from packager.technique import read_technique
from packager.toml_table import TomlTable
from packager.train.lowbit import low_bit_codes
from packager.train.qat import Qat, qat
from packager.train.qat_graph import prepare, trace

from ..models import op_types
from ..test_ptq_static import fused_operators
from .nets import Attention, ConvNet, Recurrent, Residual, accuracy, compressed, context, fingerprint, signals


@pytest.fixture(scope="module")
def residual() -> Any:
    return qat(compressed(Residual), Qat(), context())


def test_the_result_is_a_qdq_file_of_any_batch_that_passes_the_walker_and_keeps_its_accuracy(residual: Any) -> None:
    checked = check_model(residual.data)
    assert checked.inputs[0].shape == ("batch", 1, 16)
    assert (checked.inputs[0].name, checked.outputs[0].name, residual.precision) == ("x", "y", "int8")
    assert accuracy(residual.data, signals(200, seed=9)) > 0.95
    assert len(residual.data) < len(compressed(Residual).data)


def test_weights_stay_within_seven_bits_so_that_sums_cannot_saturate(residual: Any) -> None:
    assert is_saturation_safe(residual.data)
    weights = [numpy_helper.to_array(item) for item in onnx.load_from_string(residual.data).graph.initializer]
    assert max(int(np.abs(item.astype(int)).max()) for item in weights if item.dtype == np.int8 and item.ndim > 1) == 63


def test_the_runtime_computes_convolutions_sums_and_the_linear_layer_on_integers(residual: Any, tmp_path: Path) -> None:
    operators = fused_operators(residual.data, tmp_path)
    assert {"QLinearConv", "QLinearAdd", "QGemm"} <= operators
    assert not {"Conv", "Gemm", "MatMul"} & operators


def test_the_file_holds_no_names_metadata_or_functions_of_its_maker(residual: Any) -> None:
    model = onnx.load_from_string(residual.data)
    assert not model.functions
    assert not model.metadata_props
    assert not model.producer_name
    assert {item.domain for item in model.opset_import} == {""}
    assert not any(node.name or node.doc_string or node.metadata_props for node in model.graph.node)


def test_no_module_is_handed_on_the_given_one_stays_as_it_was_and_two_runs_agree(residual: Any) -> None:
    model = compressed(Residual)
    before = fingerprint(model.module)
    again = qat(model, Qat(), context())
    assert fingerprint(model.module) == before
    assert again.module is None
    assert again.data == residual.data
    assert again.evidence == residual.evidence


@pytest.mark.slow
def test_eight_bit_weights_are_told_from_safe_ones() -> None:
    assert not is_saturation_safe(qat(compressed(ConvNet), Qat(weight_bits=8), context()).data)


def test_batch_normalisation_is_folded_before_training_without_changing_the_network() -> None:
    module = compressed(ConvNet).module
    x = torch.from_numpy(signals(8, seed=1).inputs["x"])
    graph = trace(module, (x,), where="test")
    assert not any("batch_norm" in str(node.target) for node in graph.graph.nodes)
    with torch.no_grad():
        assert torch.allclose(graph(x), module(x), atol=1e-5)


@pytest.mark.slow
def test_a_transformer_keeps_its_softmax_and_normalisation_in_fp32(tmp_path: Path) -> None:
    result = qat(compressed(Attention), Qat(), context(training=replace(context().training, epochs=1)))
    assert accuracy(result.data, signals(200, seed=9)) > 0.95
    operators = fused_operators(result.data, tmp_path)
    assert {"Softmax", "LayerNormalization", "MatMulIntegerToFloat", "Add"} <= operators


def test_excluded_layers_stay_in_fp32_and_must_exist() -> None:
    module = compressed(Residual).module
    example = (torch.from_numpy(signals(4, seed=1).inputs["x"]),)
    prepared = prepare(trace(module, example, where="test"), example, weight_bits=7, exclude=("first", "head"), where="test")
    assert prepared.quantised == 3
    with pytest.raises(UsageError) as caught:
        qat(compressed(Residual), Qat(exclude=("nobody",)), context())
    assert caught.value.code == "prune_exclude"


def test_a_network_of_recurrent_layers_only_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing in this module") as caught:
        qat(compressed(Recurrent), Qat(exclude=("head",)), context())
    assert caught.value.code == "qat_nothing"


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)

    def forward(self, x: Any) -> Any:
        return self.head(x.flatten(1)) if float(x.detach().sum()) > 0 else self.head(-x.flatten(1))


def test_a_module_that_cannot_be_traced_is_a_named_error() -> None:
    with pytest.raises(UsageError) as caught:
        qat(replace(compressed(), module=Branching()), Qat(), context())
    assert caught.value.code == "qat_failed"


@pytest.mark.parametrize(("weights", "values"), [("ternary", [-1, 0, 1]), ("binary", [-1, 1])])
@pytest.mark.parametrize("kind", [ConvNet, Attention])
def test_low_bit_weights_are_few_values_in_the_file_and_the_accuracy_stays(kind: Any, weights: str, values: list[int]) -> None:
    around = context(training=replace(context().training, epochs=12))
    result = qat(compressed(kind), Qat(weights=weights, rate=1.0), around)
    layers = result.evidence[-1]["layers"]
    assert isinstance(layers, list)
    arrays = [numpy_helper.to_array(item) for item in onnx.load_from_string(result.data).graph.initializer]
    assert sum(array.ndim > 1 and set(np.unique(array)) == set(values) for array in arrays) == len(layers)
    assert "BatchNormalization" not in op_types(result.data)
    assert accuracy(result.data, signals(200, seed=9)) > 0.9
    assert result.precision == "fp32"


def test_codes_times_scale_are_nearer_to_the_weights_than_zero_is() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    for binary in (False, True):
        codes, scale = low_bit_codes(weight, binary=binary)
        error = (codes * scale[:, None] - weight).pow(2).sum() / weight.pow(2).sum()
        assert float(error) < (0.4 if binary else 0.25)


def test_first_and_last_layer_are_changed_only_if_asked() -> None:
    around = context(training=replace(context().training, epochs=1))
    assert qat(compressed(), Qat(weights="ternary"), around).evidence[-1]["layers"] == ["body.3"]
    result = qat(compressed(), Qat(weights="ternary", ends=True), around)
    assert result.evidence[-1]["layers"] == ["body.0", "body.3", "head"]


def test_training_rows_and_a_module_are_needed() -> None:
    with pytest.raises(UsageError) as caught:
        qat(compressed(), Qat(), context(train=None))
    assert caught.value.code == "train_rows"
    with pytest.raises(UsageError) as caught:
        qat(replace(compressed(), module=None), Qat(), context())
    assert caught.value.code == "train_module"


def test_a_recipe_names_it() -> None:
    step = read_technique(TomlTable({"name": "qat", "weights": "binary"}, where="test"))
    assert step.config == Qat(weights="binary")
