"""A refresh and what is asked of it afterwards: caps, places named in refusals, the channel, evidence, time."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import MetaFile, Signed, TargetFile

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, SealiftError, TransportError, TrustError
from device_client.limits import Limits
from device_client.trust.bins import bin_of
from device_client.trust.client import MetadataClient
from device_client.trust.marks import Marks, keyset_digest
from device_client.trust.refs import BlobRef
from device_client.trust.trusted_metadata import TrustedMetadata
from device_client.trust.trusted_time import BootTime
from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator, stamp

V = "1.0.0"
MODEL = ModelPath("digits", "ocr")
CHANNEL = b"channel document"
SECOND = timedelta(seconds=1)


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    return simulator


def _refusal(sim: RepositorySimulator, cache: Path, **options: Any) -> SealiftError:
    with pytest.raises(SealiftError) as refusal:
        sim.refresh(cache, **options).agree(sim.path(V))
    return refusal.value


def _list_channel(sim: RepositorySimulator, *, hashes: dict[str, str] | None = None) -> None:
    found = hashes or {"sha256": Digest.of(CHANNEL).hex}
    sim.delegated[RELEASE].targets[MODEL.channel_target] = TargetFile(len(CHANNEL), found, MODEL.channel_target)
    sim.publish(RELEASE)


# Caps.


@pytest.mark.parametrize(
    ("role", "cap"),
    [
        ("root", "max_root_bytes"),
        ("timestamp", "max_timestamp_bytes"),
        ("snapshot", "max_snapshot_bytes"),
        ("targets", "max_targets_bytes"),
        (RELEASE, "max_targets_bytes"),
    ],
)
def test_each_role_is_taken_up_to_its_cap_and_not_a_byte_beyond(
    role: str, cap: str, sim: RepositorySimulator, tmp_path: Path
) -> None:
    sim.next_root()
    if role == RELEASE:  # beyond the cap that targets keeps within
        sim.delegated[RELEASE].unrecognized_fields["note"] = "x" * 9000
    if role == "targets":
        sim.targets.unrecognized_fields["note"] = "x" * 9000
    longest = len(sim.served["2.root.json"] if role == "root" else sim.role_bytes(role))
    sim.refresh(tmp_path / "a", limits=Limits(**{cap: longest})).agree(sim.path(V))
    error = _refusal(sim, tmp_path / "b", limits=Limits(**{cap: longest - 1}))
    assert error.code == "too_large"


def test_a_bootstrap_root_beyond_the_limit_of_any_role_is_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    assert _refusal(sim, tmp_path, limits=Limits(max_targets_bytes=100)).code == "too_large"


@pytest.mark.parametrize(("new", "cap", "walked"), [(3, 4, True), (4, 4, False), (5, 4, False), (0, 1, True), (1, 1, False)])
def test_a_root_chain_is_walked_below_its_cap(new: int, cap: int, walked: bool, sim: RepositorySimulator, tmp_path: Path) -> None:
    for _ in range(new):
        sim.next_root()
    told: list[Mapping[int, bytes]] = []

    def remember(_: Marks, roots: Mapping[int, bytes]) -> None:
        told.append(dict(roots))

    if walked:
        assert sim.refresh(tmp_path, limits=Limits(max_root_rotations=cap), remember=remember).root.version == new + 1
    else:
        error = _refusal(sim, tmp_path, limits=Limits(max_root_rotations=cap), remember=remember)
        assert (error.code, error.where) == ("root_chain_too_long", "root")
    assert list(told[0]) == list(range(1, min(new, cap) + 2))


def test_the_limit_on_manifests_goes_into_the_agreement(sim: RepositorySimulator, tmp_path: Path) -> None:
    assert _refusal(sim, tmp_path, limits=Limits(max_manifest_bytes=1)).code == "too_large"


# What is refused on the way, and where.


def test_a_server_that_cannot_be_reached_is_an_error_of_transport_that_names_it(sim: RepositorySimulator, tmp_path: Path) -> None:
    client = MetadataClient(metadata_dir=tmp_path, base_url="http://127.0.0.1:1/tuf/", bootstrap=sim.bootstrap)
    with pytest.raises(TransportError) as refusal:
        client.refresh(Marks())
    assert (refusal.value.code, refusal.value.where) == ("transport", "http://127.0.0.1:1/tuf/")


def test_a_bootstrap_that_does_not_sign_itself_is_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.signers["root"] = sim.signers["root"][:1]
    assert _refusal(sim, tmp_path / "a", bootstrap=sim.role_bytes("root")).code == "signature_threshold"
    error = _refusal(sim, tmp_path / "b", bootstrap=b"{}")
    assert (error.code, error.where) == ("metadata_invalid", "http://simulator/tuf/")
    assert _refusal(sim, tmp_path / "c", bootstrap=b"{").code == "json_syntax"
    assert _refusal(sim, tmp_path / "d", bootstrap=sim.role_bytes("targets")).code == "metadata_invalid"


def test_a_bootstrap_is_read_as_strictly_as_any_other_root(sim: RepositorySimulator, tmp_path: Path) -> None:
    error = _refusal(sim, tmp_path / "a", limits=Limits(max_json_depth=2))
    assert (error.code, error.where) == ("too_deep", "root")
    sim.root.roles["timestamp"].threshold = True
    error = _refusal(sim, tmp_path / "b", bootstrap=sim.role_bytes("root"))
    assert (error.code, error.where) == ("metadata_syntax", "root")


def test_a_bootstrap_with_an_unknown_key_type_says_so(sim: RepositorySimulator, tmp_path: Path) -> None:
    value = json.loads(sim.bootstrap)
    value["signed"]["keys"]["e" * 64] = {"keytype": "slh-dsa", "scheme": "slh-dsa-sha2-128s", "keyval": {"public": "ab"}}
    error = _refusal(sim, tmp_path, bootstrap=json.dumps(value).encode())
    assert (error.code, error.where) == ("key_type", "root")


def test_a_delegation_with_an_unknown_key_type_says_so(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.targets.delegations.keys["e" * 64] = SSlibKey("e" * 64, "slh-dsa", "s", {"public": "ab"})  # type: ignore[union-attr]
    error = _refusal(sim, tmp_path)
    assert (error.code, error.where) == ("key_type", "targets")


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "1.targets.json", f"1.{RELEASE}.json"])
def test_a_role_in_the_place_of_another_is_refused(name: str, sim: RepositorySimulator, tmp_path: Path) -> None:
    other = "snapshot" if "timestamp" in name else "timestamp"
    sim.served[name] = sim.role_bytes(other)
    assert _refusal(sim, tmp_path).code == "metadata_invalid"


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "1.targets.json", f"1.{RELEASE}.json", f"1.{AUDIT}.json"])
def test_a_file_that_is_not_strict_json_is_refused_by_our_own_rule(name: str, sim: RepositorySimulator, tmp_path: Path) -> None:
    role = name.removesuffix(".json").rpartition(".")[2]
    sim.served[name] = sim.role_bytes(role).replace(b'{"signatures"', b'{"x":1,"x":1,"signatures"', 1)
    with pytest.raises(FormatError) as refusal:
        sim.refresh(tmp_path).agree(sim.path(V))
    assert (refusal.value.code, refusal.value.where) == ("json_syntax", role)


def test_the_rules_for_top_level_roles_are_asked_of_each_in_the_order_of_loading(sim: RepositorySimulator, tmp_path: Path) -> None:
    asked: list[str] = []

    def rules(role: str, signed: Signed) -> None:
        assert signed.type == role
        asked.append(role)

    sim.refresh(tmp_path, rules=rules)
    assert asked == ["root", "timestamp", "snapshot", "targets"]


def test_a_role_that_the_rules_refuse_is_not_remembered(sim: RepositorySimulator, tmp_path: Path) -> None:
    told: list[Marks] = []

    def rules(role: str, signed: Signed) -> None:
        if role == "snapshot":
            raise TrustError("no", code="issued_missing", where=role)

    assert _refusal(sim, tmp_path, rules=rules, remember=lambda marks, _: told.append(marks)).code == "issued_missing"
    assert {mark.role for mark in told[0].versions} == {"timestamp"}


# Expiry.


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", RELEASE, AUDIT])
def test_every_role_counts_until_the_second_before_it_expires(role: str, sim: RepositorySimulator, tmp_path: Path) -> None:
    for signed in (sim.root, sim.timestamp, sim.snapshot, sim.targets):
        stamp(signed, 170)
    stamp(sim.delegated[RELEASE], 80)
    top = {"root": sim.root, "timestamp": sim.timestamp, "snapshot": sim.snapshot, "targets": sim.targets}
    changed = top.get(role) or sim.delegated[role]
    stamp(changed, 10)
    sim.bootstrap = sim.role_bytes("root")
    sim.refresh(tmp_path / "a", now=changed.expires - SECOND).agree(sim.path(V))
    error = _refusal(sim, tmp_path / "b", now=changed.expires)
    assert error.code == "metadata_expired"


def test_a_role_is_judged_by_the_time_that_later_ones_prove(sim: RepositorySimulator, tmp_path: Path) -> None:
    """The clock stands still, snapshot proves that the timestamp is over."""
    stamp(sim.snapshot, 5, now=NOW + timedelta(days=1))
    error = _refusal(sim, tmp_path)
    assert (error.code, error.where) == ("metadata_expired", "timestamp")
    assert error.expected == "after 2026-06-02T12:00:00Z"


def test_a_refresh_alone_refuses_what_has_expired_by_what_it_learned(sim: RepositorySimulator, tmp_path: Path) -> None:
    stamp(sim.snapshot, 5, now=NOW + timedelta(days=1))
    with pytest.raises(TrustError) as refusal:
        sim.refresh(tmp_path)
    assert (refusal.value.code, refusal.value.where) == ("metadata_expired", "timestamp")


def test_nothing_is_asked_for_under_a_root_that_has_expired(sim: RepositorySimulator, tmp_path: Path) -> None:
    with pytest.raises(TrustError) as refusal:
        sim.refresh(tmp_path, now=sim.root.expires)
    assert (refusal.value.code, refusal.value.where) == ("metadata_expired", "root")
    assert sim.requests == ["2.root.json"]


def test_the_time_of_a_model_counts_its_own_roles_and_is_read_with_the_boot_clock(sim: RepositorySimulator, tmp_path: Path) -> None:
    for role in (RELEASE, AUDIT):
        stamp(sim.delegated[role], 20, now=NOW + timedelta(hours=1 if role == RELEASE else 2))
    sim.uptime = BootTime("boot-1", 50.0)
    trusted = sim.refresh(tmp_path)
    trusted.agree(sim.path(V))
    assert trusted.time.now() == NOW
    assert trusted.time_for(MODEL).now() == NOW + timedelta(hours=2)
    assert trusted.time_for(MODEL).now_by_offline_roles() == NOW + timedelta(hours=2)
    assert trusted.time_for(ModelPath("digits", "other")).now() == NOW + timedelta(hours=2)
    sim.uptime = BootTime("boot-1", 60.0)
    assert trusted.time_for(MODEL).now() == NOW + timedelta(hours=2, seconds=10)
    assert {(floor.boot, floor.seconds) for floor in trusted.marks.times} == {("boot-1", 50.0)}


def test_floors_are_carried_on_at_each_refresh_and_a_known_one_is_not_stored_again(
    sim: RepositorySimulator, tmp_path: Path
) -> None:
    first = sim.refresh(tmp_path).marks
    sim.uptime = BootTime("boot-1", 30.0)
    second = sim.refresh(tmp_path, marks=first).marks
    assert {floor.time for floor in second.times} == {NOW + timedelta(seconds=30)}
    assert {(floor.boot, floor.seconds) for floor in second.times} == {("boot-1", 30.0)}
    assert len(second.times) == len(first.times)


# What is remembered.


def test_marks_name_version_content_and_keys_of_every_role_read(sim: RepositorySimulator, tmp_path: Path) -> None:
    trusted = sim.refresh(tmp_path)
    assert {mark.role for mark in trusted.marks.versions} == {"timestamp", "snapshot", "targets"}
    trusted.agree(sim.path(V))
    marks = {mark.role: mark for mark in trusted.marks.versions}
    assert {role: mark.version for role, mark in marks.items()} == {
        "timestamp": 2,
        "snapshot": 2,
        "targets": 1,
        RELEASE: 1,
        AUDIT: 1,
    }
    again = sim.refresh(tmp_path, marks=trusted.marks)
    again.agree(sim.path(V))
    assert again.marks.versions == trusted.marks.versions


def test_each_mark_is_bound_to_its_own_keys_and_what_snapshot_names_to_snapshots_too(
    sim: RepositorySimulator, tmp_path: Path
) -> None:
    trusted = sim.refresh(tmp_path)
    trusted.agree(sim.path(V))
    keys = {role: [signer.public_key for signer in signers] for role, signers in sim.signers.items()}
    assert {mark.role: mark.keyset for mark in trusted.marks.versions} == {
        "timestamp": keyset_digest(keys["timestamp"], threshold=1),
        "snapshot": keyset_digest(keys["snapshot"], threshold=1),
        "targets": keyset_digest(keys["targets"] + keys["snapshot"], threshold=1),
        RELEASE: keyset_digest(keys[RELEASE] + keys["snapshot"], threshold=2),
        AUDIT: keyset_digest(keys[AUDIT] + keys["snapshot"], threshold=2),
    }
    assert {floor.role: floor.keyset for floor in trusted.marks.times} == {
        role: keyset_digest(keys[role], threshold=2 if role in {"root", RELEASE, AUDIT} else 1)
        for role in ("root", "timestamp", "snapshot", "targets", RELEASE, AUDIT)
    }


@pytest.mark.parametrize("role", [RELEASE, AUDIT])
def test_a_refusal_of_a_delegated_role_names_it(role: str, sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.signers[role] = sim.signers[role][:1]
    error = _refusal(sim, tmp_path)
    assert (error.code, error.where) == ("signature_threshold", role)


@pytest.mark.parametrize("role", ["targets", RELEASE, AUDIT])
def test_marks_of_what_snapshot_names_are_forgotten_with_its_keys(role: str, sim: RepositorySimulator, tmp_path: Path) -> None:
    trusted = sim.refresh(tmp_path / "a")
    trusted.agree(sim.path(V))
    signed = sim.targets if role == "targets" else sim.delegated[role]
    before = {mark.keyset for mark in trusted.marks.versions if mark.role == role}
    sim.rotate("timestamp")
    trusted = sim.refresh(tmp_path / "b", marks=trusted.marks)
    trusted.agree(sim.path(V))
    assert {mark.keyset for mark in trusted.marks.versions if mark.role == role} == before
    sim.rotate("snapshot")
    signed.version += 1
    sim.snapshot.meta[f"{role}.json"] = MetaFile(signed.version)
    sim.snapshot.version += 1
    sim.timestamp.version += 1
    sim.timestamp.snapshot_meta = MetaFile(sim.snapshot.version)
    trusted = sim.refresh(tmp_path / "c", marks=trusted.marks)
    trusted.agree(sim.path(V))
    assert len({mark.keyset for mark in trusted.marks.versions if mark.role == role}) == 2


def test_times_are_bound_to_the_keys_that_signed_them_and_not_to_snapshots(sim: RepositorySimulator, tmp_path: Path) -> None:
    stamp(sim.targets, 90, now=NOW + timedelta(hours=3))
    sim.publish("targets")
    marks = sim.refresh(tmp_path / "a").marks
    sim.rotate("snapshot")
    assert sim.refresh(tmp_path / "b", marks=marks).time.now() == NOW + timedelta(hours=3)
    stamp(sim.targets, 90)
    sim.publish("targets")
    assert sim.refresh(tmp_path / "c", marks=marks).time.now() == NOW + timedelta(hours=3)
    sim.rotate("targets")
    assert sim.refresh(tmp_path / "d", marks=marks).time.now() == NOW


@pytest.mark.parametrize("role", [RELEASE, AUDIT])
def test_a_role_that_vanishes_is_told_by_name_and_one_under_new_keys_may(
    role: str, sim: RepositorySimulator, tmp_path: Path
) -> None:
    trusted = sim.refresh(tmp_path / "a")
    trusted.agree(sim.path(V))
    gone = copy.deepcopy(sim)
    del gone.snapshot.meta[f"{role}.json"]
    gone.publish()
    error = _refusal(gone, tmp_path / "b", marks=trusted.marks)
    assert (error.code, error.where) == ("metadata_rollback", role)
    gone.rotate("snapshot")
    assert _refusal(gone, tmp_path / "c", marks=trusted.marks).code.endswith("_entry_missing")


@pytest.mark.parametrize("forwarded", ["timestamp", "snapshot"])
@pytest.mark.parametrize("rotated", ["timestamp", "snapshot"])
def test_rotating_either_online_key_makes_the_cache_forget_both_roles(
    rotated: str, forwarded: str, sim: RepositorySimulator, tmp_path: Path
) -> None:
    """TUF 5.3.11: whoever had one of the keys may have announced huge versions of either."""
    honest = copy.deepcopy(sim)
    if forwarded == "snapshot":
        sim.snapshot.version = sim.timestamp.snapshot_meta.version = 10**6
    else:
        sim.timestamp.version = 10**6
    sim.refresh(tmp_path)
    honest.rotate(rotated)
    assert honest.refresh(tmp_path).agree(sim.path(V))


@pytest.mark.parametrize("rotated", ["timestamp", "snapshot"])
def test_rotating_either_online_key_makes_the_cache_forget_what_snapshot_announced(
    rotated: str, sim: RepositorySimulator, tmp_path: Path
) -> None:
    honest = copy.deepcopy(sim)
    sim.publish()
    sim.snapshot.meta["targets.json"] = MetaFile(10**6)
    assert _refusal(sim, tmp_path).code == "metadata_unavailable"
    assert (tmp_path / "snapshot.json").is_file()
    honest.rotate(rotated)
    assert honest.refresh(tmp_path).agree(sim.path(V))


def test_a_role_issued_anew_moves_its_floor(sim: RepositorySimulator, tmp_path: Path) -> None:
    first = sim.refresh(tmp_path / "a").marks
    stamp(sim.targets, 90, now=NOW + timedelta(hours=1))
    sim.publish("targets")
    second = sim.refresh(tmp_path / "b", marks=first).marks
    assert {floor.role: floor.time for floor in second.times} == {
        "root": NOW,
        "timestamp": NOW,
        "snapshot": NOW,
        "targets": NOW + timedelta(hours=1),
    }


def test_a_role_whose_keys_stand_twice_is_refused_before_it_is_remembered(sim: RepositorySimulator, tmp_path: Path) -> None:
    signer = sim.signers[RELEASE][0]
    twin = SSlibKey("f" * 64, "ed25519", "ed25519", {"public": signer.public_key.keyval["public"].upper()})
    assert sim.targets.delegations is not None
    assert sim.targets.delegations.roles is not None
    sim.targets.delegations.keys[twin.keyid] = twin
    sim.targets.delegations.roles[RELEASE].keyids = [signer.public_key.keyid, twin.keyid]
    sim.signers[RELEASE] = [signer, CryptoSigner(signer._private_key, twin)]
    sim.publish("targets", RELEASE)
    trusted = sim.refresh(tmp_path)
    with pytest.raises(TrustError) as refusal:
        trusted.agree(sim.path(V))
    assert refusal.value.code == "roles_share_keys"
    assert RELEASE not in {mark.role for mark in trusted.marks.versions}


def test_what_a_refresh_has_verified_is_not_loaded_again(sim: RepositorySimulator, tmp_path: Path) -> None:
    trusted = sim.refresh(tmp_path)
    agreed = trusted.agree(sim.path(V))
    asked = list(sim.requests)
    shutil.rmtree(tmp_path)
    assert trusted.agree(sim.path(V)) == agreed
    assert sim.requests == asked
    assert not tmp_path.exists()


def test_a_snapshot_named_by_a_weak_hash_only_is_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    """A14."""
    sim.timestamp.snapshot_meta.hashes = {"md5": hashlib.md5(sim.role_bytes("snapshot")).hexdigest()}
    error = _refusal(sim, tmp_path)
    assert (error.code, error.where) == ("hash_weak", "timestamp")


def test_the_limits_of_strict_reading_hold_for_every_file(sim: RepositorySimulator, tmp_path: Path) -> None:
    nested: Any = 1
    for _ in range(12):
        nested = [nested]
    sim.timestamp.unrecognized_fields["later"] = nested
    assert sim.refresh(tmp_path / "a").agree(sim.path(V))
    assert _refusal(sim, tmp_path / "b", limits=Limits(max_json_depth=12)).code == "too_deep"


# The channel.


def _channel_of(sim: RepositorySimulator, cache: Path, **options: Any) -> tuple[BlobRef | None, TrustedMetadata]:
    trusted = sim.refresh(cache, **options)
    return trusted.channel_ref(MODEL), trusted


def test_the_channel_is_what_the_release_role_lists(sim: RepositorySimulator, tmp_path: Path) -> None:
    assert _channel_of(sim, tmp_path)[0] is None
    _list_channel(sim)
    found, trusted = _channel_of(sim, tmp_path)
    assert found == BlobRef.of(CHANNEL)
    assert trusted.channel_ref(ModelPath("digits", "other")) is None
    assert RELEASE in {mark.role for mark in trusted.marks.versions}
    sim.split_into_bins(RELEASE)
    assert _channel_of(sim, tmp_path)[0] == BlobRef.of(CHANNEL)


def test_a_line_whose_release_role_was_never_published_has_no_channel(sim: RepositorySimulator, tmp_path: Path) -> None:
    fresh = RepositorySimulator()
    assert _channel_of(fresh, tmp_path)[0] is None


@pytest.mark.parametrize("hashes", [{"sha512": "0" * 128}, {"sha256": "0" * 64, "sha512": "0" * 128}, {"md5": "0" * 32}])
def test_a_channel_entry_has_exactly_a_sha256(hashes: dict[str, str], sim: RepositorySimulator, tmp_path: Path) -> None:
    _list_channel(sim, hashes=hashes)
    with pytest.raises(TrustError) as refusal:
        _channel_of(sim, tmp_path)
    assert (refusal.value.code, refusal.value.where) == ("hash_not_sha256", MODEL.channel_target)


def test_a_channel_in_a_role_that_breaks_a_rule_is_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    _list_channel(sim)
    stamp(sim.delegated[RELEASE], 91)
    with pytest.raises(TrustError) as refusal:
        _channel_of(sim, tmp_path)
    assert refusal.value.code == "expiry_over_cap"


def test_a_channel_in_a_bin_that_breaks_a_rule_is_refused(sim: RepositorySimulator, tmp_path: Path) -> None:
    _list_channel(sim)
    sim.split_into_bins(RELEASE)
    stamp(sim.delegated[str(bin_of(sim.delegated[RELEASE], MODEL.channel_target))], 91)
    with pytest.raises(TrustError) as refusal:
        _channel_of(sim, tmp_path)
    assert refusal.value.code == "expiry_over_cap"


# Evidence.


def test_evidence_is_the_very_files_with_all_roots(sim: RepositorySimulator, tmp_path: Path) -> None:
    sim.next_root()
    sim.next_root()
    trusted = sim.refresh(tmp_path)
    trusted.agree(sim.path(V))
    assert trusted.evidence(sim.path(V)) == {
        "1.root.json": sim.bootstrap,
        "2.root.json": sim.served["2.root.json"],
        "3.root.json": sim.served["3.root.json"],
        "targets.json": sim.role_bytes("targets"),
        f"{RELEASE}.json": sim.role_bytes(RELEASE),
        f"{AUDIT}.json": sim.role_bytes(AUDIT),
    }
    assert trusted.root_bytes == sim.served["3.root.json"]
    assert trusted.root.version == 3
    assert trusted.targets.version == sim.targets.version


def test_a_root_that_follows_is_taken_only_if_its_keys_stand_once(sim: RepositorySimulator, tmp_path: Path) -> None:
    signer = sim.signers["targets"][0]
    twin = SSlibKey("0" * 64, "ed25519", "ed25519", {"public": signer.public_key.keyval["public"].upper()})
    sim.rotate("targets", [signer, CryptoSigner(signer._private_key, twin)])
    told: list[Mapping[int, bytes]] = []
    error = _refusal(sim, tmp_path, remember=lambda _, roots: told.append(dict(roots)))
    assert error.code == "roles_share_keys"
    assert list(told[0]) == [1]
