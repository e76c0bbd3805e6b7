"""The parts of one running server, put together from its data folder.

with open_service(data, loopback=True, passphrase=ask_passphrase) as service:
    app = create_app(service)
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from device_client.errors import StateError
from device_client.trust.keys import PassphraseSource, load_signer
from device_client.trust.times import utc_now
from update_server.audience import Audience
from update_server.blobs import BlobStore
from update_server.database import Database
from update_server.journal import Refusals
from update_server.publish import Publisher
from update_server.repository import OnlineRepository
from update_server.settings import Settings, load_settings

logger = logging.getLogger(__name__)

METADATA_FOLDER = "tuf"
LOCK_FILE = "server.lock"


@dataclass(frozen=True)
class Service:
    """What the request path works with."""

    settings: Settings
    metadata_folder: Path
    blobs_folder: Path
    database: Database
    blobs: BlobStore
    publisher: Publisher
    audience: Audience
    refusals: Refusals
    clock: Callable[[], datetime]


@contextmanager
def open_service(
    data: Path, *, loopback: bool, passphrase: PassphraseSource, clock: Callable[[], datetime] = utc_now
) -> Iterator[Service]:
    """The server of a data folder, to be used until the context ends.

    Removes what a crash left over, sets the offers to what is published and renews the online roles if they are due.

    Args:
        data: folder made by `server init`.
        loopback: whether it will listen on a loopback address only.
        passphrase: opens the online keys.
        clock: current time, aware UTC.

    Raises:
        UsageError: not such a folder, or a key that does not open.
        StateError: another server uses the folder, or its files are damaged.
    """
    settings = load_settings(data)
    with _sole_owner(data):
        repository = OnlineRepository(
            data / METADATA_FOLDER,
            snapshot_signer=load_signer(settings.snapshot_key, passphrase=passphrase),
            timestamp_signer=load_signer(settings.timestamp_key, passphrase=passphrase),
            clock=clock,
        )
        blobs_folder = settings.blobs_path(data)
        blobs = BlobStore(blobs_folder)
        leftovers = blobs.remove_leftovers()
        if leftovers:
            logger.info("removed %d files of interrupted uploads", leftovers)
        database = Database(settings.database_path(data))
        try:
            publisher = Publisher(database, blobs, repository, clock=clock)
            publisher.reconcile()
            publisher.renew_if_due()
            yield Service(
                settings=settings,
                metadata_folder=data / METADATA_FOLDER,
                blobs_folder=blobs_folder,
                database=database,
                blobs=blobs,
                publisher=publisher,
                audience=Audience(frozenset(settings.public_urls), loopback=loopback),
                refusals=Refusals(database, clock=clock),
                clock=clock,
            )
        finally:
            database.close()


@contextmanager
def _sole_owner(data: Path) -> Iterator[None]:
    """One process owns the folder: one writer, one publisher. The kernel drops the lock when the process ends."""
    descriptor = os.open(data / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise StateError(
                "another server uses this data folder",
                code="data_in_use",
                where=str(data),
                hint="stop it first, or use another --data",
            ) from e
        yield
    finally:
        os.close(descriptor)
