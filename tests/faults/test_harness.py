"""The fault tests can fail: a device that syncs too little, or remembers too little, is caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device_client.bundle.counter import Counter
from tests.faults.aftermath import InvariantError, check_no_weights, weights
from tests.faults.disk import Commit, Event, Kind, Sync
from tests.faults.power import Recording, check, record, remove, told
from tests.unit.device.world import THE_MODEL, World, bundle


def first_failure(recording: Recording, place: Path, *, at_most: int = 150) -> str:
    """The first of the last cuts that a device does not come back from."""
    for cut in recording.cuts()[::-1][:at_most]:
        try:
            check(recording, cut, place)
        except Exception as error:  # noqa: BLE001  # whatever shows it
            return f"{told(recording, cut)}: {error}"
        remove(place)
    return "none"


def without(recording: Recording, kind: Kind) -> Recording:
    """The same log as of a device that never syncs its files, or its folders."""
    recorder = recording.recorder
    recorder.events = [event for event in recorder.events if not _syncs(recording, event, kind)]
    return recording


def _syncs(recording: Recording, event: Event, kind: Kind) -> bool:
    return isinstance(event, Sync) and recording.recorder.kind_of(event.inode) is kind


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.FOLDER], ids=lambda kind: str(kind.value))
def test_a_device_that_does_not_sync_its_blobs_or_their_names_is_caught(kind: Kind, place: Path) -> None:
    recording = without(record("first install", place / "recorded"), kind)
    assert "commit" in first_failure(recording, place / "cut"), "the activation is certain and the model is not there"


def test_a_memory_that_falls_is_caught(place: Path) -> None:
    recording = record("first install", place / "recorded")
    events, memory = recording.memories[-1]
    models = {THE_MODEL: replace(memory.models[THE_MODEL], counter=Counter(0, 9))}
    raised = replace(recording, memories=(*recording.memories, (events, replace(memory, models=models))))
    assert "remembers less" in first_failure(raised, place / "cut", at_most=1)


def test_a_report_that_is_sent_twice_under_two_counters_is_caught(place: Path) -> None:
    recording = record("update", place / "recorded")
    expected = replace(recording.expected, told={("installed", "1.0.0"): 1})
    with pytest.raises(InvariantError, match="the server was told"):
        check(replace(recording, expected=expected), recording.cuts()[-1], place / "cut")


def test_every_commit_of_the_state_is_looked_at(place: Path) -> None:
    recording = record("update", place / "recorded")
    commits = [event for event in recording.recorder.events if isinstance(event, Commit)]
    assert len(recording.memories) == len(commits) + 1
    assert len(commits) >= 10


def test_a_scenario_is_about_what_it_says(place: Path) -> None:
    resumed = record("resumed download", place / "resumed")
    parts = [path for kind, path in resumed.recorder.calls if kind == "read" and "/partial/" in path]
    assert len(parts) >= 2, "header and first chunk of what an earlier poll left are taken up"
    collected = record("garbage collection", place / "collected")
    gone = [path for kind, path in collected.recorder.calls if kind == "unlink" and "/sha256/" in path]
    assert len(gone) >= 3, "manifest, contract and model of the first release"


def test_weights_that_lie_readable_on_the_disk_are_caught(place: Path) -> None:
    world = World(place / "device")
    made = bundle("1.0.0", counter=1)
    world.publish(made)
    pieces = weights(world)
    assert len(pieces) == 3
    check_no_weights(place, pieces, is_encrypted=True)
    (place / "device" / "left").write_bytes(b"head" + made.blobs[made.model()] + b"tail")
    with pytest.raises(InvariantError, match="weights lie readable"):
        check_no_weights(place, pieces, is_encrypted=True)
