"""What one refresh has verified, and what is asked of it: agreement, channel, evidence, time. Made by ``MetadataClient`` only.

trusted = client.refresh(marks)
agreed = trusted.agree(BundlePath("digits", "ocr", "1.0.0"))
now = trusted.time_for(agreed.path.of_model).now()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Signed, Targets

from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath, ModelPath
from device_client.errors import StateError, TrustError
from device_client.limits import Limits
from device_client.trust.agreement import AgreedRelease, LoadedRole, check_agreement, check_role
from device_client.trust.bins import bin_of
from device_client.trust.expiry import NO_GRACE, is_over, stretched_text
from device_client.trust.foreign_errors import mapped_errors
from device_client.trust.marks import Marks, VersionMark, advance, keyset_digest
from device_client.trust.refs import BlobRef
from device_client.trust.rules import ONLINE_ROLES, delegation_for, issued_at, keys_of, keys_of_top_level
from device_client.trust.times import format_time
from device_client.trust.trusted_time import BootTime, TimeFloor, TrustedTime, carried, raised
from device_client.trust.updater import StrictUpdater

TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")


class TrustedMetadata:
    """The verified roles of one refresh. ``marks`` grows with every role that is loaded."""

    def __init__(
        self,
        updater: StrictUpdater,
        *,
        marks: Marks,
        limits: Limits,
        clock: Callable[[], datetime],
        uptime: Callable[[], BootTime],
        grace: timedelta = NO_GRACE,
    ) -> None:
        self._updater = updater
        self._limits = limits
        self._clock = clock
        self._uptime = uptime
        self._grace = grace
        self._keysets: dict[tuple[str, bool], Digest] = {}
        self.marks = Marks(marks.versions, carried(marks.times, at=uptime()))

    @property
    def root(self) -> Root:
        """The newest verified root."""
        return self._updater.root

    @property
    def targets(self) -> Targets:
        """The verified top-level targets."""
        return self._updater.targets

    @property
    def root_bytes(self) -> bytes:
        """Bytes of the newest verified root."""
        return self.roots[self.root.version]

    @property
    def roots(self) -> Mapping[int, bytes]:
        """Every root from the bootstrap to the newest, by version."""
        return self._updater.root_chain()

    @property
    def time(self) -> TrustedTime:
        """Trusted time by all that the present keys of the top-level roles ever signed."""
        return self._time({})

    def time_for(self, model: ModelPath) -> TrustedTime:
        """Trusted time for one model: also by the roles of its line, whose word counts for no other line."""
        return self._time({role: self._own_keys(role) for role in (model.release_role, model.audit_role)})

    @property
    def stretched(self) -> str:
        """Which online roles have expired and count all the same, as a sentence; empty if none does."""
        now, signed = self.time.now(), {role: self._updater.signed(role) for role in ONLINE_ROLES}
        over = [role for role in ONLINE_ROLES if is_over(role, signed[role].expires, now=now, grace=NO_GRACE)]
        return ", ".join(stretched_text(role, signed[role].expires, now=now) for role in over)

    # The refresh itself.

    def take(self, role: str, *, rules: Callable[[str, Signed], None]) -> None:
        """Holds an accepted top-level role to Sealift's rules and to memory, and learns from it how late it is."""
        signed = self._updater.signed(role)
        rules(role, signed)
        if role != "root":  # roots are remembered whole
            self._advance(role, self._mark_keys(role))
        self._learn_time(role, signed, self._own_keys(role))
        # python-tuf holds every role to one time: to the earliest that any may be held to. Offline roles get no grace: below.
        self._updater.judge_expiry_at(self.time.now() - self._grace)

    def check_expiry(self, roles: Iterable[str], time: TrustedTime) -> None:
        """None of ``roles`` has expired by ``time``, which may be later than when it was loaded.

        Raises:
            TrustError: ``metadata_expired``.
        """
        now = time.now()
        for role in roles:
            signed = self._updater.signed(role)
            if is_over(role, signed.expires, now=now, grace=self._grace):
                raise TrustError(
                    "metadata has expired",
                    code="metadata_expired",
                    where=role,
                    expected=f"after {format_time(now)}",
                    actual=format_time(signed.expires),
                    hint="ask the operator of the server to renew it, and check this device's clock",
                )

    # What is asked of it.

    def agree(self, path: BundlePath) -> AgreedRelease:
        """The manifest that both roles name for ``path``; advances ``marks`` for both roles.

        Raises:
            TrustError, FormatError: the code of the rule in ``agreement.check_agreement``, or of loading a role.
        """
        model = path.of_model
        wanted = {model.release_role: path.release_target, model.audit_role: path.audit_target}
        found = {role: self._load(role, target) for role, target in wanted.items()}
        roles = {role: loaded for role, loaded in found.items() if loaded is not None}
        agreed = check_agreement(path, root=self.root, targets=self.targets, roles=roles, limits=self._limits)
        bins = [name for loaded in roles.values() for name in loaded.bins]
        self.check_expiry([*TOP_LEVEL, *roles, *bins], self.time_for(model))
        return agreed

    def channel_ref(self, model: ModelPath) -> BlobRef | None:
        """Where the model's channel document is, as the release role lists it; None if it lists none.

        Raises:
            TrustError: the role breaks a rule, or the entry's hashes are not exactly sha256.
        """
        role = self._load(model.release_role, model.channel_target)
        entry = None if role is None else role.entry(model.channel_target)
        if entry is None:
            return None
        if set(entry.hashes) != {"sha256"}:
            raise TrustError("the entry's hashes are not exactly sha256", code="hash_not_sha256", where=model.channel_target)
        return BlobRef(Digest(entry.hashes["sha256"]), entry.length)

    def evidence(self, path: BundlePath) -> dict[str, bytes]:
        """The signed files that ``agree(path)`` rested on, by name: roots from the bootstrap on, targets, both roles and bins."""
        model = path.of_model
        files = {f"{version}.root.json": data for version, data in self.roots.items()}
        names = ["targets"]
        for role, target in ((model.release_role, path.release_target), (model.audit_role, path.audit_target)):
            signed = self._updater.signed(role)
            names += [role, *filter(None, [bin_of(signed, target) if isinstance(signed, Targets) else None])]
        return {**files, **{f"{name}.json": self._updater.accepted[name].data for name in names}}

    # Delegated roles.

    def _load(self, role: str, target: str) -> LoadedRole | None:
        """A delegated role with the bin that may list ``target``, held to their rules; None if snapshot never listed it."""
        signed = self._load_one(role, delegator="targets", keys_of_role=role)
        if signed is None:
            return None
        loaded = LoadedRole(signed)
        check_role(loaded, self.targets, role)
        name = bin_of(signed, target)
        found = None if name is None else self._load_one(name, delegator=role, keys_of_role=role)
        if name is not None and found is not None:
            loaded = LoadedRole(signed, {name: found})
            check_role(loaded, self.targets, role)
        return loaded

    def _load_one(self, name: str, *, delegator: str, keys_of_role: str) -> Targets | None:
        keyset = self._mark_keys(keys_of_role)
        if f"{name}.json" not in self._updater.snapshot.meta:
            self._refuse_vanished(name, keyset)
            return None
        with mapped_errors(name):
            try:
                signed = self._updater.load_delegated(name, delegator)
            except OSError as e:
                raise StateError(
                    "cannot write the metadata cache",
                    code="cache_unwritable",
                    where=name,
                    actual=e.strerror,
                    hint="free some space; the running model is not touched",
                ) from e
        self._advance(name, keyset)
        self._learn_time(keys_of_role, signed, self._own_keys(keys_of_role))
        self.check_expiry((name,), self.time)
        return signed

    def _refuse_vanished(self, name: str, keyset: Digest) -> None:
        """TUF forbids snapshot to drop a role; python-tuf sees that only while its cache is whole (A03)."""
        if any((mark.role, mark.keyset) == (name, keyset) for mark in self.marks.versions):
            raise TrustError(
                "snapshot no longer lists a role that it listed before",
                code="metadata_rollback",
                where=name,
                hint="an old or mixed state is shown; the running model stays",
            )

    # Marks and time.

    def _advance(self, role: str, keyset: Digest) -> None:
        accepted = self._updater.accepted[role]
        self.marks = advance(self.marks, [VersionMark(role, accepted.signed.version, accepted.digest, keyset)])

    def _learn_time(self, role: str, signed: Signed, keyset: Digest) -> None:
        if "issued" not in signed.unrecognized_fields:
            return
        at = self._uptime()
        seen = TimeFloor(role, keyset, issued_at(signed, where=role), at.boot, at.seconds)
        known = (floor for floor in self.marks.times if (floor.role, floor.keyset) == (role, keyset))
        if not any(floor.reading(at) >= seen.time for floor in known):
            self.marks = Marks(self.marks.versions, raised(self.marks.times, [seen], at=at))

    def _time(self, delegated: Mapping[str, Digest]) -> TrustedTime:
        present = {**{role: self._own_keys(role) for role in TOP_LEVEL}, **delegated}
        floors = [floor for floor in self.marks.times if present.get(floor.role) == floor.keyset]
        return TrustedTime(floors, clock=self._clock, uptime=self._uptime)

    def _own_keys(self, role: str) -> Digest:
        """Names the keys and threshold that a role is signed with now."""
        return self._keyset(role, with_snapshot=False)

    def _mark_keys(self, role: str) -> Digest:
        """The same with snapshot's keys, for what snapshot names: a poisoned snapshot can name any version of it."""
        return self._keyset(role, with_snapshot=role not in {"timestamp", "snapshot"})

    def _keyset(self, role: str, *, with_snapshot: bool) -> Digest:
        if (role, with_snapshot) not in self._keysets:  # asked for often, and decoding keys is slow
            keys, threshold = self._keys(role)
            everyone = keys + self._keys("snapshot")[0] if with_snapshot else keys
            self._keysets[role, with_snapshot] = keyset_digest(everyone, threshold=threshold)
        return self._keysets[role, with_snapshot]

    def _keys(self, role: str) -> tuple[list[Key], int]:
        if role in TOP_LEVEL:
            return keys_of_top_level(self.root, role), self.root.get_delegated_role(role).threshold
        return keys_of(self.targets, role), delegation_for(self.targets, role).threshold
