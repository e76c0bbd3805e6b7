"""B01 to B06 through the command: a file that is not exactly of the format is refused, and no byte of the device has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from device_client.bundle.digest import Digest
from device_client.commands import device
from device_client.console import run_main
from tests.unit.bundle.archives import BLOCK, RECORD, archive, blob, by_tarfile, closed, member
from tests.unit.bundle.test_offline import BAD_NAMES, BAD_NUMBERS, KINDS
from tests.unit.device.offline_files import import_into, release, snapshot_of, write_file
from tests.unit.device.test_import import passes
from tests.unit.device.world import World, bundle

Make = Callable[[Mapping[str, bytes]], bytes]
EXTRA = blob(b"one more blob")
LINK = b"/etc/passwd"


def import_by_command(world: World, path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and code of ``sealift device import``."""
    arguments = ["import", str(path), "--dir", str(world.device.folder.path), "--json"]
    status = run_main(device, prog_name="sealift device", args=arguments)
    return status, json.loads(capsys.readouterr().out)["code"]


def _good_and(*more: bytes) -> Make:
    def make(good: Mapping[str, bytes]) -> bytes:
        return closed(*(member(*item) for item in good.items()), *more)

    return make


def _instead(made: bytes) -> Make:
    return lambda good: closed(made, *(member(*item) for item in good.items()))


def _behind(extra: bytes) -> Make:
    return lambda good: archive(good) + extra


def _twice(name: str) -> Make:
    return lambda good: closed(*(member(*item) for item in good.items()), member(name, good[name]))


def _without(name: str) -> Make:
    return lambda good: archive({each: data for each, data in good.items() if each != name})


def _cut(share: float) -> Make:
    return lambda good: archive(good)[: int(len(archive(good)) * share)]


def _flipped(good: Mapping[str, bytes]) -> bytes:
    name = next(name for name in good if name.startswith("blobs/"))
    return archive({**good, name: bytes([good[name][0] ^ 1]) + good[name][1:]})


def _padded(good: Mapping[str, bytes]) -> bytes:
    data = bytearray(archive(good))
    end = data.index(good["oci-layout"]) + len(good["oci-layout"])
    data[end] = 1
    return bytes(data)


def _crowd(good: Mapping[str, bytes]) -> bytes:
    return closed(*(member(*item) for item in good.items()), *(member(*blob(b"%d" % number)) for number in range(4096)))


def _by_tarfile(form: int) -> Make:
    return lambda good: by_tarfile({**good, f"blobs/sha256/{'x' * 120}": b""}, form=form)


CASES: dict[str, tuple[Make, str]] = {
    **{f"B01 {why}": (_instead(member(name)), "offline_name") for why, name in BAD_NAMES.items()},
    "B01 a name behind NUL": (_good_and(member(b"index.json\0x")), "offline_name"),
    "B01 a name put together by the prefix": (_good_and(member(EXTRA[0], EXTRA[1], prefix=b"..")), "offline_header"),
    **{f"B02 {why}": (_good_and(member(*EXTRA, kind=kind)), "offline_type") for why, kind in KINDS.items()},
    "B02 a link target on a regular file": (_good_and(member(*EXTRA, link=LINK)), "offline_type"),
    **{f"B02 mode {mode[:7].decode()}": (_good_and(member(*EXTRA, mode=mode)), "offline_mode")
       for mode in (b"0004755\0", b"0002755\0", b"0001755\0")},
    "B03 a link, then files through it": (_instead(member("blobs/sha256", kind=b"2", link=b"/etc")), "offline_type"),
    "B04 the timestamp twice": (_twice("metadata/timestamp.json"), "offline_duplicate"),
    "B04 the index twice": (_twice("index.json"), "offline_duplicate"),
    "B04 a name that differs by case": (_good_and(member(EXTRA[0].upper())), "offline_name"),
    "B04 a name that differs by its Unicode form": (_good_and(member("index.jsön".encode())), "offline_name"),
    "B05 thousands of members": (_crowd, "too_many"),
    "B05 a blob beyond its bound": (_good_and(member(EXTRA[0], b"", size=b"%011o\0" % (2**31 + 1))), "too_large"),
    "B05 metadata beyond its bound": (_instead(member("metadata/7.root.json", b"", size=b"77777777777\0")), "too_large"),
    "B05 a size that the file does not have": (_good_and(member(EXTRA[0], b"", size=b"%011o\0" % 2**30)), "offline_truncated"),
    "B06 bytes behind the end": (_behind(b"x"), "offline_trailing"),
    "B06 a block of zeros behind the end": (_behind(bytes(BLOCK)), "offline_trailing"),
    "B06 a record of zeros behind the end": (_behind(bytes(RECORD)), "offline_trailing"),
    "B06 a second archive behind the end": (_behind(archive(dict([EXTRA]))), "offline_trailing"),
    "B06 bytes behind a member": (_padded, "offline_padding"),
    "B06 a header of another form": (_good_and(member(*EXTRA, magic=b"ustar  \0")), "offline_magic"),
    "B06 a wrong checksum": (_good_and(member(*EXTRA, checksum=b"000000\0 ")), "offline_checksum"),
    **{f"B06 a size with {why}": (_good_and(member(*EXTRA, size=number)), "offline_number") for why, number in BAD_NUMBERS.items()},
    "B06 a GNU archive": (_by_tarfile(1), "offline_magic"),
    "B06 a PAX archive": (_by_tarfile(2), "offline_type"),
    "cut in the middle": (_cut(0.5), "offline_truncated"),
    "cut before its last byte": (lambda good: archive(good)[:-1], "offline_truncated"),
    "empty": (lambda _: b"", "offline_truncated"),
    "metadata behind a blob": (_good_and(member("metadata/9.root.json", b"{}")), "offline_order"),
    "no index": (_without("index.json"), "offline_incomplete"),
    "no timestamp": (_without("metadata/timestamp.json"), "offline_incomplete"),
    "a blob that is not what its name says": (_flipped, "blob_digest_mismatch"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, bytes], dict[str, bytes]]:
    """A device that runs 1.0.0, the members of a good file with 1.1.0, and every byte of the device."""
    world = World(tmp_path_factory.mktemp("hostile") / "device")
    world.publish(bundle("1.0.0", counter=1))
    world.poll(selftest=passes)
    good = release(world, bundle("1.1.0", counter=2, scale=3.0), seq=2)
    return world, good, snapshot_of(world.device.folder.path)


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_breaks_the_format_is_refused_and_nothing_has_changed(
    shared: tuple[World, dict[str, bytes], dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    world, good, before = shared
    make, code = CASES[case]
    (tmp_path / "F.tar").write_bytes(make(good))
    assert import_by_command(world, tmp_path / "F.tar", capsys) == (1, code)
    assert snapshot_of(world.device.folder.path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["F.tar"], "nothing is unpacked"


def test_the_good_file_of_these_cases_installs(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    good = release(world, bundle("1.1.0", counter=2, scale=3.0))
    assert import_into(world, write_file(tmp_path / "F.tar", good), selftest=passes).result == "installed"


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_what_is_no_file_is_wrong_use(
    shared: tuple[World, dict[str, bytes], dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    world, _, before = shared
    path = tmp_path / "F.tar"
    if kind == "folder":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    assert import_by_command(world, path, capsys) == (2, "file_missing")
    assert snapshot_of(world.device.folder.path) == before


def test_b07_a_blob_that_nothing_names_is_never_looked_at_and_never_stored(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    good = release(world, bundle("1.0.0", counter=1))
    assert import_into(world, write_file(tmp_path / "F.tar", {**good, **dict([EXTRA])}), selftest=passes).result == "installed"
    held = {path.name for path in world.device.folder.blobs.rglob("*")}
    assert not [name for name in held if Digest.of(EXTRA[1]).hex in name]
