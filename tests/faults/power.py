"""Cuts the power at every point of a scenario: writes the disk that is left into a folder, boots from it, and looks.

report = play("update", folder)          # raises InvariantError at the first disk that does not come back
print(report.points, report.events)
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from device_client.install.mirror import Remembered, merged
from tests.faults.aftermath import InvariantError, check_recovery, check_settled, mirrored, reboot, remembered, weights
from tests.faults.disk import Commit, Cut, Kind, cuts
from tests.faults.recorder import Recorder
from tests.faults.scenarios import SCENARIOS, Expected
from tests.unit.device.world import World

DEVICE = "device"


@dataclass(frozen=True)
class Report:
    """How many of the distinct disks were booted from, and of how many events and calls they are made."""

    scenario: str
    booted: int
    distinct: int
    events: int
    calls: int


@dataclass(frozen=True)
class Recording:
    """A scenario that ran once, undisturbed.

    Attributes:
        world: as it was before the recorded part; its device is only a name.
        expected: what must hold.
        recorder: the log.
        memories: what was committed to memory, with the number of events until then.
        reports: all that the server had at the end.
    """

    world: World
    expected: Expected
    recorder: Recorder
    memories: tuple[tuple[int, Remembered], ...]
    reports: tuple[bytes, ...]

    def acknowledged(self, after: int) -> Remembered:
        """What had been committed when ``after`` events had happened."""
        first, *others = (memory for events, memory in self.memories if events <= after)
        for other in others:
            first = merged(first, other, at=self.world.boot)
        return first

    def cuts(self) -> list[Cut]:
        """Every distinct disk."""
        return list(cuts(self.recorder.base, self.recorder.events, end=len(self.reports)))


@dataclass(frozen=True)
class Prepared:
    """A world as it is when a scenario's own part begins, and what had been committed to memory by then."""

    world: World
    expected: Expected
    memory: Remembered


def prepare(name: str, folder: Path) -> Prepared:
    """Prepares a scenario in a new folder."""
    folder.mkdir(parents=True)
    world = World(folder / DEVICE)
    expected = SCENARIOS[name](world)
    found = [remembered(world.device.folder.state), mirrored(world.device.folder.marks)]
    known = [each for each in found if each is not None]
    if not known:
        raise InvariantError("nothing is remembered before the fault")
    return Prepared(world, expected, known[0] if len(known) == 1 else merged(known[0], known[1], at=world.boot))


def record(name: str, folder: Path) -> Recording:
    """Runs a scenario in ``folder`` and checks that it ends as it says."""
    prepared = prepare(name, folder)
    before, world = prepared.world, reboot(prepared.world, folder / DEVICE, reports=prepared.world.server.reports)
    with Recorder(folder, outside=lambda: len(world.server.reports)) as recorder:
        prepared.expected.act(world)
    check_settled(world, prepared.expected, acknowledged=prepared.memory, weights=weights(world))
    memories = ((0, prepared.memory), *committed(recorder, folder.parent))
    return Recording(before, prepared.expected, recorder, memories, tuple(world.server.reports))


def play(name: str, folder: Path, *, every: int = 1, start: int = 0) -> Report:
    """Boots from every ``every``-th distinct disk, beginning with number ``start``.

    Raises:
        InvariantError: names the scenario, the event and the disk.
    """
    recording = record(name, folder / "recorded")
    recorder, found = recording.recorder, recording.cuts()
    booted = 0
    for cut in itertools.islice(found, start, None, every):
        try:
            check(recording, cut, folder / "cut")
        except Exception as error:
            what = f"{name}: {told(recording, cut)}: {error!r}"
            raise InvariantError(what) from error
        remove(folder / "cut")
        booted += 1
    return Report(name, booted, len(found), len(recorder.events), len(recorder.calls))


def check(recording: Recording, cut: Cut, place: Path) -> None:
    """One disk: what runs after the cut, and after one clean cycle, which half of them begin with ``device recover``."""
    write_tree(cut, place)
    world = reboot(recording.world, place / DEVICE, reports=recording.reports[: cut.outside], boots=2)
    world.now = recording.expected.wakes_at or world.now
    memory, is_boot = recording.acknowledged(cut.after), cut.after % 2 == 0
    check_recovery(world, recording.expected, acknowledged=memory, weights=weights(world), is_boot=is_boot)


def told(recording: Recording, cut: Cut) -> str:
    """Which cut it is, for people."""
    last = recording.recorder.events[cut.after - 1].what if cut.after else "nothing"
    return f"power cut after event {cut.after} of {len(recording.recorder.events)} ({last}), {cut.how}"


def write_tree(cut: Cut, place: Path) -> None:
    """Writes a disk into a new folder."""
    place.mkdir()
    folders = []
    for name, (kind, mode, data) in cut.tree.items():
        path = place / name
        if kind is Kind.FOLDER:
            path.mkdir()
            folders.append((path, mode))
        elif kind is Kind.LINK:
            path.symlink_to(os.fsdecode(data))
        else:
            path.write_bytes(data)
            path.chmod(mode)
    for path, mode in reversed(folders):
        path.chmod(mode)


def remove(place: Path) -> None:
    """Removes a folder whatever its permissions."""
    shutil.rmtree(place)


def committed(recorder: Recorder, scratch: Path) -> Iterator[tuple[int, Remembered]]:
    """The memory in each commit of the database that is in use then, read back by the code that would read it at boot."""
    copy_of = scratch / "committed.db"
    for index, event in enumerate(recorder.events):
        if isinstance(event, Commit) and event.what == f"commit {DEVICE}/state.db":
            copy_of.write_bytes(event.data)
            copy_of.chmod(0o600)
            found = remembered(copy_of)
            copy_of.unlink()
            if found is None:
                raise InvariantError(f"{event.what}: what was committed does not open")
            yield index + 1, found
