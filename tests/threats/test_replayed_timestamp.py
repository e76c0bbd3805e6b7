"""An old, validly signed timestamp is served again: versions that were seen once never come down."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from tuf.api.metadata import MetaFile

from demo import attacks
from demo.names import AUDIT, RELEASE, SECOND
from device_client.trust.times import utc_now
from tests.threats.judge import expect_installed, expect_refusal, refuse_then_install
from tests.threats.world import World


def test_an_old_timestamp_is_refused_and_with_the_newest_one_the_new_version_installs(world: World) -> None:
    refuse_then_install(world, attacks.replayed_timestamp(world.stage, old_timestamp=world.town.old_timestamp))


def test_an_old_timestamp_is_refused_also_when_the_metadata_cache_is_gone(world: World) -> None:
    attack = attacks.replayed_timestamp(world.stage, old_timestamp=world.town.old_timestamp)
    before = world.footprint()
    attack.strike()
    shutil.rmtree(world.device.folder.metadata)
    expect_refusal(world, attack.code, before=before)
    attack.mend()
    expect_installed(world, attack.version, before=before)


def test_a_whole_old_repository_served_to_a_device_without_cache_is_refused(world: World) -> None:
    """Every file fits every other: only the device's own memory says that there was more."""
    web, old, now = world.data / "tuf", world.folder / "old-tuf", world.folder / "new-tuf"
    before = world.footprint()
    shutil.copytree(web, old)
    issue = world.stage.reissue("1.2.0")
    issue.release()
    issue.audit()
    issue.offer()
    newer = world.stage.reissue("1.3.0")
    newer.release()
    newer.audit()
    expect_installed(world, "1.2.0", before=before)
    installed = world.footprint()
    web.rename(now)
    old.rename(web)
    shutil.rmtree(world.device.folder.metadata)
    world.web.offer(world.town.second.bundle.path)
    expect_refusal(world, "metadata_rollback", before=installed)

    web.rename(old)
    now.rename(web)
    newer.offer()
    assert world.poll().result == "installed"


def point_to_an_older_snapshot(world: World) -> None:
    timestamp = world.web.newest("timestamp")
    timestamp.signed.version += 1
    timestamp.signed.snapshot_meta = MetaFile(timestamp.signed.snapshot_meta.version - 1)
    world.web._write_online("timestamp", timestamp, "timestamp.json", utc_now())


def list_an_older_release_role(world: World) -> None:
    announce(world, {**snapshot_meta(world), f"{RELEASE}.json": MetaFile(1)})


def stop_listing_the_audit_role(world: World) -> None:
    announce(world, {name: meta for name, meta in snapshot_meta(world).items() if name != f"{AUDIT}.json"})


def snapshot_meta(world: World) -> dict[str, MetaFile]:
    meta: dict[str, MetaFile] = world.web.newest("snapshot").signed.meta
    return dict(meta)


def announce(world: World, meta: dict[str, MetaFile]) -> None:
    """A snapshot with that content and a timestamp that names it, both of a new version, signed with the stolen online keys."""
    snapshot, timestamp = world.web.newest("snapshot"), world.web.newest("timestamp")
    snapshot.signed.version += 1
    snapshot.signed.meta = meta
    world.web._write_online("snapshot", snapshot, f"{snapshot.signed.version}.snapshot.json", utc_now())
    timestamp.signed.version += 1
    timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
    world.web._write_online("timestamp", timestamp, "timestamp.json", utc_now())


# Attack, code with the cache as it was, code with the cache wiped.
ONLINE: dict[str, tuple[Callable[[World], None], str, str]] = {
    "a new timestamp points to an older snapshot": (point_to_an_older_snapshot, "metadata_rollback", "metadata_rollback"),
    "a new snapshot lists an older release role": (list_an_older_release_role, "metadata_rollback", "metadata_rollback"),
    "a new snapshot stops listing the audit role": (stop_listing_the_audit_role, "metadata_invalid", "metadata_rollback"),
}


@pytest.mark.parametrize("is_cache_wiped", [False, True], ids=["cache kept", "cache wiped"])
@pytest.mark.parametrize(("strike", "code", "code_when_wiped"), ONLINE.values(), ids=ONLINE.keys())
def test_the_online_keys_cannot_take_back_what_was_seen(
    world: World, strike: Callable[[World], None], code: str, code_when_wiped: str, *, is_cache_wiped: bool
) -> None:
    expect_installed(world, SECOND, before=world.footprint())
    before = world.footprint()
    strike(world)
    if is_cache_wiped:
        shutil.rmtree(world.device.folder.metadata)
    expect_refusal(world, code_when_wiped if is_cache_wiped else code, before=before)
