"""Each rule on role objects by itself, at its bounds: what `sign`, the server and the device all ask."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Delegations, Metadata, Root, Signed, TargetFile, Targets
from tuf.api.serialization import DeserializationError

from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, SealiftError, TrustError
from device_client.limits import Limits
from device_client.trust.rules import (
    LIFETIME_CAPS,
    check_contents,
    check_form,
    check_hashes,
    check_keys_known,
    check_keys_unique,
    check_lifetime,
    check_paths,
    check_root_keys,
    check_separation,
    check_top_level,
    delegation_for,
    epoch_of,
    expected_pattern,
    issued_at,
    keys_of,
    keys_of_top_level,
    parse_role,
    read_role,
    signed_form,
    verify_delegated,
)
from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator, stamp
from tests.unit.trust.edited import code_of

V = "1.0.0"
MODEL = ModelPath("digits", "ocr")
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    return simulator


def _twin(key: Any) -> SSlibKey:
    """The same key under another id and in another spelling."""
    return SSlibKey("f" * 64, "ed25519", "ed25519", {"public": key.keyval["public"].upper()})


def _delegation(sim: RepositorySimulator, role: str) -> Any:
    return delegation_for(sim.targets, role)


# Reading.


def test_a_role_is_read_up_to_its_limit_and_strictly(sim: RepositorySimulator) -> None:
    data = sim.role_bytes("targets")
    assert isinstance(parse_role(data, where="targets").signed, Targets)
    assert parse_role(data, where="targets", limits=Limits(max_targets_bytes=len(data))).signed.version == 1
    assert code_of(lambda: parse_role(data, where="t", limits=Limits(max_targets_bytes=len(data) - 1))) == "too_large"
    assert code_of(lambda: read_role(data, where="t", limits=Limits(max_targets_bytes=len(data) - 1))) == "too_large"
    assert code_of(lambda: read_role(data, where="t", limits=Limits(max_json_depth=2))) == "too_deep"
    assert code_of(lambda: parse_role(data.replace(b'"version":1', b'"version":1,"version":2'), where="t")) is not None
    assert read_role(data, where="t") == json.loads(data)


@pytest.mark.parametrize("data", [b"{}", b"[]", b"1", b'{"signed": {}, "signatures": []}', b'{"signed": {"_type": "root"}}'])
def test_json_that_is_no_role_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError) as refusal:
        parse_role(data, where="the file")
    assert (refusal.value.code, refusal.value.where) == ("metadata_syntax", "the file")


def test_a_role_that_python_tuf_would_read_as_something_else_than_it_says_is_refused(sim: RepositorySimulator) -> None:
    data = sim.role_bytes("targets")
    assert b'"expires":"2026-08-30T' in data
    with pytest.raises(FormatError) as refusal:
        parse_role(data.replace(b'"expires":"2026-08-30T', b'"expires":"2026-8-30T'), where="targets")
    assert (refusal.value.code, refusal.value.where) == ("metadata_syntax", "targets")


def test_the_signed_form_is_the_canonical_form_of_the_file_itself(sim: RepositorySimulator) -> None:
    value = json.loads(sim.role_bytes("targets"))
    assert signed_form(value) == Metadata.from_dict(copy.deepcopy(value)).signed_bytes
    value["signed"]["later"] = "ü"
    assert b'"later":"\xc3\xbc"' in signed_form(value)
    for broken in ({}, [], None, "signed", {"signed": 1.5}):
        with pytest.raises(DeserializationError):
            signed_form(broken)


def _with_key(holder: str, key: object) -> dict[str, Any]:
    return {"signed": {"keys": {"a": key}} if holder == "signed" else {"delegations": {"keys": {"a": key}}}}


@pytest.mark.parametrize("holder", ["signed", "delegations"])
@pytest.mark.parametrize(
    ("key", "code"),
    [
        ({"keytype": "slh-dsa", "scheme": "slh-dsa-sha2-128s"}, "key_type"),
        ({"keytype": "ed25519", "scheme": "ed448"}, "key_type"),
        ({"keytype": "ed25519", "scheme": "ed25519"}, None),
        ({"keytype": "slh-dsa"}, None),
        ({"scheme": "ed448"}, None),
        ({"keytype": "slh-dsa", "scheme": 1}, None),
        ("slh-dsa", None),
        (None, None),
    ],
)
def test_a_key_of_an_unknown_type_is_told_and_nothing_else_is(holder: str, key: object, code: str | None) -> None:
    assert code_of(lambda: check_keys_known(_with_key(holder, key), where="root")) == code


def test_the_key_of_an_unknown_type_is_found_behind_known_ones_and_named_safely() -> None:
    keys = {"a": {"keytype": "ed25519", "scheme": "ed25519"}, "b": "x", "c": {"keytype": "\x1b[31m" + "n" * 99, "scheme": "new"}}
    with pytest.raises(FormatError) as refusal:
        check_keys_known({"signed": {"keys": keys}}, where="root")
    assert str(refusal.value.actual).startswith("'\\x1b[31mnnn")
    assert len(str(refusal.value.actual)) == 80


@pytest.mark.parametrize("value", [None, [], {}, {"signed": None}, {"signed": {"keys": []}}, {"signed": {"delegations": []}}])
def test_what_has_no_keys_has_no_unknown_ones(value: object) -> None:
    check_keys_known(value, where="root")


def test_a_role_with_an_unknown_key_says_so_instead_of_being_no_role(sim: RepositorySimulator) -> None:
    value = json.loads(sim.role_bytes("root"))
    value["signed"]["keys"]["e" * 64] = {"keytype": "slh-dsa", "scheme": "s"}
    assert code_of(lambda: parse_role(json.dumps(value).encode(), where="root")) == "key_type"


# Form.


def _truth_in_root(sim: RepositorySimulator) -> Signed:
    sim.root.roles["snapshot"].threshold = True
    return sim.root


def _truth_in_version(sim: RepositorySimulator) -> Signed:
    sim.snapshot.version = True
    return sim.snapshot


def _truth_in_length(sim: RepositorySimulator) -> Signed:
    sim.delegated[RELEASE].targets[sim.path(V).release_target].length = True
    return sim.delegated[RELEASE]


def _truth_in_delegation(sim: RepositorySimulator) -> Signed:
    _delegation(sim, AUDIT).threshold = True
    return sim.targets


def _truth_in_bins_threshold(sim: RepositorySimulator) -> Signed:
    sim.split_into_bins(RELEASE, threshold=1)
    sim.delegated[RELEASE].delegations.succinct_roles.threshold = True  # type: ignore[union-attr]
    return sim.delegated[RELEASE]


def _truth_in_bins_bits(sim: RepositorySimulator) -> Signed:
    sim.split_into_bins(RELEASE)
    sim.delegated[RELEASE].delegations.succinct_roles.bit_length = True  # type: ignore[union-attr]
    return sim.delegated[RELEASE]


def _truth_in_timestamp(sim: RepositorySimulator) -> Signed:
    sim.timestamp.snapshot_meta.version = True
    return sim.timestamp


def _truth_in_snapshot(sim: RepositorySimulator) -> Signed:
    sim.snapshot.meta["targets.json"].length = True
    return sim.snapshot


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", RELEASE])
def test_true_is_no_version_of_any_role(role: str, sim: RepositorySimulator) -> None:
    top = {"root": sim.root, "timestamp": sim.timestamp, "snapshot": sim.snapshot, "targets": sim.targets}
    signed = top.get(role) or sim.delegated[role]
    signed.version = True
    assert code_of(lambda: check_form(signed, where="here")) == "metadata_syntax"


@pytest.mark.parametrize(
    "break_it",
    [
        _truth_in_root,
        _truth_in_version,
        _truth_in_length,
        _truth_in_delegation,
        _truth_in_bins_threshold,
        _truth_in_bins_bits,
        _truth_in_timestamp,
        _truth_in_snapshot,
    ],
)
def test_true_is_no_number_anywhere_in_a_role(break_it: Callable[[RepositorySimulator], Signed], sim: RepositorySimulator) -> None:
    for signed in (sim.root, sim.timestamp, sim.snapshot, sim.targets, sim.delegated[RELEASE]):
        check_form(signed, where="here")
    broken = break_it(sim)
    with pytest.raises(FormatError) as refusal:
        check_form(broken, where="here")
    assert (refusal.value.code, refusal.value.where) == ("metadata_syntax", "here")


def test_a_role_in_bins_has_a_good_form(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    check_form(sim.delegated[RELEASE], where="here")
    sim.targets.delegations = None
    check_form(sim.targets, where="here")


@pytest.mark.parametrize(
    ("hashes", "code"),
    [
        ({}, None),
        ({"sha256": "0"}, None),
        ({"sha512": "0"}, None),
        ({"sha256": "0", "md5": "0"}, None),
        ({"md5": "0"}, "hash_weak"),
        ({"sha1": "0", "md5": "0"}, "hash_weak"),
        ({"SHA256": "0"}, "hash_weak"),
        ({"": "0"}, "hash_weak"),
    ],
)
def test_what_is_named_by_hashes_is_named_by_a_strong_one(
    hashes: dict[str, str], code: str | None, sim: RepositorySimulator
) -> None:
    assert code_of(lambda: check_hashes(hashes, where="here")) == code
    sim.timestamp.snapshot_meta.hashes = hashes
    assert code_of(lambda: check_form(sim.timestamp, where="here")) == code
    sim.snapshot.meta["targets.json"].hashes = hashes
    assert code_of(lambda: check_form(sim.snapshot, where="here")) == code


# Times.


def test_a_role_must_say_when_it_was_issued_and_expire_later(sim: RepositorySimulator) -> None:
    signed = sim.targets
    assert issued_at(signed, where="targets") == NOW
    signed.expires = NOW + SECOND
    assert issued_at(signed, where="targets") == NOW
    signed.expires = NOW
    assert code_of(lambda: issued_at(signed, where="targets")) == "issued_order"
    signed.unrecognized_fields["issued"] = "yesterday"
    assert code_of(lambda: issued_at(signed, where="targets")) == "time_syntax"
    del signed.unrecognized_fields["issued"]
    assert code_of(lambda: issued_at(signed, where="targets")) == "issued_missing"


@pytest.mark.parametrize(("role", "days"), [("root", 400), ("targets", 180), ("release-digits", 90), ("audit-digits-x", 30)])
def test_an_offline_role_lives_as_long_as_its_cap_and_not_a_second_longer(role: str, days: int) -> None:
    signed = stamp(Targets(version=1), days)
    check_lifetime(signed, role=role)
    signed.expires += SECOND
    with pytest.raises(TrustError) as refusal:
        check_lifetime(signed, role=role)
    assert (refusal.value.code, refusal.value.where) == ("expiry_over_cap", role)


def test_online_roles_have_no_cap_but_must_say_when_they_were_issued() -> None:
    signed = stamp(Targets(version=1), 9999)
    check_lifetime(signed, role="timestamp")
    check_lifetime(signed, role="snapshot")
    assert set(LIFETIME_CAPS) == {"root", "targets", "release", "audit"}
    signed.unrecognized_fields.clear()
    assert code_of(lambda: check_lifetime(signed, role="timestamp")) == "issued_missing"


def test_only_targets_among_the_top_level_roles_must_say_when_it_was_issued(sim: RepositorySimulator) -> None:
    for role, signed in {"root": sim.root, "snapshot": sim.snapshot, "timestamp": sim.timestamp}.items():
        check_top_level(role, signed)
        signed.unrecognized_fields["issued"] = "yesterday"
        assert code_of(lambda role=role, signed=signed: check_top_level(role, signed)) == "time_syntax"
        del signed.unrecognized_fields["issued"]
        check_top_level(role, signed)
    check_top_level("targets", sim.targets)
    del sim.targets.unrecognized_fields["issued"]
    assert code_of(lambda: check_top_level("targets", sim.targets)) == "issued_missing"
    stamp(sim.root, 401)
    assert code_of(lambda: check_top_level("root", sim.root)) == "expiry_over_cap"


# Delegations and keys.


def test_a_role_that_targets_does_not_delegate_to_is_unknown(sim: RepositorySimulator) -> None:
    assert _delegation(sim, RELEASE).name == RELEASE
    assert code_of(lambda: _delegation(sim, "release-other")) == "role_unknown"
    for delegations in (None, Delegations({}, roles={})):
        sim.targets.delegations = delegations
        assert code_of(lambda: _delegation(sim, RELEASE)) == "role_unknown"
    sim.split_into_bins(RELEASE)
    assert code_of(lambda: delegation_for(sim.delegated[RELEASE], RELEASE)) == "role_unknown"


def test_a_role_of_each_kind_has_one_pattern() -> None:
    assert expected_pattern("release-digits") == "release/digits/*/*"
    assert expected_pattern("audit-one-two") == "audit/one-two/*/*"
    for name in ("release", "audit", "release-", "targets", "-digits", "Release-digits", ""):
        assert code_of(lambda name=name: expected_pattern(name)) == "role_unknown"


def test_the_keys_of_a_role_are_those_that_its_delegator_holds(sim: RepositorySimulator) -> None:
    assert keys_of(sim.targets, RELEASE) == [signer.public_key for signer in sim.signers[RELEASE]]
    assert keys_of_top_level(sim.root, "root") == [signer.public_key for signer in sim.signers["root"]]
    _delegation(sim, RELEASE).keyids.append("0" * 64)
    assert code_of(lambda: keys_of(sim.targets, RELEASE)) == "metadata_invalid"
    sim.root.roles["snapshot"].keyids.append("0" * 64)
    assert code_of(lambda: keys_of_top_level(sim.root, "snapshot")) == "metadata_invalid"
    assert code_of(lambda: keys_of(sim.targets, "release-other")) == "role_unknown"


def test_a_key_stands_in_one_place_only() -> None:
    one, two = (CryptoSigner.generate_ed25519().public_key for _ in range(2))
    check_keys_unique([("a", [one]), ("b", [two])])
    check_keys_unique([])
    for roles in ([("a", [one, two]), ("b", [one])], [("a", [one, _twin(one)])], [("a", [two]), ("b", [one]), ("c", [_twin(one)])]):
        assert code_of(lambda roles=roles: check_keys_unique(roles)) == "roles_share_keys"


def test_no_role_of_root_counts_one_key_twice_but_two_roles_may_share_one(sim: RepositorySimulator) -> None:
    check_root_keys(sim.root)
    shared = sim.signers["timestamp"][0].public_key
    sim.root.add_key(shared, "snapshot")
    check_root_keys(sim.root)
    sim.root.add_key(_twin(sim.signers["targets"][0].public_key), "targets")
    assert code_of(lambda: check_root_keys(sim.root)) == "roles_share_keys"


@pytest.mark.parametrize("online", ["snapshot", "timestamp"])
@pytest.mark.parametrize("role", [RELEASE, AUDIT])
def test_no_key_of_release_or_audit_is_on_the_server(role: str, online: str, sim: RepositorySimulator) -> None:
    check_separation(sim.root, sim.targets, MODEL)
    sim.root.add_key(_twin(sim.signers[role][0].public_key), online)
    assert code_of(lambda: check_separation(sim.root, sim.targets, MODEL)) == "roles_share_keys"


def test_snapshot_and_timestamp_may_share_a_key(sim: RepositorySimulator) -> None:
    sim.root.add_key(sim.signers["timestamp"][0].public_key, "snapshot")
    check_separation(sim.root, sim.targets, MODEL)


# Delegated roles as a whole.


def _verify(sim: RepositorySimulator, role: str = RELEASE, **changes: Any) -> Metadata[Targets]:
    return verify_delegated(sim.targets, role, changes.pop("data", None) or sim.role_bytes(role), **({"now": NOW} | changes))


def test_a_delegated_role_is_verified_as_a_device_would(sim: RepositorySimulator) -> None:
    verified = _verify(sim)
    assert verified.signed.version == 1
    assert list(verified.signed.targets) == [sim.path(V).release_target]
    assert _verify(sim, now=verified.signed.expires - SECOND).signed == verified.signed


def _expired(sim: RepositorySimulator) -> dict[str, Any]:
    return {"now": sim.delegated[RELEASE].expires}


def _too_long(sim: RepositorySimulator) -> dict[str, Any]:
    return {"limits": Limits(max_targets_bytes=100)}


def _another_type(sim: RepositorySimulator) -> dict[str, Any]:
    return {"data": sim.role_bytes("root")}


def _another_pattern(sim: RepositorySimulator) -> None:
    _delegation(sim, RELEASE).paths = ["release/*/*/*"]


def _two_patterns(sim: RepositorySimulator) -> None:
    _delegation(sim, RELEASE).paths.append("release/other/*/*")


def _not_terminating(sim: RepositorySimulator) -> None:
    _delegation(sim, RELEASE).terminating = False


def _one_signature(sim: RepositorySimulator) -> None:
    sim.signers[RELEASE] = sim.signers[RELEASE][:1]


def _one_key_twice(sim: RepositorySimulator) -> None:
    signer = sim.signers[RELEASE][0]
    twin = _twin(signer.public_key)
    assert sim.targets.delegations is not None
    sim.targets.delegations.keys[twin.keyid] = twin
    _delegation(sim, RELEASE).keyids = [signer.public_key.keyid, twin.keyid]
    sim.signers[RELEASE] = [signer, CryptoSigner(signer._private_key, twin)]


def _lives_too_long(sim: RepositorySimulator) -> None:
    stamp(sim.delegated[RELEASE], 91)


def _foreign_path(sim: RepositorySimulator) -> None:
    sim.delegated[RELEASE].targets["audit/digits/ocr/1.json"] = TargetFile(1, {"sha256": "0" * 64}, "audit/digits/ocr/1.json")


def _delegates(sim: RepositorySimulator) -> None:
    sim.delegated[RELEASE].delegations = Delegations({}, roles={})


BROKEN = {
    "it has expired": (_expired, "metadata_expired"),
    "it is longer than the limit": (_too_long, "too_large"),
    "it is a root": (_another_type, "metadata_syntax"),
    "its delegation has another pattern": (_another_pattern, "delegation_ambiguous"),
    "its delegation has a second pattern": (_two_patterns, "delegation_ambiguous"),
    "its delegation does not terminate": (_not_terminating, "delegation_ambiguous"),
    "one signature is missing": (_one_signature, "signature_threshold"),
    "one key counts twice": (_one_key_twice, "roles_share_keys"),
    "it lives too long": (_lives_too_long, "expiry_over_cap"),
    "it lists a path of another role": (_foreign_path, "path_outside_role"),
    "it delegates further": (_delegates, "delegation_nested"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_delegated_role_that_breaks_one_rule_is_refused_before_it_is_published(what: str, sim: RepositorySimulator) -> None:
    break_it, code = BROKEN[what]
    changes = break_it(sim) or {}
    with pytest.raises(SealiftError) as refusal:
        _verify(sim, **changes)
    assert refusal.value.code == code


def test_a_role_signed_by_the_keys_of_another_is_refused(sim: RepositorySimulator) -> None:
    swapped = copy.deepcopy(sim.delegated[AUDIT])
    metadata = Metadata(swapped)
    for signer in sim.signers[AUDIT]:
        metadata.sign(signer, append=True)
    assert code_of(lambda: _verify(sim, data=metadata.to_bytes())) == "signature_threshold"


# Paths.

GOOD_PATHS = ["release/digits/ocr/1.0.0.json", "release/digits/0/0.json", f"release/digits/{'a' * 64}/{'b' * 64}.json"]
BAD_PATHS = [
    "audit/digits/ocr/1.json",
    "release/other/ocr/1.json",
    "release/digits/ocr/1",
    "release/digits/ocr/1.json ",
    "release/digits/ocr/1.json\n",
    "release/digits/ocr/1.jsonx",
    "release/digits/ocr/1xjson",
    "release/digits/ocr/a/1.json",
    "release/digits/ocr.json",
    "release/digits//1.json",
    "release/digits/ocr/../1.json",
    "release/digits/o..r/1.json",
    "release/digits/ocr/1..2.json",
    "release/digits/Ocr/1.json",
    "release/digits/-ocr/1.json",
    "release/digits/ocr/%2e.json",
    "release/digits/öcr/1.json",
    f"release/digits/{'a' * 65}/1.json",
    f"release/digits/a/{'b' * 65}.json",
    "/release/digits/ocr/1.json",
    "xrelease/digits/ocr/1.json",
    "",
]


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_a_well_formed_path_of_the_role_is_its_own(path: str, sim: RepositorySimulator) -> None:
    check_paths(Targets(targets={path: TargetFile(1, {"sha256": "0" * 64}, path)}), _delegation(sim, RELEASE))


@pytest.mark.parametrize("path", BAD_PATHS)
def test_any_other_path_is_outside_the_role_also_behind_a_good_one(path: str, sim: RepositorySimulator) -> None:
    listed = {name: TargetFile(1, {"sha256": "0" * 64}, name) for name in (GOOD_PATHS[0], path)}
    with pytest.raises(TrustError) as refusal:
        check_paths(Targets(targets=listed), _delegation(sim, RELEASE))
    assert (refusal.value.code, refusal.value.where) == ("path_outside_role", RELEASE)


def test_contents_are_own_paths_and_no_delegation(sim: RepositorySimulator) -> None:
    check_contents(sim.delegated[RELEASE], _delegation(sim, RELEASE))
    assert code_of(lambda: check_contents(sim.delegated[AUDIT], _delegation(sim, RELEASE))) == "path_outside_role"
    sim.delegated[RELEASE].delegations = Delegations({}, roles={})
    assert code_of(lambda: check_contents(sim.delegated[RELEASE], _delegation(sim, RELEASE))) == "delegation_nested"


# Epochs.


@pytest.mark.parametrize(
    ("epochs", "epoch"),
    [({}, 0), ({"digits/ocr": 0}, 0), ({"digits/ocr": 7}, 7), ({"digits/ocr": 2**31 - 1}, 2**31 - 1), ({"digits/other": 7}, 0)],
)
def test_the_epoch_of_a_model_is_what_targets_sets_and_else_zero(epochs: object, epoch: int, sim: RepositorySimulator) -> None:
    assert epoch_of(sim.targets, MODEL) == 0
    sim.targets.unrecognized_fields["epochs"] = epochs
    assert epoch_of(sim.targets, MODEL) == epoch


@pytest.mark.parametrize(
    ("epochs", "code"),
    [
        (None, "field_type"),
        ([], "field_type"),
        ({"digits/ocr": "1"}, "field_type"),
        ({"digits/ocr": -1}, "field_value"),
        ({"digits/ocr": 2**31}, "field_value"),
    ],
)
def test_epochs_of_another_form_are_refused(epochs: object, code: str, sim: RepositorySimulator) -> None:
    sim.targets.unrecognized_fields["epochs"] = epochs
    assert code_of(lambda: epoch_of(sim.targets, MODEL)) == code


def test_a_root_is_not_read_as_targets(sim: RepositorySimulator) -> None:
    assert isinstance(parse_role(sim.role_bytes("root"), where="root").signed, Root)
