"""``read_offline``: what is accepted is what the standard library's tarfile reads, member for member, and nothing more."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator

from device_client.bundle.digest import Digest
from device_client.bundle.offline import OfflineFile, read_offline
from tests.fuzz.archive_mutator import NAMES, VALUES, mutate_archive
from tests.fuzz.target import accepted, promise
from tests.unit.bundle.archives import archive, blob, closed, good_members, member

MAX_BYTES = 65_536
WORDS = (*(word for word in (*NAMES, *VALUES) if word), b"blobs/sha256/", b"metadata/", b".json", b"release-", b"audit-")


def fuzz_one(data: bytes) -> None:
    """See the module."""
    file = io.BytesIO(data)
    offline = accepted(lambda: read_offline(file))
    if offline is None:
        return
    promise(file.read() == b"" and len(data) % 10_240 == 0, "not read to its end")
    members = _by_tarfile(data)
    found = _found(offline)
    promise(members.keys() - found.keys() == {"oci-layout", "index.json"}, "tarfile reads other members")
    promise(all(members[name] == content for name, content in found.items()), "tarfile reads other bytes")
    promise(read_offline(io.BytesIO(archive(members))).blob_digests() == offline.blob_digests(), "written back, it is another file")


def _found(offline: OfflineFile) -> dict[str, bytes]:
    blobs = {f"blobs/sha256/{digest.hex}": offline.read(digest) for digest in offline.blob_digests()}
    promise(all(Digest.of(data).hex == name[13:] for name, data in blobs.items()), "a blob under another name")
    return {**{f"metadata/{name}": data for name, data in offline.metadata.items()}, **blobs}


def _by_tarfile(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", format=tarfile.USTAR_FORMAT) as tar:
        for info in tar:
            content = tar.extractfile(info)
            promise(info.isreg() and content is not None, "not a regular file for tarfile")
            promise(info.name not in found, "a name twice")
            found[info.name] = content.read() if content else b""
    return found


def seeds() -> Iterator[bytes]:
    """Good files, and one of each defect."""
    good = good_members(b"a manifest", b"x" * 513)
    yield archive(good)
    small = dict.fromkeys(("metadata/timestamp.json", "oci-layout", "index.json"), b"{}")
    yield archive(small)
    name, data = blob(b"more")
    for fields in ({"kind": b"2"}, {"mode": b"0004755\0"}, {"prefix": b"x"}, {"magic": b"ustar  \0"}, {"size": b"77777777777\0"}):
        yield closed(*(member(*item) for item in small.items()), member(name, data, **fields))
    yield archive([*small.items(), (name, b"other")])
    yield archive([*small.items(), *small.items()])
    yield archive([("oci-layout", b""), ("metadata/1.root.json", b"")])
    yield archive(small)[:-1]
    yield archive(small) + bytes(512)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Changes to headers and members."""
    return mutate_archive(data, rng)
