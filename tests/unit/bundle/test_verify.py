"""``verify_bundle``, the blob readers and the layout folder, with everything an untrusted source can do."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle import (
    BundlePath,
    Counter,
    Digest,
    LayoutDirectory,
    ModelConfig,
    VerifiedBundle,
    copy_blob,
    media_types,
    read_blob,
    verify_bundle,
)
from device_client.bundle.layout import read_blob_up_to
from device_client.errors import FormatError, IntegrityError, LimitError, UsageError, VerificationError
from device_client.limits import Limits

from .samples import MODELS, MemorySource, sample_bundle, sample_contract, write_layout


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(VerificationError) as refusal:
        call()
    return refusal.value.code


class _Endless(io.RawIOBase):
    """A stream that never ends, as a hostile server could send."""

    def __init__(self) -> None:
        self.given = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert 0 < size <= 1 << 20
        self.given += size
        return bytes(size)


class _EndlessSource:
    def __init__(self) -> None:
        self.stream = _Endless()

    def open_blob(self, digest: Digest) -> BinaryIO:
        return self.stream  # type: ignore[return-value]


class _Trickle(io.BytesIO):
    """A stream that gives one byte at a time, as a socket may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(1)


def test_a_whole_bundle_is_verified() -> None:
    source, manifest, digest = sample_bundle()
    bundle = verify_bundle(source, digest, path=BundlePath("clinic", "digits", "1.0.0"), counter=Counter(0, 7), closed=True)
    assert (bundle.digest, bundle.manifest, bundle.contract) == (digest, manifest, sample_contract())
    assert bundle.manifest_bytes == source.blobs[digest]
    assert bundle.contract_bytes == source.blobs[manifest.contract.digest]
    assert bundle.checked_variants == frozenset(MODELS)
    assert str(bundle.path) == "clinic/digits/1.0.0"


def test_a_verified_bundle_cannot_be_made_by_hand() -> None:
    source, _, digest = sample_bundle()
    bundle = verify_bundle(source, digest)
    values = [getattr(bundle, field.name) for field in dataclasses.fields(VerifiedBundle)]
    with pytest.raises(TypeError):
        VerifiedBundle(*values)
    with pytest.raises((TypeError, ValueError)):
        replace(bundle, digest=Digest.of(b"other"))


@given(st.data())
def test_any_one_byte_change_of_any_blob_is_refused(data: st.DataObject) -> None:
    source, _, digest = sample_bundle()
    victim = data.draw(st.sampled_from(sorted(source.blobs)))
    good = source.blobs[victim]
    at = data.draw(st.integers(0, len(good) - 1))
    source.blobs[victim] = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    assert _refusal(lambda: verify_bundle(source, digest)) == "blob_digest_mismatch"


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_a_blob_of_another_length_is_refused(change: Callable[[bytes], bytes]) -> None:
    for victim in sample_bundle()[0].blobs:
        source, _, digest = sample_bundle()
        source.blobs[victim] = change(source.blobs[victim])
        expected = "blob_digest_mismatch" if victim == digest else "blob_size_mismatch"  # no signed size was given for the manifest
        assert _refusal(partial(verify_bundle, source, digest)) == expected


def test_every_missing_blob_is_refused() -> None:
    for victim in sample_bundle()[0].blobs:
        source, _, digest = sample_bundle()
        del source.blobs[victim]
        assert _refusal(partial(verify_bundle, source, digest)) == "blob_missing"


def test_only_the_chosen_variants_are_read() -> None:
    source, manifest, digest = sample_bundle()
    del source.blobs[Digest.of(MODELS["fp32"])]
    del source.blobs[manifest.layers_of(media_types.DOC)[0].digest]
    bundle = verify_bundle(source, digest, variants=["int8-static"])
    assert bundle.checked_variants == {"int8-static"}
    assert Digest.of(MODELS["int8-static"]) in source.opened
    source.opened.clear()
    verify_bundle(source, digest, variants=())
    assert Digest.of(MODELS["int8-static"]) not in source.opened
    assert manifest.golden.digest in source.opened


def test_an_endless_manifest_is_refused_at_its_limit() -> None:
    source = _EndlessSource()
    assert _refusal(lambda: verify_bundle(source, Digest.of(b"x"))) == "too_large"
    assert source.stream.given == Limits().max_manifest_bytes + 1


def test_a_signed_manifest_size_beyond_the_limit_is_refused_before_reading() -> None:
    source = _EndlessSource()
    assert _refusal(lambda: verify_bundle(source, Digest.of(b"x"), manifest_size=256 * 1024 + 1)) == "too_large"
    assert source.stream.given == 0


def test_an_endless_blob_is_refused_one_byte_after_its_size() -> None:
    source, out = _EndlessSource(), io.BytesIO()
    assert _refusal(lambda: copy_blob(source, Digest.of(b"x"), 3_000_000, out)) == "blob_size_mismatch"
    assert source.stream.given == 3_000_001
    assert len(out.getvalue()) == 3_000_000


def test_a_slow_stream_is_read_to_its_end() -> None:
    class Source(MemorySource):
        def open_blob(self, digest: Digest) -> BinaryIO:
            return _Trickle(self.blobs[digest])

    source, out = Source(), io.BytesIO()
    digest = source.add(b"byte by byte")
    assert read_blob(source, digest, 12) == b"byte by byte"
    assert read_blob_up_to(source, digest, 12) == b"byte by byte"
    copy_blob(source, digest, 12, out)
    assert out.getvalue() == b"byte by byte"
    assert _refusal(lambda: read_blob_up_to(source, digest, 11)) == "too_large"


def test_a_contract_for_another_place_is_refused() -> None:
    source, _, digest = sample_bundle()
    assert _refusal(lambda: verify_bundle(source, digest, path=BundlePath("clinic", "digits", "1.0.1"))) == "path_mismatch"
    assert _refusal(lambda: verify_bundle(source, digest, path=BundlePath("ward", "digits", "1.0.0"))) == "path_mismatch"
    assert _refusal(lambda: verify_bundle(source, digest, counter=Counter(1, 7))) == "counter_mismatch"


def test_a_config_that_tells_another_story_is_refused() -> None:
    source, manifest, _ = sample_bundle()
    config = ModelConfig.of(sample_contract(), manifest.layers)
    for lie in ({"name": "letters"}, {"version": "9"}, {"family": "x"}, {"format": "x"}, {"precision": "x"}, {"diff_ids": ()}):
        data = replace(config, **lie).to_bytes()
        lying = replace(manifest, config=replace(manifest.config, digest=source.add(data), size=len(data)))
        digest = source.add(lying.to_bytes())
        assert _refusal(partial(verify_bundle, source, digest)) == "config_mismatch"


def test_a_closed_source_with_another_blob_is_refused_and_an_open_one_is_not() -> None:
    source, _, digest = sample_bundle()
    source.add(b"a blob of nobody")
    verify_bundle(source, digest)
    assert _refusal(lambda: verify_bundle(source, digest, closed=True)) == "blob_unlisted"


def test_closed_needs_a_source_that_can_list() -> None:
    source, _, digest = sample_bundle()

    class Unlisted:
        def open_blob(self, wanted: Digest) -> BinaryIO:
            return source.open_blob(wanted)

    with pytest.raises(TypeError):
        verify_bundle(Unlisted(), digest, closed=True)


def test_a_folder_that_is_not_there_is_a_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        LayoutDirectory(tmp_path / "nowhere")
    assert refusal.value.code == "bundle_not_found"
    assert refusal.value.hint


def test_a_flood_of_files_is_refused_before_it_is_listed(tmp_path: Path) -> None:
    source, _, digest = sample_bundle()
    folder = write_layout(tmp_path / "bundle", source, digest)
    for number in range(70):
        (folder / "blobs" / "sha256" / Digest.of(b"%d" % number).hex).touch()
    with pytest.raises(LimitError) as refusal:
        LayoutDirectory(folder)
    assert refusal.value.code == "too_many"


def test_a_blob_with_a_set_id_bit_is_refused(tmp_path: Path) -> None:
    source, _, digest = sample_bundle()
    folder = write_layout(tmp_path / "bundle", source, digest)
    (folder / "blobs" / "sha256" / digest.hex).chmod(0o4755)
    assert _refusal(lambda: LayoutDirectory(folder)) == "layout_foreign_file"


def test_a_link_put_in_place_after_the_scan_is_not_followed(tmp_path: Path) -> None:
    source, _, digest = sample_bundle()
    folder = write_layout(tmp_path / "bundle", source, digest)
    layout = LayoutDirectory(folder)
    blob = folder / "blobs" / "sha256" / digest.hex
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError) as refusal:
        layout.open_blob(digest)
    assert refusal.value.code == "layout_foreign_file"


def test_a_pipe_put_in_place_after_the_scan_does_not_block(tmp_path: Path) -> None:
    source, _, digest = sample_bundle()
    folder = write_layout(tmp_path / "bundle", source, digest)
    layout = LayoutDirectory(folder)
    blob = folder / "blobs" / "sha256" / digest.hex
    blob.unlink()
    os.mkfifo(blob)
    assert _refusal(lambda: layout.open_blob(digest)) == "layout_foreign_file"


def test_a_blob_removed_after_the_scan_is_missing(tmp_path: Path) -> None:
    source, _, digest = sample_bundle()
    folder = write_layout(tmp_path / "bundle", source, digest)
    layout = LayoutDirectory(folder)
    (folder / "blobs" / "sha256" / digest.hex).unlink()
    with pytest.raises(IntegrityError) as refusal:
        layout.open_blob(digest)
    assert refusal.value.code == "blob_missing"


def test_an_endless_index_is_refused(tmp_path: Path) -> None:
    source, _, digest = sample_bundle()
    folder = write_layout(tmp_path / "bundle", source, digest)
    (folder / "index.json").write_bytes(b" " * (64 * 1024 + 1))
    assert _refusal(lambda: LayoutDirectory(folder).manifest_descriptor()) == "too_large"
