"""Old states shown again, mixed states, and states that are frozen until they expire."""

from __future__ import annotations

from datetime import timedelta

from tuf.api.metadata import MetaFile

from tests.conformance.play import Case, Play, case, cases_of
from tests.conformance.repository import Answer, Repository

_TEAM = "team"
_AGO = -timedelta(hours=1)


def _with_team(play: Play, *, with_hashes: bool = False) -> Repository:
    repo = play.start(with_hashes=with_hashes)
    repo.delegate(_TEAM, "team/*")
    repo.publish("targets", _TEAM)
    play.accepts()
    return repo


@case
def rollback_of_timestamp(play: Play) -> None:
    """An older timestamp, validly signed and not expired, is shown again."""
    repo = play.begin()
    repo.publish("timestamp")
    play.accepts()
    repo.instead["timestamp.json"] = Answer(repo.history["timestamp"][1])
    play.refuses(asks=["2.root.json", "timestamp.json"])
    repo.instead.clear()
    play.accepts()


def _rollback(role: str, *, with_hashes: bool) -> Case:
    """Online keys list an older version of ``role`` again."""

    def script(play: Play) -> None:
        repo = _with_team(play, with_hashes=with_hashes)
        listed = repo.timestamp.snapshot_meta if role == "snapshot" else repo.snapshot.meta[f"{role}.json"]
        repo.publish(role)
        play.accepts()
        if role == "snapshot":
            repo.timestamp.snapshot_meta = listed
            repo.issue("timestamp")
            play.refuses(asks=["2.root.json", "timestamp.json"])
        else:
            repo.snapshot.meta[f"{role}.json"] = listed
            repo.issue("snapshot")
            repo.issue("timestamp")
            play.refuses(keeps={"timestamp": repo.timestamp.version})
        repo.publish(role)
        play.accepts()

    hashes = "-with-hashes" if with_hashes else ""
    return Case(
        f"rollback-of-{role}{hashes}", f"Newly signed online roles lead to an older {role} again{hashes.replace('-', ' ')}.", script
    )


ROLLBACKS = tuple(
    _rollback(role, with_hashes=with_hashes) for role in ("snapshot", "targets", _TEAM) for with_hashes in (False, True)
)


def _vanished(role: str) -> Case:
    def script(play: Play) -> None:
        repo = _with_team(play)
        listed = repo.snapshot.meta.pop(f"{role}.json")
        repo.issue("snapshot")
        repo.issue("timestamp")
        play.refuses(keeps={"timestamp": repo.timestamp.version})
        repo.snapshot.meta[f"{role}.json"] = listed
        repo.issue("snapshot")
        repo.issue("timestamp")
        play.accepts()

    return Case(f"{role}-vanished-from-snapshot", f"A new snapshot no longer lists {role}, which the one before listed.", script)


VANISHED = (_vanished("targets"), _vanished(_TEAM))


@case
def rollback_past_an_expired_timestamp(play: Play) -> None:
    """The kept timestamp has expired meanwhile: it still forbids older ones, and a newer one is taken."""
    repo = play.begin()
    repo.renew("timestamp", expires_in=_AGO)
    play.kept_file("timestamp").write_bytes(repo.issue("timestamp", version=5))
    repo.renew("timestamp")
    repo.issue("timestamp", version=4)
    play.refuses(asks=["2.root.json", "timestamp.json"])
    repo.issue("timestamp", version=6)
    play.accepts()


@case
def rollback_past_an_expired_snapshot(play: Play) -> None:
    """The kept snapshot has expired meanwhile: it still forbids older versions of what it lists."""
    repo = play.begin()
    repo.issue("targets", version=5)
    repo.renew("snapshot", expires_in=_AGO)
    play.kept_file("snapshot").write_bytes(repo.issue("snapshot", version=5))
    repo.renew("snapshot")
    repo.issue("targets", version=4)
    repo.issue("snapshot", version=6)
    repo.issue("timestamp")
    play.refuses(keeps={"timestamp": 2})
    repo.publish("targets")
    play.accepts()


@case
def freeze_until_expiry(play: Play) -> None:
    """The server shows the timestamp that the client has, and nothing newer, after it has expired."""
    repo = play.begin()
    repo.renew("timestamp", expires_in=_AGO)
    play.kept_file("timestamp").write_bytes(repo.issue("timestamp", version=1))
    play.refuses()
    repo.renew("timestamp")
    repo.publish("timestamp")
    play.accepts()


def _expired(role: str) -> Case:
    def script(play: Play) -> None:
        repo = play.begin()
        repo.renew(role, expires_in=_AGO)
        repo.publish(role)
        before = {"timestamp": (), "snapshot": ("timestamp",), "targets": ("timestamp", "snapshot")}[role]
        play.refuses(keeps={name: repo.roles[name].version for name in before})
        repo.renew(role)
        repo.publish(role)
        play.accepts()

    return Case(f"expired-{role}", f"A new {role} has expired already.", script)


EXPIRED = tuple(_expired(role) for role in ("timestamp", "snapshot", "targets"))


@case
def expired_delegated_role(play: Play) -> None:
    """A delegated role has expired: its artifact is not taken, and the refresh itself is fine."""
    repo = _with_team(play)
    request = repo.add_artifact("team/a.bin", b"the artifact", role=_TEAM)
    repo.renew(_TEAM, expires_in=_AGO)
    repo.publish(_TEAM)
    play.accepts()
    play.refuses_download("team/a.bin", asks=["2.root.json", "timestamp.json", repo.name(_TEAM)])
    repo.renew(_TEAM)
    repo.publish(_TEAM)
    play.downloads({"team/a.bin": b"the artifact"})
    play.holds(play.steps[-1].requests[-1] == request, "the artifact is asked for last")


def _url_and_content(role: str) -> Case:
    """The file that a version's address gives is another version, validly signed."""

    def script(play: Play) -> None:
        repo = play.begin()
        repo.publish(role)
        right = repo.name(role)
        for other in (repo.history[role][1], _future(repo, role)):
            repo.instead[right] = Answer(other)
            play.refuses(keeps={"timestamp": 2, **({"snapshot": 2} if role == "targets" else {})})
        repo.instead.clear()
        play.accepts()

    return Case(f"mixed-{role}-version", f"Where {role} 2 is looked for, version 1 is found, and then version 3.", script)


def _future(repo: Repository, role: str) -> bytes:
    repo.roles[role].version += 1
    data = repo.sign(role)
    repo.roles[role].version -= 1
    return data


def _hash_mismatch(role: str, what: str) -> Case:
    """The online role lists another hash, or a smaller length, than the file has."""

    def script(play: Play) -> None:
        repo = play.begin(with_hashes=True)
        repo.publish(role)
        listed: MetaFile = repo.timestamp.snapshot_meta if role == "snapshot" else repo.snapshot.meta["targets.json"]
        wrong = MetaFile(listed.version, listed.length, {"sha256": "00" * 32})
        if what == "length":
            assert listed.length is not None
            wrong = MetaFile(listed.version, listed.length - 1, listed.hashes)
        _list(repo, role, wrong)
        play.refuses(
            keeps={"timestamp": repo.timestamp.version, **({"snapshot": repo.snapshot.version} if role == "targets" else {})}
        )
        _list(repo, role, listed)
        play.accepts()

    return Case(f"{what}-of-{role}-differs", f"The {what} that is listed for {role} is not the file's.", script)


def _list(repo: Repository, role: str, listed: MetaFile) -> None:
    if role == "snapshot":
        repo.timestamp.snapshot_meta = listed
    else:
        repo.snapshot.meta["targets.json"] = listed
        repo.issue("snapshot")
    repo.issue("timestamp")


MIXED = tuple(_url_and_content(role) for role in ("snapshot", "targets"))
LISTED = tuple(_hash_mismatch(role, what) for role in ("snapshot", "targets") for what in ("hash", "length"))


@case
def snapshot_of_one_day_with_targets_of_another(play: Play) -> None:
    """Without consistent snapshots, a mirror pairs today's snapshot with yesterday's targets."""
    repo = play.begin(is_consistent=False)
    repo.publish("targets")
    repo.instead["targets.json"] = Answer(repo.history["targets"][1])
    play.refuses(keeps={"timestamp": 2, "snapshot": 2})
    repo.instead["targets.json"] = Answer(repo.history["targets"][2])
    repo.instead["snapshot.json"] = Answer(repo.history["snapshot"][1])
    play.accepts(asks=["2.root.json", "timestamp.json", "targets.json"])


CASES = cases_of(globals())
