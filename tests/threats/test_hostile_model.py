"""A model file that is more than a model: refused where it is published, and again on the device where it was forged past that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
from onnx import helper

from device_client.errors import VerificationError
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.sealed import Sealed, dense, seal
from tests.threats.town import publish
from tests.threats.world import World
from tests.unit.inference import models


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


MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "external data": (external_data, "model_external_data"),
    "external data in a branch": (external_data_in_a_branch, "model_external_data"),
    "a foreign domain": (foreign_domain, "model_domain"),
}


def hostile(world: World, make: Callable[[], onnx.ModelProto]) -> Sealed:
    return seal(world.folder / "bundles", version="1.8.0", counter=20, model=make().SerializeToString())


@pytest.mark.parametrize(("make", "code"), MODELS.values(), ids=MODELS.keys())
def test_a_hostile_model_that_both_roles_signed_is_refused_before_any_process_loads_it(
    world: World, make: Callable[[], onnx.ModelProto], code: str
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
    world: World, make: Callable[[], onnx.ModelProto], code: str
) -> None:
    made = hostile(world, make)
    with pytest.raises(VerificationError) as caught:
        publish(made, url=world.server.url, tokens=world.town.folder / "tokens", keys=world.town.keys)
    assert caught.value.code == code
    assert made.bundle.path.release_target not in world.web.newest("release-digits").signed.targets
