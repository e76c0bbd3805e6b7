"""A poll installs what both roles accept and this device may run; every refusal leaves all as it was, and says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from device_client.bundle import Counter, Digest, Requires
from device_client.errors import SelfTestError, StateError, TransportError, VerificationError
from device_client.inference.model import open_model
from device_client.install.lock import exclusive
from device_client.install.selftest import SelfTestReport
from device_client.trust.custom import Rollout
from tests.simulator import AUDIT, RELEASE
from tests.unit.device.world import THE_MODEL, World, bundle, verdict
from tests.unit.inference import models

X = np.array([[1.0, 2.0, 3.0]], np.float32)


def passes(*_: Any, **__: Any) -> SelfTestReport:
    """A self-test for tests that are about something else."""
    return SelfTestReport(0.0, 0, "none")


def never(*_: Any, **__: Any) -> SelfTestReport:
    raise AssertionError("must be refused before the self-test")


def running(world: World) -> float:
    """What the installed model does to 1.0: its scale."""
    with open_model(world.device.folder, THE_MODEL) as model:
        return float(model.run({"x": X})["y"][0, 0])


def test_a_release_is_installed_tested_and_run_and_reported(world: World) -> None:
    made = world.install(scale=2.0)
    assert running(world) == 2.0
    with world.state() as state:
        active = state.active(THE_MODEL)
        assert active is not None
        assert (active.version, active.manifest, active.variant_digest) == ("1.0.0", made.digest, made.model())
        assert set(state.evidence(state.active(THE_MODEL))) == {"1.root.json", "targets.json", f"{RELEASE}.json", f"{AUDIT}.json"}
        assert state.memory(THE_MODEL).counter == Counter(0, 1)
        assert state.outbox() == []
    report = world.last_report()
    assert (report["event"], report["code"], report["counter"]) == ("installed", None, 1)
    assert report["active"] == {"version": "1.0.0", "manifest": str(made.digest)}
    assert report["marks"]["timestamp"] == 2


def test_a_second_poll_is_current_and_downloads_nothing(world: World) -> None:
    world.install()
    world.server.downloads.clear()
    result = world.poll()
    assert (result.result, result.bytes_downloaded, world.server.downloads) == ("current", 0, [])


def test_an_update_keeps_the_old_deployment_as_previous_and_fetches_only_what_is_new(world: World) -> None:
    first = world.install("1.0.0", counter=1)
    second = bundle("1.1.0", counter=2)
    world.publish(second, seq=2)
    world.server.downloads.clear()
    assert world.poll().result == "installed"
    assert second.model() == first.model(), "same layers, new contract"
    assert first.model().hex not in world.server.downloads
    with world.state() as state:
        previous = state.previous(THE_MODEL)
        assert previous is not None
        assert previous.version == "1.0.0"


def test_nothing_offered_is_no_error(world: World) -> None:
    assert world.poll().result == "none"
    world.install()
    world.server.offered = None
    result = world.poll()
    assert result.result == "none"
    assert result.deployment is not None


def withdraw(world: World, made: Any) -> None:
    world.audit_entry(made, seq=9, status="withdrawn")


def flip(world: World, digest: Digest) -> None:
    data = bytearray(world.server.blobs[digest])
    data[len(data) // 2] ^= 1
    world.server.blobs[digest] = bytes(data)


def list_in_targets(world: World, made: Any) -> None:
    entry = world.sim.delegated_role(RELEASE).targets[made.contract.path.release_target]
    world.sim.targets.targets[made.contract.path.release_target] = entry
    world.sim.publish("targets")


def replay(world: World) -> None:
    world.poll(selftest=passes)
    old = world.sim.role_bytes("timestamp")
    world.sim.publish(RELEASE)
    world.poll()
    world.sim.served["timestamp.json"] = old


CASES: dict[str, tuple[Callable[[World, Any], Any], str]] = {
    "no audit entry": (lambda w, b: w.sim.delegated_role(AUDIT).targets.pop(b.contract.path.audit_target), "audit_entry_missing"),
    "no release entry": (
        lambda w, b: w.sim.delegated_role(RELEASE).targets.pop(b.contract.path.release_target),
        "release_entry_missing",
    ),
    "an audit of another variant": (
        lambda w, b: w.audit_entry(b, variants={Digest.of(b"other"): verdict()}),
        "variant_not_audited",
    ),
    "a failed audit": (lambda w, b: w.audit_entry(b, variants={b.model(): verdict("FAILED")}), "verdict_failed"),
    "an inconclusive audit": (lambda w, b: w.audit_entry(b, variants={b.model(): verdict("INCONCLUSIVE")}), "verdict_inconclusive"),
    "a waived audit": (lambda w, b: w.audit_entry(b, variants={b.model(): verdict("WAIVED")}), "verdict_waived"),
    "an expired verdict": (lambda w, b: w.audit_entry(b, variants={b.model(): verdict(days=0)}), "verdict_expired"),
    "a withdrawn release": (withdraw, "withdrawn"),
    "another device's share": (lambda w, b: w.release_entry(b, rollout=Rollout(max_percent=0)), "rollout_not_yet"),
    "a later opening": (lambda w, b: w.release_entry(b, rollout=Rollout(w.now + timedelta(hours=1))), "rollout_not_yet"),
    "a flipped byte in the model": (lambda w, b: flip(w, b.model()), "blob_digest_mismatch"),
    "a flipped byte in the manifest": (lambda w, b: flip(w, b.digest), "blob_digest_mismatch"),
    "a longer model": (lambda w, b: w.server.blobs.update({b.model(): w.server.blobs[b.model()] + b"x"}), "blob_size_mismatch"),
    "a shorter model": (lambda w, b: w.server.blobs.update({b.model(): w.server.blobs[b.model()][:-1]}), "blob_size_mismatch"),
    "a missing blob": (lambda w, b: w.server.blobs.pop(b.model()), "not_found"),
    "targets that list the paths": (list_in_targets, "targets_lists_targets"),
    "an old timestamp": (lambda w, b: replay(w), "metadata_rollback"),
}


@pytest.mark.parametrize(("break_", "code"), CASES.values(), ids=CASES.keys())
def test_a_release_with_one_defect_is_refused_and_without_it_installed(world: World, break_: Any, code: str) -> None:
    world.install("1.0.0", counter=1, scale=2.0)
    made = bundle("2.0.0", counter=2, scale=3.0)
    world.publish(made, seq=2)
    break_(world, made)
    if not world.sim.served:
        world.sim.publish(RELEASE, AUDIT)
    before = 3.0 if code == "metadata_rollback" else 2.0

    error = world.refusal()
    assert error.code == code
    assert running(world) == before, "the active model goes on"
    report = world.last_report()
    expected = "awaiting_audit" if code == "audit_entry_missing" else "failed" if code == "not_found" else "refused"
    assert (report["event"], report["code"]) == (expected, code)
    with world.state() as state:
        assert state.journal(limit=1)[0].code == code
        assert state.known_bad(THE_MODEL, made.digest, now=world.now) is None, "nothing is banned for what the network did"

    world.sim.served.clear()
    world.sim.targets.targets.clear()
    world.publish(made, seq=10)
    world.sim.publish("targets")
    assert world.poll().result in {"installed", "current"}
    assert running(world) == 3.0


def test_a_lower_release_counter_is_refused(world: World) -> None:
    world.install("2.0.0", counter=5)
    world.publish(bundle("1.0.0", counter=4, scale=9.0), seq=2)
    assert world.refusal().code == "counter_rollback"
    assert running(world) == 2.0


def test_one_counter_or_version_for_two_bundles_is_equivocation(world: World) -> None:
    world.install("1.0.0", counter=5)
    world.publish(bundle("1.0.1", counter=5, scale=9.0), seq=2)
    assert world.refusal().code == "equivocation"
    world.publish(bundle("1.0.0", counter=6, scale=9.0), seq=3)
    assert world.refusal().code == "equivocation"


def test_a_contract_that_names_another_counter_than_was_signed_is_refused(world: World) -> None:
    made = bundle("1.0.0", counter=1)
    world.upload(made)
    world.release_entry(made, counter=7)
    world.audit_entry(made, counter=7)
    world.sim.publish(RELEASE, AUDIT)
    world.server.offered = "1.0.0"
    assert world.refusal().code == "counter_mismatch"


def test_a_release_below_the_floor_of_an_agreed_channel_is_refused(world: World) -> None:
    newest = world.install("2.0.0", counter=5)
    world.channel(newest, floor=4)
    world.sim.publish(RELEASE)
    assert world.poll().result == "current"
    with world.state() as state:
        assert state.memory(THE_MODEL).floor == Counter(0, 4)


def test_a_channel_alone_cannot_raise_the_floor_beyond_what_the_audit_role_signed(world: World) -> None:
    made = world.install("1.0.0", counter=1)
    for huge in (bundle("9.0.0", counter=2**31 - 1), bundle("1.0.0", counter=2**31 - 1)):
        world.channel(huge, floor=2**31 - 1)
        world.sim.publish(RELEASE)
        assert world.poll().result == "current"
    world.channel(made, floor=1)
    world.release_entry(made, rollout=Rollout(max_percent=50))
    world.sim.publish(RELEASE)
    assert world.poll().result == "current"
    with world.state() as state:
        assert state.memory(THE_MODEL).floor == Counter(0, 0)


def test_no_variant_for_this_machine_is_refused_before_its_download(world: World) -> None:
    made = bundle("1.0.0", counter=1, requires=Requires(arch=("vax",)))
    world.publish(made)
    assert world.refusal().code == "no_variant_fits"
    assert made.model().hex not in world.server.downloads


def test_a_model_that_does_not_reproduce_its_probes_is_known_bad_until_a_new_version(world: World) -> None:
    world.install("1.0.0", counter=1)
    bad = bundle("2.0.0", counter=2, scale=3.0, golden_scale=4.0)
    world.publish(bad, seq=2)
    assert world.refusal().code == "selftest_mismatch"
    assert running(world) == 2.0
    with world.state() as state:
        assert state.memory(THE_MODEL).counter == Counter(0, 1), "the counter does not advance"
    tested: list[int] = []
    assert world.refusal(selftest=lambda *_, **__: tested.append(1)).code == "known_bad"
    assert not tested, "no install loop"
    world.publish(bundle("2.0.1", counter=3, scale=3.0), seq=3)
    assert world.poll().result == "installed"


@pytest.mark.parametrize("code", ["selftest_memory", "selftest_timeout"])
def test_causes_of_memory_and_time_are_forgiven_after_a_day(world: World, code: str) -> None:
    def fails(*_: Any, **__: Any) -> SelfTestReport:
        raise SelfTestError("too much", code=code)

    world.publish(bundle("1.0.0", counter=1))
    assert world.refusal(selftest=fails).code == code
    assert world.refusal(selftest=passes).code == "known_bad"
    world.sim.timestamp.expires += timedelta(days=3)
    world.sim.publish()
    world.now += timedelta(days=1, minutes=1)
    assert world.poll(selftest=passes).result == "installed"


def test_a_model_with_external_data_is_refused_before_any_session(world: World) -> None:
    node = onnx.helper.make_node("Mul", ["x", "w"], ["y"])
    data = models.model([node], initializers=[models.external_tensor()]).SerializeToString()
    world.publish(bundle("1.0.0", counter=1, data=data))
    assert world.refusal(selftest=passes).code == "model_external_data"


def test_a_contract_that_describes_another_model_file_is_refused(world: World) -> None:
    data = models.linear().SerializeToString().replace(b"\x0a\x01x", b"\x0a\x01q")
    world.publish(bundle("1.0.0", counter=1, data=data))
    assert world.refusal(selftest=passes).code == "contract_model_mismatch"


def test_the_same_refusal_is_reported_once_and_journaled_each_time(world: World) -> None:
    made = bundle("1.0.0", counter=1)
    world.publish(made, variants={made.model(): verdict("FAILED")})
    for _ in range(3):
        assert world.refusal().code == "verdict_failed"
    assert len(world.server.reports) == 1
    with world.state() as state:
        assert [entry.code for entry in state.journal()] == ["verdict_failed"] * 3


def test_reports_wait_for_the_server_and_none_is_lost(world: World) -> None:
    world.install("1.0.0", counter=1)
    world.server.is_down = True
    with pytest.raises(TransportError):
        world.poll()
    with world.state() as state:
        assert len(state.outbox()) == 1
    world.server.is_down = False
    assert world.poll().reports_waiting == 0
    assert [world_report["event"] for world_report in map(_payload, world.server.reports)] == ["installed", "failed"]


def _payload(envelope: bytes) -> dict[str, Any]:
    from tests.unit.device.world import payload_of

    return payload_of(envelope)


def test_a_device_restored_from_an_old_copy_goes_on_above_the_servers_counter(world: World) -> None:
    world.server.last_counter = 41
    world.install("1.0.0", counter=1)
    assert world.last_report()["counter"] == 42
    with world.state() as state:
        assert state.outbox() == []


def test_a_withdrawal_of_the_running_model_is_noticed_even_when_nothing_is_offered(world: World) -> None:
    made = world.install("1.0.0", counter=1)
    world.server.offered = None
    withdraw(world, made)
    world.sim.publish(AUDIT)
    assert world.poll().result == "none"
    assert (world.last_report()["event"], world.last_report()["code"]) == ("alarm", "withdrawn")
    assert running(world) == 2.0, "withdrawal never stops the running model by itself"
    world.audit_entry(made, seq=8)
    world.sim.publish(AUDIT)
    world.server.offered = "1.0.0"
    assert world.refusal().code == "seq_rollback"
    world.audit_entry(made, seq=9)
    world.sim.publish(AUDIT)
    assert world.refusal().code == "withdrawn", "the seq that withdrew it does not restore it"
    world.audit_entry(made, seq=10)
    world.sim.publish(AUDIT)
    assert world.poll().result == "current"


def test_withdrawn_bytes_stay_withdrawn_in_another_bundle(world: World) -> None:
    made = world.install("1.0.0", counter=1)
    withdraw(world, made)
    again = bundle("1.1.0", counter=2)
    world.publish(again, seq=9)
    assert again.model() == made.model()
    world.server.downloads.clear()
    assert world.refusal(selftest=never).code == "withdrawn"
    assert set(world.server.downloads) <= {again.digest.hex, *(blob.hex for blob in again.blobs)} - {made.model().hex}
    world.publish(again, seq=10)
    assert world.poll().result == "installed"


def test_a_damaged_blob_is_refused_at_load_and_made_good_by_the_next_poll(world: World) -> None:
    made = world.install()
    path = world.device.folder.blobs / "sha256" / made.model().hex
    path.chmod(0o600)
    path.write_bytes(b"swapped after verification")
    with pytest.raises(VerificationError) as caught:
        running(world)
    assert caught.value.code == "blob_format"
    result = world.poll()
    assert result.result == "current"
    assert result.bytes_downloaded > 0
    assert running(world) == 2.0


def test_a_wiped_cache_does_not_lower_what_is_remembered(world: World) -> None:
    world.install("1.0.0", counter=1)
    old = {name: world.sim.role_bytes(name) for name in ("timestamp", "snapshot")}
    version = world.sim.snapshot.version
    world.sim.publish(RELEASE)
    world.poll()
    shutil.rmtree(world.device.folder.metadata)
    world.sim.served = {"timestamp.json": old["timestamp"], f"{version}.snapshot.json": old["snapshot"]}
    world.sim.served[f"{world.sim.delegated_role(RELEASE).version - 1}.{RELEASE}.json"] = b"{}"
    assert world.refusal().code == "metadata_rollback"


def test_a_poll_while_another_one_runs_changes_nothing(world: World) -> None:
    with exclusive(world.device.folder.lock), pytest.raises(StateError) as caught:
        world.poll()
    assert caught.value.code == "busy"


def test_a_device_that_is_not_enrolled_says_so(tmp_path: Path) -> None:
    world = World(tmp_path / "new")
    with world.state() as state, state.transaction():
        state._db.change("UPDATE device SET token = NULL")
    assert world.refusal().code == "not_enrolled"


def test_an_interrupted_poll_leaves_a_trace_and_the_next_one_succeeds(world: World) -> None:
    world.publish(bundle("1.0.0", counter=1))

    def power_cut(*_: Any, **__: Any) -> SelfTestReport:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.poll(selftest=power_cut)
    with world.state() as state:
        assert state.progress(THE_MODEL).state == "selftest"
        assert state.active(THE_MODEL) is None
    assert world.poll().result == "installed"
    with world.state() as state:
        assert [entry.event for entry in state.journal()] == ["installed", "interrupted"]


def test_a_verdict_that_expires_during_the_installation_is_refused_at_its_end(world: World) -> None:
    made = bundle("1.0.0", counter=1)
    world.publish(made, variants={made.model(): verdict(days=0.01)})

    def slow(*_: Any, **__: Any) -> SelfTestReport:
        world.now += timedelta(hours=1)
        return SelfTestReport(0.0, 0, "none")

    assert world.refusal(selftest=slow).code == "verdict_expired"
    with world.state() as state:
        assert state.active(THE_MODEL) is None


def wipe_cache(world: World) -> None:
    shutil.rmtree(world.device.folder.metadata)


def test_an_old_timestamp_after_a_poll_without_an_offer_is_refused_even_with_a_wiped_cache(world: World) -> None:
    old = {"timestamp.json": world.sim.role_bytes("timestamp"), "1.snapshot.json": world.sim.role_bytes("snapshot")}
    world.sim.publish()
    assert world.poll().result == "none"
    wipe_cache(world)
    world.sim.served = old
    assert world.refusal().code == "metadata_rollback"


def test_online_keys_cannot_show_an_older_release_role_to_a_wiped_cache(world: World) -> None:
    world.install("1.0.0", counter=1)
    world.sim.publish(RELEASE)
    world.sim.publish(RELEASE)
    assert world.poll().result == "current"
    wipe_cache(world)
    world.sim.delegated_role(RELEASE).version -= 2
    world.sim.publish(RELEASE)
    assert world.refusal().code == "metadata_rollback"


def test_a_newer_root_hidden_from_a_wiped_cache_changes_nothing(world: World) -> None:
    world.sim.root.version = 2
    assert world.poll().result == "none"
    newest = world.sim.role_bytes("root")
    wipe_cache(world)
    world.sim.root.version = 1  # the server denies that there is a second root
    world.sim.timestamp.version += 1
    assert world.poll().result == "none"
    with world.state() as state:
        assert state.roots()[2] == newest


@pytest.mark.parametrize(("column", "value"), [("version", "9.9.9"), ("n", 7), ("variant_digest", str(Digest.of(b"other")))])
def test_a_database_that_was_edited_cannot_choose_another_story(world: World, column: str, value: object) -> None:
    world.install("1.0.0", counter=1)
    with world.state() as state, state.transaction():
        state._db.change(f"UPDATE deployments SET {column} = ?", value)
    with pytest.raises(VerificationError) as caught:
        running(world)
    assert caught.value.code == ("release_entry_missing" if column == "version" else "evidence_mismatch")


def test_a_fault_of_the_program_is_recorded_and_leaves_the_active_model(world: World) -> None:
    world.install("1.0.0", counter=1)
    world.publish(bundle("2.0.0", counter=2, scale=3.0), seq=2)

    def broken(*_: Any, **__: Any) -> SelfTestReport:
        raise ZeroDivisionError

    assert world.refusal(selftest=broken).code == "internal"
    assert (world.last_report()["event"], world.last_report()["code"], world.last_report()["state"]) == (
        "failed",
        "internal",
        "selftest",
    )
    assert running(world) == 2.0
    assert world.poll().result == "installed"
