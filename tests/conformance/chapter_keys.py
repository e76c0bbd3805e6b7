"""Kinds of keys, classical and post-quantum, and the rotation of every role's keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from tests.conformance.play import ANYTHING, Case, Play, case, cases_of
from tests.conformance.repository import TOP_LEVEL, Answer, Repository, new_signer, tampered

_OF_ROOT = ("timestamp", "snapshot", "targets")
_SCHEMES = {"ed25519": "Ed25519", "ecdsa": "ECDSA P-256", "rsa": "RSA-PSS", "ml-dsa-65": "ML-DSA-65"}
_KEPT_BEFORE = {"timestamp": (), "snapshot": ("timestamp",), "targets": ("timestamp", "snapshot")}


def _kept_before(repo: Repository, role: str) -> dict[str, int]:
    """What a client has verified and kept when it comes to ``role``."""
    return {name: repo.roles[name].version for name in _KEPT_BEFORE[role]}


def _scheme(scheme: str) -> Case:
    def script(play: Play) -> None:
        repo = play.begin(schemes=(scheme,))
        for role in TOP_LEVEL:
            before = repo.give_keys(role, [new_signer(scheme)])
            repo.signers[role] += before if role == "root" else []
        repo.publish("root", "targets")
        play.accepts()
        repo.publish("timestamp")
        data = tampered(repo.newest("timestamp"), lambda value: value["signed"].update(x="altered"))
        repo.instead["timestamp.json"] = Answer(data)
        play.refuses()
        repo.signers["timestamp"] = [new_signer(scheme, keyid=repo.signers["timestamp"][0].public_key.keyid)]
        repo.instead["timestamp.json"] = Answer(repo.sign("timestamp"))
        play.refuses()
        repo.instead.clear()
        play.accepts()

    sentence = (
        f"All roles have {_SCHEMES[scheme]} keys and rotate to others; altered content and a stranger's signature are refused."
    )
    return Case(f"keys-{scheme}", sentence, script)


SCHEMES = tuple(_scheme(scheme) for scheme in _SCHEMES)


@case
def two_ml_dsa_signatures_on_every_role(play: Play) -> None:
    """Every role has two ML-DSA-65 keys and needs both: files of many kilobytes stay within the caps."""
    repo = play.begin(schemes=("ml-dsa-65",) * 2, threshold=2)
    repo.publish("root", "targets")
    play.accepts()
    repo.signers["snapshot"] = repo.signers["snapshot"][:1]
    repo.publish("snapshot")
    play.refuses(keeps=_kept_before(repo, "snapshot"))


@case
def from_ed25519_over_hybrid_to_ml_dsa(play: Play) -> None:
    """Every role moves from Ed25519 to a hybrid pair with threshold two, and then to ML-DSA-65 alone."""
    repo = play.begin()
    hybrid = {role: [*repo.signers[role], new_signer("ml-dsa-65")] for role in TOP_LEVEL}
    for role in TOP_LEVEL:
        repo.give_keys(role, hybrid[role], threshold=2)
    repo.publish("root", "targets")
    play.accepts()
    for role in TOP_LEVEL:
        repo.give_keys(role, hybrid[role][1:], threshold=1)
    repo.signers["root"] = hybrid["root"]  # both keys of the root before sign the one after
    repo.publish("root", "targets")
    play.accepts()


def _hybrid_root(name: str, sentence: str, kept: Sequence[int]) -> Case:
    """A root with one Ed25519 and one ML-DSA key, threshold 2, whose next version is signed by the keys ``kept``."""

    def script(play: Play) -> None:
        repo = play.start()
        pair = [new_signer("ed25519"), new_signer("ml-dsa-65")]
        repo.give_keys("root", pair, threshold=2)
        play.init(repo.issue("root", version=1))
        play.accepts()
        repo.signers["root"] = [pair[index] for index in kept]
        repo.publish("root")
        if len(kept) == 2:
            play.accepts()
            return
        play.refuses(asks=["2.root.json"])
        repo.signers["root"] = pair
        repo.issue("root", version=2)
        play.accepts()

    return Case(f"hybrid-root-{name}", f"A root of one Ed25519 and one ML-DSA-65 key, both needed. {sentence}", script)


HYBRID = (
    _hybrid_root("both", "Both sign the next root.", (0, 1)),
    _hybrid_root("ed25519-alone", "The Ed25519 key alone signs the next root.", (0,)),
    _hybrid_root("ml-dsa-alone", "The ML-DSA key alone signs the next root.", (1,)),
)


def _rotation_to_hybrid(name: str, sentence: str, signed_by: str, *, is_good: bool) -> Case:
    def script(play: Play) -> None:
        repo = play.begin()
        keys = {"o": repo.signers["root"][0], "n": new_signer(), "q": new_signer("ml-dsa-65")}
        repo.give_keys("root", [keys["n"], keys["q"]], threshold=2)
        repo.signers["root"] = [keys[one] for one in signed_by]
        repo.publish("root")
        if is_good:
            play.accepts()
        else:
            play.refuses(asks=["2.root.json"])
            repo.signers["root"] = list(keys.values())
            repo.issue("root", version=2)
            play.accepts()

    return Case(f"rotation-to-hybrid-{name}", f"An Ed25519 root hands over to a hybrid pair. {sentence}", script)


TO_HYBRID = (
    _rotation_to_hybrid("complete", "The old key and both new ones sign.", "onq", is_good=True),
    _rotation_to_hybrid("without-the-old-key", "Both new keys sign, the old one does not.", "nq", is_good=False),
    _rotation_to_hybrid("without-the-ml-dsa-key", "The old key and the new Ed25519 key sign.", "on", is_good=False),
    _rotation_to_hybrid("without-the-ed25519-key", "The old key and the ML-DSA key sign.", "oq", is_good=False),
    _rotation_to_hybrid("ml-dsa-alone", "The ML-DSA key alone signs.", "q", is_good=False),
)


@case
def hybrid_first_root_with_one_signature(play: Play) -> None:
    """The first root needs an Ed25519 and an ML-DSA signature and has one."""
    repo = play.start()
    pair = [new_signer("ed25519"), new_signer("ml-dsa-65")]
    for signers in (pair[:1], pair[1:]):
        repo.give_keys("root", pair, threshold=2)
        repo.signers["root"] = signers
        play.init(repo.sign("root"))
        play.refuses(asks=[])
    repo.signers["root"] = pair
    play.init(repo.issue("root", version=1))
    play.accepts()


def _role_rotation(role: str) -> Case:
    def script(play: Play) -> None:
        repo = play.begin()
        before = repo.give_keys(role, [new_signer()])
        repo.publish("root", role)
        play.accepts(asks=ANYTHING)
        right, repo.signers[role] = repo.signers[role], before
        repo.publish(role)
        play.refuses(keeps=_kept_before(repo, role))
        repo.signers[role] = [*before, *right]  # the old key's signature beside the new one's does no harm
        repo.publish(role)
        play.accepts()

    return Case(
        f"rotation-of-{role}", f"The {role} key is replaced: the new key's signature counts, the old key's no longer.", script
    )


def _role_not_signed_again(role: str) -> Case:
    def script(play: Play) -> None:
        repo = play.begin()
        repo.give_keys(role, [new_signer()])
        repo.publish("root")
        play.refuses(keeps={"root": 2}, may_drop=_OF_ROOT)
        repo.publish(role)
        play.accepts(asks=ANYTHING)

    return Case(
        f"rotation-of-{role}-without-a-new-version",
        f"Root names another {role} key, and the file of before is still there: no longer signed by the role.",
        script,
    )


def _role_threshold(role: str) -> Case:
    def script(play: Play) -> None:
        keys = [new_signer() for _ in range(5)]
        repo = play.begin()
        repo.give_keys(role, keys, threshold=3)
        for signers, is_good in ((keys[:3], True), (keys[2:], True), (keys[:2], False), (keys[1:4], True)):
            repo.signers[role] = signers
            repo.publish("root", role)
            if is_good:
                play.accepts(asks=ANYTHING)
            else:
                play.refuses(keeps={"root": repo.root.version, **_kept_before(repo, role)})

    return Case(f"threshold-of-{role}", f"Three of five must sign {role}: any three will do, two will not.", script)


ROLE_ROTATIONS = tuple(make(role) for role in _OF_ROOT for make in (_role_rotation, _role_not_signed_again, _role_threshold))


def _fast_forward(name: str, sentence: str, poisoned: str, rotated: Sequence[str]) -> Case:
    """The holder of stolen online keys raises the version of ``poisoned``; root then rotates the keys of ``rotated``."""

    def script(play: Play) -> None:
        repo = play.begin()
        _issue_on_top(repo, poisoned, version=1_000_000, timestamp=1_000_000 if poisoned == "timestamp" else 10)
        play.accepts()
        later = 3 if poisoned == "timestamp" else 11
        honest = _issue_on_top(repo, poisoned, version=3, timestamp=later)
        play.refuses(keeps={role: version for role, version in honest.items() if poisoned == "targets" and role == "timestamp"})
        for role in rotated:
            repo.give_keys(role, [new_signer()])
        repo.publish("root")
        _issue_on_top(repo, poisoned, version=4, timestamp=later + 1)
        play.accepts(keeps={role: repo.roles[role].version for role in _OF_ROOT}, asks=ANYTHING)

    return Case(f"fast-forward-{name}", sentence, script)


def _issue_on_top(repo: Repository, poisoned: str, *, version: int, timestamp: int) -> dict[str, int]:
    if poisoned == "targets":
        repo.issue("targets", version=version)
        repo.issue("snapshot")
    elif poisoned == "snapshot":
        repo.issue("snapshot", version=version)
    repo.issue("timestamp", version=timestamp)
    return {role: repo.roles[role].version for role in _OF_ROOT}


FAST_FORWARD = (
    _fast_forward("timestamp", "A thief of the timestamp key raises its version; a new key lets the honest one in again.",
                  "timestamp", ("timestamp",)),
    _fast_forward("snapshot", "A thief of the online keys raises snapshot's version; new keys for both let the honest one in.",
                  "snapshot", ("timestamp", "snapshot")),
    _fast_forward("targets", "A thief of the snapshot key lists a huge version of targets; new online keys let the honest one in.",
                  "targets", ("timestamp", "snapshot")),
    _fast_forward("snapshot-by-its-key", "As before, and root rotates the snapshot key alone: TUF 5.3.11 then drops both files.",
                  "snapshot", ("snapshot",)),
    _fast_forward("targets-by-the-snapshot-key", "A huge version of targets, and root rotates the snapshot key alone (TUF 5.3.11).",
                  "targets", ("snapshot",)),
    _fast_forward("targets-by-the-timestamp-key", "A huge version of targets; root rotates the timestamp key alone (TUF 5.3.11).",
                  "targets", ("timestamp",)),
)  # fmt: skip


@case
def fast_forward_is_not_undone_by_other_keys(play: Play) -> None:
    """After a raised timestamp version root rotates the targets key only: the honest timestamp stays a rollback."""
    repo = play.begin()
    repo.issue("timestamp", version=1_000_000)
    play.accepts()
    repo.give_keys("targets", [new_signer()])
    repo.issue("root")
    repo.issue("targets")
    repo.issue("snapshot")
    repo.issue("timestamp", version=3)
    play.refuses(keeps={"root": 2})


@case
def root_renewed_with_the_same_online_keys(play: Play) -> None:
    """A new root with the same online keys forgives no rollback."""
    repo = play.begin()
    repo.publish("timestamp")
    play.accepts()
    old = repo.history["timestamp"][1]
    repo.renew("root", expires_in=timedelta(days=100))
    repo.publish("root")
    repo.instead["timestamp.json"] = Answer(old)
    play.refuses(keeps={"root": 2})
    repo.instead.clear()
    play.accepts()


CASES = cases_of(globals())
