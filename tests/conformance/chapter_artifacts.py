"""Artifacts: which hashes count, what their names may be, and what is asked for again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.conformance.play import ANYTHING, Case, Play, case, cases_of
from tests.conformance.repository import Answer, resigned

_DATA = b"the bytes of the artifact"
_START = ["2.root.json", "timestamp.json"]


@case
def artifacts_of_any_folder(play: Play) -> None:
    """Artifacts in the base folder and below others, an empty one and one of a megabyte."""
    artifacts = {"a.bin": b"a", "x/b.bin": b"b", "x/y/z/c.bin": b"c", "empty": b"", "large": bytes(1024 * 1024)}
    repo = play.begin()
    for path, data in artifacts.items():
        repo.add_artifact(path, data)
    repo.publish("targets")
    play.downloads(artifacts)


@case
def unchanged_artifact(play: Play) -> None:
    """An artifact that is stored is not asked for again; a changed one is, and takes its place."""
    repo = play.begin()
    request = repo.add_artifact("a.bin", b"the first")
    repo.publish("targets")
    play.downloads({"a.bin": b"the first"}, asks=[*_START, "2.snapshot.json", "2.targets.json", request])
    play.downloads({"a.bin": b"the first"}, asks=_START)
    request = repo.add_artifact("a.bin", b"the second")
    repo.publish("targets")
    play.downloads({"a.bin": b"the second"}, asks=[*_START, "3.snapshot.json", "3.targets.json", request])


@case
def stored_artifact_damaged(play: Play) -> None:
    """Somebody changed a stored artifact: it is fetched again."""
    repo = play.begin()
    request = repo.add_artifact("a.bin", _DATA)
    repo.publish("targets")
    play.downloads({"a.bin": _DATA})
    for damage in (b"", _DATA[:-1], _DATA + b"\0", _DATA[::-1]):
        (play.artifacts / "a.bin").write_bytes(damage)
        play.downloads({"a.bin": _DATA}, asks=[*_START, request])


@case
def failure_ends_a_list(play: Play) -> None:
    """Three artifacts are wanted and the second is wrong: the first is stored, the third is not asked for."""
    repo = play.begin()
    first = repo.add_artifact("1.bin", b"one")
    second = repo.add_artifact("2.bin", b"two", served=Answer(b"TWO"))
    repo.add_artifact("3.bin", b"three")
    repo.publish("targets")
    play.downloads({"1.bin": b"one"})
    play.refuses_download("1.bin", "2.bin", "3.bin", asks=[*_START, second])
    play.holds(first not in play.steps[-1].requests, "the stored artifact was asked for again")


@case
def old_artifact_after_a_refused_update(play: Play) -> None:
    """The next version of an artifact is wrong: the stored one stays as it is."""
    repo = play.begin()
    repo.add_artifact("a.bin", b"the first")
    repo.publish("targets")
    play.downloads({"a.bin": b"the first"})
    repo.add_artifact("a.bin", b"the second", served=Answer(b"THE SECOND"))
    repo.publish("targets")
    play.refuses_download("a.bin", is_metadata_fine=True)


@case
def artifact_listed_no_longer(play: Play) -> None:
    """Targets lists an artifact no longer: it is not found, although the server still has it."""
    repo = play.begin()
    repo.add_artifact("a.bin", _DATA)
    repo.publish("targets")
    play.accepts()
    repo.targets().targets.clear()
    repo.publish("targets")
    play.refuses_download("a.bin", is_metadata_fine=True, asks=[*_START, "3.snapshot.json", "3.targets.json"])


def _hashes(name: str, sentence: str, hashes: Sequence[str], *, is_good: bool) -> Case:
    def script(play: Play) -> None:
        repo = play.begin()
        request = repo.add_artifact("a.bin", _DATA, hashes=hashes)
        repo.publish("targets")
        if is_good:
            asks = [*_START, "2.snapshot.json", "2.targets.json", request]
            play.downloads({"a.bin": _DATA}, asks=asks if len(hashes) == 1 else ANYTHING)
            return
        play.refuses_download("a.bin", is_metadata_fine=True)
        repo.add_artifact("a.bin", _DATA)
        repo.publish("targets")
        play.downloads({"a.bin": _DATA})

    return Case(f"hashes-{name}", f"The artifact is listed with {sentence}.", script)


HASHES = (
    _hashes("sha256", "sha256", ["sha256"], is_good=True),
    _hashes("sha512", "sha512", ["sha512"], is_good=True),
    _hashes("both", "sha256 and sha512", ["sha256", "sha512"], is_good=True),
    _hashes("md5-beside-sha256", "md5 beside sha256: all must match, and one is enough to trust", ["sha256", "md5"], is_good=True),
    _hashes("md5", "md5 alone, of which two files can be made", ["md5"], is_good=False),
    _hashes("sha1", "sha1 alone, of which two files can be made", ["sha1"], is_good=False),
    _hashes("md5-and-sha1", "md5 and sha1 alone", ["md5", "sha1"], is_good=False),
)


def _wrong_hashes(name: str, sentence: str, **hashes: str) -> Case:
    """The entry's hashes are changed and signed again; the server has the artifact under each name."""

    def script(play: Play) -> None:
        repo = play.begin()
        request = repo.add_artifact("a.bin", _DATA)
        repo.publish("targets")

        def change(signed: dict[str, Any]) -> None:
            signed["targets"]["a.bin"]["hashes"].update(hashes)

        data = resigned(repo.newest("targets"), change, repo.signers["targets"])
        repo.instead[repo.name("targets")] = Answer(data)
        for value in hashes.values():
            repo.files[f"targets/{value}.a.bin"] = Answer(_DATA)
        repo.files[request] = Answer(_DATA)
        play.refuses_download("a.bin", is_metadata_fine=True)

    return Case(f"hashes-{name}", sentence, script)


WRONG_HASHES = (
    _wrong_hashes("sha256-wrong", "The artifact is listed with another sha256.", sha256="00" * 32),
    _wrong_hashes(
        "sha512-wrong-beside-sha256", "The artifact's sha256 is right and its sha512 is not: all must match.", sha512="00" * 64
    ),
    _wrong_hashes("of-an-unknown-kind", "The artifact is listed with a hash of a kind that nobody knows.", sha999="00" * 32),
)


def _name(index: int, path: str, place: str, *, is_good: bool) -> Case:
    """An artifact of this name is listed, and the server has it at ``place``, where a careless client would look."""

    def script(play: Play) -> None:
        repo = play.begin()
        outside = play.folder / "outside"
        outside.write_bytes(b"not yours")
        repo.add_artifact(path, _DATA)
        repo.files[place.replace("SHA", repo.targets().targets[path].hashes["sha256"])] = Answer(_DATA)
        repo.publish("targets")
        if is_good:
            play.downloads({path: _DATA})
        else:
            play.refuses_download(path, is_metadata_fine=True)
        play.holds(outside.read_bytes() == b"not yours", "a file outside was changed")

    outcome = "stored within the folder" if is_good else "no relative URL path, refused"
    return Case(f"artifact-name-{index}", f"An artifact is called {ascii(path)[:60]}: {outcome}.", script)


# A target's name is a path-relative URL string (TUF 4.5): no dot segments, no query, no fragment, no backslash, no control
# character, no slash in front. Whoever asks for such a name asks for something else than what was signed (D06).
_NAMES: tuple[tuple[str, str, bool], ...] = (
    ("modèle-☃.onnx", "targets/SHA.mod%C3%A8le-%E2%98%83.onnx", True),
    ("a..b/..c", "targets/a..b/SHA...c", True),
    (".hidden", "targets/SHA..hidden", True),
    ("%41.bin", "targets/SHA.%41.bin", True),
    ("../outside", "SHA.outside", False),
    ("a/../../outside", "SHA.outside", False),
    ("%2e%2e/outside", "targets/%2E%2E/SHA.outside", False),
    ("a/./b.bin", "targets/a/SHA.b.bin", False),
    ("..", "targets/SHA...", False),
    ("/etc/passwd", "targets//etc/SHA.passwd", False),
    ("a.bin?x=1", "targets/SHA.a.bin?x=1", False),
    ("a.bin#part", "targets/SHA.a.bin", False),
    ("a\\..\\outside", "targets/SHA.a%5C..%5Coutside", False),
    ("bell\a", "targets/SHA.bell%07", False),
    ("new\nline", "targets/SHA.new%0Aline", False),
    ("", "targets/SHA.", False),
    ("a b.bin", "targets/SHA.a%20b.bin", True),  # no URL code point, and common; the public suite searches for such a name
)
NAMES = tuple(_name(index, path, place, is_good=is_good) for index, (path, place, is_good) in enumerate(_NAMES))


@case
def artifact_name_too_long_for_a_file(play: Play) -> None:
    """An artifact has a name of 400 characters, which no file can have: a clean refusal."""
    repo = play.begin()
    repo.add_artifact("a" * 400, _DATA)
    repo.publish("targets")
    play.refuses_download("a" * 400, is_metadata_fine=True)


CASES = cases_of(globals())
