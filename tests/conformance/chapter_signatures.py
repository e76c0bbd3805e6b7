"""Signatures that are missing, foreign, counted twice or over something else, in each role."""

from __future__ import annotations

import json
from typing import Any

from securesystemslib.signer import CryptoSigner

from tests.conformance.defects import ROLES, TEAM, Defect, in_roles
from tests.conformance.play import Play, case, cases_of
from tests.conformance.repository import Answer, Repository, new_signer, resigned, signed_file, tampered, under_id


def _by(signers: list[CryptoSigner], honest: bytes) -> bytes:
    return signed_file(json.loads(honest)["signed"], signers)


def _twice(repo: Repository, role: str, honest: bytes) -> bytes:
    one = json.loads(_by(repo.signers[role][:1], honest))
    return tampered(honest, lambda value: value.update(signatures=one["signatures"] * 2))


def _one_for_both(repo: Repository, role: str, honest: bytes) -> bytes:
    """The first key's signature under the second key's id as well."""

    def change(value: dict[str, Any]) -> None:
        value["signatures"][1]["sig"] = value["signatures"][0]["sig"]

    return tampered(honest, change)


def _other_type(repo: Repository, role: str, honest: bytes) -> bytes:
    other = "timestamp" if role != "timestamp" else "snapshot"
    signed = json.loads(repo.newest(other))["signed"] | {"version": repo.roles[role].version}
    return signed_file(signed, repo.signers[role])


def _spoiled(sig: str) -> Any:
    def make(repo: Repository, role: str, honest: bytes) -> bytes:
        return tampered(honest, lambda value: value["signatures"][0].update(sig=sig))

    return make


_OTHER = {"root": "targets", "timestamp": "snapshot", "snapshot": "timestamp", "targets": "timestamp", TEAM: "targets"}
DEFECTS = {
    "none": Defect("Nobody signed it.", lambda repo, role, honest: _by([], honest)),
    "one-of-two": Defect("One signed, two must.", lambda repo, role, honest: _by(repo.signers[role][:1], honest)),
    "strangers": Defect(
        "Two strangers signed it under the ids of its keys.",
        lambda repo, role, honest: _by([new_signer(keyid=key.public_key.keyid) for key in repo.signers[role]], honest),
    ),
    "of-another-role": Defect(
        "The keys of another role signed it.", lambda repo, role, honest: _by(repo.signers[_OTHER[role]], honest)
    ),
    "twice-by-one-key": Defect("One key signed it, and its signature stands there twice.", _twice),
    "one-for-two-ids": Defect("One key's signature stands under both ids.", _one_for_both),
    "over-other-content": Defect(
        "Its content was changed after it was signed.",
        lambda repo, role, honest: tampered(honest, lambda value: value["signed"].update(x="changed")),
    ),
    "of-another-type": Defect("Its keys signed a document of another type.", _other_type),
    "not-hex": Defect("A signature is no hex number.", _spoiled("zz" * 64)),
    "empty": Defect("A signature is empty.", _spoiled("")),
}
IN_ROLES = in_roles("signatures", DEFECTS, ROLES)


@case
def delegated_key_under_two_ids(play: Play) -> None:
    """Targets lists one key of a delegated role under two ids, and asks for two: the key counts once."""
    repo = play.begin()
    key = new_signer()
    repo.add_artifact("free.bin", b"free")
    repo.delegate("team", "team/*", signers=[key, under_id(key, "ab" * 32)], threshold=2)
    repo.add_artifact("team/a.bin", b"the artifact", role="team")
    repo.publish("targets", "team")
    play.refuses_download("team/a.bin", is_metadata_fine=True)
    repo.delegate("team", "team/*", signers=(pair := [key, new_signer()]), threshold=2)
    targets_delegations = repo.targets().delegations
    assert targets_delegations is not None
    targets_delegations.keys.pop("ab" * 32)
    repo.signers["team"] = pair
    repo.publish("targets", "team")
    play.downloads({"team/a.bin": b"the artifact"})


@case
def signed_timestamp_of_another_repository(play: Play) -> None:
    """A whole other repository, right in itself, is served to a client of this one."""
    repo = play.begin()
    other = Repository()
    other.publish("root", "targets")
    play.serve(other)
    play.refuses(asks=["2.root.json"])
    play.serve(repo)
    play.accepts()


@case
def version_raised_without_a_signature(play: Play) -> None:
    """Somebody on the way raises the version of the timestamp to lock the client out."""
    repo = play.begin()
    data = tampered(repo.newest("timestamp"), lambda value: value["signed"].update(version=1_000_000))
    repo.instead["timestamp.json"] = Answer(data)
    play.refuses()
    repo.instead.clear()
    play.accepts()


@case
def replay_under_another_version_name(play: Play) -> None:
    """The keys of snapshot sign a targets document: it is refused where targets is looked for, whatever its version."""
    repo = play.begin()
    repo.publish("targets")
    data = resigned(repo.newest("targets"), lambda signed: signed.update(x=1), repo.signers["snapshot"])
    repo.instead[repo.name("targets")] = Answer(data)
    play.refuses(keeps={"timestamp": 2, "snapshot": 2})
    repo.instead.clear()
    play.accepts()


CASES = cases_of(globals())
