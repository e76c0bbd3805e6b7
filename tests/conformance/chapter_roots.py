"""The chain of roots: who may replace whom, how long it may be, and which kinds of keys may stand in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from device_client.limits import DEFAULT_LIMITS
from tests.conformance.play import ANYTHING, Case, Play, case, cases_of
from tests.conformance.repository import Answer, Repository, new_signer, resigned, tampered, under_id

_CAP = DEFAULT_LIMITS.max_root_rotations


@dataclass(frozen=True)
class _Rotation:
    """Root version 2 by numbers: keys 0 to 9 stand for ten pairs.

    Attributes:
        before: threshold and keys of version 1.
        after: threshold and keys of version 2.
        signed_by: the keys that signed version 2.
    """

    sentence: str
    before: tuple[int, str]
    after: tuple[int, str]
    signed_by: str
    is_good: bool


_ROTATIONS = {
    "key-replaced": _Rotation("The only key is replaced; old and new sign.", (1, "0"), (1, "1"), "01", True),
    "unused-signatures": _Rotation("Strangers sign beside old and new.", (1, "0"), (1, "1"), "01789", True),
    "old-key-missing": _Rotation("Only the new key signs.", (1, "0"), (1, "1"), "1", False),
    "new-key-missing": _Rotation("Only the old key signs.", (1, "0"), (1, "1"), "0", False),
    "strangers-only": _Rotation("Neither old nor new sign.", (1, "0"), (1, "1"), "9", False),
    "unsigned": _Rotation("Nobody signs.", (1, "0"), (1, "0"), "", False),
    "other-three-of-five": _Rotation("3 of 5: another three than usual.", (3, "01234"), (3, "01234"), "024", True),
    "two-of-five": _Rotation("3 of 5: two signed.", (3, "01234"), (3, "01234"), "04", False),
    "one-of-five-replaced": _Rotation("3 of 5, one replaced.", (3, "01234"), (3, "51234"), "123", True),
    "four-of-five-replaced": _Rotation("3 of 5, four replaced: three of each side.", (3, "01234"), (3, "05678"), "012567", True),
    "all-of-five-replaced": _Rotation("3 of 5, all replaced: three of each.", (3, "01234"), (3, "56789"), "024579", True),
    "two-new-of-three": _Rotation("3 of 5, all replaced: two new ones.", (3, "01234"), (3, "56789"), "01257", False),
    "two-old-of-three": _Rotation("3 of 5, all replaced: two old ones.", (3, "01234"), (3, "56789"), "02579", False),
    "threshold-raised": _Rotation("1 of 3 becomes 2 of 3, two sign.", (1, "012"), (2, "012"), "01", True),
    "threshold-raised-one-signed": _Rotation("1 of 3 becomes 2 of 3, one signs.", (1, "012"), (2, "012"), "0", False),
    "threshold-lowered": _Rotation("2 of 3 becomes 1 of 3, two sign.", (2, "012"), (1, "012"), "01", True),
    "threshold-lowered-one-signed": _Rotation("2 of 3 becomes 1 of 3, one signs.", (2, "012"), (1, "012"), "0", False),
    "key-added": _Rotation("1 of 2 becomes 2 of 2.", (1, "01"), (2, "01"), "01", True),
}


def _rotation(name: str, rotation: _Rotation) -> Case:
    def script(play: Play) -> None:
        keys = [new_signer() for _ in range(10)]

        def pick(digits: str) -> list[Any]:
            return [keys[int(digit)] for digit in digits]

        repo = play.start()
        repo.give_keys("root", pick(rotation.before[1]), threshold=rotation.before[0])
        play.init(repo.issue("root", version=1))
        repo.give_keys("root", pick(rotation.after[1]), threshold=rotation.after[0])
        repo.signers["root"] = pick(rotation.signed_by)
        repo.publish("root")
        if rotation.is_good:
            play.accepts()
        else:
            play.refuses(asks=["2.root.json"])
            repo.signers["root"] = keys  # everybody: the same root is fine now
            repo.issue("root", version=2)
            play.accepts()

    return Case(f"root-rotation-{name}", f"Root version 2. {rotation.sentence}", script)


ROTATIONS = tuple(_rotation(name, rotation) for name, rotation in _ROTATIONS.items())


@case
def all_root_keys_replaced_in_two_steps(play: Play) -> None:
    """3 of 5 keys are replaced one version later than the others; a client that slept through both follows."""
    keys = [new_signer() for _ in range(10)]
    repo = play.start()
    repo.give_keys("root", keys[:5], threshold=3)
    play.init(repo.issue("root", version=1))
    for first, last in ((2, 7), (5, 10)):
        before = repo.give_keys("root", keys[first:last])
        repo.signers["root"] = [*before, *keys[first:last]]
        repo.publish("root")
        repo.signers["root"] = keys[first:last]
    play.accepts()


def _lengthen(repo: Repository, rotations: int, *, expires_in: timedelta | None = None) -> None:
    for _ in range(rotations):
        before = repo.give_keys("root", [new_signer()])
        repo.signers["root"] += before
        repo.renew("root", expires_in=expires_in)
        repo.publish("root")
        repo.signers["root"] = repo.signers["root"][:1]


@case
def forty_rotations_with_expired_ones_between(play: Play) -> None:
    """A device slept through 40 rotations of the root key, and every root between has expired: one refresh catches up."""
    repo = play.begin()
    _lengthen(repo, 39, expires_in=-timedelta(days=30))
    _lengthen(repo, 1)
    play.accepts()


@case
def root_chain_just_below_the_cap(play: Play) -> None:
    """As many rotations as one refresh may follow for certain: a client that looks for one root more finds the end."""
    repo = play.begin()
    for _ in range(_CAP - 1):
        repo.publish("root")
    play.accepts()


@case
def endless_root_chain(play: Play) -> None:
    """More rotations than one refresh may follow: a clean end at the cap; what was verified counts, and the next one goes on."""
    repo = play.begin()
    for _ in range(_CAP + 40):
        repo.publish("root")
    play.refuses(keeps={"root": _CAP + 1}, asks=[f"{version}.root.json" for version in range(2, _CAP + 2)])
    play.accepts()


@case
def missing_root_in_the_middle(play: Play) -> None:
    """Root 2 is missing; root 3, with another timestamp key, is out of reach: the timestamp is a stranger's."""
    repo = play.begin()
    repo.publish("root")
    repo.give_keys("timestamp", [new_signer()])
    repo.publish("root", "timestamp")
    repo.instead["2.root.json"] = Answer(status=404)
    play.refuses(asks=["2.root.json", "timestamp.json"])
    repo.instead.clear()
    play.accepts(asks=ANYTHING)


def _as_next_root(name: str, sentence: str, make: Callable[[Repository], bytes], *, keeps: int | None = None) -> Case:
    """What ``make`` gives stands where root 2 is looked for; then an honest root 2 does."""

    def script(play: Play) -> None:
        repo = play.begin()
        root, signers = copy.deepcopy(repo.root), {role: list(keys) for role, keys in repo.signers.items()}
        repo.instead["2.root.json"] = Answer(make(repo))
        play.refuses(asks=["2.root.json"])
        repo.roles["root"], repo.signers = root, signers
        repo.instead.clear()
        repo.publish("root")
        play.accepts()

    return Case(f"root-{name}", sentence, script)


def _version(number: int) -> Callable[[Repository], bytes]:
    def make(repo: Repository) -> bytes:
        repo.root.version = number
        return repo.sign("root")

    return make


def _signed_part(**changes: Any) -> Callable[[Repository], bytes]:
    def make(repo: Repository) -> bytes:
        changed = {"version": 2} | changes
        return resigned(repo.newest("root"), lambda signed: signed.update(changed), repo.signers["root"])

    return make


def _unknown_key_type(repo: Repository) -> bytes:
    def change(signed: dict[str, Any]) -> None:
        signed["version"] = 2
        signed["keys"]["ab" * 32] = {"keytype": "lattice-of-2040", "scheme": "lattice-9", "keyval": {"public": "00"}}
        signed["roles"]["root"]["keyids"].append("ab" * 32)

    return resigned(repo.newest("root"), change, repo.signers["root"])


def _one_key_under_two_ids(role: str, threshold: int) -> Callable[[Repository], bytes]:
    def make(repo: Repository) -> bytes:
        key, before = new_signer(), list(repo.signers["root"])
        repo.give_keys(role, [key, under_id(key, "cd" * 32)], threshold=threshold)
        if role == "root":
            repo.signers["root"] += before
        repo.root.version = 2
        return repo.sign("root")

    return make


def _hex_case(repo: Repository) -> bytes:
    """The Ed25519 key that stands in root, once more with its hex digits in capitals, under a second id."""

    def change(signed: dict[str, Any]) -> None:
        signed["version"] = 2
        (keyid,) = signed["roles"]["root"]["keyids"]
        key = signed["keys"][keyid]
        signed["keys"]["ef" * 32] = {**key, "keyval": {"public": key["keyval"]["public"].upper()}}
        signed["roles"]["root"] = {"keyids": [keyid, "ef" * 32], "threshold": 2}

    pair = [repo.signers["root"][0], under_id(repo.signers["root"][0], "ef" * 32)]
    return resigned(repo.newest("root"), change, pair)


def _duplicate_keyids(repo: Repository) -> bytes:
    def change(signed: dict[str, Any]) -> None:
        signed["version"] = 2
        signed["roles"]["timestamp"] = {"keyids": signed["roles"]["timestamp"]["keyids"] * 2, "threshold": 2}

    return resigned(repo.newest("root"), change, repo.signers["root"])


def _duplicate_signatures(repo: Repository) -> bytes:
    repo.root.add_key(new_signer().public_key, "root")
    repo.root.roles["root"].threshold, repo.root.version = 2, 2
    return tampered(repo.sign("root"), lambda value: value["signatures"].append(dict(value["signatures"][0])))


def _other_role(repo: Repository) -> bytes:
    repo.timestamp.version = 2
    before, repo.signers["timestamp"] = repo.signers["timestamp"], repo.signers["root"]
    data = repo.sign("timestamp")
    repo.signers["timestamp"], repo.timestamp.version = before, 1
    return data


NEXT_ROOTS = (
    _as_next_root("version-skipped", "Root 3 stands where root 2 is looked for.", _version(3)),
    _as_next_root("version-repeated", "Root 1 stands where root 2 is looked for.", _version(1)),
    _as_next_root("unknown-key-type", "Root 2 holds a key of a type that the client does not know: it is too old, nothing changes.",
                  _unknown_key_type),
    _as_next_root("key-under-two-ids", "Root 2 lists one root key under two ids to meet a threshold of two.",
                  _one_key_under_two_ids("root", 2)),
    _as_next_root("timestamp-key-under-two-ids", "Root 2 lists one timestamp key under two ids, threshold two.",
                  _one_key_under_two_ids("timestamp", 2)),
    _as_next_root("spare-key-under-two-ids", "Root 2 lists one snapshot key under two ids, although one is enough.",
                  _one_key_under_two_ids("snapshot", 1)),
    _as_next_root("key-in-other-hex-case", "Root 2 lists its key twice: in small and in capital hex digits.", _hex_case),
    _as_next_root("duplicate-key-ids", "Root 2 lists one key id twice in a role.", _duplicate_keyids),
    _as_next_root("duplicate-signatures", "Root 2 needs two signatures and has one, twice.", _duplicate_signatures),
    _as_next_root("another-role", "A timestamp, signed by the root key, stands where root 2 is looked for.", _other_role),
    _as_next_root("threshold-zero", "Root 2 asks for no timestamp signature at all.",
                  lambda repo: _signed_part(roles={**repo.root.to_dict()["roles"],
                                                   "timestamp": {"keyids": [], "threshold": 0}})(repo)),
    _as_next_root("role-missing", "Root 2 names no timestamp role.",
                  lambda repo: _signed_part(roles={name: role for name, role in repo.root.to_dict()["roles"].items()
                                                   if name != "timestamp"})(repo)),
    _as_next_root("spec-version", "Root 2 is of a specification to come, 2.0.0.", _signed_part(spec_version="2.0.0")),
)  # fmt: skip


@case
def expired_final_root(play: Play) -> None:
    """The newest root has expired: kept, since it verified, and nothing after it is asked for; a fresh one ends that."""
    repo = play.begin()
    repo.renew("root", expires_in=-timedelta(hours=1))
    repo.publish("root")
    play.refuses(keeps={"root": 2}, asks=["2.root.json", "3.root.json"])
    repo.renew("root")
    repo.publish("root")
    play.accepts()


@case
def threshold_that_nobody_can_meet(play: Play) -> None:
    """Root asks for two timestamp keys and names one: followed as a root, and no timestamp ever verifies under it."""
    repo = play.begin()
    repo.root.roles["timestamp"].threshold = 2
    repo.publish("root", "timestamp")
    play.refuses(keeps={"root": 2}, may_drop=("timestamp", "snapshot"))
    repo.root.roles["timestamp"].threshold = 1
    repo.publish("root")
    play.accepts(asks=ANYTHING)


CASES = cases_of(globals())
