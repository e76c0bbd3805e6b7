"""``sealift audit run|report|attest|verify``: one library call each, results on stdout, steps on stderr."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from audits.commands_mitigate import mitigate
from audits.evidence import AUDIT_FILE, Audit
from audits.policy import load_policy
from audits.verdict import Verdict
from device_client.bundle.digest import Digest
from device_client.console import json_option, needs_extra, show, step
from device_client.errors import UsageError
from device_client.limits import DEFAULT_LIMITS
from device_client.text import printable
from device_client.trust.attestation import VerifiedAudit, verify_attestation
from device_client.trust.keys import load_public_key, load_signer
from device_client.trust.passphrase import ask_passphrase
from device_client.trust.times import format_time, utc_now

_PATH = click.Path(path_type=Path)
_VERDICTS = click.Choice([verdict.value for verdict in Verdict])


@click.group()
def audit() -> None:
    """Attack the exact bytes, report, attest, verify."""


audit.add_command(mitigate)


@audit.command("run")
@click.argument("bundle", type=_PATH)
@click.option("--data", required=True, help="module:function or .npz with x, y, member (true: was used for training).")
@click.option("--original", required=True, type=_PATH, help="The uncompressed model as ONNX.")
@click.option("--policy", "policy_file", type=_PATH, help="Audit policy as TOML; the built-in one unless given.")
@click.option(
    "--recipe", type=_PATH, help="Recipe of the bundle: planted controls are compressed with it and must still be caught."
)
@click.option("--include-private", is_flag=True, help="Keep full images in the report instead of blurred ones.")
@click.option("--out", required=True, type=_PATH, help="Folder to make.")
@click.option("--require", type=_VERDICTS, help="Exit 1 unless every variant has this verdict.")
@json_option
def run(
    bundle: Path,
    data: str,
    original: Path,
    policy_file: Path | None,
    recipe: Path | None,
    include_private: bool,
    out: Path,
    require: str | None,
    as_json: bool,
) -> None:
    """Audit every variant of BUNDLE, with controls, against the original."""
    with needs_extra("audit"):
        from audits.compressor import PackCompressor
        from audits.data import load_data
        from audits.run import run_audit
        from audits.store import REPORT_FILE, write_audit
        from audits.targets import load_bundle, load_original
    if out.exists():
        raise UsageError("the output folder exists", code="file_exists", where=str(out), hint="choose another --out")
    policy = load_policy(policy_file)
    if recipe is not None and not recipe.is_file():
        raise UsageError(
            "cannot read the recipe",
            code="recipe_missing",
            where=str(recipe),
            hint="give the recipe of the bundle, or leave it out",
        )
    targets = load_bundle(bundle)
    result = run_audit(
        targets,
        load_original(original, like=targets),
        load_data(data),
        policy=policy,
        now=utc_now(),
        compressor=None if recipe is None else PackCompressor(recipe),
        report=step,
    )
    stored = write_audit(result, out, private=include_private)
    step(f"wrote {out / AUDIT_FILE} and {out / REPORT_FILE}")
    other = [item.id for item in stored.audit.variants if require is not None and item.verdict.value != require]
    show(_summary(stored.audit, stored.evidence, out) | _met(not other), _text(stored.audit), as_json=as_json)
    if other:
        _refuse(other[0], expected=require)


@audit.command("report")
@click.argument("folder", type=_PATH)
@json_option
def report(folder: Path, as_json: bool) -> None:
    """Write the HTML page of an audit again."""
    with needs_extra("audit"):
        from audits.store import read_stored, write_report
    stored = read_stored(folder)
    path = write_report(stored, folder)
    show({"ok": True, "report": str(path), "evidence": str(stored.evidence)}, str(path), as_json=as_json)


@audit.command("attest")
@click.argument("folder", type=_PATH)
@click.option("--key", "keys", multiple=True, required=True, help="Key URI of the audit role, file:PATH; may be repeated.")
@click.option("--bundle", required=True, type=_PATH, help="The audited bundle; the audit must be about exactly its variants.")
@click.option("--out", required=True, type=_PATH, help="Folder for one statement per variant.")
@json_option
def attest_command(folder: Path, keys: tuple[str, ...], bundle: Path, out: Path, as_json: bool) -> None:
    """Sign what an audit found: one statement for each variant."""
    with needs_extra("audit"):
        from audits.attest import attest, write_attestations
        from audits.store import read_stored
        from audits.targets import load_bundle
    stored = read_stored(folder)
    signers = [load_signer(uri, passphrase=ask_passphrase) for uri in keys]
    paths = write_attestations(attest(stored, signers=signers, now=utc_now(), targets=load_bundle(bundle)), out)
    entries = [
        {"variant": subject.id, "subject": str(subject.digest), "verdict": subject.verdict.value, "file": str(paths[subject.id])}
        for subject in stored.audit.variants
    ]
    text = "\n".join(f"{entry['verdict']:<13} {entry['variant']}  {entry['file']}" for entry in entries)
    show({"ok": True, "evidence": str(stored.evidence), "attestations": entries}, text, as_json=as_json)


@audit.command("verify")
@click.argument("file", type=_PATH)
@click.option(
    "--public-key", "public_keys", multiple=True, required=True, type=_PATH, help="Public key of an auditor; may be repeated."
)
@click.option(
    "--threshold", default=1, show_default=True, type=click.IntRange(1, 16), help="Signatures by different keys that are needed."
)
@click.option("--subject", help="sha256:… of the bytes it must be about.")
@click.option("--require", type=_VERDICTS, help="Exit 1 unless the statement has this verdict.")
@json_option
def verify(
    file: Path, public_keys: tuple[Path, ...], threshold: int, subject: str | None, require: str | None, as_json: bool
) -> None:
    """Check a signed statement, without the data."""
    wanted = None if subject is None else Digest.parse(subject, where="--subject")
    keys = [load_public_key(path) for path in public_keys]
    found = verify_attestation(_read(file), keys=keys, threshold=threshold, subject=wanted, now=utc_now(), where=str(file))
    met = require is None or found.audit.verdict == require
    result, text = _describe(found)
    show(result | _met(met), text, as_json=as_json)
    if not met:
        _refuse(str(file), expected=require)


def _summary(result: Audit, evidence: Digest, out: Path) -> dict[str, object]:
    return {
        "ok": True,
        "out": str(out),
        "evidence": str(evidence),
        "policy": {"id": result.policy.id, "version": result.policy.version, "digest": str(result.policy.digest)},
        "power": result.controls.smallest_caught,
        "expires": format_time(result.expires),
        "subjects": [
            {
                "id": subject.id,
                "digest": str(subject.digest),
                "verdict": subject.verdict.value,
                "reasons": list(subject.reasons),
                "p_adjusted": subject.findings.p_adjusted,
            }
            for subject in result.subjects
        ],
    }


def _text(result: Audit) -> str:
    # ids and reasons may quote names from the model
    lines = [f"{item.verdict.value:<13} {printable(item.id):<20} {printable('; '.join(item.reasons))}" for item in result.subjects]
    power = result.controls.smallest_caught
    lines.append(
        "controls: no planted leak was caught"
        if power is None
        else f"controls: planted leaks are caught from strength {power:g} on"
    )
    return "\n".join(lines)


def _describe(found: VerifiedAudit) -> tuple[dict[str, object], str]:
    about = found.audit
    result: dict[str, object] = {
        "ok": True,
        "verdict": about.verdict,
        "tier": about.tier,
        "subject": str(about.subject),
        "variant": about.subject_name,
        "original": None if about.original is None else str(about.original),
        "policy": about.policy.to_json(),
        "audited_at": format_time(about.audited_at),
        "expires": format_time(about.expires),
        "evidence": str(about.evidence),
        "keyids": list(found.keyids),
    }
    return result, f"{about.verdict} {printable(about.subject_name)} {about.subject}\nvalid until {format_time(about.expires)}"


def _met(met: bool) -> dict[str, object]:
    """What ``--require`` adds to a result that is printed in any case."""
    return {"ok": True} if met else {"ok": False, "code": "verdict_not_accepted"}


def _refuse(where: str, *, expected: str | None) -> NoReturn:
    """Exits 1 after the result: a second JSON object on stdout would be one too many."""
    step(f"error: the verdict is not the one required: expected {expected} ({where}) [verdict_not_accepted]")
    step("hint: the verdict that was found stands above")
    raise click.exceptions.Exit(1)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(DEFAULT_LIMITS.max_attestation_bytes + 1)
    except OSError as e:
        raise UsageError(
            "cannot read the statement",
            code="attestation_missing",
            where=str(path),
            actual=e.strerror,
            hint="give a file that `sealift audit attest` wrote",
        ) from e
