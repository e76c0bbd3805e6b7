"""One small run of all retrieval tests on digits, made once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from audits.data import Floats, Integers, check_data
from audits.family import Bench
from audits.policy import Policy, load_policy
from audits.retrieval.run import RetrievalRun, audit_retrieval
from audits.retrieval.settings import RetrievalSettings, read_settings
from audits.targets import ORIGINAL, Subject
from device_client.inference.walker import CheckedModel
from tests.unit.audits import models

RANGE = (0.0, 1.0)
VARIANT = "int8-static"


class DigitsTrainer:
    """The network of ``tests.unit.audits.models`` on any rows."""

    def train(self, x: Floats, y: Integers, *, seed: int) -> bytes:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
            optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
            inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
            for _ in range(60):
                optimiser.zero_grad()
                functional.cross_entropy(net(inputs), labels).backward()
                optimiser.step()
        return models.to_onnx(net)


class Int8:
    """The compressor of a bundle with one INT8 variant."""

    def compress(self, model: bytes, *, x: Floats, y: Integers) -> Mapping[str, CheckedModel]:
        return {VARIANT: models.checked(models.quantised(model, x[:20]))}


def settings(**changes: Any) -> RetrievalSettings:
    small = {
        "black_box_queries": 1500,
        "black_box_restarts": 3,
        "label_only_queries": 400,
        "label_only_search": 40,
        "label_only_points": 40,
        "planted_strengths": [1.0],
        "swap_split_attacks": ["logit"],
    }
    return read_settings({**small, **changes}, where="test")


@pytest.fixture(scope="session")
def small_policy() -> Policy:
    default = load_policy()
    return replace(
        default,
        decision=replace(default.decision, permutations=4999, bootstraps=300),
        inversion=replace(default.inversion, attacks=("logit",), restarts=1),
    )


@pytest.fixture(scope="session")
def leaky_bench(small_policy: Policy) -> Bench:
    """Trained on six records of each class, with six others at hand."""
    x, y = models.digits()
    member = models.half(0, per_class=6)
    rng = np.random.default_rng(1)
    spare = np.zeros_like(member)
    for label in range(10):
        spare[rng.permutation(np.flatnonzero((y == label) & ~member))[:6]] = True
    chosen = member | spare
    data = check_data({"x": x[chosen], "y": y[chosen], "member": member[chosen]}, where="test")
    original = DigitsTrainer().train(x[member], y[member], seed=0)
    variant = models.quantised(original, x[member][:20])
    return Bench(
        Subject(ORIGINAL, models.checked(original), RANGE),
        (Subject(VARIANT, models.checked(variant), RANGE),),
        data,
        small_policy,
        Int8(),
        DigitsTrainer(),
        lambda _: None,
    )


@pytest.fixture(scope="session")
def leaky_run(leaky_bench: Bench) -> RetrievalRun:
    return audit_retrieval(leaky_bench, settings())


@pytest.fixture(scope="session")
def start() -> Floats:
    x, _ = models.digits()
    return np.asarray(x.mean(axis=0), dtype=np.float32)
