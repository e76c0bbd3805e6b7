"""Properties of every parser of bytes from outside: it may refuse any document and fails on none; what is written reads back."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_client.bundle import (
    Counter,
    Descriptor,
    Digest,
    Manifest,
    canonical_json,
    media_types,
    parse_contract,
    parse_manifest,
    parse_strict,
)
from device_client.bundle.offline import MetadataName, read_offline
from device_client.bundle.path import ModelPath
from device_client.errors import LimitError, VerificationError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.attestation import PAYLOAD_TYPE, RESULTS, build_statement, verify_attestation
from device_client.trust.channel import Channel, parse_channel
from device_client.trust.custom import (
    STATUSES,
    TIERS,
    VERDICTS,
    AuditCustom,
    PolicyRef,
    ReleaseCustom,
    Rollout,
    VariantVerdict,
    parse_audit_custom,
    parse_release_custom,
)
from device_client.trust.dsse import sign_envelope, verify_envelope
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time, parse_time
from tests.fuzz.fixed_keys import signer
from tests.fuzz.target import NAMES, accepted, load
from tests.statements import TEST, passed
from tests.unit.bundle.archives import archive, blob
from tests.unit.bundle.samples import sample_contract

KEY = signer("property")
JSON_TARGETS = ("manifest", "contract", "custom", "channel", "attestation", "role")

digests = st.binary(max_size=8).map(Digest.of)
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True).filter(lambda name: name != "channel")
counters = st.builds(Counter, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
pairs = st.tuples(counters, counters).map(sorted)  # floor, counter
times = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda time: time.replace(microsecond=0, tzinfo=UTC))
refs = st.builds(BlobRef, digests, st.integers(1, DEFAULT_LIMITS.max_blob_bytes))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
policies = st.builds(PolicyRef, texts, st.integers(1, 2**31 - 1), digests)
verdicts = st.builds(VariantVerdict, st.sampled_from(VERDICTS), st.sampled_from(TIERS), times, refs)
scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8)


# No parser fails in another way than its own


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(data=st.binary(max_size=2000))
def test_arbitrary_bytes_are_refused_and_crash_nothing(name: str, data: bytes) -> None:
    load(name).fuzz_one(data)


@cache
def documents(name: str) -> list[Any]:
    """The seeds of a target that are objects in strict JSON."""
    read = (accepted(partial(parse_strict, data, max_bytes=len(data), where="seed")) for data in load(name).seeds())
    return [value for value in read if isinstance(value, dict)]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key), outermost first."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    for at in waiting:
        for key in list(at) if isinstance(at, dict) else range(len(at)):
            found.append((at, key))
            if isinstance(at[key], (dict, list)):
                waiting.append(at[key])
    return found


@pytest.mark.parametrize("name", JSON_TARGETS)
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_good_document_with_any_values_in_it_crashes_nothing(name: str, data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(documents(name))))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(places(document)))
        if data.draw(st.booleans()):
            holder[key] = data.draw(values)
        elif isinstance(holder, dict):
            holder[data.draw(texts)] = data.draw(values)
        else:
            holder.insert(key, data.draw(values))
    load(name).fuzz_one(canonical_json(document))


# Strict JSON


def depth_of(data: bytes) -> int:
    """The deepest nesting, one byte at a time: the slow and plain way."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in data:
        if in_string:
            in_string = escaped or byte != 0x22
            escaped = byte == 0x5C and not escaped
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


@settings(max_examples=400)
@given(
    st.lists(st.sampled_from([b"[" * 20, b"[", b"{", b"]", b"}", b'"', b"\\", b'\\"', b"a", b"\n", b"]" * 9, b"\xff"]), max_size=40)
)
def test_nesting_is_counted_like_a_slow_reader_counts_it(parts: list[bytes]) -> None:
    data = b"".join(parts)
    try:
        parse_strict(data, max_bytes=len(data), where="x")
        too_deep = False
    except LimitError:
        too_deep = True
    except VerificationError:
        too_deep = False
    assert too_deep == (depth_of(data) > DEFAULT_LIMITS.max_json_depth)


@given(values)
def test_what_is_written_canonically_reads_back_unless_an_integer_is_too_large(value: object) -> None:
    data = canonical_json(value)
    if any(type(leaf) is int and abs(leaf) > 2**53 - 1 for leaf in leaves(value)):
        with pytest.raises(VerificationError, match="integer"):
            parse_strict(data, max_bytes=len(data), where="x")
    else:
        assert parse_strict(data, max_bytes=len(data), where="x") == value


def leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


# Round trips


@given(times)
def test_times_read_back(time: datetime) -> None:
    assert parse_time(format_time(time), "x") == time


@given(counters)
def test_counters_read_back(counter: Counter) -> None:
    assert Counter.from_json(counter.to_json(), where="x") == counter
    assert Counter.parse(str(counter)) == counter


@given(names, names)
def test_model_paths_read_back(line: str, model: str) -> None:
    assert ModelPath.parse(str(ModelPath(line, model))) == ModelPath(line, model)


@given(names, pairs)
def test_channels_read_back(latest: str, ordered: list[Counter]) -> None:
    channel = Channel(latest, counter=ordered[1], floor=ordered[0])
    assert parse_channel(channel.to_bytes()) == channel


@given(pairs, refs, st.none() | times, st.integers(0, 100))
def test_release_records_read_back(ordered: list[Counter], ref: BlobRef, not_before: datetime | None, percent: int) -> None:
    record = ReleaseCustom(ordered[1], ordered[0], ref, Rollout(not_before, percent))
    data = canonical_json(record.to_json())
    assert parse_release_custom(parse_strict(data, max_bytes=len(data), where="x"), "x") == record


@given(st.integers(1, 2**31 - 1), pairs, st.sampled_from(STATUSES), policies, texts, st.dictionaries(digests, verdicts, max_size=6))
def test_audit_records_read_back(
    seq: int, ordered: list[Counter], status: str, policy: PolicyRef, text: str, variants: dict[Digest, VariantVerdict]
) -> None:
    record = AuditCustom(seq, ordered[1], ordered[0], status, text, policy, text, text, variants)
    data = canonical_json(record.to_json())
    assert parse_audit_custom(parse_strict(data, max_bytes=len(data), where="x"), "x") == record


spans = st.lists(times, min_size=2, max_size=2, unique=True).map(sorted)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
results = st.sampled_from(RESULTS)


@given(results, st.sampled_from(TIERS), policies, texts, st.none() | digests, spans, numbers)
def test_attestations_read_back(
    result: str,
    tier: str,
    policy: PolicyRef,
    text: str,
    original: Digest | None,
    span: list[datetime],
    number: float | None,
) -> None:
    subject = Digest.of(text.encode())
    interval = None if number is None else (number, number)
    test = replace(TEST, result=result, statistic=text, estimate=number, interval=interval, threshold=number)
    audit = passed(
        subject, text, verdict=result, tier=tier, policy=policy, suite=text, original=original, reissue_of=original, tests=(test,),
        not_tested=((text, text),), audited_at=span[0], expires=span[1],
    )  # fmt: skip
    sealed = sign_envelope(build_statement(audit), payload_type=PAYLOAD_TYPE, signers=[KEY])
    verified = verify_attestation(sealed, keys=[KEY.public_key], now=span[0], subject=subject)
    assert verified.audit == audit


@given(st.binary(max_size=300))
def test_payloads_of_envelopes_read_back_whatever_they_are(payload: bytes) -> None:
    sealed = sign_envelope(payload, payload_type="x/y", signers=[KEY])
    verified = verify_envelope(sealed, payload_type="x/y", keys=[KEY.public_key], max_bytes=10_000, where="x")
    assert verified.payload == payload


@given(
    st.dictionaries(names, st.binary(min_size=1, max_size=30), min_size=1, max_size=6), st.dictionaries(names, texts, max_size=4)
)
def test_manifests_read_back(models: dict[str, bytes], notes: dict[str, str]) -> None:
    def layer(media_type: str, data: bytes, *annotations: tuple[str, str]) -> Descriptor:
        return Descriptor(media_type, Digest.of(media_type.encode() + data), len(data), annotations)

    weights = [
        layer(media_types.WEIGHT, f"{name}".encode() + data, (media_types.ANNOTATION_VARIANT, name))
        for name, data in models.items()
    ]
    layers = (layer(media_types.CONTRACT, b"contract"), *weights, layer(media_types.GOLDEN, b"golden"))
    manifest = Manifest(layer(media_types.CONFIG, b"config"), layers, tuple(sorted(notes.items())))
    assert parse_manifest(manifest.to_bytes()) == manifest


@given(st.dictionaries(names, st.binary(min_size=1, max_size=30), min_size=1, max_size=4), names)
def test_contracts_read_back(models: dict[str, bytes], version: str) -> None:
    distinct = {name: name.encode() + b" " + data for name, data in models.items()}
    contract = sample_contract(models=distinct, version=version)
    assert parse_contract(contract.to_bytes()) == contract


@given(
    st.lists(st.binary(max_size=700), max_size=4, unique=True),
    st.permutations(["1.root", "2.root", "1.targets", "9.audit-a"]),
    st.data(),
)
def test_offline_files_read_back_in_any_order_that_begins_with_metadata(
    blobs: list[bytes], roles: list[str], data: st.DataObject
) -> None:
    metadata = {f"metadata/{name}.json": name.encode() for name in [*roles, "timestamp"]}
    rest = [("oci-layout", b"{}"), ("index.json", b"{}"), *(blob(content) for content in blobs)]
    offline = read_offline(io.BytesIO(archive([*metadata.items(), *data.draw(st.permutations(rest))])))
    assert offline.blob_digests() == {Digest.of(content) for content in blobs}
    assert offline.metadata[MetadataName("audit-a", 9)] == b"9.audit-a"
    assert {f"metadata/{name}": content for name, content in offline.metadata.items()} == metadata
