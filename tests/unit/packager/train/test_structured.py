from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sealift
from device_client.errors import UsageError
from packager.technique import apply_technique, read_technique
from packager.toml_table import TomlTable
from packager.train.need import count_parameters
from packager.train.outputs import output_layers
from packager.train.structured import PruneStructured, prune_structured

from .nets import Attention, ConvNet, Residual, accuracy, compressed, context, fingerprint, signals

ROOT = Path(sealift.__file__).parent


@pytest.mark.parametrize("kind", [ConvNet, Residual, Attention])
def test_half_the_channels_go_and_recovery_brings_the_accuracy_back(kind: type[nn.Module]) -> None:
    model = compressed(kind)
    result = prune_structured(model, PruneStructured(ratio=0.5, steps=1), context())
    assert count_parameters(result.module) < 0.75 * count_parameters(model.module)
    assert len(result.data) < len(model.data)
    assert accuracy(result.data, signals(200, seed=9)) > 0.95


def test_the_module_that_was_given_is_left_as_it_was() -> None:
    model = compressed()
    before = fingerprint(model.module)
    prune_structured(model, PruneStructured(ratio=0.5, steps=1), context())
    assert fingerprint(model.module) == before


def test_two_runs_give_the_same_bytes() -> None:
    config = PruneStructured(ratio=0.5, steps=2, importance="taylor", scope="network")
    first, second = (prune_structured(compressed(), config, context()) for _ in range(2))
    assert first.data == second.data
    assert first.evidence == second.evidence


def test_layers_whose_sizes_are_numbers_in_forward_are_left_alone() -> None:
    result = prune_structured(compressed(Attention), PruneStructured(ratio=0.5, steps=1), context())
    assert result.evidence[-1]["left_alone"] == ["head", "down"]  # the residual stream, which attention reshapes by numbers
    assert (result.module.q.out_features, result.module.up.out_features) == (16, 32)


def test_layers_that_share_the_output_weight_are_all_output_layers() -> None:
    embedding, head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
    head.weight = embedding.weight
    module = nn.Sequential(embedding, nn.Linear(4, 4), nn.LayerNorm(4), head)
    assert output_layers(module, (torch.arange(6).reshape(2, 3),)) == [embedding, head]


def test_a_block_that_returns_its_shape_can_go_whole() -> None:
    model = compressed(Residual)
    result = prune_structured(model, PruneStructured(ratio=0.0, blocks=1), context())
    removed = result.evidence[-1]["removed_blocks"]
    assert isinstance(removed, list)
    assert len(removed) == 1
    assert count_parameters(result.module) == count_parameters(model.module) - removed[0]["parameters"]
    assert accuracy(result.data, signals(200, seed=9)) > 0.95


def test_too_few_rows_for_recovery_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(UsageError, match="at least 200 training rows") as caught:
        prune_structured(compressed(), PruneStructured(), context(train=signals(199, seed=1)))
    assert caught.value.code == "train_rows_few"


def test_a_class_with_a_handful_of_rows_is_refused() -> None:
    rows = signals(400, seed=1)
    assert rows.labels is not None
    few = rows.take(np.flatnonzero((rows.labels == 0) | (np.arange(400) < 12)))
    with pytest.raises(UsageError, match="of the rarest") as caught:
        prune_structured(compressed(), PruneStructured(), context(train=few))
    assert caught.value.code == "train_rows_few"


def test_without_training_rows_or_a_module_nothing_is_pruned() -> None:
    with pytest.raises(UsageError, match="needs training rows") as caught:
        prune_structured(compressed(), PruneStructured(), context(train=None))
    assert caught.value.code == "train_rows"
    with pytest.raises(UsageError, match="needs a torch module") as caught:
        prune_structured(replace(compressed(), module=None), PruneStructured(), context())
    assert caught.value.code == "train_module"


def test_pruning_that_removes_nothing_is_an_error_and_not_a_silent_success() -> None:
    config = PruneStructured(ratio=0.5, exclude=("body.0", "body.3"))
    with pytest.raises(UsageError, match="removed nothing") as caught:
        prune_structured(compressed(), config, context())
    assert caught.value.code == "prune_nothing"


def test_an_excluded_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"body\.0") as caught:
        prune_structured(compressed(), PruneStructured(exclude=("nobody",)), context())
    assert caught.value.code == "prune_exclude"


def test_a_recipe_names_it() -> None:
    step = read_technique(TomlTable({"name": "prune-structured", "ratio": 0.25, "steps": 1}, where="test"))
    assert step.config == PruneStructured(ratio=0.25, steps=1)
    assert apply_technique(step, compressed(), context()).evidence[-1]["technique"] == "prune-structured"


SCRIPT = """
import hashlib, sys
from dataclasses import replace
from packager.technique import apply_technique, read_technique
from packager.toml_table import TomlTable
from tests.unit.packager.train.nets import Residual, compressed, context
around = context(training=replace(context().training, epochs=2))
structured = {"name": "prune-structured", "scope": "network", "blocks": 1}
for table in (structured, {"name": "prune-unstructured"}, {"name": "distil"}, {"name": "qat"}):
    result = apply_technique(read_technique(TomlTable(table, where="test")), compressed(Residual), around)
    print(hashlib.sha256(result.data + repr(result.evidence).encode()).hexdigest())
"""


@pytest.mark.slow
def test_no_order_of_hashes_reaches_the_bytes() -> None:
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        found.append(done.stdout)
    assert found[0] == found[1]
    assert len(found[0].split()) == 4


def test_reading_a_recipe_of_all_of_them_does_not_load_torch() -> None:
    names = ("prune-structured", "prune-unstructured", "prune-nm", "distil", "qat")
    script = (
        "import sys\nfrom packager.recipe import read_recipe\n"
        f"recipe = read_recipe({{'technique': [{{'name': name}} for name in {names}]}}, where='test')\n"
        "recipe.digest()\nassert not {'torch', 'torchao', 'torch_pruning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, check=True)
