"""One refresh of TUF metadata: the device's only way to learn what is signed.

``MetadataClient.refresh`` is the numbered main path. It drives ``tuf.ngclient`` (``updater.py``) from bootstrap bytes, with our
fetcher, trusted time and memory of versions; foreign errors become reason codes at one border (``foreign_errors.py``). A new
updater for every refresh, since python-tuf allows one each.

    client = MetadataClient(metadata_dir=cache, base_url=url + "/tuf/", bootstrap=root_bytes)
    trusted = client.refresh(marks, remember=store)
    agreed = trusted.agree(BundlePath("digits", "ocr", "1.0.0"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from tuf.api.metadata import Signed
from tuf.ngclient import FetcherInterface

from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.cache import clear_strangers
from device_client.trust.expiry import NO_GRACE
from device_client.trust.fetcher import SealiftFetcher
from device_client.trust.foreign_errors import mapped_errors
from device_client.trust.marks import Marks
from device_client.trust.rules import check_top_level
from device_client.trust.times import utc_now
from device_client.trust.trusted_metadata import TOP_LEVEL, TrustedMetadata
from device_client.trust.trusted_time import BootTime, boot_time
from device_client.trust.updater import StrictUpdater

Remember = Callable[[Marks, Mapping[int, bytes]], None]


class MetadataClient:
    """Refreshes metadata against one repository.

    Args:
        metadata_dir: the TUF cache; disposable, one process at a time.
        base_url: where the metadata files are, ending in ``/``.
        bootstrap: bytes of the root that trust starts from; never fetched, never taken from the cache.
        limits: caps for each role.
        clock: the wall clock, aware UTC.
        uptime: the boot clock, by which floors of trusted time go on.
        fetcher: how bytes are fetched.
        grace: how long past its expiry snapshot and timestamp still count; for files brought by hand, at their owner's word.
        rules: what is asked of each top-level role beyond TUF; only ``tests/conformance/client`` asks for less.
    """

    def __init__(
        self,
        *,
        metadata_dir: Path,
        base_url: str,
        bootstrap: bytes,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], datetime] = utc_now,
        uptime: Callable[[], BootTime] = boot_time,
        fetcher: FetcherInterface | None = None,
        grace: timedelta = NO_GRACE,
        rules: Callable[[str, Signed], None] = check_top_level,
    ) -> None:
        self._metadata_dir = metadata_dir
        self._base_url = base_url
        self._bootstrap = bootstrap
        self._limits = limits
        self._clock = clock
        self._uptime = uptime
        self._fetcher = fetcher
        self._grace = grace
        self._rules = rules

    def refresh(self, marks: Marks, remember: Remember | None = None) -> TrustedMetadata:
        """Loads root, timestamp, snapshot and targets as TUF says, each compared with what is remembered.

        Args:
            marks: what is remembered of this repository.
            remember: called exactly once, with marks and all verified roots: also when the refresh fails, with what was verified
                until then, so that a repository that breaks off half-way cannot keep a device from remembering.

        Raises:
            TrustError: ``signature_threshold``, ``metadata_rollback``, ``metadata_expired``, ``metadata_mismatch``,
                ``equivocation``, ``metadata_invalid``, ``roles_share_keys``, ``issued_missing``, ``issued_order``,
                ``expiry_over_cap``.
            FormatError, LimitError: a file that is not strict JSON or beyond its cap, or a root chain beyond its own.
            TransportError: no answer, or an HTTP error.
            OSError: the cache cannot be written; it may be deleted at any time.
        """
        clear_strangers(self._metadata_dir)
        with mapped_errors(self._base_url):
            updater = StrictUpdater(
                metadata_dir=self._metadata_dir,
                base_url=self._base_url,
                bootstrap=self._bootstrap,
                fetcher=self._fetcher or SealiftFetcher(),
                limits=self._limits,
            )
        trusted = TrustedMetadata(
            updater, marks=marks, limits=self._limits, clock=self._clock, uptime=self._uptime, grace=self._grace
        )
        try:
            with mapped_errors(self._base_url):
                updater.load_roots()  # 1. every root, each signed by the one before it
                trusted.take("root", rules=self._rules)  # 2. by what its keys ever signed: how late is it at least?
                trusted.check_expiry(("root",), trusted.time)
                for role in ("timestamp", "snapshot", "targets"):  # 3. each named by the one before, and not below its mark
                    updater.load_top_level(role)
                    trusted.take(role, rules=self._rules)
                trusted.check_expiry(TOP_LEVEL, trusted.time)  # 4. none has expired by what the later ones say about the time
        finally:
            if remember is not None:
                remember(trusted.marks, updater.root_chain())
        return trusted
