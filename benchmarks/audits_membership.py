"""Membership on made-up purchases: how much of a leak the attacks find that is known to be there (goals A9 and A10).

4000 records of 100 features of +-1 in 40 classes: each class has a pattern, and 35 % of a record's bits are flipped. A network
of 96 hidden units is trained on half of them until it knows them by heart. Seventeen such models are trained on independent
halves; each is the target once, and the others are its 16 shadows. Every score comes from the ONNX bytes through the product's own
scorer, one record at a time.

    python -m benchmarks.audits_membership
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from audits.membership.attacks import by_class, lira_offline, lira_online, lira_shrunk, rmia
from audits.membership.auc import area
from audits.membership.baselines import learned_forest
from audits.membership.draws import shadow_masks
from audits.membership.roc import interval, operating_point
from audits.membership.scorer import score_model
from audits.membership.scores import record_scores
from audits.trainer import Training
from benchmarks.results_file import Goal, Results
from device_client.inference.walker import check_model

RECORDS, FEATURES, CLASSES, FLIPS, HIDDEN = 4000, 100, 40, 0.35, 96
MODELS = 17
EPOCHS, BATCH, RATE = 40, 100, 3e-3
FPR = 0.001
ART_SHADOWS, ART_TARGETS = 3, 8  # eight targets have 16,000 held-outs
TRIALS = 100
Array = NDArray[Any]


def records(seed: int = 0) -> tuple[Array, Array]:
    """x: float32, (4000, 100); y: int64, (4000,), a hundred of each class."""
    rng = np.random.default_rng([seed, 1])
    patterns = rng.choice([-1.0, 1.0], size=(CLASSES, FEATURES))
    y = np.repeat(np.arange(CLASSES, dtype=np.int64), RECORDS // CLASSES)
    flips = np.where(rng.random((RECORDS, FEATURES)) < FLIPS, -1.0, 1.0)
    return (patterns[y] * flips).astype(np.float32), y


class StackedTrainer:
    """Trains all models at once, weights stacked, each on the same number of rows; about twice as fast as one by one."""

    isolation = "not isolated: the benchmark's own trainer"

    def train(self, x: Array, y: Array, *, seed: int) -> bytes:
        return self.train_many(x, y, [Training(np.arange(len(x)), seed)], report=lambda _: None)[0]

    def train_many(self, x: Array, y: Array, trainings: Sequence[Training], *, report: Callable[[str], None]) -> tuple[bytes, ...]:
        import torch

        torch.set_num_threads(1)
        rows = torch.from_numpy(np.stack([training.rows for training in trainings]))
        inputs, labels = torch.from_numpy(x)[rows], torch.from_numpy(y)[rows]
        count, size = rows.shape
        generators = [torch.Generator().manual_seed(training.seed) for training in trainings]
        first = torch.stack([torch.randn(x.shape[1], HIDDEN, generator=g) / x.shape[1] ** 0.5 for g in generators])
        second = torch.stack([torch.randn(HIDDEN, CLASSES, generator=g) / HIDDEN**0.5 for g in generators])
        weights = [first, torch.zeros(count, 1, HIDDEN), second, torch.zeros(count, 1, CLASSES)]
        for weight in weights:
            weight.requires_grad_(True)
        optimiser = torch.optim.Adam(weights, lr=RATE)
        which = torch.arange(count)[:, None]
        for epoch in range(EPOCHS):
            order = torch.stack([torch.randperm(size, generator=g) for g in generators])
            for start in range(0, size, BATCH):
                batch = order[:, start : start + BATCH]
                hidden = torch.relu(torch.baddbmm(weights[1], inputs[which, batch], weights[0]))
                logits = torch.baddbmm(weights[3], hidden, weights[2])
                optimiser.zero_grad()
                # a sum over models of means over records: each model's own gradient
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[which, batch].flatten(), reduction="sum")
                (loss / batch.shape[1]).backward()
                optimiser.step()
            if epoch % 10 == 9:
                report(f"epoch {epoch + 1} of {EPOCHS}")
        return tuple(_onnx([weight[index].detach().numpy() for weight in weights]) for index in range(count))


@dataclass(frozen=True)
class Pooled:
    """Scores of one attack over all targets: members and held-outs side by side, each target's in turn."""

    scores: Array
    member: Array
    areas: tuple[float, ...]


@dataclass(frozen=True)
class Fixture:
    """All models' statistics, (M, N) each, and which records trained them."""

    y: Array
    inside: Array
    confidence: Array
    log_probability: Array
    probabilities: Array
    train_accuracy: float
    test_accuracy: float


def fixture(*, seed: int = 0, report: Callable[[str], None] = lambda _: None) -> Fixture:
    """Trains and scores the seventeen models."""
    x, y = records(seed)
    inside = shadow_masks(y, count=MODELS, share=0.5, seed=seed)
    trainings = [Training(np.flatnonzero(mask), seed * 1000 + index) for index, mask in enumerate(inside)]
    found = [
        score_model(check_model(data), x).log_probabilities for data in StackedTrainer().train_many(x, y, trainings, report=report)
    ]
    scores = [record_scores(item, y) for item in found]
    right = np.stack([item.correct for item in scores])
    return Fixture(
        y,
        inside,
        np.stack([item.confidence for item in scores]),
        np.stack([item.log_probability for item in scores]),
        np.exp(np.stack(found)),
        float(right[inside].mean()),
        float(right[~inside].mean()),
    )


def attack_scores(made: Fixture, target: int) -> dict[str, Array]:
    """Every attack on one model, with the others as its shadows."""
    others = np.arange(MODELS) != target
    confidence, shadows, inside = made.confidence[target], made.confidence[others], made.inside[others]
    return {
        "threshold": confidence,
        "threshold by class": by_class(confidence, made.y),
        "rmia": rmia(made.log_probability[target], made.log_probability[others], inside),
        "lira offline": lira_offline(confidence, shadows, inside),
        "lira online": lira_online(confidence, shadows, inside),
        "lira shrunk": lira_shrunk(confidence, shadows, inside),
    }


def pooled(made: Fixture, *, permute: bool = False) -> dict[str, Pooled]:
    """All attacks on all targets; with ``permute``, against memberships drawn anew within each class."""
    rng = np.random.default_rng(5)
    parts: dict[str, list[tuple[Array, Array, float]]] = {}
    for target in range(MODELS):
        member = made.inside[target]
        if permute:
            member = shadow_masks(made.y, count=1, share=0.5, seed=int(rng.integers(2**31)))[0]
        for name, scores in attack_scores(made, target).items():
            parts.setdefault(name, []).append((scores, member, area(scores, member).value))
    return {
        name: Pooled(
            np.concatenate([a for a, _, _ in found]), np.concatenate([b for _, b, _ in found]), tuple(c for *_, c in found)
        )
        for name, found in parts.items()
    }


def art(made: Fixture, *, targets: int) -> Pooled:
    """ART's black-box attack with a random forest that learned from three shadows, ART's default number."""
    scores, members, areas = [], [], []
    for target in range(targets):
        shadows = [(target + step) % MODELS for step in range(1, ART_SHADOWS + 1)]
        sets = [
            (
                made.probabilities[k][made.inside[k]],
                made.y[made.inside[k]],
                made.probabilities[k][~made.inside[k]],
                made.y[~made.inside[k]],
            )
            for k in shadows
        ]
        scores.append(learned_forest(sets, made.probabilities[target], made.y, seed=target))
        members.append(made.inside[target])
        areas.append(area(scores[-1], members[-1]).value)
    return Pooled(np.concatenate(scores), np.concatenate(members), tuple(areas))


def membership_goals(report: Callable[[str], None] = lambda _: None) -> list[Goal]:
    """A9 and A10; the figures behind them come from ``measure``."""
    return measure(report)[0]


def measure(report: Callable[[str], None] = lambda _: None) -> tuple[list[Goal], list[dict[str, Any]]]:
    """Goals and rows of one run on freshly trained models."""
    made = fixture(report=report)
    found, null = pooled(made), pooled(made, permute=True)
    toolbox = art(made, targets=ART_TARGETS)
    rows = [_row(name, item) for name, item in (*found.items(), ("ART, random forest", toolbox))]
    rows += [_row(f"{name}, permuted", item) for name, item in null.items()]
    covered, widest = _coverage(made)
    lira = found["lira online"]
    point = operating_point(lira.scores, lira.member, fpr=FPR)
    low, _ = interval(point, confidence=0.95)
    other = operating_point(toolbox.scores, toolbox.member, fpr=FPR)
    goals = [
        Goal(
            "A9", f"share of {TRIALS} permuted memberships whose area interval (95 %) covers 0.5, LiRA", covered, ">=", 0.9, "of 1"
        ),
        Goal("A9-distance", "farthest of their areas from 0.5", widest, "<=", 0.04, ""),
        Goal(
            "A10",
            f"LiRA, 16 shadows, true positives at 0.1 % false ones, lower 95 % bound, {point.heldouts} held-outs",
            low,
            ">=",
            0.10,
            "",
        ),
        Goal("A10-heldouts", "pooled held-outs", float(point.heldouts), ">=", 16000, ""),
        Goal(
            "A10-art",
            f"the same for ART's attack with {ART_SHADOWS} shadows, estimate: at most LiRA's bound",
            other.tpr,
            "<",
            low,
            "",
        ),
    ]
    return goals, rows


def _coverage(made: Fixture) -> tuple[float, float]:
    """How many fresh memberships of one target have an area whose interval covers one half, and the farthest area."""
    scores = attack_scores(made, 0)["lira online"]
    found = [area(scores, shadow_masks(made.y, count=1, share=0.5, seed=1000 + trial)[0]) for trial in range(TRIALS)]
    inside = [low <= 0.5 <= high for low, high in (item.interval(confidence=0.95) for item in found)]
    return float(np.mean(inside)), max(abs(item.value - 0.5) for item in found)


def _row(name: str, item: Pooled) -> dict[str, Any]:
    fine, coarse = (operating_point(item.scores, item.member, fpr=rate) for rate in (FPR, 0.01))
    low, high = interval(fine, confidence=0.95)
    return {
        "attack": name,
        "area": float(np.mean(item.areas)),
        "tpr at 1 %": coarse.tpr,
        "tpr at 0.1 %": fine.tpr,
        "low": low,
        "high": high,
        "held-outs": fine.heldouts,
    }


def main() -> None:
    """Prints and writes ``results/audits-membership.json``."""
    goals, rows = measure(print)
    results = Results("audits-membership", goals, rows)
    print(results.table())
    print(results.write())


def _onnx(weights: list[Array]) -> bytes:
    names = ["w1", "b1", "w2", "b2"]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "purchases",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(w.reshape(-1) if n.startswith("b") else w, n) for w, n in zip(weights, names, strict=True)],
    )
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


if __name__ == "__main__":
    main()
