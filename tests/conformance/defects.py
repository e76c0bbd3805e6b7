"""One defect at a time, in one role: a good repository, the next version of the role made wrong, then right.

What a client may keep of a refused refresh follows from TUF's order: root, timestamp, snapshot, targets, delegated roles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tests.conformance.play import Case, Play
from tests.conformance.repository import Answer, Repository, new_signer

TEAM = "team"
ARTIFACT = "team/model.bin"
DATA = b"the bytes of the model"
ROLES = ("root", "timestamp", "snapshot", "targets", TEAM)
_BEFORE = {
    "root": (),
    "timestamp": (),
    "snapshot": ("timestamp",),
    "targets": ("timestamp", "snapshot"),
    TEAM: ("timestamp", "snapshot"),
}


@dataclass(frozen=True)
class Defect:
    """What is wrong with the file.

    Attributes:
        make: gives the file or answer from the repository, the role, and the honest bytes of the role's next version.
        is_good: the file is unusual, and right.
    """

    sentence: str
    make: Callable[[Repository, str, bytes], bytes | Answer]
    is_good: bool = False


def one_role(chapter: str, name: str, defect: Defect, role: str) -> Case:
    """A case of ``defect`` in ``role``. Every role has two keys and needs both."""

    def script(play: Play) -> None:
        repo = play.start(schemes=("ed25519", "ed25519"), threshold=2)
        repo.delegate(TEAM, "team/*", signers=[new_signer(), new_signer()], threshold=2)
        repo.add_artifact(ARTIFACT, DATA, role=TEAM)
        repo.publish("targets", TEAM)
        play.downloads({ARTIFACT: DATA})
        repo.publish(role)
        _meet(play, role, defect.make(repo, role, repo.newest(role)), is_good=defect.is_good)
        repo.instead.clear()
        play.downloads({ARTIFACT: DATA})

    return Case(f"{chapter}-{name}-{role}", f"The next {role}. {defect.sentence}", script)


def _meet(play: Play, role: str, found: bytes | Answer, *, is_good: bool) -> None:
    """The step in which the client meets the file."""
    repo = play.repo
    name = repo.name(role)
    repo.instead[name] = found if isinstance(found, Answer) else Answer(found)
    keeps = {one: repo.roles[one].version for one in _BEFORE[role]}
    asks = [f"{repo.root.version + (role != 'root')}.root.json"]
    asks += [] if role == "root" else ["timestamp.json"]
    asks += [repo.name(one) for one in (*_BEFORE[role][1:], role) if one not in {"root", "timestamp"}]
    if is_good:
        repo.history[role][repo.roles[role].version] = repo.instead[name].body
        if role == TEAM:
            play.downloads({ARTIFACT: DATA})
        else:
            play.accepts()
    elif role == TEAM:
        play.refuses_download(ARTIFACT, keeps=keeps, asks=asks)
    else:
        play.refuses(keeps=keeps, asks=asks)


def in_roles(chapter: str, defects: Mapping[str, Defect], roles: Iterable[str]) -> tuple[Case, ...]:
    """A case for each defect and role."""
    return tuple(one_role(chapter, name, defect, role) for name, defect in defects.items() for role in roles)
