"""Plays one case: a repository, a client under test, and after each step what must have come of it.

A case is a function that takes a ``Play``; its docstring is the sentence. Every step states its exit status. Unless it
says otherwise it also holds that

    after ``accepts``, the metadata folder holds the newest published bytes of the four top-level roles, and the requests
    were exactly those that TUF needs for them;
    after ``refuses`` and ``refuses_download``, both folders are as they were, and nothing was asked for twice;
    after every step, the client printed no traceback, and left no file of another kind in its folders.

Expectations come from the TUF specification and from Sealift's design, never from what a client did.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import importlib.util
import io
import json
import re
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.conformance.loopback import Loopback
from tests.conformance.repository import TOP_LEVEL, Repository

CLIENT = Path(__file__).with_name("client")
Client = Callable[[Sequence[str]], tuple[int, str]]  # the words of a command -> exit status, what it printed to stderr
Kept = Mapping[str, int | bytes | None]  # role -> version, or bytes, or None where no file may be
ANYTHING = ("*",)  # as `asks`: the requests are not prescribed
_STEP_TIMEOUT_S = 150.0


class DisagreementError(AssertionError):
    """The client did not do what the case expects."""


@dataclass(frozen=True)
class Case:
    """A repository, or several, with steps and their expected outcomes.

    Attributes:
        is_slow: waits for real time limits of the client; not for every test run.
    """

    name: str
    sentence: str
    script: Callable[[Play], None]
    is_slow: bool = False


@dataclass(frozen=True)
class Step:
    """One command: what was expected of it and what it did."""

    command: str
    expected: int
    status: int
    requests: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Outcome:
    """How a case went; ``disagreement`` is None where everything was as expected."""

    case: Case
    steps: tuple[Step, ...]
    disagreement: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """A row of a table of results."""
        return {
            "name": self.case.name,
            "sentence": self.case.sentence,
            "kind": "bad" if any(step.expected for step in self.steps) else "good",
            "steps": [f"{step.command}: {step.status}" for step in self.steps],
            "refused_with": [step.said for step in self.steps if step.status],
            "requests": sum(len(step.requests) for step in self.steps),
            "seconds": round(self.seconds, 3),
            "as_expected": self.disagreement is None,
            "disagreement": self.disagreement,
        }


def case(script: Callable[[Play], None]) -> Case:
    """Makes a case of a function: the name is the function's, the sentence its docstring."""
    return Case(script.__name__.replace("_", "-"), " ".join((script.__doc__ or "").split()), script)


def slow(made: Case) -> Case:
    """A case that waits for the client's real time limits."""
    return Case(made.name, made.sentence, made.script, is_slow=True)


def cases_of(names: Mapping[str, object]) -> tuple[Case, ...]:
    """The cases of a module, from its ``globals()``: single ones and tuples of them."""
    found: list[Case] = []
    for value in names.values():
        found += [value] if isinstance(value, Case) else []
        found += [item for item in value if isinstance(item, Case)] if isinstance(value, tuple) else []
    return tuple(found)


def play_case(played: Case, *, folder: Path, server: Loopback, client: Client) -> Outcome:
    """Plays ``played`` in ``folder``, which must be empty; never raises for what the client did."""
    play = Play(played, folder=folder, server=server, client=client)
    started, disagreement = time.monotonic(), None
    try:
        played.script(play)
    except DisagreementError as e:
        disagreement = str(e)
    if disagreement is None and not play.steps:
        disagreement = "the case has no step"
    return Outcome(played, tuple(play.steps), disagreement, time.monotonic() - started)


@dataclass
class Play:
    """The hands of a case: it makes a repository, lets the client take steps, and changes what it likes in between."""

    case: Case
    folder: Path
    server: Loopback
    client: Client
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metadata, self.artifacts = self.folder / "metadata", self.folder / "artifacts"
        self.metadata.mkdir(parents=True)
        self.artifacts.mkdir()
        self.repo: Repository
        self._url = ""

    # Steps.

    def start(self, **options: Any) -> Repository:
        """A new repository with ``options``, and a client that holds its first root."""
        self.serve(Repository(**options))
        self.init(self.repo.newest("root"))
        return self.repo

    def begin(self, **options: Any) -> Repository:
        """``start``, and a first refresh."""
        self.start(**options)
        self.accepts()
        return self.repo

    def serve(self, repo: Repository) -> None:
        """From now on the client is shown ``repo``."""
        self.repo = repo
        self._url = self.server.mount(self.case.name, repo)

    def init(self, root: bytes) -> None:
        """Gives the client its first root."""
        first = self.folder / "first-root"
        first.write_bytes(root)
        self._step("init", [str(first)], expected=0)
        self._check_kept({"root.json": root})
        self._check(self.steps[-1].requests == (), "init asked the network")

    def accepts(self, *, keeps: Kept | None = None, asks: Sequence[str] | None = None) -> None:
        """A refresh that must succeed; ``keeps`` adds to what must be kept, ``asks`` are the only requests."""
        before = self.kept()
        self._step("refresh", [], expected=0)
        newest = {self.file_name(role): self.repo.newest(role) for role in TOP_LEVEL}
        after = self._changed({**before, **newest}, keeps)
        self._check_kept(after)
        self._check_requests(self._needed(before, after) if asks is None else asks)

    def refuses(self, *, keeps: Kept | None = None, asks: Sequence[str] | None = None, may_drop: Sequence[str] = ()) -> None:
        """A refresh that must fail.

        Args:
            keeps: what it must have verified and kept before that.
            asks: the only requests.
            may_drop: roles whose kept file may be gone: those that the new root's keys no longer verify (TUF 5.3.11).
        """
        before = self.kept()
        self._step("refresh", [], expected=1)
        dropped = {self.file_name(role) for role in may_drop} - set(self.kept())
        expected = self._changed(before, keeps)
        self._check_kept({name: data for name, data in expected.items() if name not in dropped})
        self._check_requests(asks)

    def refuses_unkept(self, *, asks: Sequence[str]) -> None:
        """A refresh that must fail; what is kept afterwards is not looked at, since it was destroyed before."""
        self._step("refresh", [], expected=1)
        self._check_requests(asks)

    def downloads(self, artifacts: Mapping[str, bytes], *, asks: Sequence[str] | None = None) -> None:
        """A download that must succeed and store exactly these bytes beside those from before."""
        before = self.stored()
        self._step("download", list(artifacts), expected=0)
        self._check_stored({**before, **{quote(name, safe=""): data for name, data in artifacts.items()}})
        newest = {self.file_name(role): self.repo.newest(role) for role in TOP_LEVEL}
        kept = self.kept()
        self._check({name: kept.get(name) for name in newest} == newest, f"not the newest top-level roles: {sorted(kept)}")
        for name, data in kept.items():
            known = [versions for role, versions in self.repo.history.items() if self.file_name(role) == name]
            self._check(any(data in versions.values() for versions in known), f"{name} was never published")
        self._check_requests(asks)

    def refuses_download(
        self, *names: str, keeps: Kept | None = None, asks: Sequence[str] | None = None, is_metadata_fine: bool = False
    ) -> None:
        """A download that must fail and store nothing; with ``is_metadata_fine`` the roles may be renewed meanwhile."""
        before, stored = self.kept(), self.stored()
        self._step("download", list(names), expected=1)
        self._check_stored(stored)
        if not is_metadata_fine:
            self._check_kept(self._changed(before, keeps))
        self._check_requests(asks)

    # What the client keeps.

    def kept(self) -> dict[str, bytes]:
        """The role files that the client calls verified, by file name; a folder in a file's place counts as empty."""
        return {path.name: path.read_bytes() if path.is_file() else b"" for path in self.metadata.glob("*.json")}  # not of a pipe

    def stored(self) -> dict[str, bytes]:
        """The artifacts that the client stored, by path below its folder."""
        paths = [path for path in self.artifacts.rglob("*") if path.is_file() or path.is_symlink()]
        return {str(path.relative_to(self.artifacts)): path.read_bytes() for path in paths}

    def kept_file(self, role: str) -> Path:
        """Where the client keeps a role."""
        return self.metadata / self.file_name(role)

    @staticmethod
    def file_name(role: str) -> str:
        """The role's file in the metadata folder."""
        return f"{quote(role, safe='')}.json"

    # Checks.

    def holds(self, condition: bool, otherwise: str) -> None:
        """Something else that must be so."""
        self._check(condition, otherwise)

    def _step(self, command: str, words: Sequence[str], *, expected: int) -> None:
        line = ["--metadata-dir", str(self.metadata)]
        if command != "init":
            line += ["--metadata-url", f"{self._url}/metadata/"]
        if command == "download":
            for name in words:
                line += ["--target-name", name]
            line += ["--target-dir", str(self.artifacts), "--target-base-url", f"{self._url}/targets/"]
        self.repo.requests.clear()
        status, printed = self.client([*line, command, *(words if command == "init" else ())])
        said = printed.strip().splitlines()[-1][:300] if printed.strip() else ""
        self.steps.append(Step(command, expected, status, tuple(self.repo.requests), said))
        self._check("Traceback" not in printed, f"a traceback: {printed[-1500:]}")
        self._check(status == expected, f"exit {status}, expected {expected}; it said: {said!r}")
        strangers = [path.name for path in self.metadata.iterdir() if path.name.startswith("tmp")]
        self._check(not strangers, f"unfinished files in the metadata folder: {strangers}")
        beside = {path.name for path in self.folder.iterdir()} - {"metadata", "artifacts", "first-root", "outside"}
        self._check(not beside, f"files beside its folders: {sorted(beside)}")

    def _changed(self, files: dict[str, bytes], keeps: Kept | None) -> dict[str, bytes]:
        changed = dict(files)
        for role, what in (keeps or {}).items():
            changed.pop(self.file_name(role), None)
            if what is not None:
                changed[self.file_name(role)] = self.repo.history[role][what] if isinstance(what, int) else what
        return changed

    def _check_kept(self, expected: dict[str, bytes]) -> None:
        found = self.kept()
        for name in sorted({*expected, *found}):
            if found.get(name) != expected.get(name):
                self._check(False, f"{name}: {_told(found.get(name))}, expected {_told(expected.get(name))}")

    def _check_stored(self, expected: dict[str, bytes]) -> None:
        found = self.stored()
        self._check(found == expected, f"stored {sorted(found)}, expected {sorted(expected)} with their bytes")

    def _needed(self, before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
        """The requests of a refresh, by TUF 5.3 to 5.6: each next root until there is none, then what is new."""
        first = json.loads(before["root.json"])["signed"]["version"] + 1
        last = json.loads(after["root.json"])["signed"]["version"] + 1
        asked = [f"{version}.root.json" for version in range(first, last + 1)] + ["timestamp.json"]
        changed = [role for role in ("snapshot", "targets") if before.get(f"{role}.json") != after.get(f"{role}.json")]
        return asked + [self.repo.name(role) for role in changed]

    def _check_requests(self, expected: Sequence[str] | None) -> None:
        asked = list(self.steps[-1].requests)
        if expected is not None and expected != ANYTHING:
            self._check(asked == list(expected), f"asked for {asked}, expected {list(expected)}")
        twice = [name for name, times in Counter(asked).items() if times > 1]
        self._check(not twice, f"asked twice for {twice}")
        odd = [name for name in asked if not name.startswith("targets/") and not re.fullmatch(r"[^/]+\.json", name)]
        self._check(not odd, f"asked for {odd}")

    def _check(self, condition: bool, otherwise: str) -> None:
        if not condition:
            command = self.steps[-1].command if self.steps else "before any step"
            raise DisagreementError(f"step {len(self.steps)} ({command}): {otherwise}")


def in_process() -> Client:
    """The client's own ``main``, called in this process: the same code as the executable, without starting Python for each step.

    Not for several threads, since it sets ``sys.argv``.
    """
    loader = importlib.machinery.SourceFileLoader("sealift_conformance_client", str(CLIENT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    module._parser = functools.cache(module._parser)  # most of a step's time, and the same each time

    def run(words: Sequence[str]) -> tuple[int, str]:
        printed, before = io.StringIO(), sys.argv
        sys.argv = [str(CLIENT), *words]
        try:
            with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
                try:
                    status = int(module.main())
                except SystemExit as e:
                    status = e.code if isinstance(e.code, int) else 1
                except Exception:  # noqa: BLE001 (what Python itself would print)
                    traceback.print_exc()
                    status = 1
        finally:
            sys.argv = before
        return status, printed.getvalue()

    return run


def as_process(words: Sequence[str]) -> tuple[int, str]:
    """The executable, as anybody would start it."""
    try:
        done = subprocess.run(
            [sys.executable, str(CLIENT), *words], capture_output=True, text=True, check=False, timeout=_STEP_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return -1, f"still running after {_STEP_TIMEOUT_S} s"
    return done.returncode, done.stderr


def _told(data: bytes | None) -> str:
    if data is None:
        return "no file"
    try:
        return f"version {json.loads(data)['signed']['version']} ({len(data)} bytes)"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{len(data)} bytes that are no role"
