"""``sealift audit run|report``, and the group that the other audit commands join: results on stdout, steps on stderr."""

from __future__ import annotations

from pathlib import Path

import click

from audits.commands_mitigate import mitigate
from audits.commands_statements import VERDICTS, attest_command, met, policy_command, refuse, verify, waive_command
from audits.evidence import AUDIT_FILE, Audit
from audits.policy import TIERS, load_policy
from device_client.bundle.digest import Digest
from device_client.console import json_option, needs_extra, show, step
from device_client.errors import UsageError
from device_client.trust.times import format_time, utc_now

_PATH = click.Path(path_type=Path)


@click.group()
def audit() -> None:
    """Attack the exact bytes, report, attest, verify."""


for _command in (attest_command, verify, waive_command, policy_command):
    audit.add_command(_command)
audit.add_command(mitigate)


@audit.command("run")
@click.argument("bundle", type=_PATH)
@click.option("--data", required=True, help="module:function or .npz with x, y, member (true: was used for training).")
@click.option("--original", required=True, type=_PATH, help="The uncompressed model as ONNX.")
@click.option("--tier", type=click.Choice(TIERS), help="Built-in policy: how much is attacked [default: quick].")
@click.option("--policy", "policy_file", type=_PATH, help="Audit policy as TOML: changes to the tier that it names.")
@click.option(
    "--recipe", type=_PATH, help="Recipe of the bundle: planted controls are compressed with it and must still be caught."
)
@click.option("--trainer", help="module:function, train(x, y, seed): what made the model; shadow models and twins need it.")
@click.option(
    "--readable", multiple=True, type=_PATH, help="Folder that the trainer and the data function may read; may be repeated."
)
@click.option("--include-private", is_flag=True, help="Keep full images in the report instead of blurred ones.")
@click.option("--out", required=True, type=_PATH, help="Folder to make.")
@click.option("--require", type=VERDICTS, help="Exit 1 unless every variant has this verdict.")
@json_option
def run(
    bundle: Path,
    data: str,
    original: Path,
    tier: str | None,
    policy_file: Path | None,
    recipe: Path | None,
    trainer: str | None,
    readable: tuple[Path, ...],
    include_private: bool,
    out: Path,
    require: str | None,
    as_json: bool,
) -> None:
    """Audit every variant of BUNDLE, with controls, against the original."""
    with needs_extra("audit"):
        from audits.compressor import PackCompressor
        from audits.data import load_data
        from audits.isolated.limits import IsolationLimits
        from audits.report.summary import audit_summary
        from audits.run import run_audit
        from audits.store import REPORT_FILE, write_audit
        from audits.targets import load_bundle, load_original
        from audits.trainer import ChildTrainer
    if out.exists():
        raise UsageError("the output folder exists", code="file_exists", where=str(out), hint="choose another --out")
    policy = load_policy(policy_file, tier=tier)
    compressor = None if recipe is None else PackCompressor(recipe)
    targets = load_bundle(bundle)
    uncompressed = load_original(original, like=targets)
    limits = IsolationLimits(readable=tuple(path.resolve() for path in readable))
    result = run_audit(
        targets,
        uncompressed,
        load_data(data, limits=limits),
        policy=policy,
        now=utc_now(),
        compressor=compressor,
        trainer=None if trainer is None else ChildTrainer(trainer, like=uncompressed.model, limits=limits),
        report=step,
    )
    stored = write_audit(result, out, private=include_private)
    step(f"wrote {out / AUDIT_FILE} and {out / REPORT_FILE}")
    other = [item.id for item in stored.audit.variants if require is not None and item.verdict.value != require]
    show(_summary(stored.audit, stored.evidence, out) | met(met_all=not other), audit_summary(stored.audit), as_json=as_json)
    if other:
        refuse(other[0], expected=require)


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


def _summary(result: Audit, evidence: Digest, out: Path) -> dict[str, object]:
    instance = result.family("instance")
    return {
        "ok": True,
        "out": str(out),
        "evidence": str(evidence),
        "policy": {"id": result.policy.id, "version": result.policy.version, "digest": str(result.policy.digest)},
        "tier": result.policy.tier,
        "power": None if instance is None else instance.power,
        "families": {family.family: {"power": family.power, "power_unit": family.power_unit} for family in result.families},
        "expires": format_time(result.expires),
        "subjects": [
            {
                "id": subject.id,
                "digest": str(subject.digest),
                "verdict": subject.verdict.value,
                "reasons": list(subject.reasons),
                "p_adjusted": min((test.p_value for test in subject.ruling.tests), default=1.0),
                "gradient": subject.facts.gradient,
                "tests": {test.test: test.result.value for test in subject.ruling.tests},
                "not_tested": {item.test: item.reason for item in subject.ruling.not_tested},
            }
            for subject in result.subjects
        ],
    }
