"""`sealift sign` and `sealift publish`: signatures on what a person has seen, then one transaction."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.verified import VerifiedBundle, verify_bundle
from device_client.console import json_option, progress, show, step
from device_client.errors import FormatError, UsageError
from device_client.limits import DEFAULT_LIMITS
from device_client.text import printable
from device_client.trust.custom import Rollout
from device_client.trust.expected_policy import MAX_POLICY_BYTES, read_expected_policy
from device_client.trust.keys import load_signer
from device_client.trust.passphrase import ask_passphrase
from device_client.trust.times import parse_time, utc_now
from packager.budget_gate import require_budget_met
from packager.http_staging import HttpStaging
from packager.publish import plan_publish, publish_plan
from packager.sign import Draft, open_draft, prepare_audit, prepare_release, same_content, store_signed
from packager.staging import DirStaging, Staging

T = TypeVar("T")

repo_option = click.option("--repo", required=True, help="Staging folder, or the server's URL.")
token_option = click.option(
    "--token-file", type=click.Path(path_type=Path), help="File with the publisher's token (or SEALIFT_TOKEN)."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask before signing or publishing.")


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@repo_option
@click.option("--role", required=True, help="Role to sign for: release-LINE, audit-LINE; without BUNDLE any offline role.")
@click.option("--key", "key_uris", multiple=True, required=True, help="Key URI (file:PATH); repeat for several keys in one place.")
@click.option("--floor", help="E.N: devices refuse releases below it from then on.")
@click.option(
    "--max-percent", type=click.IntRange(0, 100), default=100, show_default=True, help="Share of devices that may install."
)
@click.option("--not-before", help="YYYY-MM-DDThh:mm:ssZ: devices wait until then.")
@click.option("--accept-unproven", is_flag=True, help="Sign although the accuracy budget is not proven by the samples.")
@click.option("--measurements", type=click.Path(path_type=Path), help="Measurements file [default: BUNDLE.measurements.json].")
@click.option(
    "--attestation",
    "attestations",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Audit attestation, or the folder with those of all variants; repeat.",
)
@click.option(
    "--audit-policy",
    type=click.Path(path_type=Path),
    help="Complete policy from `sealift audit policy`: refuse attestations that were made under another.",
)
@click.option("--root-sha256", help="Digest of the newest root, as you know it: sign only on top of that root.")
@click.option("--replace", is_flag=True, help="Prepare anew, dropping the signatures on what is prepared.")
@token_option
@yes_option
@json_option
def sign(
    bundle: Path | None,
    repo: str,
    role: str,
    key_uris: tuple[str, ...],
    floor: str | None,
    max_percent: int,
    not_before: str | None,
    accept_unproven: bool,
    measurements: Path | None,
    attestations: tuple[Path, ...],
    audit_policy: Path | None,
    root_sha256: str | None,
    replace: bool,
    token_file: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Sign BUNDLE for a role. The first call prepares the role's next version, later calls add signatures.

    Without BUNDLE, sign the prepared version of any offline role.
    """
    now = utc_now()
    lowest = _given("--floor", floor, Counter.parse)
    starts = _given("--not-before", not_before, lambda text: parse_time(text, "--not-before"))
    root = _given("--root-sha256", root_sha256, _digest)
    expected = (
        None if audit_policy is None else read_expected_policy(read_file(audit_policy, MAX_POLICY_BYTES), where=str(audit_policy))
    )
    staging = open_staging(repo, token_file=token_file)
    prepared = None if replace else open_draft(role, staging=staging)
    draft = prepared
    if bundle is not None:
        verified = load_bundle(bundle)
        if role == verified.path.of_model.release_role:
            require_budget_met(verified, LayoutDirectory(bundle), accept_unproven=accept_unproven)
            path = measurements or bundle.with_name(bundle.name + ".measurements.json")
            draft = prepare_release(
                verified,
                staging=staging,
                measurements=read_file(path, DEFAULT_LIMITS.max_contract_bytes * 16),
                floor=lowest,
                rollout=Rollout(starts, max_percent),
                now=now,
            )
        elif role == verified.path.of_model.audit_role:
            envelopes = read_attestations(attestations)
            draft = prepare_audit(verified, staging=staging, attestations=envelopes, floor=lowest, now=now, expected=expected)
        else:
            raise UsageError(
                "the role does not belong to this bundle",
                code="role_unknown",
                where=role,
                expected=f"release-{verified.path.line} or audit-{verified.path.line}",
            )
        if prepared is not None:
            draft = _join(prepared, draft)
    if draft is None:
        raise UsageError(
            "nothing is prepared for this role", code="draft_missing", where=role, hint="give the BUNDLE to prepare it"
        )
    _check_root(draft, root)
    signers = [load_signer(uri, passphrase=ask_passphrase) for uri in key_uris]
    _confirm(f"{role} on {staging.name}, under root {draft.root_digest}", draft.changes, yes=yes)
    for signer in signers:
        if signer.public_key.keyid in draft.metadata.signatures:
            step(f"key {signer.public_key.keyid[:12]} had signed already: signing again adds nothing")
    state = store_signed(draft, signers=signers, staging=staging, replace=replace, now=now)
    text = f"{role}: {len(state.signed)} of {state.threshold} signatures"
    text += (
        "; ready to publish"
        if not state.needed
        else f"; {state.needed} more needed from {', '.join(keyid[:12] for keyid in state.missing)}"
    )
    result: dict[str, object] = {
        "role": role, "version": draft.metadata.signed.version, "signed": list(state.signed), "missing": list(state.missing),
        "threshold": state.threshold, "complete": not state.needed, "changes": list(draft.changes),
    }  # fmt: skip
    show(result, text, as_json=as_json)


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@repo_option
@click.option("--role", "roles", multiple=True, help="Publish only this role's draft [default: both roles of the bundle's line].")
@click.option("--dry-run", is_flag=True, help="Verify and show what would be sent; send nothing.")
@token_option
@yes_option
@json_option
def publish(
    bundles: tuple[Path, ...], repo: str, roles: tuple[str, ...], dry_run: bool, token_file: Path | None, yes: bool, as_json: bool
) -> None:
    """Send the blobs of BUNDLES and the signed roles that name them, in one transaction."""
    staging = open_staging(repo, token_file=token_file)
    plan = plan_publish([(path, load_bundle(path)) for path in bundles], staging=staging, roles=roles, now=utc_now())
    lines = [f"publish {role} version {version}" for role, version in plan.roles]
    total_bytes = sum(ref.length for _, ref in plan.blobs)
    lines.append(f"send {len(plan.blobs)} blobs, {total_bytes} bytes")
    result: dict[str, object] = {"roles": dict(plan.roles), "blobs": len(plan.blobs), "bytes": total_bytes, "dry_run": dry_run}
    if not dry_run:
        _confirm(staging.name, lines, yes=yes)
        with progress("publishing", length=1) as advance:
            publish_plan(plan, staging=staging)
            advance(1)
    show(result, "\n".join([*lines, "dry run: nothing was sent" if dry_run else "published"]), as_json=as_json)


def open_staging(repo: str, *, token_file: Path | None) -> Staging:
    """A folder or a server as a staging repository."""
    if repo.startswith(("http://", "https://")):
        token = read_file(token_file, 1024).decode().strip() if token_file else os.environ.get("SEALIFT_TOKEN")
        return HttpStaging(repo, token=token)
    return DirStaging(Path(repo))


def load_bundle(folder: Path) -> VerifiedBundle:
    """Verifies a bundle folder as a device would, every blob of it."""
    source = LayoutDirectory(folder)
    described = source.manifest_descriptor()
    return verify_bundle(source, described.digest, manifest_size=described.size, closed=True)


def read_file(path: Path, max_bytes: int) -> bytes:
    """Reads a small file given on the command line."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as e:
        raise UsageError(
            "cannot read the file",
            code="file_missing",
            where=str(path),
            actual=e.strerror,
            hint="check the path and its permissions",
        ) from e
    if len(data) > max_bytes:
        raise UsageError("the file is too long", code="too_large", where=str(path), expected=f"at most {max_bytes} bytes")
    return data


def read_attestations(paths: Sequence[Path]) -> list[bytes]:
    """Files as given; of a folder every ``*.dsse.json``, in the order of their names."""
    files = [file for path in paths for file in (sorted(path.glob("*.dsse.json")) if path.is_dir() else [path])]
    return [read_file(path, DEFAULT_LIMITS.max_attestation_bytes) for path in files]


def _join(prepared: Draft, fresh: Draft) -> Draft:
    """The prepared draft, if it says what this call would prepare; its signatures stay."""
    if not same_content(prepared, fresh):
        raise UsageError(
            "something else is prepared for this role",
            code="draft_differs",
            where=prepared.role,
            expected="; ".join(fresh.changes[1:]),
            actual="; ".join(prepared.changes[1:]),
            hint="publish it first, or give --replace to drop it with its signatures",
        )
    return prepared


def _given(option: str, text: str | None, read: Callable[[str], T]) -> T | None:
    """The value of an option; a wrong one is wrong use, as everywhere on the command line."""
    try:
        return None if text is None else read(text)
    except FormatError as e:
        raise UsageError(e.what, code=e.code, where=option, expected=e.expected, actual=e.actual) from e


def _digest(text: str) -> Digest:
    return Digest(text.lower().removeprefix("sha256:"))


def _check_root(draft: Draft, known: Digest | None) -> None:
    """The folder or server may show a root of its own making; the signer's own digest of the root tells."""
    if known is not None and draft.root_digest != known:
        raise UsageError(
            "the repository has another root than the one given",
            code="root_digest",
            where=draft.role,
            expected=known,
            actual=draft.root_digest,
            hint="do not sign: ask the holders of the root keys whether root was renewed",
        )


def _confirm(where: str, lines: tuple[str, ...] | list[str], *, yes: bool) -> None:
    step(f"{printable(where)}:")
    for line in lines:
        step(f"  {printable(line)}")  # drafts come from outside, and must not move the cursor over what was shown
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody to ask", code="confirmation", hint="look at the changes above, then give --yes")
        if not click.confirm("Go on?", err=True):
            raise UsageError("not confirmed", code="confirmation", hint="nothing was signed or published")
