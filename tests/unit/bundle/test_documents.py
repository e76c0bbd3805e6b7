"""Manifest and contract: what a writer cannot write, what a change does, what an old reader must not ignore."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle import (
    KNOWN_ENCODINGS,
    KNOWN_FEATURES,
    RESERVED_ENCODINGS,
    Budget,
    Clip,
    Contract,
    Counter,
    Descriptor,
    Digest,
    Expected,
    Golden,
    Lineage,
    Manifest,
    ModelRef,
    Normalise,
    Requires,
    Scale,
    TensorSpec,
    Tolerance,
    Variant,
    canonical_json,
    media_types,
    parse_contract,
    parse_manifest,
)
from device_client.errors import FormatError, IntegrityError, LimitError, VerificationError
from device_client.inference.onnx_schema import CONTROL_FLOW
from device_client.limits import Limits

from .samples import sample_bundle, sample_contract

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,11}", fullmatch=True)
tokens = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,11}", fullmatch=True)
digests = st.binary(min_size=1, max_size=8).map(Digest.of)
floats = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-9, max_value=1e9)
intervals = st.tuples(floats, floats).map(lambda pair: (min(pair), max(pair)))
unique_tokens = st.lists(tokens, unique=True, max_size=3).map(tuple)


def _pairs(keys: st.SearchStrategy[str], values: st.SearchStrategy) -> st.SearchStrategy:
    return st.dictionaries(keys, values, max_size=3).map(lambda found: tuple(sorted(found.items())))


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    dimensions = st.one_of(st.integers(1, 2**31 - 1), st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True))
    tensor = st.builds(
        TensorSpec,
        name=names,
        dtype=st.sampled_from(["float32", "int8", "bool"]),
        shape=st.lists(dimensions, max_size=4).map(tuple),
        meaning=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        range=st.none() | intervals,
    )
    tensors = st.lists(tensor, min_size=1, max_size=3, unique_by=lambda spec: spec.name).map(tuple)
    inputs = draw(tensors)
    input_names = st.sampled_from([spec.name for spec in inputs])
    ids = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    variants = []
    for index, name in enumerate(ids):
        variants.append(
            Variant(
                id=name,
                runtime=draw(names),
                format=draw(names),
                opset=draw(st.integers(0, 10_000)),
                precision=draw(names),
                layer=Digest.of(b"layer %d" % index),
                model=ModelRef(Digest.of(b"model %d" % index), draw(st.integers(1, 2**31))),
                requires=Requires(draw(unique_tokens), draw(unique_tokens), draw(st.integers(0, 2**53 - 1)), draw(unique_tokens)),
                expected=Expected(draw(names), draw(floats), draw(intervals)),
            )
        )
    tolerance = st.just(Tolerance("exact", 0.0)) | st.builds(Tolerance, st.sampled_from(["one_lsb", "absolute"]), positive)
    steps = st.one_of(
        st.builds(Scale, input_names, floats, floats),
        st.builds(lambda name, pair: Clip(name, *pair), input_names, intervals),
        st.builds(
            lambda name, axis, pairs: Normalise(name, axis, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)),
            input_names,
            st.integers(0, 31),
            st.lists(st.tuples(floats, positive), min_size=1, max_size=3),
        ),
    )
    return Contract(
        line=draw(names),
        model=draw(names),
        version=draw(names.filter(lambda name: name != "channel")),
        counter=Counter(draw(st.integers(0, 2**31 - 1)), draw(st.integers(0, 2**31 - 1))),
        task=draw(names),
        inputs=inputs,
        outputs=draw(tensors),
        preprocessing=tuple(draw(st.lists(steps, max_size=3))),
        variants=tuple(variants),
        golden=Golden(draw(digests), draw(st.integers(1, 65_536)), tuple((name, draw(tolerance)) for name in sorted(ids))),
        budget=Budget(
            draw(st.floats(0, 1)), draw(st.integers(0, 2**53 - 1)), draw(_pairs(names, positive)), draw(st.floats(0.01, 10))
        ),
        lineage=Lineage(draw(digests), draw(digests), draw(_pairs(names, digests)), draw(_pairs(names, tokens))),
        features=tuple(draw(st.lists(st.sampled_from(sorted(KNOWN_FEATURES)), unique=True))),
    )


@given(contracts())
def test_a_written_contract_is_read_back_the_same(contract: Contract) -> None:
    data = contract.to_bytes()
    assert parse_contract(data) == contract
    assert parse_contract(data).to_bytes() == data


@given(st.data())
def test_any_one_byte_change_of_a_contract_is_refused_or_changes_its_digest(data: st.DataObject) -> None:
    good = sample_contract().to_bytes()
    changed = _one_byte(good, data)
    assert Digest.of(changed) != Digest.of(good)
    _read_or_refuse(parse_contract, changed)


@given(st.data())
def test_any_one_byte_change_of_a_manifest_is_refused_or_changes_its_digest(data: st.DataObject) -> None:
    source, manifest, digest = sample_bundle()
    good = source.blobs[digest]
    assert parse_manifest(good) == manifest
    changed = _one_byte(good, data)
    assert Digest.of(changed) != digest
    _read_or_refuse(parse_manifest, changed)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_crash_a_reader(data: bytes) -> None:
    for parse in (parse_manifest, parse_contract):
        with pytest.raises(VerificationError):
            parse(data)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**54), 2**54)
    | floats
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.data(), json_values)
def test_any_value_in_any_field_is_read_or_refused_without_a_crash(data: st.DataObject, value: object) -> None:
    source, _, digest = sample_bundle()
    for parse, good in ((parse_contract, sample_contract().to_bytes()), (parse_manifest, source.blobs[digest])):
        document = json.loads(good)
        at = document
        while isinstance(at, dict | list) and at:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
                at[key] = value
                break
            at = at[key]
        _read_or_refuse(parse, canonical_json(document))


def _one_byte(good: bytes, data: st.DataObject) -> bytes:
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))
    return good[:at] + bytes([byte]) + good[at + 1 :]


def _read_or_refuse(parse, changed: bytes) -> None:
    try:
        parse(changed)
    except VerificationError:
        return


def test_a_contract_that_a_reader_refuses_is_never_written() -> None:
    with pytest.raises(FormatError) as refusal:
        replace(sample_contract(), features=("sandbox:strict",)).to_bytes()
    assert refusal.value.code == "feature_unknown"


def test_a_manifest_that_a_reader_refuses_is_never_written() -> None:
    _, manifest, _ = sample_bundle()
    with pytest.raises(FormatError) as refusal:
        replace(manifest, layers=manifest.layers[1:]).to_bytes()
    assert refusal.value.code == "contract_layer"


def test_a_number_that_is_not_finite_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(sample_contract(), preprocessing=(Scale("x", float("nan"), 0.0),)).to_bytes()


def test_a_contract_beyond_its_limit_is_refused() -> None:
    document = json.loads(sample_contract().to_bytes()) | {"padding": "x" * 65_536}
    with pytest.raises(LimitError) as refusal:
        parse_contract(canonical_json(document))
    assert refusal.value.code == "too_large"


def test_a_manifest_beyond_its_limit_is_refused() -> None:
    source, _, digest = sample_bundle()
    data = source.blobs[digest]
    parse_manifest(data, limits=Limits(max_manifest_bytes=len(data)))
    with pytest.raises(LimitError):
        parse_manifest(data, limits=Limits(max_manifest_bytes=len(data) - 1))


def test_who_decodes_nothing_is_given_nothing_encoded_and_the_reserved_encodings_are_no_features() -> None:
    assert not {f"encoding:{name}" for name in KNOWN_ENCODINGS} & KNOWN_FEATURES
    assert not KNOWN_ENCODINGS & RESERVED_ENCODINGS
    assert not {f"encoding:{name}" for name in RESERVED_ENCODINGS} & KNOWN_FEATURES


def test_every_control_flow_operator_of_the_walker_has_its_feature() -> None:
    assert {f"control-flow:{name}" for name in CONTROL_FLOW} <= KNOWN_FEATURES


def test_a_terminal_escape_in_a_field_name_does_not_reach_the_message() -> None:
    document = json.loads(sample_contract().to_bytes())
    document["golden"]["\x1b[2J\u202e"] = 1
    with pytest.raises(FormatError) as refusal:
        parse_contract(canonical_json(document))
    assert str(refusal.value).isprintable()


def test_lookups_name_what_is_missing() -> None:
    _, manifest, _ = sample_bundle()
    contract = sample_contract()
    assert contract.variant("fp32").id == "fp32"
    assert contract.golden.tolerance("fp32") == Tolerance("absolute", 0.1)
    assert manifest.layer(contract.golden.layer) == manifest.golden == manifest.layers_of(media_types.GOLDEN)[0]
    for refused in (lambda: contract.variant("int4"), lambda: contract.golden.tolerance("int4")):
        with pytest.raises(FormatError) as refusal:
            refused()
        assert refusal.value.code == "variant_unknown"
    with pytest.raises(IntegrityError, match="no such layer"):
        manifest.layer(Digest.of(b"elsewhere"))


def test_documents_are_read_whatever_the_order_of_their_keys() -> None:
    data = sample_contract().to_bytes()
    turned = json.dumps(dict(reversed(json.loads(data).items())), indent=2).encode()
    assert parse_contract(turned) == parse_contract(data)


def test_manifest_bytes_do_not_depend_on_the_order_of_annotations() -> None:
    _, manifest, _ = sample_bundle()
    forward, backward = (("a", "1"), ("b", "2")), (("b", "2"), ("a", "1"))
    assert replace(manifest, annotations=forward).to_bytes() == replace(manifest, annotations=backward).to_bytes()
    assert Manifest(manifest.config, manifest.layers).to_bytes() == manifest.to_bytes()
    assert Descriptor(media_types.DOC, Digest.of(b"x"), 1).annotation("a") is None
