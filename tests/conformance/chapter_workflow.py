"""Good repositories of every plain kind, and first roots that are none."""

from __future__ import annotations

from datetime import timedelta

from tests.conformance.play import Case, Play, case, cases_of
from tests.conformance.repository import TOP_LEVEL, Answer, Repository, new_signer, signed_file, tampered, to_json, under_id


@case
def first_refresh(play: Play) -> None:
    """A client with the first root asks for each top-level role once and keeps the bytes as served."""
    play.start()
    play.accepts(asks=["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"])
    play.accepts(asks=["2.root.json", "timestamp.json"])


@case
def each_role_renewed(play: Play) -> None:
    """Every role gets a new version in turn; only what is new is asked for."""
    repo = play.begin()
    repo.publish("timestamp")
    play.accepts(asks=["2.root.json", "timestamp.json"])
    repo.publish("snapshot")
    play.accepts(asks=["2.root.json", "timestamp.json", "2.snapshot.json"])
    repo.publish("targets")
    play.accepts(asks=["2.root.json", "timestamp.json", "3.snapshot.json", "2.targets.json"])
    repo.publish("root")
    play.accepts(asks=["2.root.json", "3.root.json", "timestamp.json"])


@case
def versions_skipped_by_a_sleeping_client(play: Play) -> None:
    """A client that slept through many versions of all roles comes back."""
    repo = play.begin()
    for _ in range(5):
        repo.publish("root", "targets")
    play.accepts()


@case
def listed_with_lengths_and_hashes(play: Play) -> None:
    """Timestamp and snapshot list length and sha256 of what they name."""
    repo = play.begin(with_hashes=True)
    repo.publish("targets")
    play.accepts()


@case
def without_consistent_snapshot(play: Play) -> None:
    """A repository that names its files without versions, as older ones do."""
    repo = play.start(is_consistent=False)
    play.accepts(asks=["2.root.json", "timestamp.json", "snapshot.json", "targets.json"])
    request = repo.add_artifact("firmware/a.bin", b"the artifact")
    repo.publish("targets")
    play.downloads(
        {"firmware/a.bin": b"the artifact"}, asks=["2.root.json", "timestamp.json", "snapshot.json", "targets.json", request]
    )


@case
def without_issue_times(play: Play) -> None:
    """No role says when it was issued: Sealift's own field, which plain TUF does not know."""
    play.start()
    repo = Repository()
    for role in TOP_LEVEL:
        repo.roles[role].unrecognized_fields.clear()
    repo.publish("targets", "root")
    play.serve(repo)
    play.init(repo.newest("root"))
    play.accepts()


@case
def unknown_fields_everywhere(play: Play) -> None:
    """Fields that nobody knows stand in every role, signed and unsigned; the bytes are kept with them."""
    repo = play.start()
    for role in TOP_LEVEL:
        repo.roles[role].unrecognized_fields["x-purpose"] = {"text": "Prüfstand", "numbers": [1, 2, 3], "nothing": None}
    repo.publish("root", "targets")
    data = tampered(repo.newest("timestamp"), lambda value: value.update({"x-unsigned": ["anybody may write this"]}))
    repo.history["timestamp"][repo.timestamp.version] = data
    repo.instead["timestamp.json"] = Answer(data)
    play.accepts()


@case
def space_around_the_json(play: Play) -> None:
    """Files are indented, and end with a newline: other bytes, the same signed content."""
    repo = play.start()
    for role in ("timestamp", "snapshot", "targets"):
        data = b"\n" + repo.newest(role).replace(b'","', b'",\n\t "') + b"\r\n \n"
        repo.history[role][1] = data
        repo.instead[repo.name(role)] = Answer(data)
    play.accepts()


@case
def same_timestamp_version_with_other_content(play: Play) -> None:
    """Another timestamp of the version that is kept is dropped without a word, and the kept one stays (TUF 5.4.3)."""
    repo = play.begin()
    kept = repo.newest("timestamp")
    repo.timestamp.unrecognized_fields["x"] = "other"
    repo.issue("timestamp", version=1)
    play.accepts(keeps={"timestamp": kept})


@case
def same_snapshot_and_targets_versions_with_other_content(play: Play) -> None:
    """Other snapshot and targets of the versions that are kept are not even asked for."""
    repo = play.begin()
    kept = {role: repo.newest(role) for role in ("snapshot", "targets")}
    for role in kept:
        repo.roles[role].unrecognized_fields["x"] = "other"
        repo.issue(role, version=1)
    repo.issue("timestamp")
    play.accepts(keeps=kept, asks=["2.root.json", "timestamp.json"])


@case
def thresholds_of_two_of_three(play: Play) -> None:
    """Every role has three keys and needs two; two different ones sign each time."""
    repo = play.start(schemes=("ed25519",) * 3, threshold=2)
    keys = dict(repo.signers)
    for left_out in range(3):
        for role in TOP_LEVEL:
            repo.signers[role] = [key for index, key in enumerate(keys[role]) if index != left_out]
        repo.publish("root", "targets")
        play.accepts()


@case
def signatures_of_strangers_beside_enough_good_ones(play: Play) -> None:
    """Signatures by unknown keys, and a broken one of a known key, change nothing where enough others are good."""
    repo = play.begin(schemes=("ed25519",) * 2, threshold=1)

    def spoil(value: dict[str, object]) -> None:
        signatures = value["signatures"]
        assert isinstance(signatures, list)
        signatures[0]["sig"] = "00" * 64

    repo.signers["timestamp"].append(new_signer())
    repo.publish("timestamp")
    data = tampered(repo.newest("timestamp"), spoil)
    repo.history["timestamp"][2] = data
    repo.instead["timestamp.json"] = Answer(data)
    play.accepts()


@case
def key_ids_that_are_no_hashes(play: Play) -> None:
    """Key ids are names that the repository chose; TUF does not tell how they are made."""
    repo = play.begin()
    for role in TOP_LEVEL:
        before = repo.give_keys(role, [new_signer(keyid=f"key of {role} / Schlüssel")])
        repo.signers[role] += before if role == "root" else []
    repo.publish("root", "targets")
    play.accepts()


@case
def one_key_for_all_roles(play: Play) -> None:
    """One key under one id signs all four roles: poor, and legal TUF."""
    repo = play.begin()
    shared = new_signer()
    for role in TOP_LEVEL:
        before = repo.give_keys(role, [shared])
        repo.signers[role] += before if role == "root" else []
    repo.publish("root", "targets")
    play.accepts()


@case
def expired_first_root_with_a_fresh_next_one(play: Play) -> None:
    """The first root expired long ago; the next one is fresh."""
    repo = play.start()
    repo.renew("root", expires_in=-timedelta(days=400))
    play.init(repo.issue("root", version=1))
    repo.renew("root")
    repo.publish("root")
    play.accepts()


def _root_by_other_keys(repo: Repository) -> bytes:
    repo.signers["root"] = [new_signer()]
    return repo.sign("root")


def _root_with_one_of_two(repo: Repository) -> bytes:
    repo.root.add_key(new_signer().public_key, "root")
    repo.root.roles["root"].threshold = 2
    return repo.sign("root")


def _root_with_one_key_twice(repo: Repository) -> bytes:
    pair = [repo.signers["root"][0], under_id(repo.signers["root"][0], "the same again")]
    repo.give_keys("root", pair, threshold=2)
    return repo.sign("root")


_FIRST_ROOTS = {
    "unsigned": lambda repo: signed_file(repo.root.to_dict(), []),
    "signed-by-others": _root_by_other_keys,
    "below-its-threshold": _root_with_one_of_two,
    "one-key-counted-twice": _root_with_one_key_twice,
    "another-role": lambda repo: repo.sign("timestamp"),
    "no-json": lambda repo: b"<html>no root here</html>",
    "empty": lambda repo: b"",
    "a-list": lambda repo: to_json([]),
    "nested-too-deeply": lambda repo: b"[" * 100_000,
}


def _first_root(name: str) -> Case:
    def script(play: Play) -> None:
        repo = play.start()
        right = repo.newest("root")
        play.init(_FIRST_ROOTS[name](repo))
        play.refuses(asks=[])
        play.init(right)
        play.accepts()

    return Case(
        f"first-root-{name}", f"The first root that a client is given is wrong ({name}): refused, nothing is asked for.", script
    )


FIRST_ROOTS = tuple(_first_root(name) for name in _FIRST_ROOTS)
CASES = cases_of(globals())
