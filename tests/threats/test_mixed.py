"""Pieces of two days, or of two roles, put together: each is well signed, together they are nothing that anybody signed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from demo.names import AUDIT, RELEASE, SECOND
from tests.threats.hands import Hands
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.world import World


def served(world: World, role: str) -> Path:
    """The file that is the newest of ``role`` now."""
    version = world.web.newest(role).signed.version
    return world.data / "tuf" / ("timestamp.json" if role == "timestamp" else f"{version}.{role}.json")


def earlier(world: World, role: str) -> Path:
    path = served(world, role)
    return path.with_name(f"{int(path.name.partition('.')[0]) - 1}.{role}.json")


# What is copied over what, and the code.
MIXED: dict[str, tuple[Callable[[World], tuple[Path, Path]], str]] = {
    "the snapshot of the day before": (lambda w: (earlier(w, "snapshot"), served(w, "snapshot")), "metadata_mismatch"),
    "the release role of the day before": (lambda w: (earlier(w, RELEASE), served(w, RELEASE)), "metadata_rollback"),
    "the audit role of the day before": (lambda w: (earlier(w, AUDIT), served(w, AUDIT)), "metadata_rollback"),
    "the targets of the day before": (lambda w: (earlier(w, "targets"), served(w, "targets")), "metadata_rollback"),
    "the release role in the place of the audit role": (lambda w: (served(w, RELEASE), served(w, AUDIT)), "signature_threshold"),
    "the audit role in the place of the release role": (lambda w: (served(w, AUDIT), served(w, RELEASE)), "signature_threshold"),
    "the targets in the place of the release role": (lambda w: (served(w, "targets"), served(w, RELEASE)), "signature_threshold"),
    "the snapshot in the place of the timestamp": (lambda w: (served(w, "snapshot"), served(w, "timestamp")), "metadata_invalid"),
}


@pytest.mark.parametrize("is_cache_wiped", [False, True], ids=["cache kept", "cache wiped"])
@pytest.mark.parametrize(("mix", "code"), MIXED.values(), ids=MIXED.keys())
def test_files_of_two_days_or_roles_are_refused_and_the_right_ones_install(
    world: World, mix: Callable[[World], tuple[Path, Path]], code: str, *, is_cache_wiped: bool
) -> None:
    """A11."""
    hands = Hands(world)
    for role in ("targets", RELEASE, AUDIT):
        hands.edit(role)
    name_snapshot_by_hash(world, hands)
    before = world.footprint()
    source, target = mix(world)
    honest = target.read_bytes()
    shutil.copyfile(source, target)
    if is_cache_wiped:
        shutil.rmtree(world.device.folder.metadata)
    expect_refusal(world, code, before=before)
    target.write_bytes(honest)
    expect_installed(world, SECOND, before=before)


def name_snapshot_by_hash(world: World, hands: Hands) -> None:
    """The timestamp names snapshot by version and sha256, as the real server does; without its length, which would tell sooner."""
    data = served(world, "snapshot").read_bytes()
    timestamp = world.web.newest("timestamp")
    timestamp.signed.version += 1
    timestamp.signed.snapshot_meta.hashes = {"sha256": hashlib.sha256(data).hexdigest()}
    hands.write("timestamp", timestamp, "timestamp.json")


@pytest.mark.parametrize("role", ["snapshot", "targets", RELEASE, AUDIT])
def test_a_version_number_raised_by_hand_breaks_the_signature(world: World, role: str) -> None:
    """A11. Without keys a file can be given the right version, and is then signed by nobody."""
    hands = Hands(world)
    hands.edit(role) if role != "snapshot" else hands.announce()
    before = world.footprint()
    path = served(world, role)
    honest, old = path.read_bytes(), Metadata.from_bytes(earlier(world, role).read_bytes())
    old.signed.version += 1
    path.write_bytes(old.to_bytes())
    expect_refusal(world, "signature_threshold", before=before)
    path.write_bytes(honest)
    expect_installed(world, SECOND, before=before)
