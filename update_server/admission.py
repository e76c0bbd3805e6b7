"""Admission: everything a delegated role newly lists is verified before it is published, by the device's own code.

Only new and changed entries are looked into; the others were admitted before and are checked for presence, so that
an attestation that expires does not bar every later publish. Reads files and decides; writes nothing. It creates no
inference session: the server never runs a model that it did not make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key
from tuf.api.metadata import TargetFile, Targets

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.features import KNOWN_ENCODINGS
from device_client.bundle.layout import read_blob
from device_client.bundle.manifest import parse_manifest
from device_client.bundle.path import BundlePath, ModelPath
from device_client.bundle.verified import VerifiedBundle, verify_bundle
from device_client.errors import FormatError, IntegrityError, PolicyError, TrustError
from device_client.inference.walker import check_model
from device_client.install.layer_decoder import read_model
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.trust.attestation import PrivacyAudit, verify_attestation
from device_client.trust.channel import Channel, parse_channel
from device_client.trust.custom import AuditCustom, ReleaseCustom, VariantVerdict, parse_audit_custom, parse_release_custom
from device_client.trust.refs import BlobRef
from device_client.trust.rules import delegation_for, epoch_of, keys_of, verify_delegated
from update_server.blobs import BlobStore

_CHANNEL = "/channel.json"


@dataclass(frozen=True)
class Admitted:
    """A role that may be published; ``offers`` is what its channels call latest. Made by ``admit`` only."""

    role: str
    data: bytes
    version: int
    offers: Mapping[ModelPath, str]


def admit(
    data: bytes,
    *,
    role: str,
    targets: Targets,
    current: Targets | None,
    blobs: BlobStore,
    now: datetime,
    limits: Limits = DEFAULT_LIMITS,
) -> Admitted:
    """Verifies a draft against what is published.

    Args:
        data: the draft's bytes.
        role: ``release-<line>`` or ``audit-<line>``.
        targets: published top-level targets, which delegates to the role.
        current: the role's published version, or None before its first.
        blobs: where the listed bytes must be.
        now: server time.
        limits: bounds on what is read.

    Raises:
        FormatError, LimitError, IntegrityError, TrustError, PolicyError: with the code of the rule that does not hold.
    """
    signed = verify_delegated(targets, role, data, now=now, limits=limits).signed
    published = 0 if current is None else current.version
    if signed.version != published + 1:
        raise TrustError(
            "not the next version of the role", code="draft_version", where=role, expected=published + 1, actual=signed.version
        )
    for path, entry in signed.targets.items():
        blobs.check_present(_ref(entry), where=path)
    before = {} if current is None else current.targets
    changed = {path: entry for path, entry in sorted(signed.targets.items()) if before.get(path) != entry}
    if role.startswith("release-"):
        _admit_releases(signed, changed, before, targets=targets, blobs=blobs, limits=limits)
        return Admitted(role, data, signed.version, offers_of(signed, blobs))
    auditors = keys_of(targets, role), delegation_for(targets, role).threshold
    _admit_audits(changed, before, auditors=auditors, blobs=blobs, now=now, limits=limits)
    return Admitted(role, data, signed.version, {})


def offers_of(signed: Targets, blobs: BlobStore) -> dict[ModelPath, str]:
    """The version that each model's channel names as its latest."""
    offers = {}
    for path, entry in signed.targets.items():
        if path.endswith(_CHANNEL):
            _, line, model, _ = path.split("/")
            offers[ModelPath(line, model)] = _read_channel(entry, blobs).latest
    return offers


def _admit_releases(
    signed: Targets,
    changed: Mapping[str, TargetFile],
    before: Mapping[str, TargetFile],
    *,
    targets: Targets,
    blobs: BlobStore,
    limits: Limits,
) -> None:
    for path, entry in changed.items():
        if path.endswith(_CHANNEL):
            continue
        bundle_path = _bundle_path(path)
        custom = parse_release_custom(entry.custom, path)
        _check_epoch(custom.counter, targets, bundle_path)
        _check_not_equivocal(path, entry, custom, signed, before)
        blobs.check_bytes(custom.measurements, where=f"{path}: measurements")
        bundle = _verify_bundle(entry, bundle_path, custom.counter, blobs=blobs, limits=limits)
        _check_models(bundle, blobs=blobs, limits=limits)
    for path, entry in signed.targets.items():  # all: an unchanged channel may name an entry that is gone
        if path.endswith(_CHANNEL):
            _check_channel(path, _read_channel(entry, blobs), signed)


def _admit_audits(
    changed: Mapping[str, TargetFile],
    before: Mapping[str, TargetFile],
    *,
    auditors: tuple[list[Key], int],
    blobs: BlobStore,
    now: datetime,
    limits: Limits,
) -> None:
    highest = _highest_seq(before)
    used: set[tuple[ModelPath, int]] = set()
    for path, entry in changed.items():
        bundle_path = _bundle_path(path)
        custom = parse_audit_custom(entry.custom, path)
        model = bundle_path.of_model
        if custom.seq <= highest.get(model, 0) or (model, custom.seq) in used:
            raise TrustError(
                "the entry's seq does not grow",
                code="audit_seq",
                where=path,
                expected=f"above {highest.get(model, 0)}, each once",
                actual=custom.seq,
                hint="prepare the entry again from what is published",
            )
        used.add((model, custom.seq))
        bundle = _verify_bundle(entry, bundle_path, custom.counter, blobs=blobs, limits=limits)
        for subject, verdict in custom.variants.items():
            _check_verdict(path, custom, subject, verdict, bundle, auditors=auditors, blobs=blobs, now=now)


def _check_verdict(
    path: str,
    custom: AuditCustom,
    subject: Digest,
    verdict: VariantVerdict,
    bundle: VerifiedBundle,
    *,
    auditors: tuple[list[Key], int],
    blobs: BlobStore,
    now: datetime,
) -> None:
    if subject not in {variant.model.digest for variant in bundle.contract.variants}:
        raise TrustError(
            "a verdict on bytes that are not a variant of the bundle", code="variant_unknown", where=path, actual=subject
        )
    envelope = verdict.attestation
    if custom.status == "withdrawn":  # what is withdrawn may rest on an expired attestation, or on none that holds
        blobs.check_present(envelope, where=f"{path}: attestation")
        return
    if envelope.length > DEFAULT_LIMITS.max_attestation_bytes:
        raise IntegrityError("attestation too large", code="blob_size_mismatch", where=path, actual=envelope.length)
    data = read_blob(blobs, envelope.digest, envelope.length, where=f"{path}: attestation")
    keys, threshold = auditors
    audit = verify_attestation(
        data, keys=keys, now=now, waiver_threshold=threshold, subject=subject, where=f"{path}: attestation"
    ).audit
    if _claims_of(audit) != (verdict.verdict, verdict.tier, verdict.expires, custom.policy, custom.suite, custom.threat_model):
        raise TrustError(
            "the entry says other things than its attestation",
            code="attestation_mismatch",
            where=path,
            expected=f"{audit.verdict}, {audit.tier}, policy {audit.policy.id} {audit.policy.version}",
            actual=f"{verdict.verdict}, {verdict.tier}, policy {custom.policy.id} {custom.policy.version}",
        )


def _claims_of(audit: PrivacyAudit) -> tuple[object, ...]:
    return audit.verdict, audit.tier, audit.expires, audit.policy, audit.suite, audit.threat_model


def _verify_bundle(entry: TargetFile, path: BundlePath, counter: Counter, *, blobs: BlobStore, limits: Limits) -> VerifiedBundle:
    ref = _ref(entry)
    try:
        return verify_bundle(blobs, ref.digest, manifest_size=ref.length, path=path, counter=counter, limits=limits)
    except IntegrityError:
        _remove_damaged(ref, blobs=blobs, limits=limits)
        raise


def _remove_damaged(manifest: BlobRef, *, blobs: BlobStore, limits: Limits) -> None:
    """Lets go of copies that are not what their name says, so that the publisher can send them again.

    Raises:
        IntegrityError: with the remedy, for the first damaged one.
    """
    blobs.check_bytes(manifest, where="manifest")
    with blobs.open_blob(manifest.digest) as file:
        listed = parse_manifest(file.read(limits.max_manifest_bytes), encodings=KNOWN_ENCODINGS, limits=limits).blobs
    damaged = None
    for blob in listed:
        try:
            blobs.check_bytes(BlobRef(blob.digest, blob.size), where=blob.media_type)
        except IntegrityError as error:
            damaged = damaged or error
    if damaged is not None:
        raise damaged


def _check_models(bundle: VerifiedBundle, *, blobs: BlobStore, limits: Limits) -> None:
    """The walker on the bytes that a runtime would get."""
    for variant in bundle.contract.variants:
        data = read_model(blobs, bundle.manifest, variant)
        check_model(data, features=bundle.contract.features, where=f"{bundle.path} variant {variant.id}", limits=limits)


def _check_epoch(counter: Counter, targets: Targets, path: BundlePath) -> None:
    epoch = epoch_of(targets, path.of_model)
    if counter.epoch != epoch:
        raise TrustError(
            "the counter's epoch is not the one that targets sets", code="epoch_mismatch", where=str(path), expected=epoch,
            actual=counter.epoch,
        )  # fmt: skip


def _check_not_equivocal(
    path: str, entry: TargetFile, custom: ReleaseCustom, signed: Targets, before: Mapping[str, TargetFile]
) -> None:
    """A version and a counter name one manifest for ever, and counters grow."""
    known = before.get(path)
    if known is not None and (known.hashes != entry.hashes or parse_release_custom(known.custom, path).counter != custom.counter):
        raise PolicyError(
            "a published version would become another bundle", code="equivocation", where=path, hint="release it as a new version"
        )
    folder = path.rpartition("/")[0] + "/"
    for other, listed in signed.targets.items():
        if other in {path, folder + "channel.json"} or not other.startswith(folder):
            continue
        counter = parse_release_custom(listed.custom, other).counter
        if counter == custom.counter:
            raise PolicyError("two versions carry one counter", code="equivocation", where=f"{other} and {path}", actual=counter)
        if known is None and other in before and custom.counter < counter:
            raise PolicyError(
                "the counter is not above every published one", code="counter_not_above", where=path, expected=f"above {counter}",
                actual=custom.counter,
            )  # fmt: skip


def _check_channel(path: str, channel: Channel, signed: Targets) -> None:
    """The latest version is listed beside its channel with the same counter."""
    _, line, model, _ = path.split("/")
    target = BundlePath(line, model, channel.latest).release_target
    entry = signed.targets.get(target)
    if entry is None or parse_release_custom(entry.custom, target).counter != channel.counter:
        raise TrustError(
            "the channel names a latest version that the role does not list with that counter",
            code="channel_latest",
            where=path,
            actual=f"{channel.latest}, counter {channel.counter}",
        )


def _read_channel(entry: TargetFile, blobs: BlobStore) -> Channel:
    ref = _ref(entry)
    if ref.length > DEFAULT_LIMITS.max_channel_bytes:
        raise IntegrityError("channel document too large", code="blob_size_mismatch", where=entry.path, actual=ref.length)
    return parse_channel(read_blob(blobs, ref.digest, ref.length, where=entry.path), where=entry.path)


def _highest_seq(before: Mapping[str, TargetFile]) -> dict[ModelPath, int]:
    highest: dict[ModelPath, int] = {}
    for path, entry in before.items():
        model = _bundle_path(path).of_model
        highest[model] = max(highest.get(model, 0), parse_audit_custom(entry.custom, path).seq)
    return highest


def _bundle_path(target: str) -> BundlePath:
    """The bundle of ``release/<line>/<model>/<version>.json`` or of the audit path; the pattern was checked before."""
    _, line, model, file = target.split("/")
    version, dot, suffix = file.rpartition(".")
    if not dot or suffix != "json":
        raise FormatError("not a target of a bundle", code="name_syntax", where=target[:200], expected="…/VERSION.json")
    return BundlePath(line, model, version)


def _ref(entry: TargetFile) -> BlobRef:
    if set(entry.hashes) != {"sha256"}:
        raise TrustError(
            "the entry's hashes are not exactly sha256",
            code="hash_not_sha256",
            where=entry.path[:200],
            actual=", ".join(entry.hashes),
        )
    return BlobRef(Digest(entry.hashes["sha256"]), entry.length)
