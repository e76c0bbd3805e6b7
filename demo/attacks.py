"""Seven attacks on the device, each with its control: the same path with the defect removed installs.

The attacker always holds the web root and the online keys; each attack states what is held in addition. The device is
never told; it must refuse with the attack's own code while the old model still infers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from demo.attacker import Entries, StolenKeys, WebRoot, flip_byte
from demo.names import AUDIT, FIRST_COUNTER, LINE, MODEL, RELEASE
from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.path import BundlePath
from device_client.trust.channel import Channel
from device_client.trust.custom import AuditCustom, ReleaseCustom, VariantVerdict, parse_audit_custom, parse_release_custom
from device_client.trust.refs import BlobRef
from packager.reissue import reissue_bundle


@dataclass(frozen=True)
class Attack:
    """One attack: ``strike`` makes the defect, ``mend`` removes it and nothing else.

    ``holds`` is what the attacker has beyond the web root and the online keys.
    """

    name: str
    holds: str
    code: str
    version: str
    strike: Callable[[], None]
    mend: Callable[[], None]


@dataclass
class Stage:
    """What the attacks work on.

    Attributes:
        web: the server's folder and the online keys.
        keys: all other keys; each attack takes those that it states.
        folder: where re-issued bundles are written.
        source: the newest honest bundle, whose model layers every later version carries.
        next_counter: the counter of the next honest version.
    """

    web: WebRoot
    keys: StolenKeys
    folder: Path
    source: Path
    next_counter: int

    def reissue(self, version: str, *, counter: Counter | None = None) -> Issue:
        """A new version of the source bundle, with its blobs in the web root and both honest entries at hand."""
        chosen = counter or Counter(0, self.next_counter)
        if counter is None:
            self.next_counter += 1
        out = self.folder / f"{version}-{chosen}"
        reissue_bundle(self.source, version=version, counter=chosen, out=out)
        self.web.add_blobs(out)
        described = LayoutDirectory(out).manifest_descriptor()
        return Issue(self, BundlePath(LINE, MODEL, version), BlobRef(described.digest, described.size), chosen)


@dataclass(frozen=True)
class Issue:
    """A version that is about to be listed, honestly or not."""

    stage: Stage
    path: BundlePath
    manifest: BlobRef
    counter: Counter

    def release_entries(self) -> Entries:
        """The honest entries of the release role: the manifest and the channel."""
        channel = self.stage.web.add_blob(Channel(self.path.version, self.counter, Counter(0, 0)).to_bytes())
        record = replace(self._last_release(), counter=self.counter, floor=Counter(0, 0))
        return {self.path.release_target: (self.manifest, record.to_json()), self.path.of_model.channel_target: (channel, None)}

    def audit_entries(self) -> Entries:
        """The honest entry of the audit role: the verdicts carried over, since the model bytes are the same."""
        return {self.path.audit_target: (self.manifest, self.audit_record().to_json())}

    def audit_record(self) -> AuditCustom:
        """The newest audit record with this version's counter and the next ``seq``."""
        last = self._last_audit()
        return replace(last, counter=self.counter, floor=Counter(0, 0), seq=last.seq + 1)

    def release(self) -> None:
        """Lists it under the release role, signed by that role's keys."""
        self.stage.web.forge_delegated(RELEASE, self.release_entries(), signers=self.stage.keys.of(RELEASE))

    def audit(self) -> None:
        """Lists it under the audit role, signed by that role's keys."""
        self.stage.web.forge_delegated(AUDIT, self.audit_entries(), signers=self.stage.keys.of(AUDIT))

    def offer(self) -> None:
        """Makes the server offer it."""
        self.stage.web.offer(self.path)

    def _last_release(self) -> ReleaseCustom:
        targets = self.stage.web.newest(RELEASE).signed.targets
        records = [parse_release_custom(entry.custom, path) for path, entry in targets.items() if not path.endswith("channel.json")]
        return max(records, key=lambda record: record.counter)

    def _last_audit(self) -> AuditCustom:
        targets = self.stage.web.newest(AUDIT).signed.targets
        return max((parse_audit_custom(entry.custom, path) for path, entry in targets.items()), key=lambda record: record.seq)


def flipped_byte(stage: Stage, *, version: str, blob: Digest) -> Attack:
    """A byte of the new model is flipped in the web root; the version itself was released honestly."""
    path = stage.web.blob_file(blob.hex)

    def flip() -> None:
        flip_byte(path, offset=path.stat().st_size // 2)

    return Attack("a byte flipped in the model blob", "nothing more", "blob_digest_mismatch", version, flip, flip)


def replayed_timestamp(stage: Stage, *, old_timestamp: bytes) -> Attack:
    """An old, validly signed timestamp hides an honest new version."""
    issue = stage.reissue("1.2.0")
    current: list[bytes] = []

    def strike() -> None:
        issue.release()
        issue.audit()
        issue.offer()
        current.append(stage.web.role_file("timestamp.json").read_bytes())
        stage.web.role_file("timestamp.json").write_bytes(old_timestamp)

    def mend() -> None:
        stage.web.role_file("timestamp.json").write_bytes(current[0])

    return Attack("an old timestamp replayed", "nothing more", "metadata_rollback", "1.2.0", strike, mend)


def release_role_alone(stage: Stage) -> Attack:
    """The release keys list a bundle that the audit team never saw."""
    issue = stage.reissue("1.3.0")

    def strike() -> None:
        issue.release()
        issue.offer()

    return Attack("signed by the release role alone", "all release keys", "audit_entry_missing", "1.3.0", strike, issue.audit)


def other_variant_audited(stage: Stage) -> Attack:
    """Both roles agree on the bundle, but the audit's verdict is about other bytes."""
    issue = stage.reissue("1.4.0")

    def strike() -> None:
        record = issue.audit_record()
        other = {Digest.of(b"another variant"): verdict for verdict in record.variants.values()}
        entries: Entries = {issue.path.audit_target: (issue.manifest, replace(record, variants=other).to_json())}
        issue.release()
        stage.web.forge_delegated(AUDIT, entries, signers=stage.keys.of(AUDIT))
        issue.offer()

    def mend() -> None:
        record = issue.audit_record()  # the newest honest verdicts are those of the version before
        honest = {issue.path.audit_target: (issue.manifest, replace(record, variants=_honest_variants(stage, issue)).to_json())}
        stage.web.forge_delegated(AUDIT, honest, signers=stage.keys.of(AUDIT))

    return Attack("the audit covers another variant", "all release and audit keys", "variant_not_audited", "1.4.0", strike, mend)


def key_outside_role(stage: Stage) -> Attack:
    """A bundle listed under the release role, signed by keys that the role does not have."""
    issue = stage.reissue("1.5.0")
    strangers = [CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()]

    def strike() -> None:
        issue.audit()
        stage.web.forge_delegated(RELEASE, issue.release_entries(), signers=strangers)
        issue.offer()

    def mend() -> None:
        stage.web.resign_delegated(RELEASE, issue.release_entries(), signers=stage.keys.of(RELEASE))

    return Attack("signed by keys outside the role", "keys of its own", "signature_threshold", "1.5.0", strike, mend)


def lower_counter(stage: Stage) -> Attack:
    """A version that calls itself the newest and carries a release counter below the installed one."""
    old = stage.reissue("1.6.0", counter=Counter(0, FIRST_COUNTER - 1))

    def strike() -> None:
        old.release()
        old.audit()
        old.offer()

    def mend() -> None:
        honest = stage.reissue("1.6.0")
        honest.release()
        honest.audit()

    return Attack("a lower release counter", "all release and audit keys", "counter_rollback", "1.6.0", strike, mend)


def listed_by_top_level(stage: Stage) -> Attack:
    """Top-level targets lists both paths itself, going around both roles."""
    issue = stage.reissue("1.7.0")

    def strike() -> None:
        entries = {**issue.release_entries(), **issue.audit_entries()}
        listed = {path: (ref, custom) for path, (ref, custom) in entries.items() if custom is not None}
        stage.web.forge_targets(listed, signers=stage.keys.of("targets"))
        issue.offer()

    def mend() -> None:
        stage.web.forge_targets({}, signers=stage.keys.of("targets"))
        issue.release()
        issue.audit()

    return Attack(
        "both paths listed by top-level targets", "the offline targets keys", "targets_lists_targets", "1.7.0", strike, mend
    )


def _honest_variants(stage: Stage, issue: Issue) -> dict[Digest, VariantVerdict]:
    """The verdicts of the newest entry that was not forged."""
    targets = stage.web.newest(AUDIT).signed.targets
    others = [parse_audit_custom(entry.custom, path) for path, entry in targets.items() if path != issue.path.audit_target]
    return dict(max(others, key=lambda record: record.seq).variants)
