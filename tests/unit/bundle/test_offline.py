"""The reader of the offline file takes exactly what the format says, in bounded memory, and never uses a name as a path."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle import Digest, copy_blob, verify_bundle
from device_client.bundle.offline import MetadataName, OfflineFile, open_offline, read_offline
from device_client.errors import IntegrityError, SealiftError
from device_client.limits import DEFAULT_LIMITS, KIB, MIB, Limits
from tests.unit.bundle.archives import BLOCK, RECORD, archive, blob, by_tarfile, closed, good_members, member
from tests.unit.bundle.samples import sample_bundle

GOOD = good_members()
HEX = "0" * 64
A, B = blob(b"a"), blob(b"b")


def read(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> OfflineFile:
    return read_offline(io.BytesIO(data), limits=limits)


def refused(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> str:
    with pytest.raises(SealiftError) as refusal:
        read(data, limits=limits)
    return refusal.value.code


def good_with(extra: bytes) -> bytes:
    """The good file with one more raw member at its end."""
    return closed(*(member(name, data) for name, data in GOOD.items()), extra)


# What is accepted


@pytest.mark.parametrize("make", [by_tarfile, archive], ids=["by tarfile", "by hand"])
def test_metadata_and_blobs_of_a_good_file_are_read_as_they_are(make: Callable[[dict[str, bytes]], bytes]) -> None:
    offline = read(make(GOOD))
    assert {f"metadata/{name}": data for name, data in offline.metadata.items()} == {
        name: data for name, data in GOOD.items() if name.startswith("metadata/")
    }
    assert offline.metadata[MetadataName("root", 2)] == b'{"root": 2}'
    assert offline.metadata[MetadataName("timestamp")] == b'{"timestamp": 1}'
    blobs = {Digest(name[13:]): data for name, data in GOOD.items() if name.startswith("blobs/")}
    assert offline.blob_digests() == set(blobs)
    assert {digest: offline.read(digest) for digest in blobs} == blobs
    assert {digest: offline.blob_size(digest) for digest in blobs} == {digest: len(data) for digest, data in blobs.items()}


def test_a_file_made_by_hand_is_the_one_that_tarfile_makes() -> None:
    assert archive(GOOD) == by_tarfile(GOOD)


def test_a_bundle_is_verified_from_an_offline_file_like_from_any_source() -> None:
    source, _, digest = sample_bundle()
    offline = read(archive(good_members(*source.blobs.values())))
    bundle = verify_bundle(offline, digest, closed=True)
    assert bundle.digest == digest
    # B07: what no manifest lists is found by the same rule as in a folder.
    stray = read(archive(good_members(*source.blobs.values(), b"stray")))
    with pytest.raises(IntegrityError, match="does not list"):
        verify_bundle(stray, digest, closed=True)
    lacking = read(archive(good_members(*(data for name, data in source.blobs.items() if name != bundle.manifest.golden.digest))))
    with pytest.raises(IntegrityError, match="blob missing"):
        verify_bundle(lacking, digest)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": b"0000400\0", "uid": b"0001750\0", "gid": b"0001750\0", "mtime": b"15000000000\0"},
        {"uname": b"operator", "gname": b"staff", "devmajor": b"0000000\0", "devminor": b"0000000\0"},
    ],
    ids=["another owner and time", "written by another tar"],
)
def test_owner_permissions_and_time_mean_nothing(fields: dict[str, bytes]) -> None:
    parts = [member(name, data, **fields) for name, data in GOOD.items()]
    assert read(closed(*parts)).blob_digests() == read(archive(GOOD)).blob_digests()


@pytest.mark.parametrize("name", ["1.release-a.json", "1.audit-a-ff.json", f"2147483647.release-{'a' * 64}.json",
                                  f"9.audit-{'a' * 64}-00ff.json", "1.release-a..json"])  # fmt: skip
def test_role_names_up_to_the_longest_are_read(name: str) -> None:
    offline = read(archive({f"metadata/{name}": b"{}", **GOOD}))
    assert name in {str(found) for found in offline.metadata}


def test_a_blob_is_streamed_from_the_file_and_two_streams_do_not_disturb_each_other() -> None:
    first, second = bytes(range(256)) * 5000, b"z" * 3_000_000
    offline = read(archive(good_members(first, second)))
    one, other = offline.open_blob(Digest.of(first)), offline.open_blob(Digest.of(second))
    got = [b"", b""]
    while chunk := one.read(70_001):
        got[0] += chunk
        got[1] += other.read(90_001)
    got[1] += other.read()
    assert got == [first, second]
    out = io.BytesIO()
    copy_blob(offline, Digest.of(first), len(first), out)
    assert out.getvalue() == first


def test_a_file_that_changes_after_it_was_opened_gives_no_other_bytes() -> None:
    data = bytearray(archive(GOOD))
    file = io.BytesIO(data)
    offline = read_offline(file)
    digest = Digest.of(b"a manifest")
    file.getbuffer()[data.index(b"a manifest")] ^= 1
    with pytest.raises(IntegrityError) as refusal:
        offline.read(digest)
    assert refusal.value.code == "blob_digest_mismatch"
    file.truncate(data.index(b"a manifest") + 3)
    with pytest.raises(IntegrityError) as refusal:
        offline.read(digest)
    assert refusal.value.code == "blob_size_mismatch"


def test_a_blob_that_is_not_there_is_missing() -> None:
    for call in (read(archive(GOOD)).open_blob, read(archive(GOOD)).blob_size, read(archive(GOOD)).read):
        with pytest.raises(IntegrityError) as refusal:
            call(Digest.of(b"another"))
        assert refusal.value.code == "blob_missing"


# B01: names that climb, and every other name that the format does not have

BAD_NAMES = {
    "climbs": "../x",
    "climbs inside": f"blobs/sha256/../sha256/{HEX}",
    "absolute": "/etc/passwd",
    "drive letter": "C:/x",
    "backslash": f"blobs\\sha256\\{HEX}",
    "dot in front": "./index.json",
    "doubled slash": f"blobs//sha256/{HEX}",
    "empty": "",
    "folder": "blobs/",
    "upper case": "Index.json",
    "upper-case hex": f"blobs/sha256/{'A' * 64}",
    "short digest": f"blobs/sha256/{'0' * 63}",
    "long digest": f"blobs/sha256/{'0' * 65}",
    "other algorithm": f"blobs/sha512/{HEX}",
    "line feed behind a digest": f"blobs/sha256/{HEX}\n",
    "bare blob": HEX,
    "metadata without version": "metadata/root.json",
    "timestamp with version": "metadata/1.timestamp.json",
    "version 0": "metadata/0.root.json",
    "leading zero": "metadata/01.root.json",
    "signed version": "metadata/+1.root.json",
    "huge version": "metadata/2147483648.root.json",
    "unknown role": "metadata/1.mirrors.json",
    "role of no line": "metadata/1.release-.json",
    "role with a slash": "metadata/1.release-a/b.json",
    "role with dots": "metadata/1.release-a..b.json",
    "upper-case role": "metadata/1.release-A.json",
    "role with a long line": f"metadata/1.release-{'a' * 65}.json",
    "a folder in metadata": "metadata/x/1.root.json",
    "another file": "README.md",
    "control character": "index.json\x07",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_b01_a_name_that_an_offline_file_does_not_have_is_refused(name: str) -> None:
    assert refused(archive({name: b"", **GOOD})) == "offline_name"
    assert refused(good_with(member(name))) == "offline_name"


@pytest.mark.parametrize(
    "raw", [b"index.json\0x", b"\xe2\x80\xa4json", b"index.json\xff"], ids=["behind NUL", "look-alike", "latin"]
)
def test_b01_a_name_that_is_not_plain_ascii_up_to_its_end_is_refused(raw: bytes) -> None:
    assert refused(good_with(member(raw))) == "offline_name"


def test_b01_a_name_put_together_by_the_prefix_field_is_refused() -> None:
    assert refused(good_with(member(A[0].removeprefix("blobs/"), A[1], prefix=b"blobs"))) == "offline_header"
    assert refused(good_with(member(*A, prefix=b".."))) == "offline_header"


def test_b01_opening_reads_the_one_file_and_touches_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.tar"
    path.write_bytes(archive(GOOD))
    opened: list[object] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda name, *rest, **more: (opened.append(name), real(name, *rest, **more))[1])
    with open_offline(path) as offline:
        assert offline.read(Digest.of(b"a manifest")) == b"a manifest"
    assert opened == [path]
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.tar"]


# B02, B03: only regular files

KINDS = {
    "old regular": b"\0", "hard link": b"1", "symbolic link": b"2", "character device": b"3", "block device": b"4", "folder": b"5",
    "fifo": b"6", "contiguous": b"7", "PAX": b"x", "PAX global": b"g", "GNU long name": b"L", "GNU long link": b"K",
    "GNU sparse": b"S", "GNU volume": b"V", "Solaris": b"X", "unknown": b"Z",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_b02_anything_but_a_regular_file_is_refused(kind: bytes) -> None:
    assert refused(good_with(member(*A, kind=kind))) == "offline_type"


def test_b02_a_regular_file_with_a_link_target_is_refused() -> None:
    assert refused(good_with(member(*A, link=b"/etc/passwd"))) == "offline_type"


@pytest.mark.parametrize("mode", [b"0004755\0", b"0002755\0", b"0001755\0", b"0100644\0", b"7777777\0"])
def test_b02_set_id_and_other_bits_are_refused(mode: bytes) -> None:
    assert refused(good_with(member(*A, mode=mode))) == "offline_mode"


def test_b03_a_link_and_a_file_through_it_are_refused_at_the_link() -> None:
    name = "blobs/sha256"
    assert refused(closed(member(name, kind=b"2", link=b"/etc"), *(member(*item) for item in GOOD.items()))) == "offline_type"


def test_b02_the_file_itself_is_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("folder", "fifo", "nothing"):
        with pytest.raises(SealiftError) as refusal, open_offline(tmp_path / name):
            pass
        assert refusal.value.code == "file_missing"


# B04: one name, one member


@pytest.mark.parametrize("name", GOOD)
def test_b04_a_name_that_occurs_twice_is_refused(name: str) -> None:
    assert refused(good_with(member(name, GOOD[name]))) == "offline_duplicate"


def test_b04_a_second_member_of_a_name_is_refused_whatever_it_holds() -> None:
    assert refused(closed(member(*A), member(A[0], b"other"))) == "offline_duplicate"


def test_b04_no_two_names_differ_only_by_case_or_by_unicode_form() -> None:
    """The grammar has no upper case and nothing beyond ASCII, so that such names are refused one by one."""
    for name in (f"blobs/sha256/{A[0][13:].upper()}", "OCI-LAYOUT", "metadata/1.Root.json", "metadata/1.release-é.json"):
        assert refused(good_with(member(name))) == "offline_name"


# B05: bombs


def test_b05_a_million_tiny_members_stop_at_the_bound() -> None:
    limits = replace(DEFAULT_LIMITS, max_offline_members=len(GOOD))
    assert read(archive(GOOD), limits=limits)
    assert refused(good_with(member(*A)), limits=limits) == "too_many"


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        (A[0], {"max_blob_bytes": 5000}),
        ("index.json", {"max_index_bytes": 5000}),
        ("oci-layout", {"max_index_bytes": 5000}),
        ("metadata/1.root.json", {"max_root_bytes": 5000}),
        ("metadata/timestamp.json", {"max_timestamp_bytes": 5000}),
        ("metadata/1.snapshot.json", {"max_snapshot_bytes": 5000}),
        ("metadata/1.targets.json", {"max_targets_bytes": 5000}),
        ("metadata/1.audit-a.json", {"max_targets_bytes": 5000}),
        ("metadata/1.targets.json", {"max_offline_metadata_bytes": 5000}),
        (A[0], {"max_offline_bytes": 512 + 5000}),
    ],
)
def test_b05_a_member_beyond_its_bound_is_refused_before_it_is_read(name: str, bound: dict[str, int]) -> None:
    limits = replace(DEFAULT_LIMITS, **bound)
    only_header = member(name, b"", size=b"%011o\0" % 5001)
    assert refused(only_header, limits=limits) == "too_large"
    assert refused(member(name, b"", size=b"%011o\0" % 5000), limits=limits) == "offline_truncated"


def test_b05_many_role_files_stop_at_the_bound_of_all_of_them() -> None:
    limits = replace(DEFAULT_LIMITS, max_offline_metadata_bytes=3000)
    data = archive({f"metadata/{version}.root.json": bytes(1000) for version in range(1, 5)})
    assert refused(data, limits=limits) == "too_large"


def test_b05_a_file_of_many_members_stops_at_the_bound_of_the_whole() -> None:
    assert refused(archive(GOOD), limits=replace(DEFAULT_LIMITS, max_offline_bytes=5 * KIB)) == "too_large"


class Endless(io.RawIOBase):
    """A header, then as many equal bytes as it says, without holding them."""

    def __init__(self, head: bytes, size: int) -> None:
        self._head, self._size, self._at = head, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        self._at = position
        return position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._at)
        part = self._head[self._at : self._at + length]
        buffer[:length] = part + b"\x55" * (length - len(part))
        self._at += length
        return length


def test_b05_memory_stays_bounded_for_a_blob_of_any_size() -> None:
    size = 256 * MIB
    head = member(A[0], b"", size=b"%011o\0" % size)
    with io.BufferedReader(Endless(head, size + BLOCK)) as file:
        tracemalloc.start()
        with pytest.raises(IntegrityError):  # its name is another's
            read_offline(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * MIB


# B06: one reading of every byte


@pytest.mark.parametrize("magic", [b"ustar  \0", b"ustar\0 0", b"ustar\x0001", b"\0\0\0\0\0\0\0\0", b"USTAR\x0000"])
def test_b06_another_kind_of_header_is_refused(magic: bytes) -> None:
    assert refused(good_with(member(*A, magic=magic))) == "offline_magic"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["GNU", "PAX"])
def test_b06_archives_of_other_forms_are_refused(form: int) -> None:
    members = {**GOOD, "metadata/" + "x" * 120: b""}
    assert refused(by_tarfile(members, form=form)) in {"offline_magic", "offline_type"}


@pytest.mark.parametrize("checksum", [b"000000\0 ", b"       \0", b"0000000\0", b" 12345\0 ", b"\0" * 8])
def test_b06_a_wrong_or_differently_spelled_checksum_is_refused(checksum: bytes) -> None:
    assert refused(good_with(member(*A, checksum=checksum))) == "offline_checksum"


def test_b06_the_right_checksum_in_another_spelling_is_refused() -> None:
    right = member(*A)[148:156]
    for spelling in (right[:6] + b" \0", b"0" + right[:6] + b"\0", right[:6] + b"\0\0", right[:6] + b"  "):
        assert refused(good_with(member(*A, checksum=spelling))) == "offline_checksum"


BAD_NUMBERS = {
    "spaces in front": b"         1\0\0",
    "space at the end": b"00000000001 ",
    "no end": b"000000000001",
    "signed": b"-0000000001\0",
    "base 256": b"\x80" + bytes(10) + b"\x01",
    "digit 8": b"00000000008\0",
    "short": b"1" + bytes(11),
    "nothing": bytes(12),
    "underscore": b"0000000_001\0",
    "0o": b"0o000000001\0",
}


@pytest.mark.parametrize("field", ["size", "mtime"])
@pytest.mark.parametrize("number", BAD_NUMBERS.values(), ids=BAD_NUMBERS.keys())
def test_b06_a_number_in_any_other_spelling_is_refused(field: str, number: bytes) -> None:
    assert refused(good_with(member(*A, **{field: number}))) == "offline_number"


@pytest.mark.parametrize("field", ["mode", "uid", "gid"])
@pytest.mark.parametrize("number", [b"0000644 ", b"00644 \0\0", b"   644 \0", b"644\0\0\0\0\0", bytes(8), b"\x80\0\0\0\0\0\0\1"])
def test_b06_a_short_number_in_any_other_spelling_is_refused(field: str, number: bytes) -> None:
    assert refused(good_with(member(*A, **{field: number}))) == "offline_number"


@pytest.mark.parametrize(
    "fields",
    [
        {"uname": b"a\0b"}, {"gname": b"a b"}, {"uname": b"\x1b[2J"}, {"gname": b"a" * 32}, {"devmajor": b"0000001\0"},
        {"devminor": b"0000000 "}, {"rest": b"\0\0x"}, {"prefix": b"\0" * 154 + b"x"}, {"prefix": b"x"},
    ],
)  # fmt: skip
def test_b06_bytes_in_fields_that_a_plain_file_does_not_use_are_refused(fields: dict[str, bytes]) -> None:
    assert refused(good_with(member(*A, **fields))) == "offline_header"


def test_b06_bytes_behind_the_end_of_a_member_are_refused() -> None:
    whole = bytearray(archive(GOOD))
    whole[whole.index(b"a manifest") + len(b"a manifest")] = 1
    assert refused(bytes(whole)) == "offline_padding"


@pytest.mark.parametrize("extra", [b"\0", b"x", bytes(BLOCK), bytes(RECORD), member(*A), archive(GOOD)])
def test_b06_anything_behind_the_end_is_refused(extra: bytes) -> None:
    assert refused(archive(GOOD) + extra) == "offline_trailing"


def test_b06_a_member_behind_the_zero_blocks_is_refused() -> None:
    body = b"".join(member(*item) for item in GOOD.items())
    for zeros in (BLOCK, 2 * BLOCK):
        assert refused(closed(body + bytes(zeros) + member(*A))) == "offline_trailing"


def test_b06_every_byte_of_the_end_is_zero() -> None:
    whole = archive(GOOD)
    for at in (len(whole) - 1, len(whole) - BLOCK, len(whole.rstrip(b"\0")) + 600):
        assert refused(whole[:at] + b"x" + whole[at + 1 :]) in {"offline_trailing", "offline_padding"}


def test_b06_a_file_cut_anywhere_is_refused() -> None:
    whole = archive(good_members(b"one", b"two"))
    for length in range(0, len(whole), 61):
        assert refused(whole[:length]) == "offline_truncated", length
    assert refused(whole[:-1]) == "offline_truncated"
    assert refused(whole[:-BLOCK]) == "offline_truncated"


def test_a_blob_whose_bytes_are_not_its_name_is_refused() -> None:
    assert refused(good_with(member(A[0], b"b"))) == "blob_digest_mismatch"


def test_metadata_behind_another_member_is_refused() -> None:
    assert refused(good_with(member("metadata/9.root.json"))) == "offline_order"
    assert refused(closed(member(*A), member("metadata/timestamp.json"))) == "offline_order"


@pytest.mark.parametrize("name", ["oci-layout", "index.json", "metadata/timestamp.json"])
def test_a_file_without_one_of_its_fixed_members_is_refused(name: str) -> None:
    assert refused(archive({other: data for other, data in GOOD.items() if other != name})) == "offline_incomplete"
    assert refused(closed()) == "offline_incomplete"


def test_a_disk_that_refuses_is_an_error_of_ours() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(SealiftError) as refusal:
        read_offline(Broken(b"x"))
    assert refusal.value.code == "read_failed"


def test_any_one_byte_changed_is_refused_or_means_nothing() -> None:
    """Owner, group, permissions and times are the only bytes without a meaning, and the checksum covers them."""
    whole = archive(GOOD)
    before = read(whole)
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        try:
            after = read(changed)
        except SealiftError:
            continue
        # Left are the bytes of unsigned metadata and of the two files that nobody reads: their signatures are not checked here.
        assert after.blob_digests() == before.blob_digests()
        changed_files = [name for name, data in after.metadata.items() if data != before.metadata[name]]
        inside = whole[at - at % BLOCK : at - at % BLOCK + BLOCK].rstrip(b"\0")
        assert len(changed_files) == 1 or inside in {GOOD["oci-layout"], GOOD["index.json"]}


@given(st.lists(st.binary(max_size=1200), max_size=5, unique=True), st.integers(0, 3))
def test_what_tarfile_writes_by_the_format_reads_back_equal(blobs: list[bytes], roots: int) -> None:
    members = {f"metadata/{version + 5}.root.json": b"%d" % version for version in range(roots)}
    members |= {"metadata/timestamp.json": b"{}", "index.json": b"[]", "oci-layout": b"{}"} | dict(blob(data) for data in blobs)
    offline = read(by_tarfile(members))
    assert {offline.read(digest) for digest in offline.blob_digests()} == set(blobs)
    assert len(offline.metadata) == roots + 1
