from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from device_client.errors import UsageError
from packager.data import Dataset
from packager.train.loop import judge_module, train_module
from packager.train.objective import Head, SoftLabels, find_head, soft_loss
from packager.train.rows import Batch, make_rows

from .nets import PLAN, ConvNet, fingerprint, signals, values

HERE = __name__


def absolute_error(outputs: Any, labels: Any) -> Any:
    return (outputs - labels).abs().mean()


def no_number(outputs: Any, labels: Any) -> str:
    return "high"


def fresh(make: Any) -> Any:
    torch.manual_seed(0)
    return make()


def sequence(*layers: nn.Module) -> Any:
    return nn.Sequential(*layers)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    prints = []
    for seed in (0, 0, 1):
        module = fresh(ConvNet)
        train_module(module, signals(64, seed=1), signals(32, seed=2), task="classification", plan=PLAN, seed=seed)
        prints.append(fingerprint(module))
    assert prints[0] == prints[1] != prints[2]


def test_nothing_outside_is_left_changed() -> None:
    torch.manual_seed(5)
    expected, threads = torch.rand(1), torch.get_num_threads()
    torch.manual_seed(5)
    train_module(fresh_without_seed(), signals(64, seed=1), None, task="classification", plan=PLAN, seed=0)
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def fresh_without_seed() -> Any:
    with torch.random.fork_rng(devices=[]):
        return ConvNet()


def test_the_epoch_that_does_best_on_the_validation_part_is_kept() -> None:
    module = fresh(ConvNet)
    validation = signals(64, seed=2)
    plan = replace(PLAN, epochs=6, learning_rate=0.05)
    history = train_module(module, signals(128, seed=1), validation, task="classification", plan=plan, seed=0)
    judged = judge_module(module, validation, task="classification", plan=plan)
    assert judged is not None
    assert judged[1] == pytest.approx(max(history.validation_correct))
    assert judged[0] == pytest.approx(history.best_loss, rel=1e-4)


def test_epochs_before_the_schedule_ended_are_not_kept() -> None:
    plan = replace(PLAN, epochs=4)
    history = train_module(
        fresh(ConvNet), signals(64, seed=1), signals(32, seed=2), task="classification", plan=plan, seed=0, first_epoch=4
    )
    assert history.best_epoch == 4


HEADS = [
    pytest.param(lambda: sequence(nn.Flatten(), nn.Linear(16, 2)), "classification", Head.LOGITS, id="logits"),
    pytest.param(
        lambda: sequence(nn.Flatten(), nn.Linear(16, 2), nn.Softmax(1)), "classification", Head.PROBABILITIES, id="softmax"
    ),
    pytest.param(lambda: sequence(nn.Flatten(), nn.Linear(16, 1)), "classification", Head.ONE_LOGIT, id="one logit"),
    pytest.param(
        lambda: sequence(nn.Flatten(), nn.Linear(16, 1), nn.Sigmoid(), nn.Flatten(0)),
        "anomaly",
        Head.ONE_PROBABILITY,
        id="one sigmoid, (N,)",
    ),
    pytest.param(lambda: sequence(nn.Conv1d(1, 1, 3, padding=1)), "anomaly", Head.RECONSTRUCTION, id="reconstruction"),
    pytest.param(lambda: sequence(nn.Flatten(), nn.Linear(16, 1)), "regression", Head.VALUES, id="one value"),
]


@pytest.mark.parametrize(("make", "task", "head"), HEADS)
def test_every_kind_of_output_is_recognised_and_its_loss_falls(make: Any, task: str, head: Head) -> None:
    module, rows = fresh(make), signals(128, seed=1)
    assert find_head(module, make_rows(module, rows), task=task) is head
    before = judge_module(module, rows, task=task, plan=PLAN)
    train_module(module, rows, None, task=task, plan=replace(PLAN, epochs=20, learning_rate=0.03), seed=0)
    after = judge_module(module, rows, task=task, plan=PLAN)
    assert before is not None
    assert after is not None
    assert after[0] < 0.8 * before[0]


def test_a_reconstruction_learns_from_normal_rows_only() -> None:
    rows = signals(64, seed=1)
    assert rows.labels is not None
    module = fresh(lambda: nn.Conv1d(1, 1, 3, padding=1))
    history = train_module(module, rows, None, task="anomaly", plan=PLAN, seed=0)
    assert history.rows == int((rows.labels == 0).sum())
    with pytest.raises(UsageError, match="no row is labelled normal"):
        train_module(module, replace(rows, labels=np.ones(64, np.int64)), None, task="anomaly", plan=PLAN, seed=0)


def test_next_words_are_trained_on_every_place() -> None:
    tokens = np.random.default_rng(0).integers(0, 8, (64, 6))
    rows = Dataset({"x": tokens}, (tokens + 1) % 8, None, None, "synthetic")
    module = fresh(lambda: sequence(nn.Embedding(8, 16), nn.Linear(16, 8)))
    train_module(module, rows, None, task="language", plan=replace(PLAN, epochs=20, learning_rate=0.05), seed=0)
    judged = judge_module(module, rows, task="language", plan=PLAN)
    assert judged is not None
    assert judged[1] == 1.0


def test_a_loss_of_ones_own_is_used() -> None:
    module = fresh(lambda: nn.Linear(4, 1))
    plan = replace(PLAN, loss=f"{HERE}:absolute_error", epochs=60, learning_rate=0.1)
    history = train_module(module, values(64, seed=0), None, task="regression", plan=plan, seed=0)
    assert history.loss == plan.loss
    assert history.train_losses[-1] < 0.3 * history.train_losses[0]
    with pytest.raises(UsageError, match="one number") as caught:
        train_module(module, values(64, seed=0), None, task="regression", plan=replace(PLAN, loss=f"{HERE}:no_number"), seed=0)
    assert caught.value.code == "train_loss"


def test_a_teachers_answers_at_a_temperature_are_matched() -> None:
    wanted = np.log(np.array([[0.9, 0.1], [0.2, 0.8]], np.float32))
    loss = soft_loss(Head.LOGITS, SoftLabels((wanted,), temperature=3.0))
    batch = Batch(torch.arange(2), (), None)
    assert float(loss((torch.from_numpy(wanted) + 5.0,), batch)) == pytest.approx(0.0, abs=1e-5)
    assert float(loss((torch.from_numpy(wanted[::-1].copy()),), batch)) > 0.5


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    rows = values(64, seed=0)
    with pytest.raises(UsageError) as caught:
        train_module(
            fresh(lambda: nn.Linear(4, 1)),
            replace(rows, labels=np.full((64, 1), 1e30, np.float32)),
            None,
            task="regression",
            plan=PLAN,
            seed=0,
        )
    assert caught.value.code == "train_diverged"


def test_rows_without_labels_need_a_teacher() -> None:
    rows = replace(values(64, seed=0), labels=None)
    module = fresh(lambda: nn.Linear(4, 1))
    with pytest.raises(UsageError) as caught:
        train_module(module, rows, None, task="none", plan=PLAN, seed=0)
    assert caught.value.code == "train_labels"
    teacher = SoftLabels((rows.inputs["x"] @ np.ones((4, 1), np.float32),))
    plan = replace(PLAN, epochs=60, learning_rate=0.1)
    history = train_module(module, rows, None, task="none", plan=plan, seed=0, teacher=teacher)
    assert history.train_losses[-1] < 0.5 * history.train_losses[0]


def test_a_module_that_fails_on_the_rows_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        train_module(nn.Linear(5, 1), values(64, seed=0), None, task="regression", plan=PLAN, seed=0)
    assert caught.value.code == "train_failed"


def test_a_last_batch_of_one_row_does_not_reach_batch_normalisation() -> None:
    module = fresh(lambda: sequence(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    train_module(module, signals(33, seed=1), None, task="classification", plan=replace(PLAN, epochs=1), seed=0)


def test_progress_is_told_after_each_epoch() -> None:
    told = []
    train_module(
        fresh(lambda: nn.Linear(4, 1)),
        values(64, seed=0),
        None,
        task="regression",
        plan=PLAN,
        seed=0,
        progress=lambda epoch, epochs: told.append((epoch, epochs)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
