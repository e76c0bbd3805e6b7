"""What a server or somebody on the way can do to an answer: refuse it, stretch it, cut it, pack it, send elsewhere."""

from __future__ import annotations

import gzip
from collections.abc import Callable

from device_client.limits import DEFAULT_LIMITS
from tests.conformance.defects import ARTIFACT, DATA, ROLES, TEAM, Defect, in_roles
from tests.conformance.play import ANYTHING, Case, Play, case, cases_of, slow
from tests.conformance.repository import Answer, Repository

_MIB = 1024 * 1024
_BUFFERS_BYTES = 24 * _MIB  # what the kernel takes from the server before anybody reads
_CAPS = {
    "root": DEFAULT_LIMITS.max_root_bytes,
    "timestamp": DEFAULT_LIMITS.max_timestamp_bytes,
    "snapshot": DEFAULT_LIMITS.max_snapshot_bytes,
    "targets": DEFAULT_LIMITS.max_targets_bytes,
    TEAM: DEFAULT_LIMITS.max_targets_bytes,
}


def _status(status: int) -> Callable[[Repository, str, bytes], Answer]:
    return lambda repo, role, honest: Answer(honest, status=status)


def _whole(**changes: object) -> Callable[[Repository, str, bytes], Answer]:
    return lambda repo, role, honest: Answer(honest, **changes)  # type: ignore[arg-type]  # the fields of Answer


def _moved(status: int) -> Callable[[Repository, str, bytes], Answer]:
    """The honest file is where the answer points; nobody may go there."""

    def make(repo: Repository, role: str, honest: bytes) -> Answer:
        repo.files["metadata/elsewhere.json"] = Answer(honest)
        return Answer(b"", status=status, headers=(("Location", "elsewhere.json"),))

    return make


def _padded(beyond: int) -> Callable[[Repository, str, bytes], bytes]:
    """The honest file, filled with spaces to its cap, or beyond it."""
    return lambda repo, role, honest: honest + b" " * (_CAPS[role] + beyond - len(honest))


_STATUS = {
    f"status-{status}": Defect(f"The server answers {status}, with the file.", _status(status)) for status in (403, 404, 500, 503)
}
_ANSWERS = {
    "status-206": Defect("The server answers 206, with the file.", _status(206)),
    "redirect-301": Defect("The server moved it for good.", _moved(301)),
    "redirect-302": Defect("The server sends the client elsewhere.", _moved(302)),
    "redirect-307": Defect("The server sends the client elsewhere, once more.", _moved(307)),
    "gzip": Defect(
        "It is sent packed, although nobody asked for that.",
        lambda repo, role, honest: Answer(gzip.compress(honest), headers=(("Content-Encoding", "gzip"),)),
    ),
    "gzip-bomb": Defect(
        "A packed gigabyte of spaces is sent.",
        lambda repo, role, honest: Answer(gzip.compress(b" " * 64 * _MIB, 1), headers=(("Content-Encoding", "gzip"),)),
    ),
    "brotli-by-name": Defect("It claims to be packed, and is not.", _whole(headers=(("Content-Encoding", "br"),))),
    "body-cut": Defect(
        "The connection ends before the body does.",
        lambda repo, role, honest: Answer(honest[:-50], claimed_bytes=len(honest)),
    ),
    "length-too-small": Defect(
        "The server claims fewer bytes than it sends.", lambda repo, role, honest: Answer(honest, claimed_bytes=len(honest) - 50)
    ),
    "beyond-its-cap": Defect("It is right, and one byte beyond its cap.", _padded(1)),
}
_FINE = {
    "chunked": Defect("It is sent in chunks, without a length.", _whole(is_chunked=True), is_good=True),
    "as-long-as-its-cap": Defect("It is right, and just as long as its cap.", _padded(0), is_good=True),
}

STATUS = in_roles("transport", _STATUS, ROLES[1:]) + in_roles(
    "transport", {name: _STATUS[name] for name in ("status-500", "status-503")}, ("root",)
)
ANSWERS = in_roles("transport", _ANSWERS, ("root", "timestamp", "targets"))
FINE = in_roles("transport", _FINE, ROLES)


@case
def no_newer_root_by_403(play: Play) -> None:
    """Web stores answer 403 for a file that is not there: no newer root, and no failure."""
    repo = play.start()
    repo.instead["2.root.json"] = Answer(status=403)
    play.accepts(asks=["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"])


def _endless(role: str, *, is_chunked: bool) -> Case:
    def script(play: Play) -> None:
        repo = play.begin()
        repo.delegate(TEAM, "team/*")
        repo.add_artifact(ARTIFACT, DATA, role=TEAM)
        repo.publish("targets", TEAM)
        play.downloads({ARTIFACT: DATA})
        repo.publish(role)
        name = repo.name(role)
        repo.instead[name] = Answer(b'{"signatures": [], "x": "aaaaaaaaaaaaaaa', is_endless=True, is_chunked=is_chunked)
        play.refuses_download(ARTIFACT, is_metadata_fine=True)
        sent = repo.sent_bytes.get(f"metadata/{name}", 0)
        play.holds(sent < _CAPS[role] + _BUFFERS_BYTES, f"the server could send {sent} bytes")
        repo.instead.clear()
        play.downloads({ARTIFACT: DATA})

    form = "in chunks" if is_chunked else "without a length"
    return Case(
        f"endless-{role}{'-in-chunks' if is_chunked else ''}", f"The next {role} never ends, {form}: given up at its cap.", script
    )


ENDLESS = (*(_endless(role, is_chunked=False) for role in ROLES), _endless("timestamp", is_chunked=True))


def _artifact(name: str, sentence: str, served: Answer) -> Case:
    """The artifact's answer is wrong; then it is right."""

    def script(play: Play) -> None:
        repo = play.begin()
        request = repo.add_artifact(ARTIFACT, DATA, served=served)
        repo.files["targets/team/elsewhere"] = Answer(DATA)
        repo.publish("targets")
        asks = ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", request]
        play.refuses_download(ARTIFACT, asks=asks, is_metadata_fine=True)
        if served.is_endless:
            play.holds(repo.sent_bytes.get(request, 0) < _BUFFERS_BYTES, "the server could send for ever")
        repo.files[request] = Answer(DATA)
        play.downloads({ARTIFACT: DATA}, asks=["2.root.json", "timestamp.json", request])

    return Case(f"artifact-{name}", f"The artifact. {sentence}", script)


ARTIFACTS = (
    *(
        _artifact(f"status-{status}", f"The server answers {status}, with it.", Answer(DATA, status=status))
        for status in (206, 403, 404, 500, 503)
    ),
    _artifact("endless", "It never ends.", Answer(DATA, is_endless=True)),
    _artifact("endless-in-chunks", "It never ends, in chunks.", Answer(DATA, is_endless=True, is_chunked=True)),
    _artifact("longer", "A byte follows it.", Answer(DATA + b"\0")),
    _artifact("shorter", "Its last byte is missing.", Answer(DATA[:-1])),
    _artifact("empty", "It is empty.", Answer(b"")),
    _artifact("body-cut", "The connection ends before it does.", Answer(DATA[:-1], claimed_bytes=len(DATA))),
    _artifact("other-bytes-of-its-length", "Other bytes of the same length stand for it.", Answer(DATA[::-1])),
    _artifact("one-bit", "One bit of it is another.", Answer(bytes([DATA[0] ^ 1]) + DATA[1:])),
    _artifact("gzip", "It is sent packed.", Answer(gzip.compress(DATA), headers=(("Content-Encoding", "gzip"),))),
    _artifact("redirect", "The server sends the client elsewhere.", Answer(status=302, headers=(("Location", "elsewhere"),))),
)


@slow
@case
def slow_timestamp(play: Play) -> None:
    """The timestamp comes one byte at a time, each in time for a wait between two bytes: ended by the deadline for a file."""
    repo = play.begin()
    repo.publish("timestamp")
    repo.instead["timestamp.json"] = Answer(repo.newest("timestamp"), pause_s=2.0)
    play.refuses(asks=["2.root.json", "timestamp.json"])
    repo.instead.clear()
    play.accepts()


@slow
@case
def slow_artifact(play: Play) -> None:
    """The artifact comes one byte at a time: ended by the deadline for a file, nothing stored."""
    repo = play.begin()
    data = b"slow" * 64
    request = repo.add_artifact(ARTIFACT, data, served=Answer(data, pause_s=2.0))
    repo.publish("targets")
    play.refuses_download(ARTIFACT, is_metadata_fine=True)
    repo.files[request] = Answer(data)
    play.downloads({ARTIFACT: data}, asks=ANYTHING)


CASES = cases_of(globals())
