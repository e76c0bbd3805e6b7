"""Files that two JSON readers could take differently, and signed content that is no TUF role."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.conformance.defects import ROLES, TEAM, Defect, in_roles
from tests.conformance.play import Play, case, cases_of
from tests.conformance.repository import Answer, Repository, resigned, signed_file, tampered

Make = Callable[[Repository, str, bytes], bytes]


def _raw(change: Callable[[bytes], bytes]) -> Make:
    """Changes the bytes; the signed content stays what the role's keys signed, in some reader's eyes."""
    return lambda repo, role, honest: change(honest)


def _beside(text: bytes) -> Make:
    """Another member beside ``signed``, where no signature covers it."""
    return _raw(lambda honest: honest[:-1] + b',"x":' + text + b"}")


def _resigned(**changes: Any) -> Make:
    """Signed by the right keys, with members of the signed part replaced; None takes one away."""

    def change(signed: dict[str, Any]) -> None:
        signed.update(changes)
        for name in [name for name, value in changes.items() if value is None]:
            del signed[name]

    return lambda repo, role, honest: resigned(honest, change, repo.signers[role])


def _meta(change: Callable[[dict[str, Any]], None]) -> Make:
    def make(repo: Repository, role: str, honest: bytes) -> bytes:
        return resigned(honest, lambda signed: change(signed["meta"]), repo.signers[role])

    return make


def _entry(**changes: Any) -> Make:
    def make(repo: Repository, role: str, honest: bytes) -> bytes:
        def change(signed: dict[str, Any]) -> None:
            signed["targets"]["team/model.bin"].update(changes)

        return resigned(honest, change, repo.signers[role])

    return make


def _first_of_two(honest: bytes) -> bytes:
    """``signed`` twice: the forged one first, and the signed one, which Python's own reader takes, last."""
    signed = json.loads(honest)["signed"] | {"x": "what another reader sees"}
    return b'{"signed":' + json.dumps(signed).encode() + b"," + honest[1:]


JSON = {
    "duplicate-member": Defect("The member `signed` stands there twice.", _raw(_first_of_two)),
    "duplicate-version": Defect(
        "The version stands there twice.", _raw(lambda honest: honest.replace(b'"version":', b'"version":77,"version":', 1))
    ),
}
MORE_JSON = {
    "nan": Defect("It holds NaN.", _beside(b"NaN")),
    "infinity": Defect("It holds -Infinity.", _beside(b"-Infinity")),
    "number-out-of-range": Defect("It holds 1e999.", _beside(b"1e999")),
    "huge-integer": Defect("It holds an integer of 5000 digits.", _beside(b"9" * 5000)),
    "integer-beyond-2-53": Defect("It holds 2^53, which other readers round.", _beside(str(2**53).encode())),
    "deep-nesting": Defect("It is nested a hundred levels deep.", _beside(b"[" * 100 + b"]" * 100)),
    "bottomless-nesting": Defect("It is nested 20000 levels deep.", _beside(b'{"a":' * 20_000 + b"1" + b"}" * 20_000)),
    "lone-surrogate": Defect("It holds half of a surrogate pair.", _beside(b'"\\ud800"')),
    "byte-order-mark": Defect("It begins with a byte order mark.", _raw(lambda honest: b"\xef\xbb\xbf" + honest)),
    "utf-16": Defect("It is UTF-16.", _raw(lambda honest: honest.decode().encode("utf-16"))),
    "not-utf-8": Defect("It holds a byte that is no UTF-8.", _raw(lambda honest: honest[:-1] + b',"x":"\xff"}')),
    "trailing-bytes": Defect("Another document follows.", _raw(lambda honest: honest + b"{}")),
    "trailing-nul": Defect("A zero byte follows.", _raw(lambda honest: honest + b"\0")),
    "comment": Defect("A comment stands before it.", _raw(lambda honest: b"// role\n" + honest)),
    "single-quotes": Defect("It is quoted as Python would.", _raw(lambda honest: honest.replace(b'"', b"'"))),
    "empty": Defect("It is empty.", _raw(lambda honest: b"")),
    "cut-in-half": Defect("Its second half is missing.", _raw(lambda honest: honest[: len(honest) // 2])),
    "null": Defect("It is the value null.", _raw(lambda honest: b"null")),
    "list": Defect("It is a list.", _raw(lambda honest: b"[]")),
    "web-page": Defect("It is a web page.", _raw(lambda honest: b"<!doctype html><title>Log in</title>")),
    "signatures-missing": Defect(
        "It has no signatures member.", lambda repo, role, honest: tampered(honest, lambda value: value.pop("signatures"))
    ),
    "signatures-a-map": Defect(
        "Its signatures are a map.", lambda repo, role, honest: tampered(honest, lambda value: value.update(signatures={}))
    ),
    "signed-a-list": Defect("What is signed is a list.", lambda repo, role, honest: signed_file([1, 2], repo.signers[role])),
}
CONTENT = {
    "expires-missing": Defect("It never expires.", _resigned(expires=None)),
    "expires-date-only": Defect("It expires on a day without a time.", _resigned(expires="2099-01-01")),
    "expires-with-offset": Defect("It expires in another time zone.", _resigned(expires="2099-01-01T00:00:00+02:00")),
    "expires-in-words": Defect("It expires tomorrow.", _resigned(expires="tomorrow")),
    "type-missing": Defect("It does not say its type.", _resigned(_type=None)),
    "type-unknown": Defect("It is of a type that TUF does not have.", _resigned(_type="mirrors")),
    "spec-version-2": Defect("It is of specification 2.0.0.", _resigned(spec_version="2.0.0")),
    "spec-version-missing": Defect("It does not say its specification.", _resigned(spec_version=None)),
    "spec-version-in-words": Defect("Its specification is no version.", _resigned(spec_version="latest")),
    "version-zero": Defect("It is version 0.", _resigned(version=0)),
    "version-negative": Defect("It is version -1.", _resigned(version=-1)),
    "version-a-string": Defect("Its version is a string.", _resigned(version="3")),
    "version-true": Defect("Its version is the value true.", _resigned(version=True)),
    "version-beyond-2-53": Defect("Its version is 2^53.", _resigned(version=2**53)),
}
_NO_TARGETS = Defect("It lists no targets.", _meta(lambda meta: meta.pop("targets.json")))
_TIMESTAMP = {
    "lists-no-snapshot": Defect("It lists no snapshot.", _meta(lambda meta: meta.pop("snapshot.json"))),
    "snapshot-version-zero": Defect("It lists snapshot version 0.", _meta(lambda meta: meta["snapshot.json"].update(version=0))),
    "snapshot-version-a-string": Defect(
        "It lists a snapshot version that is a string.", _meta(lambda meta: meta["snapshot.json"].update(version="3"))
    ),
    "snapshot-length-negative": Defect(
        "It lists a snapshot of -1 bytes.", _meta(lambda meta: meta["snapshot.json"].update(length=-1))
    ),
    "snapshot-hashes-empty": Defect(
        "It lists no hash in a map of hashes.", _meta(lambda meta: meta["snapshot.json"].update(hashes={}))
    ),
}
_TEAM = {
    "length-missing": Defect("Its entry has no length.", _entry(length="many")),
    "length-negative": Defect("Its entry has a negative length.", _entry(length=-1)),
    "hashes-empty": Defect("Its entry has no hash.", _entry(hashes={})),
    "hashes-a-string": Defect("Its entry's hash is a string.", _entry(hashes="sha256")),
}
GOOD = {
    "spec-version-1-99": Defect("It is of a later 1.x specification.", _resigned(spec_version="1.99.0"), is_good=True),
    "unknown-member": Defect("It has a member that no signature covers.", _beside(b'{"a":[1,2.5,null,true]}'), is_good=True),
    "escapes": Defect("It writes letters as escapes.", _raw(lambda honest: honest.replace(b'"sig"', b'"\\u0073ig"')), is_good=True),
}


@case
def first_timestamp_with_a_truth_for_a_version(play: Play) -> None:
    """The first timestamp's version is the value true, which some readers take for 1: no integer."""
    repo = play.start()
    data = resigned(repo.newest("timestamp"), lambda signed: signed.update(version=True), repo.signers["timestamp"])
    repo.instead["timestamp.json"] = Answer(data)
    play.refuses(asks=["2.root.json", "timestamp.json"])
    repo.instead.clear()
    play.accepts()


IN_ALL_ROLES = in_roles("json", JSON, ROLES)
IN_TIMESTAMP = in_roles("json", MORE_JSON, ("timestamp",)) + in_roles("content", CONTENT | _TIMESTAMP, ("timestamp",))
IN_OTHERS = (
    in_roles("content", {"lists-no-targets": _NO_TARGETS}, ("snapshot",))
    + in_roles("content", _TEAM, (TEAM,))
    + in_roles("json", {name: MORE_JSON[name] for name in ("nan", "bottomless-nesting", "utf-16", "empty")}, ("root", "snapshot"))
    + in_roles(
        "content", {name: CONTENT[name] for name in ("version-zero", "expires-missing", "spec-version-2")}, ("targets", TEAM)
    )
)
UNUSUAL = in_roles("unusual", GOOD, ROLES)
CASES = cases_of(globals())
