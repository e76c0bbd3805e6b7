"""Who may list an artifact: the order of the search, its patterns, hash bins, names, and roles that two others delegate to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from tests.conformance.play import Case, Play, case, cases_of
from tests.conformance.repository import Answer, Repository, new_signer, resigned

_ARTIFACT = "dir/a.bin"
_START = ["2.root.json", "timestamp.json"]


@dataclass(frozen=True)
class _Graph:
    """A graph of delegations.

    Attributes:
        edges: parent, role, pattern and whether it ends the search, in order.
        lists: the roles that list the artifact, each with bytes of its own.
        visits: the roles that are asked for, in order.
        found: the role whose bytes are taken; None where none is found.
    """

    sentence: str
    edges: Sequence[tuple[str, str, str, bool]]
    lists: Sequence[str]
    visits: str
    found: str | None


_T = "targets"
_GRAPHS = {
    "one": _Graph("One role.", [(_T, "A", "*/*", False)], "A", "A", "A"),
    "second-of-two": _Graph("Two roles, the second lists it.", [(_T, "A", "*/*", False), (_T, "B", "*/*", False)], "B", "AB", "B"),
    "first-of-two": _Graph("Two list it: the first counts.", [(_T, "A", "*/*", False), (_T, "B", "*/*", False)], "AB", "A", "A"),
    "top-level-first": _Graph("Top-level targets lists it as well, and counts.", [(_T, "A", "*/*", False)], [_T, "A"], "", _T),
    "parent-before-child": _Graph(
        "A role and the one below it list it.", [(_T, "A", "*/*", False), ("A", "B", "*/*", False)], "AB", "A", "A"
    ),
    "depth-first": _Graph(
        "The roles below the first come before the second.",
        [(_T, "A", "*/*", False), (_T, "B", "*/*", False), ("A", "C", "*/*", False), ("A", "D", "*/*", False)],
        "DB", "ACD", "D",
    ),
    "terminating": _Graph(
        "The first role ends the search without listing it.", [(_T, "A", "*/*", True), (_T, "B", "*/*", False)], "B", "A", None
    ),
    "terminating-below": _Graph(
        "A role below the first ends the whole search.",
        [(_T, "A", "*/*", False), (_T, "B", "*/*", False), ("A", "C", "*/*", True), ("A", "D", "*/*", False)],
        "BD", "AC", None,
    ),
    "terminating-with-children": _Graph(
        "The role that ends the search delegates it further.",
        [(_T, "A", "*/*", True), ("A", "C", "*/*", False), (_T, "B", "*/*", False)],
        "C", "AC", "C",
    ),
    "terminating-elsewhere": _Graph(
        "A role that ends the search of other paths does not end this one.",
        [(_T, "A", "other/*", True), (_T, "B", "*/*", False)],
        "B", "B", "B",
    ),
    "cycle": _Graph(
        "Two roles delegate to each other, and nobody lists it.",
        [(_T, "A", "*/*", False), ("A", "B", "*/*", False), ("B", "A", "*/*", False)],
        "", "AB", None,
    ),
    "cycle-with-a-way-out": _Graph(
        "Two roles delegate to each other, and a third lists it.",
        [(_T, "A", "*/*", False), ("A", "B", "*/*", False), ("B", "A", "*/*", False), ("B", "C", "*/*", False)],
        "C", "ABC", "C",
    ),
    "to-itself": _Graph("A role delegates to itself.", [(_T, "A", "*/*", False), ("A", "A", "*/*", False)], "", "A", None),
    "not-delegated": _Graph("The role lists it, and its pattern does not match.", [(_T, "A", "other/*", False)], "A", "", None),
    "not-delegated-above": _Graph(
        "The role's pattern matches it, its parent's does not.",
        [(_T, "A", "other/*", False), ("A", "B", "*/*", False)], "B", "", None
    ),
    "role-unlisted": _Graph("Nobody lists it.", [(_T, "A", "*/*", False)], "", "A", None),
    "twenty-deep": _Graph(
        "A chain of twenty roles.", [(_T if index == 0 else chr(96 + index), chr(97 + index), "*/*", False) for index in range(20)],
        "t", "abcdefghijklmnopqrst", "t",
    ),
}  # fmt: skip


def _graph(name: str, graph: _Graph) -> Case:
    def script(play: Play) -> None:
        repo = play.start()
        keys = {role: [new_signer()] for _, role, _, _ in graph.edges}
        for parent, role, pattern, terminating in graph.edges:
            repo.delegate(role, pattern, parent=parent, terminating=terminating, signers=keys[role])
        for role in graph.lists:
            repo.add_artifact(_ARTIFACT, f"listed by {role}".encode(), role=role)
        repo.publish("targets", *dict.fromkeys(role for _, role, _, _ in graph.edges))
        asks = [*_START, repo.name("snapshot"), repo.name("targets"), *(repo.name(role) for role in graph.visits)]
        if graph.found is None:
            play.refuses_download(_ARTIFACT, asks=asks, is_metadata_fine=True)
            return
        request = f"targets/dir/{repo.targets(graph.found).targets[_ARTIFACT].hashes['sha256']}.a.bin"
        play.downloads({_ARTIFACT: f"listed by {graph.found}".encode()}, asks=[*asks, request])

    return Case(f"graph-{name}", f"The search for an artifact. {graph.sentence}", script)


GRAPHS = tuple(_graph(name, graph) for name, graph in _GRAPHS.items())


@case
def delegations_without_end(play: Play) -> None:
    """A chain of forty roles: what the tenth lists is found, and the search ends before it comes to the last."""
    repo = play.start()
    parent = "targets"
    for index in range(40):
        repo.delegate(f"r{index}", "*/*", parent=parent)
        parent = f"r{index}"
    repo.add_artifact("dir/near.bin", b"near", role="r9")
    repo.add_artifact(_ARTIFACT, b"at the end", role=parent)
    repo.publish("targets", *(f"r{index}" for index in range(40)))
    play.downloads({"dir/near.bin": b"near"})
    play.refuses_download(_ARTIFACT, is_metadata_fine=True)
    play.holds(f"1.{parent}.json" not in play.steps[-1].requests, "every role was asked for")


_PATTERNS = (
    ("*.bin", "a.bin", True),
    ("*.bin", "dir/a.bin", False),
    ("*", "dir/a.bin", False),
    ("*/*.bin", "dir/a.bin", True),
    ("dir/*", "dir/sub/a.bin", False),
    ("?.bin", "a.bin", True),
    ("?.bin", "ab.bin", False),
    ("dir?a.bin", "dir/a.bin", False),
    ("DIR/*", "dir/a.bin", False),
    ("dir/a.bin", "dir/a.bin", True),
)


def _pattern(pattern: str, path: str, *, matches: bool) -> Case:
    def script(play: Play) -> None:
        repo = play.start()
        repo.delegate("A", pattern)
        repo.add_artifact(path, b"the artifact", role="A")
        repo.publish("targets", "A")
        if matches:
            play.downloads({path: b"the artifact"})
        else:
            play.refuses_download(path, is_metadata_fine=True, asks=[*_START, repo.name("snapshot"), repo.name("targets")])

    verb = "matches" if matches else "does not match"
    name = f"{pattern}-{path}".translate(str.maketrans({"*": "any", "?": "one", "/": "_"}))
    return Case(f"pattern-{name}", f"The pattern {pattern} {verb} the path {path}.", script)


PATTERNS = tuple(_pattern(pattern, path, matches=matches) for pattern, path, matches in _PATTERNS)


def _hash_prefix(name: str, sentence: str, change: str, *, matches: bool) -> Case:
    def script(play: Play) -> None:
        repo = play.start()
        digest = sha256(_ARTIFACT.encode()).hexdigest()
        repo.delegate("A", hash_prefixes=[change + digest[len(change) : 4]])
        repo.add_artifact(_ARTIFACT, b"the artifact", role="A")
        repo.publish("targets", "A")
        if matches:
            play.downloads({_ARTIFACT: b"the artifact"})
        else:
            play.refuses_download(_ARTIFACT, is_metadata_fine=True)
            repo.delegate("A", hash_prefixes=[digest[:4]], signers=repo.signers["A"])
            repo.publish("targets")
            play.downloads({_ARTIFACT: b"the artifact"})

    return Case(f"hash-prefix-{name}", sentence, script)


_OTHER = "0" if sha256(_ARTIFACT.encode()).hexdigest()[0] != "0" else "1"
HASH_PREFIXES = (
    _hash_prefix("of-the-path", "A delegation by a prefix of the path's hash.", "", matches=True),
    _hash_prefix("of-another-path", "A delegation by another prefix.", _OTHER, matches=False),
)


@case
def cached_role_under_another_delegator(play: Play) -> None:
    """Two roles delegate to a third by different keys; it is signed by the second's key alone, and was kept under that one.

    Under the first it does not verify, kept or not.
    """
    repo = play.start()
    repo.delegate("A", "a/*")
    repo.delegate("B", "b/*")
    repo.delegate("C", "a/*", parent="A", signers=[new_signer()])
    repo.signers["C"] = repo.delegate("C", "b/*", parent="B")
    for path in ("a/1", "b/1"):
        repo.add_artifact(path, path.encode(), role="C")
    repo.publish("targets", "A", "B", "C")
    play.downloads({"b/1": b"b/1"})
    play.refuses_download("a/1", is_metadata_fine=True)
    play.refuses_download("b/1", "a/1", is_metadata_fine=True)


@case
def role_of_two_delegators(play: Play) -> None:
    """Two roles delegate to a third by different keys, and both keys signed it."""
    repo = play.start()
    repo.delegate("A", "a/*")
    repo.delegate("B", "b/*")
    keys = [new_signer(), new_signer()]
    repo.delegate("C", "a/*", parent="A", signers=keys[:1])
    repo.delegate("C", "b/*", parent="B", signers=keys[1:])
    repo.signers["C"] = keys
    for path in ("a/1", "b/1"):
        repo.add_artifact(path, path.encode(), role="C")
    repo.publish("targets", "A", "B", "C")
    play.downloads({"b/1": b"b/1", "a/1": b"a/1"})


@case
def delegated_role_missing_from_snapshot(play: Play) -> None:
    """Targets delegates to a role that snapshot does not list."""
    repo = play.start()
    repo.delegate("A", "*/*")
    repo.add_artifact(_ARTIFACT, b"the artifact", role="A")
    repo.publish("targets", "A")
    listed = repo.snapshot.meta.pop("A.json")
    repo.publish("snapshot")
    play.refuses_download(_ARTIFACT, is_metadata_fine=True)
    play.accepts()
    repo.snapshot.meta["A.json"] = listed
    repo.publish("snapshot")
    play.downloads({_ARTIFACT: b"the artifact"})


@case
def delegated_key_rotated(play: Play) -> None:
    """Targets names another key for a role: what the old key signed no longer counts, kept or served."""
    repo = play.start()
    old = repo.delegate("A", "*/*")
    repo.add_artifact(_ARTIFACT, b"the artifact", role="A")
    repo.publish("targets", "A")
    play.downloads({_ARTIFACT: b"the artifact"})
    new = repo.delegate("A", "*/*")
    repo.publish("targets")
    play.refuses_download(_ARTIFACT, is_metadata_fine=True)
    repo.signers["A"] = old
    repo.publish("A")
    play.refuses_download(_ARTIFACT, is_metadata_fine=True)
    repo.signers["A"] = new
    repo.publish("A")
    play.downloads({_ARTIFACT: b"the artifact"})


@case
def delegation_taken_back(play: Play) -> None:
    """Targets no longer delegates to a role whose file the client keeps: what it lists is not found any more."""
    repo = play.start()
    repo.delegate("A", "*/*")
    repo.add_artifact(_ARTIFACT, b"the artifact", role="A")
    repo.publish("targets", "A")
    play.downloads({_ARTIFACT: b"the artifact"})
    repo.targets().delegations = None
    repo.publish("targets")
    play.refuses_download(_ARTIFACT, is_metadata_fine=True)


@case
def role_with_the_name_of_a_top_level_role(play: Play) -> None:
    """Targets delegates to a role called timestamp, whose file would take the place of the real one."""
    repo = play.begin()
    repo.publish("targets")

    def change(signed: dict[str, object]) -> None:
        role = {"name": "timestamp", "keyids": [], "threshold": 1, "terminating": False, "paths": ["*"]}
        signed["delegations"] = {"keys": {}, "roles": [role]}

    repo.instead[repo.name("targets")] = Answer(resigned(repo.newest("targets"), change, repo.signers["targets"]))
    play.refuses(keeps={"timestamp": 2, "snapshot": 2})
    repo.instead.clear()
    play.accepts()


_ROLE_NAMES = ("?", "#", "%", "a b", "/absolute", "../above", "../../../above", "%2e%2e%2fabove", "..", ".", "back\\slash",
               "ünï-☃", "root_history/1.root", "new\nline", "nul\0", "q?x=1&y=2", "*")  # fmt: skip


def _role_name(index: int, name: str) -> Case:
    def script(play: Play) -> None:
        repo = play.start()
        repo.delegate(name, "*/*")
        repo.add_artifact(_ARTIFACT, b"the artifact", role=name)
        repo.publish("targets", name)
        play.downloads({_ARTIFACT: b"the artifact"})
        play.accepts()

    return Case(f"role-name-{index}", f"A delegated role is called {name!a}: its file stays within the metadata folder.", script)


ROLE_NAMES = tuple(_role_name(index, name) for index, name in enumerate(_ROLE_NAMES))


@case
def role_name_too_long_for_a_file(play: Play) -> None:
    """A delegated role has a name of 400 characters, which no file can have: a clean refusal."""
    repo = play.start()
    repo.delegate("a" * 400, "*/*")
    repo.add_artifact(_ARTIFACT, b"the artifact", role="a" * 400)
    repo.publish("targets", "a" * 400)
    play.refuses_download(_ARTIFACT, is_metadata_fine=True)
    play.accepts()


# Hash bins.


def _with_bins(play: Play, artifacts: Mapping[str, bytes]) -> Repository:
    repo = play.start()
    bins = repo.delegate_bins(bits=4, prefix="bin")
    for path, data in artifacts.items():
        repo.add_artifact(path, data, role=bins.get_role_for_target(path))
    repo.publish("targets", *bins.get_roles())
    return repo


def _bin_of(repo: Repository, path: str) -> str:
    delegations = repo.targets().delegations
    assert delegations is not None
    assert delegations.succinct_roles is not None
    found: str = delegations.succinct_roles.get_role_for_target(path)
    return found


@case
def hash_bins(play: Play) -> None:
    """Sixteen hash bins: only the bin of each artifact is asked for."""
    artifacts = {f"dir/{index}.bin": f"artifact {index}".encode() for index in range(6)}
    repo = _with_bins(play, artifacts)
    play.downloads(artifacts)
    bins = {_bin_of(repo, path) for path in artifacts}
    asked = {name for name in play.steps[-1].requests if ".bin-" in name}
    play.holds(asked == {repo.name(one) for one in bins}, f"asked for {sorted(asked)}")


def _bad_bin(name: str, sentence: str, spoil: str) -> Case:
    def script(play: Play) -> None:
        repo = _with_bins(play, {_ARTIFACT: b"the artifact"})
        right = _bin_of(repo, _ARTIFACT)
        other = next(role for role in repo.roles if role.startswith("bin-") and role != right)
        honest = repo.signers[right]
        if spoil == "stranger":
            repo.signers[right] = [new_signer()]
            repo.publish(right)
        elif spoil == "unlisted":
            listed = repo.snapshot.meta.pop(f"{right}.json")
            repo.publish("snapshot")
        elif spoil == "swapped":
            repo.instead[repo.name(right)] = Answer(repo.newest(other))
        else:
            repo.targets(other).targets = repo.targets(right).targets
            repo.targets(right).targets = {}
            repo.publish(right, other)
        play.refuses_download(_ARTIFACT, is_metadata_fine=True)
        repo.signers[right] = honest
        repo.instead.clear()
        if spoil == "wrong":
            repo.targets(right).targets = repo.targets(other).targets
        if spoil == "unlisted":
            repo.snapshot.meta[f"{right}.json"] = listed
        repo.publish(right)
        play.downloads({_ARTIFACT: b"the artifact"})

    return Case(f"hash-bin-{name}", sentence, script)


BAD_BINS = (
    _bad_bin("signed-by-a-stranger", "The artifact's bin is signed by a key that is not the bins'.", "stranger"),
    _bad_bin("missing-from-snapshot", "Snapshot does not list the artifact's bin.", "unlisted"),
    _bad_bin("swapped", "Another bin's file, validly signed and of the same version, stands for the artifact's bin.", "swapped"),
    _bad_bin("wrong", "The artifact is listed in another bin than its own.", "wrong"),
)


@case
def delegating_by_names_and_by_bins_at_once(play: Play) -> None:
    """Targets delegates by named roles and by bins at once, which TUF forbids."""
    repo = play.begin()
    bins = repo.delegate_bins(bits=1, prefix="bin")
    repo.publish("targets", *bins.get_roles())

    def change(signed: dict[str, dict[str, object]]) -> None:
        signed["delegations"]["roles"] = []

    repo.instead[repo.name("targets")] = Answer(resigned(repo.newest("targets"), change, repo.signers["targets"]))
    play.refuses(keeps={"timestamp": 2, "snapshot": 2})
    repo.instead.clear()
    play.accepts()


CASES = cases_of(globals())
