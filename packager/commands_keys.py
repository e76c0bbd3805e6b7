"""`sealift keys`: make keys, hold the first ceremony, show who may sign what."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import click
from tuf.api.metadata import Root, Targets

from device_client.console import json_option, show
from device_client.errors import UsageError
from device_client.trust.keys import SCHEMES, fingerprint, load_public_key, load_signer, new_key_file
from device_client.trust.passphrase import ask_passphrase
from device_client.trust.rules import parse_role
from device_client.trust.times import format_time, utc_now
from packager.ceremony import hold_first_ceremony
from packager.roles import load_roles
from packager.staging import DirStaging


@click.group()
def keys() -> None:
    """Make keys, hold the first ceremony, show who may sign what."""


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--scheme", type=click.Choice(SCHEMES), default=SCHEMES[0], show_default=True, help="Signature scheme.")
@json_option
def new(file: Path, scheme: str, as_json: bool) -> None:
    """Make a key pair: FILE (encrypted, keep it) and FILE.pub (give it away).

    The passphrase comes from SEALIFT_PASSPHRASE, from the file that SEALIFT_PASSPHRASE_FILE names, or from a prompt.
    """
    key = new_key_file(file, scheme=scheme, passphrase=ask_passphrase(file.name, confirm=True))
    result: dict[str, object] = {
        "key": str(file),
        "public": f"{file}.pub",
        "keyid": key.keyid,
        "fingerprint": str(fingerprint(key)),
    }
    show(result, f"{file}: {scheme} key {key.keyid[:16]}\nfingerprint {fingerprint(key)}", as_json=as_json)


@keys.command()
@click.option("--repo", required=True, type=click.Path(path_type=Path), help="Staging folder to write; must hold no repository.")
@click.option("--roles", "roles_file", required=True, type=click.Path(path_type=Path), help="Who may sign what (roles.toml).")
@click.option("--key", "key_uris", multiple=True, required=True, help="Key URI (file:PATH) that signs root or targets; repeat.")
@json_option
def init(repo: Path, roles_file: Path, key_uris: tuple[str, ...], as_json: bool) -> None:
    """Hold the first ceremony: write root and targets, version 1, signed by the keys that are present."""
    roles = load_roles(roles_file)
    signers = [load_signer(uri, passphrase=ask_passphrase) for uri in key_uris]
    done = hold_first_ceremony(roles, signers=signers, staging=DirStaging(repo), now=utc_now())
    root = repo / "metadata" / "1.root.json"
    result: dict[str, object] = {"root": str(root), "root_sha256": done.root_digest.hex, "roles": list(done.roles)}
    names = ", ".join(done.roles)
    text = f"{root}\nsha256 {done.root_digest.hex}  <- compare this out loud; devices are provisioned with it\nroles: {names}"
    show(result, text, as_json=as_json)


@keys.command(name="show")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--repo", type=click.Path(path_type=Path), help="Staging folder whose roles to show.")
@json_option
def show_keys(file: Path | None, repo: Path | None, as_json: bool) -> None:
    """Show a public key, or the roles of a repository with keys, thresholds and expiry."""
    if (file is None) == (repo is None):
        raise UsageError(
            "give a public key file or --repo", code="usage", hint="sealift keys show FILE.pub | sealift keys show --repo DIR"
        )
    if file is not None:
        key = load_public_key(file)
        result: dict[str, object] = {"keyid": key.keyid, "scheme": key.scheme, "fingerprint": str(fingerprint(key))}
        show(result, f"{key.scheme} key {key.keyid}\nfingerprint {fingerprint(key)}", as_json=as_json)
    elif repo is not None:
        _show_roles(repo, as_json=as_json)


def _show_roles(repo: Path, *, as_json: bool) -> None:
    rows = _role_rows(DirStaging(repo))
    lines = [
        f"{row.role}: {row.threshold} of {len(row.keyids)}, "
        + ("nothing published yet" if row.version is None else f"version {row.version}, expires {row.expires}")
        for row in rows
    ]
    show({"roles": [asdict(row) for row in rows]}, "\n".join(lines), as_json=as_json)


@dataclass(frozen=True)
class _RoleRow:
    role: str
    threshold: int
    keyids: list[str]
    version: int | None
    expires: str | None


def _role_rows(staging: DirStaging) -> list[_RoleRow]:
    root_bytes, targets_bytes = staging.role_bytes("root"), staging.role_bytes("targets")
    if root_bytes is None or targets_bytes is None:
        raise UsageError(
            "no repository here", code="repository_missing", where=staging.name, hint="hold the ceremony first: `sealift keys init`"
        )
    root: Root = parse_role(root_bytes, where="root").signed
    targets: Targets = parse_role(targets_bytes, where="targets").signed
    delegated = targets.delegations.roles if targets.delegations and targets.delegations.roles else {}
    rows = []
    for name, role in (*root.roles.items(), *delegated.items()):
        data = staging.role_bytes(name)
        signed = None if data is None else parse_role(data, where=name).signed
        version, expires = (signed.version, format_time(signed.expires)) if signed else (None, None)
        rows.append(_RoleRow(name, role.threshold, list(role.keyids), version, expires))
    return rows
