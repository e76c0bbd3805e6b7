"""A model that does not compute its golden outputs here: refused by a run in a process of its own, and not tried for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.sealed import Sealed, dense, seal, wrong_outputs
from tests.threats.town import publish
from tests.threats.world import World


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("it failed here before: not again")


WRONG: dict[str, Callable[[Path], Sealed]] = {
    "other outputs were expected": lambda folder: seal(folder, version="1.8.0", counter=20, seed=8, spoil_golden=wrong_outputs),
    "another model computes them": lambda folder: seal(
        folder, version="1.8.0", counter=20, seed=8, model=dense(9).SerializeToString()
    ),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())
def test_a_model_that_does_not_reproduce_its_probes_is_refused_once_and_never_tried_again(
    world: World, make: Callable[[Path], Sealed]
) -> None:
    """Both teams signed it and the server admitted it: the only thing wrong is what it computes."""
    before = world.footprint()
    bad = make(world.folder / "bundles")
    publish_here(world, bad)
    expect_refusal(world, "selftest_mismatch", before=before)
    assert world.rows("SELECT manifest, cause, until FROM known_bad") == ((str(bad.bundle.digest), "selftest_mismatch", None),)

    expect_refusal(world, "known_bad", before=before, selftest=never)
    world.server.gate.requests.clear()
    for _ in range(2):
        expect_refusal(world, "known_bad", before=before, selftest=never)
    assert not any(bad.model.hex in path for path in world.server.gate.requests), "no install loop, and no traffic"

    publish_here(world, seal(world.folder / "bundles", version="1.8.1", counter=21, seed=8))
    expect_installed(world, "1.8.1", before=before)


def publish_here(world: World, made: Sealed) -> None:
    publish(made, url=world.server.url, tokens=world.town.folder / "tokens", keys=world.town.keys)
