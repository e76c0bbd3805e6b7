"""Top-level targets lists both paths itself, going around both roles."""

from __future__ import annotations

import pytest

from demo import attacks
from tests.threats.judge import expect_installed, expect_refusal, refuse_then_install
from tests.threats.world import World


def test_both_paths_listed_by_top_level_targets_are_refused_and_without_them_the_version_installs(world: World) -> None:
    refuse_then_install(world, attacks.listed_by_top_level(world.stage))


@pytest.mark.parametrize("kind", ["release", "audit"])
def test_one_path_listed_by_top_level_targets_is_refused_also_when_both_roles_list_it_too(world: World, kind: str) -> None:
    before = world.footprint()
    issue = world.stage.reissue("1.7.0")
    issue.release()
    issue.audit()
    issue.offer()
    listed = {
        path: (ref, custom)
        for path, (ref, custom) in {**issue.release_entries(), **issue.audit_entries()}.items()
        if path.startswith(kind) and custom is not None
    }
    world.web.forge_targets(listed, signers=world.stage.keys.of("targets"))
    expect_refusal(world, "targets_lists_targets", before=before)
    world.web.forge_targets({}, signers=world.stage.keys.of("targets"))
    expect_installed(world, "1.7.0", before=before)
