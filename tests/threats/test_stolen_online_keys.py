"""Drills: the online keys are stolen, or the web root alone. The worst that they allow, and how the root keys end it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Snapshot, Timestamp

from demo.names import AUDIT, RELEASE, SECOND
from device_client.trust.times import format_time
from tests.threats.hands import Hands
from tests.threats.judge import expect_current, expect_installed, expect_refusal
from tests.threats.world import World

HUGE = 2**31 - 100  # near the highest version that a report can tell


def versions(world: World) -> dict[str, int]:
    """The highest mark of each role."""
    found: dict[str, int] = {}
    for role, version in world.rows("SELECT role, version FROM marks"):
        found[role] = max(version, found.get(role, 0))
    return found


def test_a_thief_of_the_timestamp_key_can_only_freeze_and_fast_forward_and_a_new_key_ends_it(world: World) -> None:
    """K01."""
    hands = Hands(world)
    honest = (world.data / "tuf" / "timestamp.json").read_bytes()
    before = world.footprint()
    timestamp = world.web.newest("timestamp")
    timestamp.signed.version = HUGE
    timestamp.signed.snapshot_meta.version -= 1  # freeze: the snapshot before, of which the thief has no hash of its own
    hands.write("timestamp", timestamp, "timestamp.json")
    assert world.refusal().code == "metadata_mismatch"
    assert world.footprint() == before

    (world.data / "tuf" / "timestamp.json").write_bytes(honest)
    expect_refusal(world, "metadata_rollback", before=before)  # fast-forward: the honest version is far below
    hands.rotate("timestamp")
    (world.data / "tuf" / "timestamp.json").write_bytes(honest)
    expect_refusal(world, "signature_threshold", before=before)
    again = world.web.newest("timestamp")
    hands.write("timestamp", again, "timestamp.json")
    expect_installed(world, SECOND, before=before)
    assert world.web.newest("timestamp").signed.version < HUGE, "an ordinary version again"


def list_own_role(hands: Hands) -> Any:
    """Puts a release role of the thief's own into the web root."""
    thief = [CryptoSigner.generate_ed25519() for _ in range(2)]
    hands.edit(RELEASE, lambda role: role.targets.clear(), signers=thief)


def sign_with_online_keys(hands: Hands) -> Any:
    keys = hands.world.keys
    hands.edit(RELEASE, lambda role: role.targets.clear(), signers=[*keys["snapshot"], *keys["timestamp"]])


def go_back(hands: Hands) -> Any:
    hands.announce({RELEASE: 1})


def drop_audit(hands: Hands) -> Any:
    hands.announce(change_snapshot=lambda snapshot: snapshot.meta.pop(f"{AUDIT}.json"))


def announce_huge_versions(hands: Hands) -> Any:
    def everything(snapshot: Snapshot) -> None:
        for meta in snapshot.meta.values():
            meta.version = HUGE

    hands.announce(change_snapshot=everything)


def sign_in_the_future(hands: Hands) -> Any:
    """Issued in ten years: soft floors, which move the device's time."""

    def future(signed: Snapshot | Timestamp) -> None:
        signed.unrecognized_fields["issued"] = format_time(hands.world.true_time() + timedelta(days=3650))
        signed.expires = hands.world.true_time() + timedelta(days=3651)

    hands.announce(change_snapshot=future, change_timestamp=future)


TRICKS: dict[str, tuple[Callable[[Hands], Any], str]] = {
    "a release role of their own": (list_own_role, "signature_threshold"),
    "a release role signed by the online keys": (sign_with_online_keys, "signature_threshold"),
    "an older release role": (go_back, "metadata_rollback"),
    "no audit role": (drop_audit, "metadata_invalid"),
    "huge versions of every role": (announce_huge_versions, "metadata_unavailable"),
    "times in ten years": (sign_in_the_future, "metadata_expired"),
}


@pytest.mark.parametrize("is_cache_wiped", [False, True], ids=["cache kept", "cache wiped"])
@pytest.mark.parametrize(("trick", "code"), TRICKS.values(), ids=TRICKS.keys())
def test_thieves_of_both_online_keys_install_nothing_poison_no_mark_and_new_keys_end_it(
    world: World, trick: Callable[[Hands], Any], code: str, *, is_cache_wiped: bool
) -> None:
    """K02 and R06. Whatever they announced, after the rotation the honest roles count at their ordinary versions."""
    hands = Hands(world)
    newest = {role: world.web.newest(role).signed.version for role in ("targets", RELEASE, AUDIT)}
    world.web.offer(world.town.first.bundle.path)
    assert world.poll().result == "current"
    world.web.offer(world.town.second.bundle.path)
    files = {path.name: path.read_bytes() for path in (world.data / "tuf").iterdir() if path.is_file()}
    before = world.footprint()
    for name in ("snapshot", "timestamp"):  # from here on the thieves' versions, far above the honest ones
        assert versions(world)[name] < HUGE
    hands.announce(change_timestamp=lambda timestamp: setattr(timestamp, "version", HUGE))
    trick(hands)
    if is_cache_wiped:
        shutil.rmtree(world.device.folder.metadata)
        code = {"metadata_invalid": "metadata_rollback"}.get(code, code)
    expect_refusal(world, code, before=before)
    assert {role: versions(world)[role] for role in newest} == newest, "no mark of an offline role was poisoned"

    for path in (world.data / "tuf").iterdir():
        if path.is_file():
            path.unlink()
    for name, data in files.items():
        (world.data / "tuf" / name).write_bytes(data)
    hands.rotate("snapshot", "timestamp")
    hands.announce()
    expect_installed(world, SECOND, before=before)
    assert world.waiting() == 0 or code == "metadata_expired"


def test_what_the_thieves_hid_is_found_by_its_expiry(world: World) -> None:
    """K02. They may show an old consistent state; when the oldest offline role is over, nothing installs and the alarm comes."""
    hands = Hands(world)
    world.web.offer(world.town.first.bundle.path)
    before = world.footprint()
    for days, is_over in ((0.1, False), (19, False), (11, True)):
        world.pass_time(days=days)
        hands.announce()  # the audit role stays the same for thirty days and more
        if not is_over:
            expect_current(world, before=before)
    expect_refusal(world, "metadata_expired", before=before)
    world.pass_time(days=1)
    hands.announce()
    expect_refusal(world, "metadata_expired", before=before, alarms=("metadata_frozen",))


def test_a_version_beyond_what_a_report_can_tell_does_not_silence_the_device(world: World) -> None:
    """K01. A thief of the timestamp key signs version 2^31: with the key replaced, the device must be heard again."""
    hands = Hands(world)
    honest = world.web.newest("timestamp")
    timestamp = world.web.newest("timestamp")
    timestamp.signed.version = 2**31
    hands.write("timestamp", timestamp, "timestamp.json")
    world.poll()
    hands.rotate("timestamp")
    honest.signed.version += 1
    hands.write("timestamp", honest, "timestamp.json")
    assert world.poll().result == "current"
    assert world.waiting() == 0
