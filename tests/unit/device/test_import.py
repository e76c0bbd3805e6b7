"""A file brought by hand installs by every check of a poll, touches no network, and is trusted for nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle import Counter, Digest
from device_client.errors import IntegrityError, SealiftError, StateError
from device_client.install.import_offline import open_import
from device_client.install.offline_source import FileBlobs
from device_client.install.poll import poll
from device_client.install.selftest import SelfTestReport, run_selftest
from device_client.trust.custom import Rollout
from tests.simulator import AUDIT, RELEASE
from tests.unit.bundle.archives import archive, blob
from tests.unit.device.offline_files import import_into, members_of, metadata_of, release, snapshot_of, write_file
from tests.unit.device.world import THE_MODEL, FakeServer, World, bundle, verdict


def passes(*_: Any, **__: Any) -> SelfTestReport:
    """A self-test for tests that are about something else."""
    return SelfTestReport(0.0, 0, "none")


def never(*_: Any, **__: Any) -> SelfTestReport:
    raise AssertionError("must be refused before the self-test")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "F.tar"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("an import opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(FakeServer, "request", refuse)


def refusal(world: World, file: Path) -> SealiftError:
    with pytest.raises(SealiftError) as refused:
        import_into(world, file, selftest=never)
    return refused.value


@pytest.mark.usefixtures("no_network")
def test_a_good_file_is_installed_tested_and_run_and_its_report_waits(world: World, file: Path) -> None:
    made = bundle("1.0.0", counter=1, scale=3.0)
    result = import_into(world, write_file(file, release(world, made)))
    assert (result.result, result.deployment and result.deployment.manifest) == ("installed", made.digest)
    assert result.bytes_downloaded == sum(len(data) for data in made.blobs.values()) + len(channel_bytes(world))
    assert world.running() == 3.0
    with world.state() as state:
        assert set(state.evidence(state.active(THE_MODEL))) == {"1.root.json", "targets.json", f"{RELEASE}.json", f"{AUDIT}.json"}
        assert state.memory(THE_MODEL).counter == Counter(0, 1)
        assert len(state.outbox()) == 1 == result.reports_waiting
    assert world.server.reports == []


def channel_bytes(world: World) -> bytes:
    entry = world.sim.delegated[RELEASE].targets[THE_MODEL.channel_target]
    return world.server.blobs[Digest(entry.hashes["sha256"])]


@pytest.mark.usefixtures("no_network")
def test_a_device_that_never_enrolled_may_import_but_not_poll(world: World, file: Path) -> None:
    with world.state() as state, state.transaction():
        state.set_enrolment(None, None)  # type: ignore[arg-type]  # as a fresh database has it
    assert import_into(world, write_file(file, release(world, bundle("1.0.0", counter=1))), selftest=passes).result == "installed"
    with pytest.raises(StateError) as refused:
        poll(world.device, THE_MODEL, clock=world.clock, uptime=world.uptime, http=world.server, fetcher=world.sim)
    assert refused.value.code == "not_enrolled"


def test_the_same_file_again_is_current_and_reads_no_blob(world: World, file: Path) -> None:
    write_file(file, release(world, bundle("1.0.0", counter=1)))
    import_into(world, file, selftest=passes)
    result = import_into(world, file, selftest=never)
    assert (result.result, result.bytes_downloaded) == ("current", 0)


def test_polls_and_imports_follow_each_other_without_contradiction(world: World, file: Path) -> None:
    first, second, third = bundle("1.0.0", counter=1), bundle("1.1.0", counter=2), bundle("1.2.0", counter=3)
    import_into(world, write_file(file, release(world, first)), selftest=passes)
    world.server.offered = "1.0.0"
    assert world.poll(selftest=never).result == "current"
    assert [report["event"] for report in world.reports()] == ["installed"], "the outbox was sent by the poll"
    world.publish(second, seq=2)
    assert world.poll(selftest=passes).result == "installed"
    import_into(world, write_file(file, release(world, third, seq=3)), selftest=passes)
    world.server.offered = "1.2.0"
    assert world.poll(selftest=never).result == "current"
    assert [(report["event"], report["code"]) for report in world.reports()] == [("installed", None)] * 3


def test_only_the_blobs_that_the_device_lacks_are_read_from_the_file(world: World, file: Path) -> None:
    first = bundle("1.0.0", counter=1)
    import_into(world, write_file(file, release(world, first)), selftest=passes)
    second = bundle("1.1.0", counter=2)
    result = import_into(world, write_file(file, release(world, second, seq=2)), selftest=passes)
    new = sum(len(data) for digest, data in second.blobs.items() if digest not in first.blobs)
    assert result.bytes_downloaded == new + len(channel_bytes(world))
    assert second.model() in first.blobs


def test_an_older_file_after_an_online_update_is_refused_as_rollback(world: World, file: Path) -> None:
    first, second = bundle("1.0.0", counter=1, scale=2.0), bundle("1.1.0", counter=2, scale=3.0)
    write_file(file, release(world, first))
    world.publish(second, seq=2)
    world.poll()
    assert refusal(world, file).code == "metadata_rollback"
    assert world.running() == 3.0


def test_an_older_release_under_newer_metadata_is_refused_by_its_counter(world: World, file: Path) -> None:
    first, second = bundle("1.0.0", counter=1), bundle("1.1.0", counter=2)
    import_into(world, write_file(file, release(world, second)), selftest=passes)
    assert refusal(world, write_file(file, release(world, first))).code == "counter_rollback"


def test_a_release_without_its_audit_is_refused_and_waits(world: World, file: Path) -> None:
    made = bundle("1.0.0", counter=1)
    world.release_entry(made)
    world.sim.delegated_role(AUDIT)
    world.sim.publish(RELEASE, AUDIT)
    assert refusal(world, write_file(file, members_of(world, made))).code == "audit_entry_missing"
    with world.state() as state:
        assert state.active(THE_MODEL) is None
        assert state.journal(limit=1)[0].event == "awaiting_audit"


def _withdrawn(world: World) -> dict[str, bytes]:
    return release(world, bundle("1.0.0", counter=1), status="withdrawn")


def _failed(world: World) -> dict[str, bytes]:
    made = bundle("1.0.0", counter=1)
    return release(world, made, variants={made.model(): verdict("FAILED")})


def _not_for_us(world: World) -> dict[str, bytes]:
    made = bundle("1.0.0", counter=1)
    release(world, made)
    world.release_entry(made, rollout=Rollout(None, 0))
    world.sim.publish(RELEASE)
    return members_of(world, made)


def _other_bytes_audited(world: World) -> dict[str, bytes]:
    made = bundle("1.0.0", counter=1)
    release(world, made)
    world.audit_entry(bundle("1.0.0", counter=1, scale=9.0))
    world.sim.publish(AUDIT)
    return members_of(world, made)


def _no_channel(world: World) -> dict[str, bytes]:
    made = bundle("1.0.0", counter=1)
    members = release(world, made)
    del world.sim.delegated[RELEASE].targets[THE_MODEL.channel_target]
    world.sim.publish(RELEASE)
    both = {**members, **metadata_of(world)}  # with the older role file, which lists one
    return dict(sorted(both.items(), key=lambda item: not item[0].startswith("metadata/")))


REFUSED: dict[str, tuple[Callable[[World], dict[str, bytes]], str]] = {
    "withdrawn by the audit team": (_withdrawn, "withdrawn"),
    "a verdict that no policy accepts": (_failed, "verdict_failed"),
    "a signed rollout that leaves this device out": (_not_for_us, "rollout_not_yet"),
    "two roles that name other bytes": (_other_bytes_audited, "entries_differ"),
    "no channel in the newest release role": (_no_channel, "offline_channel"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_coming_by_hand_excuses_nothing(world: World, file: Path, case: str) -> None:
    make, code = REFUSED[case]
    found = refusal(world, write_file(file, make(world)))
    assert found.code == code
    with world.state() as state:
        assert state.active(THE_MODEL) is None
        assert code in {entry.code for entry in state.journal(limit=9)}


@pytest.mark.parametrize("role", ["snapshot", "targets", RELEASE, AUDIT])
def test_a_file_that_lacks_a_role_is_refused(world: World, file: Path, role: str) -> None:
    members = release(world, bundle("1.0.0", counter=1))
    name = next(name for name in members if name.endswith(f".{role}.json"))
    found = refusal(world, write_file(file, {key: data for key, data in members.items() if key != name}))
    assert found.code == ("import_models" if role == RELEASE else "metadata_unavailable")
    assert role == RELEASE or str(file) in str(found) or role in str(found)


def test_a_file_that_lacks_a_layer_is_refused_by_its_name(world: World, file: Path) -> None:
    made = bundle("1.0.0", counter=1)
    members = release(world, made)
    del members[f"blobs/sha256/{made.model().hex}"]
    found = refusal(world, write_file(file, members))
    assert (found.code, made.model().hex in str(found)) == ("blob_missing", True)


def test_metadata_signed_by_strangers_is_refused(world: World, file: Path, tmp_path: Path) -> None:
    stranger = World(tmp_path / "stranger")
    assert refusal(world, write_file(file, release(stranger, bundle("1.0.0", counter=1)))).code == "signature_threshold"


def test_a_root_chain_in_the_file_is_walked_and_kept(world: World, file: Path) -> None:
    world.sim.rotate("timestamp")
    world.sim.rotate("snapshot")
    import_into(world, write_file(file, release(world, bundle("1.0.0", counter=1))), selftest=passes)
    with world.state() as state:
        assert set(state.roots()) == {1, 2, 3}


def test_a_disk_that_gives_other_bytes_the_second_time_is_refused(world: World, file: Path) -> None:
    made = bundle("1.0.0", counter=1)
    write_file(file, release(world, made))
    model = made.blobs[made.model()]
    data = file.read_bytes()
    at = data.index(model) + len(model) // 2
    with open_import(world.device, file) as found:
        with file.open("r+b") as out:
            out.seek(at)
            out.write(bytes([data[at] ^ 1]))
        with pytest.raises(IntegrityError) as refused:
            found.run(THE_MODEL, clock=world.clock, uptime=world.uptime, selftest=never)
    assert refused.value.code == "blob_digest_mismatch"
    with world.state() as state:
        assert state.active(THE_MODEL) is None
        assert state.known_bad(THE_MODEL, made.digest, now=world.now) is None, "somebody with a disk must not ban a good model"
    assert import_into(world, write_file(file, members_of(world, made)), selftest=passes).result == "installed"


def test_a_file_that_is_cut_short_after_the_first_pass_is_refused(world: World, file: Path) -> None:
    made = bundle("1.0.0", counter=1)
    write_file(file, release(world, made))
    with open_import(world.device, file) as found:
        with file.open("r+b") as out:
            out.truncate(len(metadata_of(world)) * 512)
        with pytest.raises(IntegrityError) as refused:
            found.run(THE_MODEL, clock=world.clock, uptime=world.uptime, selftest=never)
    assert refused.value.code == "blob_size_mismatch"


class Killed(BaseException):
    """What no handler of the code takes for an error."""


def _killed_in_blob(number: int) -> Callable[..., int]:
    """A way to blobs that ends in the middle of the one with this number."""
    real, left = FileBlobs.download, [number]

    def download(self: FileBlobs, path: str, **options: Any) -> int:
        if left[0] == 0:
            options["write"](b"half")
            raise Killed
        left[0] -= 1
        return real(self, path, **options)

    return download


def test_a_kill_in_any_blob_leaves_nothing_and_the_same_file_again_installs(
    world: World, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(file, release(world, bundle("1.0.0", counter=1)))
    for number in range(3):  # each try begins where the last one ended: what is in the store is not read again
        with monkeypatch.context() as patch:
            patch.setattr(FileBlobs, "download", _killed_in_blob(number // 2))
            with pytest.raises(Killed):
                import_into(world, file, selftest=never)
        with world.state() as state:
            assert state.active(THE_MODEL) is None
    assert import_into(world, file, selftest=passes).result == "installed"
    assert world.running() == 2.0
    with world.state() as state:
        assert "interrupted" in {entry.event for entry in state.journal(limit=20)}


def test_the_blobs_of_a_file_answer_nothing_else(world: World, file: Path) -> None:
    write_file(file, release(world, bundle("1.0.0", counter=1)))
    with open_import(world.device, file) as found:
        blobs = FileBlobs(found.offline, where=str(file))
        for ask in (lambda: blobs.request("GET", "/v1/x"), lambda: blobs._open("GET", "/x", body=None, headers={}).__enter__()):
            with pytest.raises(StateError) as refused:
                ask()  # type: ignore[no-untyped-call]
            assert refused.value.code == "no_server"


def test_a_broken_file_changes_nothing_of_the_device(world: World, file: Path) -> None:
    members = release(world, bundle("1.0.0", counter=1))
    before = snapshot_of(world.device.folder.path)
    file.write_bytes(archive({**members, "blobs/sha256/../../../etc/passwd": b"x"}))
    assert refusal(world, file).code == "offline_name"
    assert snapshot_of(world.device.folder.path) == before


def test_blobs_may_be_read_side_by_side(world: World, file: Path) -> None:
    made = bundle("1.0.0", counter=1)
    big = [bytes([number]) * 900_001 for number in range(4)]
    write_file(file, {**release(world, made), **dict(map(blob, big))})
    got: dict[int, bytearray] = {number: bytearray() for number in range(4)}
    with open_import(world.device, file) as found:
        blobs = FileBlobs(found.offline, where=str(file))

        def read(number: int) -> None:
            path = f"/blobs/sha256/{Digest.of(big[number]).hex}"
            blobs.download(path, size=len(big[number]), write=got[number].extend)

        threads = [threading.Thread(target=read, args=(number,)) for number in got]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [bytes(data) for data in got.values()] == big


def test_an_import_says_nothing_about_what_the_server_withholds(world: World, file: Path) -> None:
    world.publish(bundle("1.0.0", counter=1))
    world.poll(selftest=passes)
    second = bundle("1.1.0", counter=2, scale=3.0, golden_scale=9.0)
    members = release(world, second, seq=2)
    for _ in range(3):
        world.pass_days()
        world.poll(selftest=never)  # offers 1.0.0 although the channel says 1.1.0
    with world.state() as state:
        assert (days := state.patience(THE_MODEL, "withheld").days) == 3
    world.pass_days()
    with pytest.raises(SealiftError):
        import_into(world, write_file(file, {**members_of(world, second)}), selftest=run_selftest)
    with world.state() as state:
        assert state.patience(THE_MODEL, "withheld").days == days
    assert members
