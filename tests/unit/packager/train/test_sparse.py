from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from device_client.errors import SealiftError, UsageError
from packager.technique import read_technique
from packager.toml_table import TomlTable
from packager.train.masks import GrowingMasks, Target, choose_smallest, group_by_inputs, verify_in_file
from packager.train.sparse import PruneNM, PruneUnstructured, prune_nm, prune_unstructured

from .nets import Recurrent, Residual, accuracy, compressed, context, signals


def kernels(data: bytes) -> list[Any]:
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(data).graph.initializer]
    return [array for array in arrays if array.ndim >= 2 and array.size >= 256]


@pytest.mark.parametrize("scope", ["layer", "network"])
def test_seven_of_ten_weights_are_zero_in_the_exported_file_and_the_accuracy_stays(scope: str) -> None:
    result = prune_unstructured(compressed(), PruneUnstructured(sparsity=0.7, scope=scope), context())
    found = kernels(result.data)
    zeros, size = sum(int((array == 0).sum()) for array in found), sum(array.size for array in found)
    assert zeros / size >= 0.7 - 1e-3
    if scope == "layer":
        assert all((array == 0).mean() >= 0.7 - 1e-3 for array in found)
    assert accuracy(result.data, signals(200, seed=9)) > 0.95
    assert result.evidence[-1]["zero_share"] == pytest.approx(
        zeros / size, abs=0.05
    )  # tensors below min_elements count in the evidence
    assert "bytes" in str(result.evidence[-1]["value"])


def test_two_of_every_four_weights_along_the_inputs_stay() -> None:
    result = prune_nm(compressed(Residual), PruneNM(), context())
    convolutions = [array for array in kernels(result.data) if array.ndim == 3]
    assert len(convolutions) == 4
    for array in convolutions:
        groups, _ = group_by_inputs(torch.tensor(array), 4)
        assert int((groups != 0).sum(dim=1).max()) <= 2
    assert accuracy(result.data, signals(200, seed=9)) > 0.95


def test_masks_are_found_in_both_directions_of_a_recurrent_layer() -> None:
    kept = np.ones((3, 2, 5), np.float32)
    both = np.stack([np.zeros((6, 5), np.float32), np.ones((6, 5), np.float32)])
    model = helper.make_model(helper.make_graph([], "g", [], [], initializer=[numpy_helper.from_array(both, "w")]))
    verify_in_file(model.SerializeToString(), {"w": torch.zeros(6, 5)}, where="test")
    model = helper.make_model(helper.make_graph([], "g", [], [], initializer=[numpy_helper.from_array(kept, "w")]))
    with pytest.raises(SealiftError):
        verify_in_file(model.SerializeToString(), {"w": torch.zeros(2, 5)}, where="test")


def test_recurrent_weights_are_pruned_too() -> None:
    result = prune_unstructured(compressed(Recurrent), PruneUnstructured(sparsity=0.5), context())
    assert result.evidence[-1]["masked"] == ["cell.weight_hh_l0"]
    assert float(result.evidence[-1]["zero_share"]) > 0.34  # type: ignore[arg-type]


def test_without_training_the_final_masks_are_there_all_the_same() -> None:
    around = context(training=replace(context().training, epochs=0))
    result = prune_unstructured(compressed(), PruneUnstructured(sparsity=0.9), around)
    assert all((array == 0).mean() >= 0.9 - 1e-2 for array in kernels(result.data))


def test_two_runs_give_the_same_bytes() -> None:
    first, second = (prune_nm(compressed(), PruneNM(n=1, m=4), context()) for _ in range(2))
    assert first.data == second.data
    assert first.evidence == second.evidence


def test_most_weights_go_early_and_all_that_should_in_the_end() -> None:
    target = Target("weight", torch.nn.Parameter(torch.arange(1.0, 101.0).reshape(10, 10)))
    masks = GrowingMasks((target,), choose_smallest(0.8, network=False))
    shares = []
    for step in range(1, 101):
        masks(step, 100)
        shares.append(float((target.parameter == 0).float().mean()))
    assert shares[34] > 0.65
    assert shares[69:] == pytest.approx([0.8] * 31)


def test_a_file_that_lost_its_zeros_is_noticed() -> None:
    model = compressed()
    weight = model.module.body[3].weight
    with pytest.raises(SealiftError) as caught:
        verify_in_file(model.data, {"body.3.weight": torch.zeros_like(weight)}, where="test")
    assert caught.value.code == "prune_sparsity"


def test_nothing_to_prune_is_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        prune_unstructured(compressed(), PruneUnstructured(min_elements=100_000), context())
    assert caught.value.code == "prune_nothing"
    with pytest.raises(UsageError, match="divide") as caught:
        prune_nm(compressed(), PruneNM(n=2, m=31), context())
    assert caught.value.code == "prune_nothing"


def test_the_rows_to_train_on_are_needed() -> None:
    for technique, config in ((prune_nm, PruneNM()), (prune_unstructured, PruneUnstructured())):
        with pytest.raises(UsageError) as caught:
            technique(compressed(), config, context(train=None))  # type: ignore[operator]
        assert caught.value.code == "train_rows"


def test_a_recipe_with_n_not_below_m_is_refused() -> None:
    with pytest.raises(UsageError, match="n below m"):
        read_technique(TomlTable({"name": "prune-nm", "n": 4, "m": 4}, where="test"))


def test_groups_along_inputs_come_back_into_their_shape() -> None:
    weight = torch.from_numpy(np.arange(48, dtype=np.float32).reshape(2, 8, 3))
    groups, restore = group_by_inputs(weight, 4)
    assert groups[0].tolist() == [0.0, 3.0, 6.0, 9.0]  # four input channels at the first place of the kernel
    assert torch.equal(restore(groups), weight)
