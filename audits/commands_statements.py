"""``sealift audit attest|verify|waive|policy``: statements about the bytes of a bundle, made and checked; results on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from securesystemslib.signer import Key

from audits.policy import TIERS, Policy, load_policy
from audits.statement_file import read_statement
from device_client.bundle.digest import Digest
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.strict_json import canonical_json
from device_client.bundle.verified import verify_bundle
from device_client.console import json_option, needs_extra, show, step
from device_client.errors import UsageError
from device_client.text import printable
from device_client.trust.attestation import VerifiedAudit, verify_attestation
from device_client.trust.attestation_set import verify_attestation_set
from device_client.trust.custom import VERDICTS as ALL_VERDICTS
from device_client.trust.custom import PolicyRef
from device_client.trust.expected_policy import ExpectedPolicy
from device_client.trust.files import write_new
from device_client.trust.keys import load_public_key, load_signer
from device_client.trust.passphrase import ask_passphrase
from device_client.trust.times import format_time, utc_now

VERDICTS = click.Choice(ALL_VERDICTS)
_PATH = click.Path(path_type=Path)
_THRESHOLD = click.IntRange(1, 16)
key_option = click.option(
    "--key", "key_uris", multiple=True, required=True, help="Key URI of the audit role, file:PATH; may be repeated."
)
public_key_option = click.option(
    "--public-key", "public_keys", multiple=True, required=True, type=_PATH, help="Public key of an auditor; may be repeated."
)
tier_option = click.option("--tier", type=click.Choice(TIERS), help="Built-in policy of this tier.")
policy_option = click.option("--policy", "policy_file", type=_PATH, help="Audit policy as TOML.")


@click.command("attest")
@click.argument("folder", type=_PATH, required=False)
@key_option
@click.option("--bundle", required=True, type=_PATH, help="The audited bundle; the statements are about exactly its variants.")
@click.option("--out", required=True, type=_PATH, help="Folder for the statements on each variant.")
@click.option(
    "--reissue",
    "old",
    multiple=True,
    type=_PATH,
    help="Statement on the same bytes in an older release, instead of FOLDER; repeat.",
)
@click.option(
    "--public-key", "public_keys", multiple=True, type=_PATH, help="With --reissue: public key of who signed the old ones."
)
@click.option("--threshold", default=1, show_default=True, type=_THRESHOLD, help="With --reissue: signatures on the old ones.")
@json_option
def attest_command(
    folder: Path | None,
    key_uris: tuple[str, ...],
    bundle: Path,
    out: Path,
    old: tuple[Path, ...],
    public_keys: tuple[Path, ...],
    threshold: int,
    as_json: bool,
) -> None:
    """Sign what an audit found: statements on each variant.

    With --reissue, carry the verdicts of OLD statements over to a new release of the same bytes.
    """
    with needs_extra("audit"):
        from audits.attest import attest, write_attestations
        from audits.reissue import reissue
        from audits.store import read_stored
        from audits.targets import load_bundle
    if (folder is None) is not bool(old):
        raise UsageError("give an audit's FOLDER, or --reissue with old statements", code="usage", where="audit attest")
    if bool(old) is not bool(public_keys):
        raise UsageError("--reissue and --public-key belong together", code="usage", where="audit attest")
    targets, now = load_bundle(bundle), utc_now()
    stored = None if folder is None else read_stored(folder)
    signers = [load_signer(uri, passphrase=ask_passphrase) for uri in key_uris]
    if stored is not None:
        signed = attest(stored, signers=signers, now=now, targets=targets)
    else:
        former = [(str(path), read_statement(path)) for path in old]
        keys = [load_public_key(path) for path in public_keys]
        signed = reissue(former, keys=keys, signers=signers, now=now, targets=targets, threshold=threshold)
    paths = write_attestations(signed, out)
    _show_written(paths, [signer.public_key for signer in signers], as_json=as_json)


@click.command("verify")
@click.argument("files", type=_PATH, nargs=-1, required=True)
@public_key_option
@click.option("--threshold", default=1, show_default=True, type=_THRESHOLD, help="Signatures by different keys that are needed.")
@click.option("--bundle", type=_PATH, help="Every variant of this bundle must have one statement.")
@tier_option
@policy_option
@click.option("--subject", help="sha256:… of the bytes it must be about.")
@click.option("--require", type=VERDICTS, help="Exit 1 unless every statement has this verdict.")
@json_option
def verify(
    files: tuple[Path, ...],
    public_keys: tuple[Path, ...],
    threshold: int,
    bundle: Path | None,
    tier: str | None,
    policy_file: Path | None,
    subject: str | None,
    require: str | None,
    as_json: bool,
) -> None:
    """Check signed statements, without the data.

    With --bundle: every variant has one. With --policy or --tier: made under exactly that policy, with every test it requires.
    """
    wanted = None if subject is None else Digest.parse(subject, where="--subject")
    keys, now = [load_public_key(path) for path in public_keys], utc_now()
    envelopes = [(str(path), read_statement(path)) for path in files]
    found = [
        verify_attestation(data, keys=keys, threshold=threshold, subject=wanted, now=now, where=where) for where, data in envelopes
    ]
    expected = None if tier is None and policy_file is None else expected_policy(load_policy(policy_file, tier=tier))
    if bundle is not None or expected is not None:
        variants = {item.audit.subject: item.audit.subject_name for item in found} if bundle is None else _variants_of(bundle)
        verify_attestation_set(envelopes, variants=variants, keys=keys, threshold=threshold, now=now, expected=expected)
    other = [where for (where, _), item in zip(envelopes, found, strict=True) if require not in {None, item.audit.verdict}]
    described = [_describe(item) for item in found]
    result: dict[str, object] = {"attestations": [entry for entry, _ in described]}
    if len(described) == 1:
        result |= described[0][0]
    show(result | met(met_all=not other), "\n".join(text for _, text in described), as_json=as_json)
    if other:
        refuse(other[0], expected=require)


@click.command("waive")
@click.argument("bundle", type=_PATH)
@click.option("--reason", required=True, help="Why the bundle ships without an audit; it is public.")
@click.option("--expires-days", required=True, type=int, help="Days until the waiver expires, at most 90.")
@key_option
@tier_option
@policy_option
@click.option("--out", required=True, type=_PATH, help="Folder; one that holds the same waivers gets this signature too.")
@json_option
def waive_command(
    bundle: Path,
    reason: str,
    expires_days: int,
    key_uris: tuple[str, ...],
    tier: str | None,
    policy_file: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Sign that BUNDLE was not audited. It needs as many auditors as the audit role, and devices refuse it by default."""
    with needs_extra("audit"):
        from audits.attest import write_attestations
        from audits.targets import load_bundle
        from audits.waive import add_signatures, waive
    policy, now = load_policy(policy_file, tier=tier), utc_now()
    targets = load_bundle(bundle)
    signers = [load_signer(uri, passphrase=ask_passphrase) for uri in key_uris]
    if out.exists():
        paths = add_signatures(targets, out, policy=policy, reason=reason, days=expires_days, signers=signers, now=now)
    else:
        signed = waive(targets, policy=policy, reason=reason, days=expires_days, signers=signers, now=now)
        paths = write_attestations(signed, out)
    _show_written(paths, [signer.public_key for signer in signers], as_json=as_json)


@click.command("policy")
@tier_option
@policy_option
@click.option("--out", type=_PATH, help="File to write: what `sealift sign --audit-policy` reads.")
@json_option
def policy_command(tier: str | None, policy_file: Path | None, out: Path | None, as_json: bool) -> None:
    """Show a policy with every value, and its digest: what auditors and signers agree on."""
    policy = load_policy(policy_file, tier=tier)
    if out is not None:
        write_new(out, canonical_json(policy.to_json()))
    about = {"id": policy.id, "version": policy.version, "digest": str(policy.digest)}
    text = "\n".join([*_flat(policy.to_json()), f"digest = {policy.digest}", *([] if out is None else [str(out)])])
    show({"ok": True, **about, "policy": policy.to_json(), "out": None if out is None else str(out)}, text, as_json=as_json)


def _flat(values: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """``section.key = value``, a line each."""
    lines = []
    for key, value in values.items():
        lines += _flat(value, prefix=f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key} = {json.dumps(value)}"]
    return lines


def expected_policy(policy: Policy) -> ExpectedPolicy:
    """What statements under a policy must say."""
    ref = PolicyRef(policy.id, policy.version, policy.digest)
    return ExpectedPolicy(ref, policy.tier, policy.threat_model, policy.tests.required)


def met(*, met_all: bool) -> dict[str, object]:
    """What ``--require`` adds to a result that is printed in any case."""
    return {"ok": True} if met_all else {"ok": False, "code": "verdict_not_accepted"}


def refuse(where: str, *, expected: str | None) -> NoReturn:
    """Exits 1 after the result: a second JSON object on stdout would be one too many."""
    step(f"error: the verdict is not the one required: expected {expected} ({where}) [verdict_not_accepted]")
    step("hint: the verdict that was found stands above")
    raise click.exceptions.Exit(1)


def _variants_of(folder: Path) -> dict[Digest, str]:
    """Ids of a bundle's variants by the digest of the bytes that a runtime gets; every blob is verified, nothing is run."""
    source = LayoutDirectory(folder)
    described = source.manifest_descriptor()
    bundle = verify_bundle(source, described.digest, manifest_size=described.size, closed=True)
    return {variant.model.digest: variant.id for variant in bundle.contract.variants}


def _show_written(paths: dict[str, Path], keys: Sequence[Key], *, as_json: bool) -> None:
    """What was written, read back."""
    entries: list[dict[str, str | None]] = []
    for name, path in paths.items():
        about = verify_attestation(read_statement(path), keys=keys, threshold=len(keys), now=utc_now(), where=str(path)).audit
        evidence = None if about.evidence is None else str(about.evidence)
        entry = {"variant": name, "subject": str(about.subject), "verdict": about.verdict, "file": str(path), "evidence": evidence}
        entries.append(entry)
    text = "\n".join(f"{entry['verdict']:<13} {printable(str(entry['variant']))}  {entry['file']}" for entry in entries)
    evidence = entries[0]["evidence"] if entries else None
    show({"ok": True, "evidence": evidence, "attestations": entries}, text, as_json=as_json)


def _describe(found: VerifiedAudit) -> tuple[dict[str, object], str]:
    about = found.audit
    result: dict[str, object] = {
        "ok": True,
        "verdict": about.verdict,
        "reason": about.reason,
        "tier": about.tier,
        "threat_model": about.threat_model,
        "gradient": about.gradient,
        "subject": str(about.subject),
        "variant": about.subject_name,
        "original": None if about.original is None else str(about.original),
        "policy": about.policy.to_json(),
        "tests": [test.to_json() for test in about.tests],
        "controls": [controls.to_json() for controls in about.controls],
        "not_tested": dict(about.not_tested),
        "audited_at": format_time(about.audited_at),
        "expires": format_time(about.expires),
        "evidence": None if about.evidence is None else str(about.evidence),
        "reissue_of": None if about.reissue_of is None else str(about.reissue_of),
        "keyids": list(found.keyids),
    }
    lines = [f"{about.verdict} {printable(about.subject_name)} {about.subject}"]
    lines += [] if about.reason is None else [f"waived: {printable(about.reason)}"]
    lines += [f"{test.result:<13} {printable(test.id)}" for test in about.tests]
    lines += [f"not tested    {printable(name)}: {printable(reason)}" for name, reason in about.not_tested]
    lines.append(f"valid until {format_time(about.expires)}")
    return result, "\n".join(lines)
