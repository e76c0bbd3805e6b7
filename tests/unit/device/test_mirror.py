"""``marks.json`` says what the database remembers, finds its own damage, and two copies merge to the higher of each value."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle import Counter, Digest, ModelPath
from device_client.bundle.strict_json import canonical_json
from device_client.errors import FormatError, LimitError, SealiftError, StateError
from device_client.install import mirror
from device_client.install.mirror import Remembered, encode_mirror, merged, parse_mirror, read_mirror, write_mirror
from device_client.policy.memory import Memory
from device_client.trust.marks import Marks, VersionMark
from device_client.trust.trusted_time import BootTime, TimeFloor

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AT = BootTime("boot-1", 500.0)
OCR, MLP = ModelPath("digits", "ocr"), ModelPath("digits", "mlp")
A, B, C = Digest.of(b"a"), Digest.of(b"b"), Digest.of(b"c")

SMALL = Remembered(
    generation=3,
    roots={1: b"root one", 2: b"root two"},
    marks=Marks((VersionMark("targets", 4, A, B),), (TimeFloor("targets", B, NOW, "boot-1", 100.125),)),
    models={OCR: Memory(Counter(0, 5), A, {"1.0.0": A}, Counter(0, 2), {A: 7}, {B: 6}, {C: 6})},
)

digests = st.sampled_from([A, B, C])
seqs = st.dictionaries(digests, st.integers(1, 9), max_size=3)
counters = st.builds(Counter, st.integers(0, 1), st.integers(0, 4))
memories = st.builds(
    lambda counter, manifest, **rest: Memory(counter, None if counter is None else manifest, **rest),
    st.none() | counters,
    digests,
    versions=st.dictionaries(st.sampled_from(["1.0.0", "2.0.0"]), digests),
    floor=st.none() | counters,
    seqs=seqs,
    withdrawn=seqs,
    withdrawn_variants=seqs,
)
versions = st.builds(VersionMark, st.sampled_from(["root", "targets"]), st.integers(1, 9), digests, digests)
times = st.builds(
    TimeFloor,
    st.sampled_from(["targets", "timestamp"]),
    digests,
    st.integers(0, 9).map(lambda days: NOW + timedelta(days=days)),
    st.sampled_from(["boot-0", "boot-1"]),
    st.floats(0, 500, allow_subnormal=False),
)


def one_of_each(marks: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted({(mark.role, mark.keyset): mark for mark in marks}.values()))


everything = st.builds(
    Remembered,
    st.integers(1, 9),
    st.dictionaries(st.integers(1, 4), st.binary(max_size=20)),
    st.builds(Marks, st.lists(versions).map(one_of_each), st.lists(times).map(one_of_each)),
    st.dictionaries(st.sampled_from([OCR, MLP]), memories),
)


@given(everything)
def test_what_is_written_is_read_back_and_the_same_memory_is_the_same_bytes(remembered: Remembered) -> None:
    data = encode_mirror(remembered)
    assert parse_mirror(data) == remembered
    assert encode_mirror(parse_mirror(data)) == data


def test_any_changed_byte_is_found() -> None:
    data = encode_mirror(SMALL)
    for index in range(len(data)):
        for bit in (1, 32):
            changed = data[:index] + bytes([data[index] ^ bit]) + data[index + 1 :]
            try:
                found = parse_mirror(changed)
            except SealiftError:
                continue
            assert found == SMALL, changed


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"\xff" * 40, b'{"schema":1}', encode_mirror(SMALL)[:-1], b"[" * 5000]
)
def test_what_is_not_a_mirror_is_refused(data: bytes) -> None:
    with pytest.raises((FormatError, LimitError)):
        parse_mirror(data)


def sealed(change: Any, schema: int = 1) -> bytes:
    """A mirror with something changed by somebody who also corrects its digest."""
    memory = json.loads(encode_mirror(SMALL))["memory"]
    change(memory)
    return canonical_json({"schema": schema, "sha256": Digest.of(canonical_json(memory)).hex, "memory": memory})


FORGED: dict[str, Any] = {
    "no generation": lambda m: m.pop("generation"),
    "generation 0": lambda m: m.update(generation=0),
    "an unknown field": lambda m: m.update(more=1),
    "roots that are no base64": lambda m: m["roots"].update({"1": "%"}),
    "a root of no version": lambda m: m["roots"].update({"x": ""}),
    "a mark without a key set": lambda m: m["versions"][0].pop(),
    "a mark with a text for its version": lambda m: m["versions"][0].__setitem__(1, "4"),
    "a time that is none": lambda m: m["times"][0].__setitem__(2, "yesterday"),
    "a model of no name": lambda m: m["models"].update({"..": m["models"]["digits/ocr"]}),
    "a counter below zero": lambda m: m["models"]["digits/ocr"].update(counter=[0, -1]),
    "a seq that is none": lambda m: m["models"]["digits/ocr"]["seqs"].update({str(A): "7"}),
    "a digest that is none": lambda m: m["models"]["digits/ocr"]["withdrawn"].update({"md5:00": 1}),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED.keys())
def test_a_mirror_of_another_form_is_damaged_also_when_its_digest_fits(change: Any) -> None:
    with pytest.raises((FormatError, LimitError)):
        parse_mirror(sealed(change))


def test_a_mirror_of_a_newer_client_is_not_called_damaged() -> None:
    with pytest.raises(StateError) as caught:
        parse_mirror(sealed(lambda _: None, schema=2))
    assert caught.value.code == "state_newer"


@given(everything, everything)
def test_merging_lowers_nothing_of_either(one: Remembered, other: Remembered) -> None:
    both = merged(one, other, at=AT)
    for each in (one, other):
        assert both.generation >= each.generation
        assert set(both.roots) >= set(each.roots)
        high = {(mark.role, mark.keyset): mark.version for mark in both.marks.versions}
        assert all(high[mark.role, mark.keyset] >= mark.version for mark in each.marks.versions)
        late = {(floor.role, floor.keyset): floor.reading(AT) for floor in both.marks.times}
        assert all(late[floor.role, floor.keyset] >= floor.reading(AT) for floor in each.marks.times)
        for model, memory in each.models.items():
            found = both.models[model]
            assert memory.counter is None or (found.counter is not None and found.counter >= memory.counter)
            assert memory.floor is None or (found.floor is not None and found.floor >= memory.floor)
            assert set(found.versions) >= set(memory.versions)
            for name in ("seqs", "withdrawn", "withdrawn_variants"):
                assert all(getattr(found, name)[digest] >= seq for digest, seq in getattr(memory, name).items())
    assert merged(one, both, at=AT) == merged(both, other, at=AT) == merged(both, both, at=AT) == both


def test_of_two_values_for_one_counter_name_or_version_the_mirrors_counts() -> None:
    other = replace(SMALL, models={OCR: Memory(Counter(0, 5), B, {"1.0.0": B, "2.0.0": C})}, roots={2: b"another"})
    both = merged(SMALL, other, at=AT)
    assert both.models[OCR].manifest == B
    assert both.models[OCR].versions == {"1.0.0": B, "2.0.0": C}
    assert both.roots == {1: b"root one", 2: b"another"}
    assert merged(other, SMALL, at=AT).models[OCR].manifest == A
    marks = Marks((VersionMark("targets", 4, C, B),))
    assert merged(SMALL, replace(SMALL, marks=marks), at=AT).marks.versions == marks.versions


def test_a_higher_counter_brings_its_own_bundle() -> None:
    other = replace(SMALL, models={OCR: Memory(Counter(0, 6), B)})
    for both in (merged(SMALL, other, at=AT), merged(other, SMALL, at=AT)):
        assert (both.models[OCR].counter, both.models[OCR].manifest) == (Counter(0, 6), B)


def test_a_root_chain_beyond_its_bound_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MAX_ROOT_CHAIN_BYTES", 20)
    kept = parse_mirror(encode_mirror(replace(SMALL, roots={1: b"x" * 9, 2: b"y" * 9, 3: b"z" * 9}))).roots
    assert set(kept) == {2, 3}


def test_a_memory_beyond_its_bound_is_said_and_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MAX_MIRROR_BYTES", 300)
    with pytest.raises(StateError) as caught:
        encode_mirror(SMALL)
    assert caught.value.code == "state_full"


def test_the_file_is_private_whole_and_not_rewritten_without_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "marks.json"
    assert read_mirror(path) is None
    write_mirror(path, b"one")
    before = path.stat()
    write_mirror(path, b"one")
    assert path.stat().st_ino == before.st_ino
    assert before.st_mode & 0o777 == 0o600
    write_mirror(path, b"two")
    assert read_mirror(path) == b"two"
    assert [each.name for each in tmp_path.iterdir()] == ["marks.json"]


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "marks.json"
    write_mirror(path, b"one")
    path.chmod(0o666)
    with pytest.raises(StateError) as caught:
        read_mirror(path)
    assert caught.value.code == "state_owner"
    path.rename(tmp_path / "real")
    path.symlink_to("real")
    with pytest.raises(StateError):
        read_mirror(path)
