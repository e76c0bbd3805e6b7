"""Manifests, contracts and records that both roles signed and that say too much, lie about sizes, or read in two ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from demo.names import AUDIT, RELEASE, SECOND
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.refs import BlobRef
from tests.threats.hands import Hands
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.world import World


def manifest(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.town.second.bundle.manifest_bytes)
    return found


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[World], bytes]:
    def make(world: World) -> bytes:
        value = manifest(world)
        change(value)
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    return make


def raw(change: Callable[[bytes], bytes]) -> Callable[[World], bytes]:
    return lambda world: change(world.town.second.bundle.manifest_bytes)


def layer_size(by: int) -> Callable[[dict[str, Any]], Any]:
    def change(value: dict[str, Any]) -> None:
        for layer in value["layers"]:
            if layer["mediaType"].endswith("weight.v1.raw"):
                layer["size"] += by

    return change


INDEX = "application/vnd.oci.image.index.v1+json"
SUBJECT = {"mediaType": INDEX, "digest": "sha256:" + "0" * 64, "size": 1}
MANIFESTS: dict[str, tuple[Callable[[World], bytes], str]] = {
    "R11 a manifest beyond its limit": (raw(lambda data: data + b" " * DEFAULT_LIMITS.max_manifest_bytes), "too_large"),
    "R11 a contract beyond its limit": (edited(lambda v: v["layers"][0].update(size=2**17)), "too_large"),
    "R11 a model beyond its limit": (edited(layer_size(2**32)), "too_large"),
    "R11 a size below what the blob has": (edited(layer_size(-1)), "model_mismatch"),
    "R11 a size above what the blob has": (edited(layer_size(1)), "model_mismatch"),
    "R11 urls in a layer": (edited(lambda v: v["layers"][1].update(urls=["https://mirror.example/m"])), "field_forbidden"),
    "R11 data in a layer": (edited(lambda v: v["layers"][0].update(data="e30=")), "field_forbidden"),
    "R11 a subject": (edited(lambda v: v.update(subject=SUBJECT)), "field_forbidden"),
    "R11 a nested index": (edited(lambda v: v["layers"][2].update(mediaType=INDEX)), "layer_type_unknown"),
    "R11 an index in its place": (edited(lambda v: v.update(manifests=[])), "field_forbidden"),
    "R11 too many layers": (edited(lambda v: v.update(layers=v["layers"] * 30)), "too_many"),
    "B07 a layer that is not there": (
        edited(lambda v: v["config"].update(digest="sha256:" + "ab" * 32)),
        "not_found",
    ),
    "B07 a listed blob that no rule asks for": (
        edited(lambda v: v["layers"].append({"mediaType": "application/x-sh", "digest": "sha256:" + "ab" * 32, "size": 9})),
        "layer_type_unknown",
    ),
    "B08 a key twice": (raw(lambda data: b'{"schemaVersion":2,' + data[1:]), "json_syntax"),
    "B08 NaN": (raw(lambda data: data[:-1] + b',"annotations":{"a":NaN}}'), "json_syntax"),
    "B08 a huge integer": (raw(lambda data: data[:-1] + b',"annotations":{"a":' + b"9" * 400 + b"}}"), "json_syntax"),
    "B08 depth 8000": (raw(lambda data: data[:-1] + b',"annotations":' + b"[" * 8000 + b"]" * 8000 + b"}"), "too_deep"),
    "B08 no JSON": (raw(lambda data: b"\x80\x04\x95pickle"), "json_syntax"),
}


@pytest.mark.parametrize(("make", "code"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_hostile_manifest_that_both_roles_signed_is_refused_without_reading_on(
    world: World, make: Callable[[World], bytes], code: str
) -> None:
    """R11, B07 and B08."""
    before = world.footprint()
    honest = world.issue(world.town.second)
    hostile = replace(honest, manifest=world.web.add_blob(make(world)))
    hostile.release()
    world.audit(hostile)
    honest.offer()
    expect_refusal(world, code, before=before)
    assert not world.blob(world.town.second.model).exists() or code == "not_found"
    honest.release()
    world.audit(honest)
    expect_installed(world, SECOND, before=before)


def listed(world: World, role: str) -> Any:
    path = world.town.second.bundle.path
    return world.web.newest(role).signed.targets[path.release_target if role == RELEASE else path.audit_target]


def too_long_reason(custom: dict[str, Any]) -> Any:
    custom["reason"] = "x" * 600


def many_variants(custom: dict[str, Any]) -> Any:
    (verdict,) = custom["variants"].values()
    custom["variants"] = {f"sha256:{number:064x}": verdict for number in range(65)}


def unknown_condition(custom: dict[str, Any]) -> Any:
    custom["only_on_tuesdays"] = True


def huge_seq(custom: dict[str, Any]) -> Any:
    custom["seq"] = 2**31


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a reason of six hundred characters": (too_long_reason, "field_type"),
    "sixty-five variants": (many_variants, "too_many"),
    "a condition that nobody knows": (unknown_condition, "field_unknown"),
    "a seq beyond its bound": (huge_seq, "field_value"),
}


@pytest.mark.parametrize(("change", "code"), RECORDS.values(), ids=RECORDS.keys())
def test_a_custom_record_beyond_its_schema_is_refused(world: World, change: Callable[[dict[str, Any]], Any], code: str) -> None:
    """R11."""
    before, hands = world.footprint(), Hands(world)
    target = world.town.second.bundle.path.audit_target
    honest = json.loads(json.dumps(listed(world, AUDIT).custom))

    def spoil(role: Any) -> None:
        change(role.targets[target].unrecognized_fields["custom"])

    hands.edit(AUDIT, spoil)
    expect_refusal(world, code, before=before)
    hands.edit(AUDIT, lambda role: role.targets[target].unrecognized_fields.update(custom=honest))
    expect_installed(world, SECOND, before=before)


HASHES: dict[str, dict[str, str]] = {
    "md5 alone": {"md5": "0" * 32},
    "sha1 alone": {"sha1": "0" * 40},
    "md5 beside sha256": {"sha256": "", "md5": "0" * 32},
    "sha512 alone": {"sha512": "0" * 128},
}


@pytest.mark.parametrize("role", [RELEASE, AUDIT])
@pytest.mark.parametrize("hashes", HASHES.values(), ids=HASHES.keys())
def test_an_entry_with_other_hashes_than_sha256_is_refused(world: World, hashes: dict[str, str], role: str) -> None:
    """A14."""
    before, hands = world.footprint(), Hands(world)
    path = world.town.second.bundle.path
    target, good = (path.release_target if role == RELEASE else path.audit_target), dict(listed(world, role).hashes)
    hands.edit(
        role, lambda signed: setattr(signed.targets[target], "hashes", {name: hashes[name] or good[name] for name in hashes})
    )
    expect_refusal(world, "hash_not_sha256", before=before)
    hands.edit(role, lambda signed: setattr(signed.targets[target], "hashes", good))
    expect_installed(world, SECOND, before=before)


def test_an_entry_that_names_a_manifest_of_gigabytes_is_refused_before_anything_is_fetched(world: World) -> None:
    """R11."""
    before = world.footprint()
    honest = world.issue(world.town.second)
    lie = replace(honest, manifest=BlobRef(honest.manifest.digest, 2**30))
    lie.release()
    world.audit(lie)
    world.server.gate.requests.clear()
    expect_refusal(world, "too_large", before=before)
    assert not [path for path in world.server.gate.requests if path.endswith(honest.manifest.digest.hex)]
    honest.release()
    world.audit(honest)
    expect_installed(world, SECOND, before=before)
