"""Names that a file system, a URL or a person would read as something else: in signed roles, and in what the server says."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tuf.api.metadata import TargetFile, Targets

from demo.names import AUDIT, LINE, MODEL, RELEASE, SECOND
from tests.threats.front import Front, whole
from tests.threats.hands import Hands
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.world import World

NAMES = {
    "a parent folder": "../../x",
    "a parent folder within": f"{MODEL}/../../other/x.json",
    "an absolute path": "/etc/passwd",
    "a zero byte": f"{MODEL}/1.0\0.json",
    "a backslash": f"{MODEL}\\1.0.0.json",
    "three hundred characters": f"{MODEL}/{'9' * 300}.json",
    "a Cyrillic letter": f"{MODEL}/1.0.0\u0430.json",
    "a full-width digit": f"{MODEL}/\uff11.0.0.json",
    "a right-to-left mark": f"{MODEL}/1.0.0\u202e.json",
    "a query": f"{MODEL}/1.0.0.json?x",
    "a fragment": f"{MODEL}/1.0.0#.json",
    "an escape": f"{MODEL}/%2e%2e.json",
    "capital letters": f"{MODEL.upper()}/1.0.0.json",
    "a space": f"{MODEL}/1 0.json",
    "a line break": f"{MODEL}/1.0.0\n.json",
    "one segment": "1.0.0.json",
    "four segments": f"{MODEL}/x/1.0.0.json",
    "nothing": "",
}


@pytest.mark.parametrize("role", [RELEASE, AUDIT])
def test_a_role_that_lists_a_hostile_name_is_refused_as_a_whole(world: World, role: str) -> None:
    """D06. The name is listed beside good entries, by all keys of the role: a careless reader would only look at the good ones."""
    hands = Hands(world)
    before = world.footprint()
    kind = role.partition("-")[0]
    honest = dict(world.web.newest(role).signed.targets)

    def list_beside(path: str) -> Callable[[Targets], None]:
        return lambda signed: setattr(signed, "targets", {**honest, path: TargetFile(1, {"sha256": "0" * 64}, path)})

    for what, name in NAMES.items():
        for path in (f"{kind}/{LINE}/{name}", name):
            hands.edit(role, list_beside(path))
            error = world.refusal()
            assert error.code == "path_outside_role", (what, path)
            assert str(error).isprintable(), "the refusal shows nothing of it that could steer a terminal"
    assert world.footprint() == before
    hands.edit(role, lambda signed: setattr(signed, "targets", honest))
    expect_installed(world, SECOND, before=before)


@pytest.mark.parametrize(
    "name", ["../1.0.0", "/1.0.0", "1.0.0\0", "1\\0", "9" * 300, "1.0.0\u0430", "1.0.0?x", "%2e", "channel", "", "."]
)
def test_the_server_names_a_hostile_version(world: World, name: str) -> None:
    """D06. The unsigned hint of what is next goes into a path and a URL only if it is a version's name."""
    with Front(world.server.url) as front:
        world.ask(front.url)
        before = world.footprint()
        answer = json.dumps({"schema": 1, "model": f"{LINE}/{MODEL}", "version": name, "poll_s": 300}).encode()
        front.spoil[f"/v1/devices/me/next?model={LINE}/{MODEL}"] = whole(answer, "Content-Type: application/json")
        expect_refusal(world, "name_syntax", before=before)
        front.spoil.clear()
        expect_installed(world, SECOND, before=before)
