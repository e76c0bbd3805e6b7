"""Is there room for what is to be downloaded? Asked before the first byte, so that a disk is never filled up in vain."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from device_client.errors import StateError
from device_client.install.sealed import sealed_bytes
from device_client.install.store import BlobStore
from device_client.trust.refs import BlobRef


def check_space(store: BlobStore, missing: Collection[BlobRef], *, reserve_bytes: int) -> None:
    """Compares free space with what the missing blobs take on the disk; makes room by dropping other unfinished ones.

    Args:
        store: where they shall go.
        missing: their content.
        reserve_bytes: that must stay free, for the database and for others.

    Raises:
        StateError: ``disk_full``, with what is needed and what is free.
    """
    needed = sum(max(0, sealed_bytes(ref.length) - store.partial_bytes(ref.digest)) for ref in missing)
    if free_bytes(store.root) >= needed + reserve_bytes:
        return
    store.drop_partials(but=frozenset(ref.digest for ref in missing))
    free = free_bytes(store.root)
    if free < needed + reserve_bytes:
        raise StateError(
            "there is no room for the download",
            code="disk_full",
            where=str(store.root),
            expected=f"{needed} bytes, and {reserve_bytes} in reserve",
            actual=f"{free} bytes free",
            hint="free some space; the running model is not touched",
        )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where ``folder`` is, or will be."""
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
