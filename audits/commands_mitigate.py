"""``sealift audit mitigate``: one library call, the frontier on stdout, steps on stderr."""

from __future__ import annotations

from pathlib import Path

import click

from audits.policy import TIERS, load_policy
from device_client.console import json_option, needs_extra, show, step
from device_client.errors import UsageError

_PATH = click.Path(path_type=Path)
TRIALS, RESULT, PAGE, MODEL = "trials", "mitigation.json", "mitigation.html", "model.onnx"


@click.command("mitigate")
@click.argument("bundle", type=_PATH)
@click.option("--data", required=True, help="module:function or .npz with x, y, member (true: was used for training).")
@click.option("--original", required=True, type=_PATH, help="The uncompressed model as ONNX.")
@click.option("--trainer", help="module:function, train(x, y, *, seed, fix): what made the model; without it, fewer fixes.")
@click.option(
    "--readable", multiple=True, type=_PATH, help="Folder that the trainer and the data function may read; may be repeated."
)
@click.option("--tier", type=click.Choice(TIERS), help="Built-in policy [default: quick].")
@click.option("--policy", "policy_file", type=_PATH, help="Audit policy as TOML; the built-in one unless given.")
@click.option("--recipe", type=_PATH, help="Recipe of the bundle: a fix is confirmed on what it makes of the model, too.")
@click.option("--out", required=True, type=_PATH, help="Folder to make, or of a run that was stopped: it goes on.")
@click.option(
    "--accuracy-budget",
    default=0.02,
    show_default=True,
    type=click.FloatRange(0.0, 1.0),
    help="What a fix may cost in accuracy on held-outs, as a share.",
)
@click.option("--max-seconds", type=click.FloatRange(1.0), help="Stop after this time, with what was found.")
@click.option("--only", multiple=True, help="Try only this kind of fix; may be repeated.")
@json_option
def mitigate(
    bundle: Path,
    data: str,
    original: Path,
    trainer: str | None,
    readable: tuple[Path, ...],
    tier: str | None,
    policy_file: Path | None,
    recipe: Path | None,
    out: Path,
    accuracy_budget: float,
    max_seconds: float | None,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    """Search a fix for a model whose audit failed."""
    with needs_extra("audit"):
        from audits.compressor import PackCompressor
        from audits.data import load_data
        from audits.isolated.limits import IsolationLimits
        from audits.mitigate.child_trainer import ChildFixTrainer
        from audits.mitigate.fixes import KINDS
        from audits.mitigate.judge import PolicyJudge
        from audits.mitigate.page import render_page
        from audits.mitigate.run import mitigate as run_mitigation
        from audits.mitigate.search import SearchSettings
        from audits.targets import load_bundle, load_original
    _check_out(out)
    if unknown := sorted(set(only) - {kind.name for kind in KINDS}):
        raise UsageError(
            "unknown kind of fix", code="fix_unknown", actual=unknown[0], expected=", ".join(kind.name for kind in KINDS)
        )
    policy = load_policy(policy_file, tier=tier)
    compressor = None if recipe is None else PackCompressor(recipe)
    targets = load_bundle(bundle)
    subject = load_original(original, like=targets)
    features = targets.variants[0].features if targets.variants else ()
    limits = IsolationLimits(readable=tuple(path.resolve() for path in readable))
    records = load_data(data, limits=limits)
    made = None if trainer is None else ChildFixTrainer(trainer, like=subject.model, limits=limits)
    if made is not None:  # asks the child, so that a wrong name is found before any work
        step(f"{trainer} {'takes' if made.takes_fix else 'does not take'} the keyword fix")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    outcome = run_mitigation(
        subject.model,
        records,
        judge=PolicyJudge(
            policy,
            input_range=subject.input_range,
            features=features,
            compressor=compressor,
            recipe=None if compressor is None else compressor.digest,
        ),
        trainer=made,
        policy=policy,
        features=features,
        folder=out / TRIALS,
        settings=SearchSettings(accuracy_budget=accuracy_budget, max_seconds=max_seconds),
        only=only,
        report=step,
    )
    chosen = outcome.result.chosen
    (out / MODEL).unlink(missing_ok=True)
    if chosen is not None:
        (out / MODEL).write_bytes(chosen.confirm[0].model)
    (out / RESULT).write_bytes(outcome.to_bytes())
    (out / PAGE).write_text(render_page(outcome), encoding="utf-8")
    step(f"wrote {out / RESULT} and {out / PAGE}" + (f" and {out / MODEL}" if chosen else ""))
    show(outcome.to_json() | {"out": str(out)}, outcome.to_text(), as_json=as_json)


def _check_out(out: Path) -> None:
    """A new folder, or one that a run has begun.

    Raises:
        UsageError: something else is there (``file_exists``).
    """
    if out.exists() and not (out / TRIALS).is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the output folder exists", code="file_exists", where=str(out), hint="choose another --out")
