"""What the packager makes can be audited: each recipe that its search proposes is translated, with parity in the bounds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from audits.bridge.parity import ParityBounds
from audits.bridge.program import TorchProgram
from audits.whitebox import WhiteBox
from device_client.errors import UsageError
from device_client.inference.walker import check_model
from packager.load import load_model
from packager.ptq.candidates import Steps, candidates, network_kind
from packager.ptq.weight_only import WeightOnly
from packager.technique import Compressed, TechniqueContext, TechniqueStep, apply_technique
from tests.unit.packager.models import graph, mlp, rows, write
from tests.unit.packager.test_ptq_static import dataset, residual

BOUNDS = ParityBounds(1e-5, 2.0, 0.05)  # those of the built-in policy
Floats = NDArray[np.float32]


def transformer() -> bytes:
    """x (N, 6, 16) -> normalisation -> attention of two heads -> + itself -> normalisation -> GELU block -> mean -> y (N, 4)."""
    rng = np.random.default_rng(5)
    constants: dict[str, Any] = {
        "g1": 1 + rng.standard_normal(16) / 10,
        "b1": rng.standard_normal(16) / 10,
        "g2": 1 + rng.standard_normal(16) / 10,
        "b2": rng.standard_normal(16) / 10,
        "wqkv": rng.standard_normal((16, 48)) / 4,
        "wo": rng.standard_normal((16, 16)) / 4,
        "wu": rng.standard_normal((16, 64)) / 4,
        "bu": rng.standard_normal(64) / 10,
        "wd": rng.standard_normal((64, 16)) / 8,
        "wy": rng.standard_normal((4, 16)),
        "by": rng.standard_normal(4),
        "root": np.asarray(2**0.5),
        "one": np.asarray(1.0),
        "half": np.asarray(0.5),
        "factor": np.asarray(8**-0.5),
        "heads": np.asarray([0, 6, 2, 8]),
        "joined": np.asarray([0, 6, 16]),
        "sizes": np.asarray([16, 16, 16]),
    }

    def head(name: str, perm: list[int]) -> list[Any]:
        return [
            helper.make_node("Reshape", [name, "heads"], [f"{name}h"]),
            helper.make_node("Transpose", [f"{name}h"], [f"{name}t"], perm=perm),
        ]

    nodes = [
        helper.make_node("LayerNormalization", ["x", "g1", "b1"], ["n1"], axis=-1),
        helper.make_node("MatMul", ["n1", "wqkv"], ["qkv"]),
        helper.make_node("Split", ["qkv", "sizes"], ["q", "k", "v"], axis=2),
        *head("q", [0, 2, 1, 3]),
        *head("k", [0, 2, 3, 1]),
        *head("v", [0, 2, 1, 3]),
        helper.make_node("MatMul", ["qt", "kt"], ["s0"]),
        helper.make_node("Mul", ["s0", "factor"], ["s1"]),
        helper.make_node("Softmax", ["s1"], ["s2"], axis=-1),
        helper.make_node("MatMul", ["s2", "vt"], ["c0"]),
        helper.make_node("Transpose", ["c0"], ["c1"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["c1", "joined"], ["c2"]),
        helper.make_node("MatMul", ["c2", "wo"], ["c3"]),
        helper.make_node("Add", ["x", "c3"], ["r1"]),
        helper.make_node("LayerNormalization", ["r1", "g2", "b2"], ["n2"], axis=-1),
        helper.make_node("MatMul", ["n2", "wu"], ["u0"]),
        helper.make_node("Add", ["u0", "bu"], ["u1"]),
        helper.make_node("Div", ["u1", "root"], ["e0"]),
        helper.make_node("Erf", ["e0"], ["e1"]),
        helper.make_node("Add", ["e1", "one"], ["e2"]),
        helper.make_node("Mul", ["u1", "e2"], ["e3"]),
        helper.make_node("Mul", ["e3", "half"], ["e4"]),
        helper.make_node("MatMul", ["e4", "wd"], ["d"]),
        helper.make_node("Add", ["r1", "d"], ["r2"]),
        helper.make_node("ReduceMean", ["r2"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["m", "wy", "by"], ["y"], transB=1),
    ]
    return graph(nodes, constants, x=["N", 6, 16], y=["N", 4])


def recurrent() -> bytes:
    """x (N, 5, 6) -> time first -> LSTM -> the last state -> Gemm -> y (N, 3)."""
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "w": rng.standard_normal((1, 64, 6)) / 2,
        "r": rng.standard_normal((1, 64, 16)) / 4,
        "b": rng.standard_normal((1, 128)) / 4,
        "wy": rng.standard_normal((3, 16)),
        "zero": np.asarray([0]),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r", "b"], ["", "h"], hidden_size=16),
        helper.make_node("Squeeze", ["h", "zero"], ["s"]),
        helper.make_node("Gemm", ["s", "wy"], ["y"], transB=1),
    ]
    return graph(nodes, constants, x=["N", 5, 6], y=["N", 3])


def with_softmax(data: bytes) -> bytes:
    """Scores become probabilities, of weights so small that none is near 0 or 1, where any two models agree."""
    model = onnx.load_from_string(data)
    last = next(tensor for tensor in model.graph.initializer if tensor.name == model.graph.node[-1].input[1])
    weights = numpy_helper.to_array(last)
    last.CopyFrom(numpy_helper.from_array((weights / 8).astype(np.float32), last.name))
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node("Softmax", ["z"], ["y"], axis=-1))
    made: bytes = model.SerializeToString()
    return made


NETWORKS: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "perceptron": (with_softmax(mlp(features=32, hidden=64, classes=5)), (32,)),
    "convolutions": (with_softmax(residual(channels=16)), (1, 8, 8)),
    "transformer": (with_softmax(transformer()), (6, 16)),
    "recurrent": (with_softmax(recurrent()), (5, 6)),
}
KINDS = {"perceptron": "perceptron", "convolutions": "convolutional", "transformer": "attention", "recurrent": "recurrent"}
PACKED = tuple(  # forms that a recipe may name and the search does not begin with
    (TechniqueStep("weight-only", WeightOnly(bits=bits, block=block, form=form)),)
    for bits, block, form in ((2, 0, "folded"), (2, 8, "folded"), (4, 8, "folded"), (4, 0, "folded"), (4, 16, "matmulnbits"))
)


@cache
def prepared(name: str) -> bytes:
    with TemporaryDirectory() as folder:
        data: bytes = load_model(write(Path(folder), NETWORKS[name][0]), seed=0, example=dict).model.data
    return data


def recipes() -> Iterator[Any]:
    for name in NETWORKS:
        proposed = candidates(prepared(name), has_train=False, task="classification", target="portable")
        for index, steps in enumerate((*proposed, *PACKED)):
            yield pytest.param(name, steps, id=f"{name} {index}: {' '.join(step.name for step in steps)}")


def inputs(name: str) -> Floats:
    return rows(48, NETWORKS[name][1]) - np.float32(0.5)


@cache
def pack(name: str, steps: Steps) -> Compressed | None:
    """The variant, or None where the recipe says that it finds nothing to do."""
    result = Compressed(prepared(name), "fp32")
    try:
        for step in steps:
            result = apply_technique(step, result, TechniqueContext(calibration=dataset(inputs(name)[:32]), task="classification"))
    except UsageError as e:
        if not e.code.endswith("_nothing"):
            raise
        return None
    return result


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_are_of_the_kinds_that_they_stand_for(name: str) -> None:
    assert network_kind(onnx.load_from_string(prepared(name))) == KINDS[name]


@pytest.mark.parametrize(("name", "steps"), list(recipes()))
def test_a_packed_variant_is_translated_with_parity_and_a_gradient(name: str, steps: Steps) -> None:
    variant = pack(name, steps)
    if variant is None:
        pytest.skip("this recipe finds nothing to do in this network")
    foreign = any(getattr(step.config, "form", "") == "matmulnbits" for step in steps)
    x = inputs(name)
    with WhiteBox(check_model(variant.data, features=("domain:com.microsoft",) if foreign else (), where="test")) as box:
        parity = box.parity(x, bounds=BOUNDS)
        assert parity.holds, parity
        assert 0.01 < np.median(box.outputs(x)) < 0.6
        assert np.median(box.outputs(x).max(axis=1)) < 0.99
        assert parity.quantised is any(step.name.startswith("int8") for step in steps)
        together = TorchProgram(box.graph, wanted=(box.tap.output,))(torch.from_numpy(x))[0].numpy()
        assert np.abs(together - box.outputs(x)).max() <= parity.bound  # in one batch as well
        leaf = torch.from_numpy(x).requires_grad_()
        (gradient,) = torch.autograd.grad(box.logits(leaf)[:, 0].sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()
