"""Publishing: a draft becomes what devices see, one publish at a time.

    draft in the database -> admit -> N.role.json -> N.snapshot.json -> timestamp.json -> draft forgotten, offers set

A crash anywhere before the timestamp leaves the old set visible and the draft in place, so the same request simply
runs again; a crash after it leaves the new set, and the request finds it published. Offers follow from the published
channels and are set again at every start.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tuf.api.metadata import Targets

from device_client.errors import TrustError, VerificationError
from device_client.trust.rules import delegation_for
from device_client.trust.times import format_time, utc_now
from update_server.admission import admit, offers_of
from update_server.blobs import BlobStore
from update_server.database import Database
from update_server.drafts import Draft, drop_draft, load_draft, store_draft, verify_draft
from update_server.journal import append
from update_server.offers import set_offers
from update_server.problem import ApiError
from update_server.repository import OnlineRepository

logger = logging.getLogger(__name__)

EXPIRY_WARNING = timedelta(days=7)


@dataclass(frozen=True)
class PublishResult:
    """What is published now; ``changed`` is false when it was before."""

    role: str
    version: int
    snapshot: int
    timestamp: int
    changed: bool


class Publisher:
    """Keeps drafts and publishes them; every method may be called from any thread."""

    def __init__(
        self, database: Database, blobs: BlobStore, repository: OnlineRepository, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._repository = repository
        self._clock = clock
        self._lock = threading.Lock()  # between processes: service.py lets one process own the data folder

    def role_bytes(self, role: str) -> bytes:
        """The published bytes of a role.

        Raises:
            ApiError: 404 ``role_unknown`` or ``role_unpublished``.
        """
        self._check_role(role)
        data = self._repository.role_bytes(role)
        if data is None:
            raise ApiError("the role has no version yet", status=404, code="role_unpublished", where=role)
        return data

    def draft_bytes(self, role: str) -> bytes:
        """The prepared next version of a role.

        Raises:
            ApiError: 404 ``role_unknown`` or ``draft_missing``.
        """
        self._check_role(role)
        published = self._repository.version_of(role)
        data = self._database.read(lambda connection: load_draft(connection, role, published=published))
        if data is None:
            raise _draft_missing(role)
        return data

    def put_draft(self, role: str, data: bytes, *, replace: bool) -> tuple[Draft, bool]:
        """Verifies and stores a draft; returns it, and whether there was none before."""
        self._check_role(role)
        published = self._repository.version_of(role)
        draft = verify_draft(data, role=role, targets=self._repository.targets(), published=published)
        is_new = self._database.write(
            lambda connection: store_draft(connection, draft, published=published, replace=replace)
        ).result()
        return draft, is_new

    def publish(self, role: str, *, version: int | None) -> PublishResult:
        """Publishes the role's draft.

        Args:
            role: a delegated role.
            version: the version that the caller means, or None for whatever is prepared.

        Raises:
            ApiError: 404 ``draft_missing``, 409 ``publish_version``.
            VerificationError: the draft is refused; nothing changed.
        """
        self._check_role(role)
        with self._lock:
            published = self._repository.version_of(role)
            data = self._database.read(lambda connection: load_draft(connection, role, published=published))
            if data is None:
                return self._already_published(role, published, version)
            current = self._repository.delegated(role)
            targets = self._repository.targets()
            if version is not None and version != published + 1:
                raise ApiError(
                    "another version is prepared",
                    status=409,
                    code="publish_version",
                    where=role,
                    expected=published + 1,
                    actual=version,
                )
            try:
                admitted = admit(data, role=role, targets=targets, current=current, blobs=self._blobs, now=self._clock())
            except VerificationError as error:
                self._record(role, published + 1, outcome="refused", code=error.code, detail=str(error))
                raise
            done = self._repository.publish_role(role, admitted.data, version=admitted.version)
            self._settle(role, admitted.version)
            self._record(role, admitted.version, outcome="done")
        logger.info("published %s version %d, snapshot %d, timestamp %d", role, done.version, done.snapshot, done.timestamp)
        return PublishResult(role, done.version, done.snapshot, done.timestamp, changed=True)

    def reconcile(self) -> None:
        """Sets the offers to what is published; at start, since a crash may have come between the two."""
        with self._lock:
            for role in delegated_roles(self._repository.targets()):
                version = self._repository.version_of(role)
                try:
                    if version:
                        self._settle(role, version)
                except VerificationError as error:
                    # a damaged channel: what was offered stays offered, and devices judge it themselves
                    logger.error("cannot read what %s offers: %s", role, error)  # noqa: TRY400  # the cause is the message

    def renew_if_due(self) -> None:
        """Signs snapshot and timestamp again before they expire, and says so when an offline role is about to."""
        with self._lock:
            done = self._repository.renew_if_due()
            expiries = self._repository.expiries()
        if done is not None:
            logger.info("renewed the online roles: snapshot %d, timestamp %d", done.snapshot, done.timestamp)
        for role, expires in expiries.items():
            if expires - self._clock() < EXPIRY_WARNING:
                logger.warning(
                    "role %s expires %s; sign its next version now, or devices stop installing", role, format_time(expires)
                )

    def _settle(self, role: str, version: int) -> None:
        """Forgets the draft and, for a release role, offers what its channels name."""
        signed = self._repository.delegated(role)
        offers = offers_of(signed, self._blobs) if role.startswith("release-") and signed is not None else None

        def settle(connection: sqlite3.Connection) -> None:
            drop_draft(connection, role, version=version)
            if offers is not None:
                set_offers(connection, role.removeprefix("release-"), offers)

        self._database.write(settle).result()

    def _record(self, role: str, version: int, *, outcome: str, code: str | None = None, detail: str = "") -> None:
        now, action = self._clock(), f"publish {role} {version}"
        self._database.write(
            lambda connection: append(connection, now=now, actor=role, action=action, outcome=outcome, code=code, detail=detail)
        ).result()

    def _already_published(self, role: str, published: int, version: int | None) -> PublishResult:
        if version is None or version != published:
            raise _draft_missing(role)
        return PublishResult(role, published, *self._repository.online_versions(), changed=False)

    def _check_role(self, role: str) -> None:
        if role in {"root", "targets", "snapshot", "timestamp"}:
            return
        try:
            delegation_for(self._repository.targets(), role)
        except TrustError as e:
            raise ApiError(e.what, status=404, code="role_unknown", where=role[:100], hint=e.hint) from e


def delegated_roles(targets: Targets) -> list[str]:
    """The names of the delegated roles."""
    delegations = targets.delegations
    return [] if delegations is None or delegations.roles is None else list(delegations.roles)


def _draft_missing(role: str) -> ApiError:
    return ApiError(
        "nothing is prepared for this role", status=404, code="draft_missing", where=role, hint="run `sealift sign` first"
    )
