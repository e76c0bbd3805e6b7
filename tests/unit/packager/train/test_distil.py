from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from device_client.errors import UsageError
from packager.technique import read_technique
from packager.toml_table import TomlTable
from packager.train.distil import Distil, distil
from packager.train.internals import KINDS, Internals
from packager.train.need import count_parameters
from packager.train.rows import make_rows
from packager.train.taps import Tap, choose_taps
from packager.train.teacher import teach

from .nets import Attention, ConvNet, Residual, accuracy, compressed, context, fingerprint, signals

HERE = __name__


def small_student() -> nn.Module:
    return ConvNet(width=4)


def wide_student() -> nn.Module:
    return ConvNet(width=64)


def wrong_student() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def not_a_student() -> int:
    return 7


def two_teachers() -> list[nn.Module]:
    return [ConvNet(), Residual()]


def test_a_given_student_learns_in_all_three_ways_and_each_is_reported() -> None:
    model = compressed()
    result = distil(model, Distil(student=f"{HERE}:small_student"), context())
    assert count_parameters(result.module) == count_parameters(ConvNet(width=4))
    assert len(result.data) < len(model.data)
    assert accuracy(result.data, signals(200, seed=9)) > 0.95
    ways = result.evidence[-1]["ways"]
    assert isinstance(ways, dict)
    assert set(ways) == {"plain", "soft", "internal"}
    kept = str(result.evidence[-1]["kept"])
    assert ways[kept]["validation_correct"] == max(way["validation_correct"] for way in ways.values())


@pytest.mark.parametrize("kind", [ConvNet, Attention])
def test_without_a_student_the_model_is_scaled_down(kind: type[nn.Module]) -> None:
    model = compressed(kind)
    result = distil(model, Distil(ratio=0.5, ways=("soft", "internal")), context())
    assert count_parameters(result.module) < count_parameters(model.module)
    assert accuracy(result.data, signals(200, seed=9)) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_each_inner_loss_falls_while_it_alone_trains_the_student(kind: str) -> None:
    teacher, student = compressed(Residual).module, ConvNet()
    torch.manual_seed(0)
    rows = make_rows(student, signals(64, seed=1))
    batch = next(rows.batches())
    taps = (Tap("second.outer", "body.3", 1, 1),)
    with Internals(teacher, student, taps, kind=kind, weight=1.0, example=rows.example(), where="test") as inner:
        optimiser = torch.optim.Adam([*student.parameters(), *inner.parameters], 1e-2)
        losses = []
        for _ in range(30):
            optimiser.zero_grad()
            loss = inner.loss((student(*batch.inputs),), batch)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert (len(inner.parameters) > 0) == (kind == "features")
    assert not student.body[3]._forward_hooks


def test_layers_are_matched_by_depth_and_never_at_the_output() -> None:
    teacher, student = ConvNet(width=16), ConvNet(width=4)
    taps = choose_taps(teacher, student, make_rows(student, signals(4, seed=1)).example(), (), where="test")
    assert [str(tap) for tap in taps] == ["body.1=body.1", "body.4=body.4"]


def test_named_layers_must_exist() -> None:
    with pytest.raises(UsageError, match="no such pair") as caught:
        distil(compressed(), Distil(student=f"{HERE}:small_student", taps=("body.0=nobody",)), context())
    assert caught.value.code == "distil_taps"


def test_attention_transfer_at_a_layer_without_places_is_refused() -> None:
    config = Distil(student=f"{HERE}:small_student", internal="attention", taps=("head=head",))
    with pytest.raises(UsageError, match="places") as caught:
        distil(compressed(), config, context())
    assert caught.value.code == "distil_taps"


def test_an_ensemble_answers_with_the_mean_of_its_members_probabilities() -> None:
    first, second = (compressed(kind).module for kind in (ConvNet, Residual))
    rows = make_rows(first, signals(16, seed=1))
    soft = teach([first, second], rows, task="classification", weight=0.5, temperature=1.0)
    with torch.no_grad():
        wanted = (first(*rows.inputs).softmax(1) + second(*rows.inputs).softmax(1)) / 2
    assert torch.allclose(torch.from_numpy(soft.outputs[0]).softmax(1), wanted, atol=1e-5)


def test_members_of_an_ensemble_are_trained_from_other_seeds() -> None:
    result = distil(compressed(), Distil(student=f"{HERE}:small_student", ensemble=3, ways=("soft",)), context())
    assert result.evidence[-1]["teachers"] == 3
    training: Any = result.evidence[-1]["ensemble_training"]
    assert len(training) == 2
    assert training[0] != training[1]


def test_further_teachers_can_be_given() -> None:
    config = Distil(student=f"{HERE}:small_student", teacher=f"{HERE}:two_teachers", ways=("soft",))
    assert distil(compressed(), config, context()).evidence[-1]["teachers"] == 3


def test_a_student_that_does_not_fit_is_refused() -> None:
    for name, message in (("wide_student", "not smaller"), ("wrong_student", "other shapes"), ("not_a_student", "torch module")):
        with pytest.raises(UsageError, match=message) as caught:
            distil(compressed(), Distil(student=f"{HERE}:{name}"), context())
        assert caught.value.code == "distil_student"


def test_without_labels_the_student_learns_from_the_answers_alone() -> None:
    rows = replace(signals(256, seed=1), labels=None)
    around = context(train=rows, validation=None)
    result = distil(compressed(), Distil(student=f"{HERE}:small_student"), around)
    assert set(result.evidence[-1]["ways"]) == {"soft", "internal"}  # type: ignore[call-overload]
    assert accuracy(result.data, signals(200, seed=9)) > 0.95
    with pytest.raises(UsageError) as caught:
        distil(compressed(), Distil(student=f"{HERE}:small_student", ways=("plain",)), around)
    assert caught.value.code == "distil_ways"


def test_the_model_that_was_given_is_left_as_it_was_and_two_runs_agree() -> None:
    model = compressed()
    before = fingerprint(model.module)
    first, second = (distil(model, Distil(student=f"{HERE}:small_student"), context()) for _ in range(2))
    assert fingerprint(model.module) == before
    assert first.data == second.data
    assert first.evidence == second.evidence


def test_a_recipe_with_a_way_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="plain, soft, internal"):
        read_technique(TomlTable({"name": "distil", "ways": ["hard"]}, where="test"))
