"""Signs for any offline role: the first call prepares the role's next version, later calls add signatures.

Every call returns what would change against the published version and who is missing, so that a person signs what
they have seen. A release role also writes the channel; an audit role verifies its attestations first.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root, Targets

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.bundle.verified import VerifiedBundle
from device_client.errors import LimitError, UsageError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.attestation_set import verify_attestation_set
from device_client.trust.channel import Channel, parse_channel
from device_client.trust.custom import AuditCustom, ReleaseCustom, Rollout, VariantVerdict, parse_audit_custom, parse_release_custom
from device_client.trust.expected_policy import ExpectedPolicy
from device_client.trust.refs import BlobRef
from device_client.trust.rules import keys_of_top_level, parse_role
from packager.changes import changes_of
from packager.published import Published
from packager.repository import Signatures, add_signature, next_delegated, signatures_of, signatures_on_next_root, to_bytes
from packager.staging import Staging


@dataclass(frozen=True)
class Draft:
    """A role's next version as it stands: ``changes`` are lines for a person, ``blobs`` must be stored with it.

    ``root_digest`` is of the root that the published roles were verified with, where the signer's trust starts. ``own`` are
    the keys and threshold that a next root sets for itself: it must meet them and those of the root before.
    """

    role: str
    metadata: Metadata[Any]
    changes: tuple[str, ...]
    keys: tuple[Key, ...]
    threshold: int
    blobs: Mapping[BlobRef, bytes]
    root_digest: Digest
    own: tuple[tuple[Key, ...], int] | None = None

    @property
    def signatures(self) -> Signatures:
        """Who signed and who is missing."""
        keys = list(self.keys)
        if self.own is None:
            return signatures_of(self.metadata, keys=keys, threshold=self.threshold)
        own_keys, own_threshold = self.own
        return signatures_on_next_root(self.metadata, before=(keys, self.threshold), own=(list(own_keys), own_threshold))

    @property
    def signer_keys(self) -> list[Key]:
        """Every key whose signature counts."""
        return [*self.keys, *(self.own[0] if self.own else ())]


def prepare_release(
    bundle: VerifiedBundle, *, staging: Staging, measurements: bytes, floor: Counter | None, rollout: Rollout, now: datetime
) -> Draft:
    """The next version of the bundle's release role: the bundle's entry and the channel document.

    Raises:
        UsageError: ``counter_not_above``, ``version_exists``, ``floor_above_counter``.
    """
    path, counter = bundle.path, bundle.contract.counter
    role = path.of_model.release_role
    published = Published(staging)
    current = published.delegated(role)
    manifest = BlobRef(bundle.digest, len(bundle.manifest_bytes))
    _check_new(current, path, counter)
    channel = _published_channel(current, path, staging)
    floor = floor or (channel.floor if channel else Counter(counter.epoch, 0))
    if floor > counter:
        raise UsageError(
            "the floor is above the release's own counter", code="floor_above_counter", expected=f"at most {counter}", actual=floor
        )
    measurements_ref = BlobRef.of(measurements)
    custom = ReleaseCustom(counter, floor, measurements_ref, rollout)
    channel_bytes = Channel(path.version, counter, channel.floor if channel else Counter(counter.epoch, 0)).to_bytes()
    entries: dict[str, tuple[BlobRef, dict[str, object] | None]] = {
        path.release_target: (manifest, custom.to_json()),
        path.of_model.channel_target: (BlobRef.of(channel_bytes), None),
    }
    metadata = next_delegated(current, role, entries=entries, now=now)
    blobs = {measurements_ref: measurements, BlobRef.of(channel_bytes): channel_bytes, manifest: bundle.manifest_bytes}
    return _draft(role, metadata, published, current, staging=staging, blobs=blobs)


def prepare_audit(
    bundle: VerifiedBundle,
    *,
    staging: Staging,
    attestations: Sequence[bytes],
    floor: Counter | None,
    now: datetime,
    expected: ExpectedPolicy | None = None,
) -> Draft:
    """The next version of the bundle's audit role: one entry whose verdicts come from verified attestations.

    The counter and floor are those of the release entry where one is prepared or published. What `audit verify --bundle` refuses
    is refused here, by the same function; a waiver needs the signatures of as many auditors as the role itself.

    Args:
        bundle: what the entry is about.
        staging: where the published roles are.
        attestations: one for each variant.
        floor: devices refuse releases below it.
        now: the clock.
        expected: the audit policy that all must have been made under; None accepts any one policy.

    Raises:
        UsageError: no attestation.
        FormatError, TrustError: see ``verify_attestation_set``.
    """
    path = bundle.path
    role = path.of_model.audit_role
    published = Published(staging)
    current = published.delegated(role)
    keys, threshold = published.keys(role)
    verified = verify_attestation_set(
        [(f"attestation {index + 1}", data) for index, data in enumerate(attestations)],
        variants={variant.model.digest: variant.id for variant in bundle.contract.variants},
        keys=keys,
        now=now,
        waiver_threshold=threshold,
        expected=expected,
    )
    first = verified[0].audit
    custom = AuditCustom(
        seq=_next_seq(current, path),
        counter=bundle.contract.counter,
        floor=floor or _release_floor(published, staging, path) or Counter(bundle.contract.counter.epoch, 0),
        status="active",
        reason="",
        policy=first.policy,
        suite=first.suite,
        threat_model=first.threat_model,
        variants={
            item.audit.subject: VariantVerdict(item.audit.verdict, item.audit.tier, item.audit.expires, item.envelope)
            for item in verified
        },
    )
    manifest = BlobRef(bundle.digest, len(bundle.manifest_bytes))
    metadata = next_delegated(current, role, entries={path.audit_target: (manifest, custom.to_json())}, now=now)
    blobs = {item.envelope: data for item, data in zip(verified, attestations, strict=True)}
    return _draft(role, metadata, published, current, staging=staging, blobs=blobs)


def open_draft(role: str, *, staging: Staging) -> Draft | None:
    """The prepared version of any offline role; None if nothing is prepared.

    Raises:
        TrustError: it is not a next version of that role, or what is published does not verify.
    """
    data = staging.draft(role)
    if data is None:
        return None
    published = Published(staging)
    metadata, current = parse_role(data, where=f"draft of {role}"), published.role(role)
    published.check_draft(role, metadata, current)
    return _draft(role, metadata, published, current, staging=staging, blobs={})


def same_content(draft: Draft, other: Draft) -> bool:
    """Whether two drafts say the same but for the time they were issued."""
    return _without_times(draft.metadata) == _without_times(other.metadata)


def store_signed(draft: Draft, *, signers: Sequence[Signer], staging: Staging, replace: bool, now: datetime) -> Signatures:
    """Adds the signatures and stores draft and blobs.

    Raises:
        UsageError: a key that is not one of the role's.
        TrustError: the draft's issue time is not near this clock.
    """
    for signer in signers:
        add_signature(draft.metadata, signer=signer, role_keys=draft.signer_keys, role=draft.role, now=now)
    for ref, data in draft.blobs.items():
        if not staging.has_blob(ref):
            staging.put_blob(ref, io.BytesIO(data))
    staging.put_draft(draft.role, to_bytes(draft.metadata), replace=replace)
    return draft.signatures


def _draft(
    role: str,
    metadata: Metadata[Any],
    published: Published,
    current: Metadata[Any] | None,
    *,
    staging: Staging,
    blobs: Mapping[BlobRef, bytes],
) -> Draft:
    keys, threshold = published.keys(role)
    own = None
    if isinstance(metadata.signed, Root):
        own = tuple(keys_of_top_level(metadata.signed, "root")), metadata.signed.roles["root"].threshold
    changes = changes_of(current, metadata, describe=lambda path, entry: _channel_text(path, entry, staging=staging, blobs=blobs))
    return Draft(role, metadata, changes, tuple(keys), threshold, blobs, published.root_digest, own)


def _channel_text(path: str, entry: Mapping[str, Any], *, staging: Staging, blobs: Mapping[BlobRef, bytes]) -> str | None:
    """What a channel document says: devices take their floor from it, and an entry shows only its digest."""
    if not path.endswith("/channel.json"):
        return None
    ref = BlobRef.from_json({"digest": f"sha256:{entry['hashes'].get('sha256')}", "length": entry["length"]}, path)
    if ref.length > DEFAULT_LIMITS.max_channel_bytes:
        raise LimitError("channel document too large", code="too_large", where=path, actual=ref.length)
    channel = parse_channel(blobs.get(ref) or staging.blob_bytes(ref), where=path)
    return f"latest {channel.latest}, counter {channel.counter}, floor {channel.floor}"


def _check_new(current: Metadata[Targets] | None, path: BundlePath, counter: Counter) -> None:
    """A counter grows with every release and names one manifest for ever."""
    for target, custom in _entries(current, prefix=f"release/{path.line}/{path.model}/"):
        entry = parse_release_custom(custom, target)
        if target == path.release_target:
            raise UsageError(
                "this version is released already", code="version_exists", where=target, hint="choose a new --version and --counter"
            )
        if counter <= entry.counter:
            raise UsageError(
                "the counter is not above a published one",
                code="counter_not_above",
                where=target,
                expected=f"above {entry.counter}",
                actual=counter,
                hint="pack again with a higher --counter",
            )


def _entries(current: Metadata[Targets] | None, *, prefix: str) -> list[tuple[str, object]]:
    if current is None:
        return []
    return [
        (path, entry.custom)
        for path, entry in sorted(current.signed.targets.items())
        if path.startswith(prefix) and not path.endswith("/channel.json")
    ]


def _published_channel(current: Metadata[Targets] | None, path: BundlePath, staging: Staging) -> Channel | None:
    entry = None if current is None else current.signed.targets.get(path.of_model.channel_target)
    if entry is None:
        return None
    data = staging.blob_bytes(BlobRef.from_json({"digest": f"sha256:{entry.hashes['sha256']}", "length": entry.length}, "channel"))
    return parse_channel(data)


def _next_seq(current: Metadata[Targets] | None, path: BundlePath) -> int:
    """``seq`` counts per line and model over all audit entries (DESIGN 4)."""
    entries = _entries(current, prefix=f"audit/{path.line}/{path.model}/")
    return 1 + max((parse_audit_custom(custom, target).seq for target, custom in entries), default=0)


def _release_floor(published: Published, staging: Staging, path: BundlePath) -> Counter | None:
    """The floor of the published release entry, else of the prepared one where this person may read it."""
    role = path.of_model.release_role
    try:
        data = staging.draft(role)
    except UsageError:  # a server shows a draft only to its own role
        data = None
    prepared = None if data is None else parse_role(data, where=role)
    for metadata in (published.delegated(role), prepared):
        if metadata is None or not isinstance(metadata.signed, Targets):
            continue
        entry = metadata.signed.targets.get(path.release_target)
        if entry is not None:
            return parse_release_custom(entry.custom, path.release_target).floor
    return None


def _without_times(metadata: Metadata[Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.signed.to_dict().items() if key not in {"issued", "expires"}}
