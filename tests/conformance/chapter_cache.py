"""Damage to what the client keeps, between two steps: it heals, and trusts nothing that it did not verify again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conformance.play import ANYTHING, Case, Play, case, cases_of
from tests.conformance.repository import Answer, new_signer

_TEAM, _ARTIFACT, _DATA = "team", "team/a.bin", b"the artifact"
_ROLES = ("timestamp", "snapshot", "targets", _TEAM)
_NEEDED = {
    "timestamp": ["timestamp.json"],
    "snapshot": ["timestamp.json", "2.snapshot.json"],
    "targets": ["timestamp.json", "2.targets.json"],
    _TEAM: ["timestamp.json", "1.team.json"],
}


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"x")


def _link_outside(path: Path) -> None:
    """A link to a copy of the file, outside: who writes there must not be followed."""
    outside = path.parent.parent / "outside"
    shutil.copyfile(path, outside)
    outside.write_bytes(outside.read_bytes() + b" ")
    path.unlink()
    path.symlink_to(outside)


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _other_content(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"version":', b'"x":"edited","version":', 1))


_DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing": ("is gone", Path.unlink),
    "empty": ("is empty", lambda path: path.write_bytes(b"")),
    "truncated": ("lost its second half", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])),
    "random": ("is random bytes", lambda path: path.write_bytes(bytes(range(256)) * 8)),
    "edited": ("was edited", _other_content),
    "duplicate-member": ("has a member twice", lambda path: path.write_bytes(path.read_bytes().replace(b"{", b'{"signed":{},', 1))),
    "deep": ("is nested without end", lambda path: path.write_bytes(b"[" * 200_000)),
    "endless": ("is 64 MiB long", lambda path: os.truncate(path, 64 * 1024 * 1024)),
    "folder": ("is a folder", _folder),
    "link-outside": ("is a link out of the folder", _link_outside),
    "link-to-nothing": ("is a link to nothing", _link_to_nothing),
    "pipe": ("is a pipe", _pipe),
}


def _damage(role: str, name: str) -> Case:
    sentence, damage = _DAMAGES[name]

    def script(play: Play) -> None:
        repo = play.start()
        repo.delegate(_TEAM, "team/*")
        repo.add_artifact(_ARTIFACT, _DATA, role=_TEAM)
        repo.publish("targets", _TEAM)
        play.downloads({_ARTIFACT: _DATA})
        damage(play.kept_file(role))
        outside = play.folder / "outside"
        before = outside.read_bytes() if outside.exists() else None
        play.downloads({_ARTIFACT: _DATA}, asks=["2.root.json", *_NEEDED[role]])
        play.holds((outside.read_bytes() if outside.exists() else None) == before, "a file outside was changed")
        play.holds(play.kept_file(role).read_bytes() == repo.newest(role), "the file did not heal")

    return Case(f"cache-{name}-{role}", f"The kept {role} {sentence}: fetched again.", script)


DAMAGES = tuple(_damage(role, name) for role in _ROLES for name in _DAMAGES)


def _damaged_root(name: str) -> Case:
    sentence, damage = _DAMAGES[name]

    def script(play: Play) -> None:
        play.begin()
        _root_file(play)
        damage(play.kept_file("root"))
        play.refuses_unkept(asks=[])

    return Case(f"cache-{name}-root", f"The kept root {sentence}: trust has no beginning, so nothing is asked for.", script)


def _root_file(play: Play) -> None:
    """Makes the kept root a plain file, whatever it was."""
    path = play.kept_file("root")
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


DAMAGED_ROOTS = tuple(
    _damaged_root(name) for name in ("missing", "empty", "truncated", "random", "edited", "deep", "folder", "link-to-nothing")
)


@case
def cache_wiped_but_for_the_root(play: Play) -> None:
    """All files but the newest root are gone: everything is fetched again, from that root on."""
    repo = play.begin()
    repo.publish("root", "targets")
    play.accepts()
    root = play.kept_file("root").read_bytes()
    for path in play.metadata.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    play.kept_file("root").write_bytes(root)
    play.accepts(asks=["3.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"])


@case
def roots_of_an_attacker_in_the_cache(play: Play) -> None:
    """Somebody puts a next root of his own beside the kept ones: it is not signed by the one before, and not followed."""
    repo = play.begin()
    honest = repo.newest("root")
    before = repo.give_keys("root", [new_signer()])
    repo.root.version = 2
    forged = repo.sign("root")
    repo.root.version = 1
    repo.give_keys("root", before)
    history = play.metadata / "root_history"
    history.mkdir(exist_ok=True)
    (history / "2.root.json").write_bytes(forged)
    play.accepts(keeps={"root": honest}, asks=["2.root.json", "timestamp.json"])
    repo.publish("root")
    play.accepts()


@case
def signed_files_of_an_attacker_in_the_cache(play: Play) -> None:
    """Somebody replaces the kept snapshot and targets by ones that strangers signed: they are fetched again."""
    repo = play.begin()
    for role in ("snapshot", "targets"):
        honest, repo.signers[role] = repo.signers[role], [new_signer()]
        play.kept_file(role).write_bytes(repo.sign(role))
        repo.signers[role] = honest
    play.accepts(asks=["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"])


@case
def damage_and_an_honest_failure_together(play: Play) -> None:
    """The kept targets is damaged while the server is down: refused, and healed at the next refresh."""
    repo = play.begin()
    play.kept_file("targets").write_bytes(b"")
    repo.instead["timestamp.json"] = Answer(status=503)
    play.refuses()
    repo.instead.clear()
    play.accepts(asks=ANYTHING)


@case
def old_snapshot_put_back_into_the_cache(play: Play) -> None:
    """Somebody puts an old, validly signed snapshot back: the timestamp that is kept asks for the newer one."""
    repo = play.begin()
    repo.publish("targets")
    play.accepts()
    play.kept_file("snapshot").write_bytes(repo.history["snapshot"][1])
    play.kept_file("targets").write_bytes(repo.history["targets"][1])
    play.accepts(asks=["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"])


CASES = cases_of(globals())
