"""A model file that is more than a model: refused where it is published, and again on the device where it was forged past that."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from device_client.errors import VerificationError
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.sealed import Sealed, dense, seal
from tests.threats.town import publish
from tests.threats.world import World
from tests.unit.inference import models
from tests.unit.inference.polyglot import as_ort, polyglot


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("no process may see these bytes before the walker")


def external_data() -> onnx.ModelProto:
    """Weights that the runtime would read from a file of the device."""
    return models.model(
        [helper.make_node("Mul", ["x", "w"], ["y"])], initializers=[models.external_tensor(location="identity.pem")]
    )


def external_data_in_a_branch() -> onnx.ModelProto:
    return models.conditional(models.external_tensor(location="../identity.pem"))


def foreign_domain() -> onnx.ModelProto:
    """An operator that somebody's shared library would compute."""
    node = helper.make_node("Exfiltrate", ["x"], ["y"], domain="com.example")
    return models.model([node], opsets=[helper.make_opsetid("com.example", 1)])


def external_data_in_a_sparse_tensor() -> onnx.ModelProto:
    model = models.model([helper.make_node("Mul", ["x", "w"], ["y"])])
    model.graph.sparse_initializer.append(models.sparse(models.external_tensor(location="identity.pem")))
    return model


def two_weights_of_one_name() -> onnx.ModelProto:
    """The auditor's reader may look at the one, and the device run the other."""
    weights = [numpy_helper.from_array(np.full(3, scale, np.float32), "w") for scale in (2.0, 9.0)]
    return models.model([helper.make_node("Mul", ["x", "w"], ["y"])], initializers=weights)


def another_model_in_the_runtimes_own_format() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        ort = as_ort(models.linear(scale=9.0).SerializeToString(), Path(folder))
    return polyglot(ort=ort, onnx=models.linear(scale=2.0).SerializeToString())


MODELS: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], str]] = {
    "external data": (external_data, "model_external_data"),
    "external data in a sparse tensor": (external_data_in_a_sparse_tensor, "model_external_data"),
    "two weights of one name": (two_weights_of_one_name, "model_ambiguous"),
    "another model in the runtime's own format": (another_model_in_the_runtimes_own_format, "model_ortm"),
    "external data in a branch": (external_data_in_a_branch, "model_external_data"),
    "a foreign domain": (foreign_domain, "model_domain"),
}


def hostile(world: World, make: Callable[[], onnx.ModelProto | bytes]) -> Sealed:
    made = make()
    data = made if isinstance(made, bytes) else made.SerializeToString()
    return seal(world.folder / "bundles", version="1.8.0", counter=20, model=data)


@pytest.mark.parametrize(("make", "code"), MODELS.values(), ids=MODELS.keys())
def test_a_hostile_model_that_both_roles_signed_is_refused_before_any_process_loads_it(
    world: World, make: Callable[[], onnx.ModelProto | bytes], code: str
) -> None:
    before = world.footprint()
    made = hostile(world, make)
    issue = world.issue(made)
    issue.release()
    world.audit(issue, made)
    issue.offer()
    expect_refusal(world, code, before=before, selftest=never)

    good = seal(world.folder / "bundles", version="1.8.1", counter=21, model=dense(8).SerializeToString(), seed=8)
    mended = world.issue(good)
    mended.release()
    world.audit(mended, good)
    mended.offer()
    expect_installed(world, "1.8.1", before=before)


@pytest.mark.parametrize(("make", "code"), MODELS.values(), ids=MODELS.keys())
def test_the_servers_admission_does_not_take_a_hostile_model_although_its_release_is_well_signed(
    world: World, make: Callable[[], onnx.ModelProto | bytes], code: str
) -> None:
    made = hostile(world, make)
    with pytest.raises(VerificationError) as caught:
        publish(made, url=world.server.url, tokens=world.town.folder / "tokens", keys=world.town.keys)
    assert caught.value.code == code
    assert made.bundle.path.release_target not in world.web.newest("release-digits").signed.targets
