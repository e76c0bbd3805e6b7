"""``sealift pack``: one call into ``pack.pack``, and its result for people or for programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from device_client.bundle.counter import Counter
from device_client.bundle.path import BundlePath
from device_client.console import json_option, needs_extra, progress, show, step
from device_client.errors import FormatError, UsageError

if TYPE_CHECKING:
    from packager.facts import Candidate, PackFacts
    from packager.pack import PackResult

_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")  # read when numpy loads; small matrices are slower on several threads


@click.command()
@click.argument("model")
@click.option("--data", metavar="DATA", help="module:function returning arrays, or an .npz file [default: made-up inputs].")
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe in TOML [default: a search].")
@click.option("--line", required=True, metavar="L", help="Product line.")
@click.option("--name", required=True, metavar="N", help="Model name within the line.")
@click.option("--version", "version", required=True, metavar="V", help="Version; a text, its order means nothing.")
@click.option("--counter", default="0.1", show_default=True, metavar="E.N", help="Release counter, above all published ones.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="BUNDLE", help="Folder to write; must not exist.")
@click.option("--explain", is_flag=True, help="Also print what a search tried, what it chose, and why.")
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="Finished trials [default: ~/.cache/sealift/trials].")
@json_option
def pack(
    *,
    model: str,
    data: str | None,
    recipe: Path | None,
    line: str,
    name: str,
    version: str,
    counter: str,
    out: Path,
    explain: bool,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Compress MODEL, measure what that did, and seal it into a bundle.

    MODEL is an .onnx file, or module:function returning a torch module (or a module and example inputs). DATA holds one
    array per model input ('x' where there is one), optional 'y', 'groups' and 'split'. Without
    it inputs are made up, and variants are compared with the original on those.

    Without a recipe, or with one that names no technique, it searches for the smallest and fastest variant within the
    accuracy budget, and writes what it chose as BUNDLE.recipe.toml, which repeats it. The search can be stopped and started
    again: finished trials are kept.

    Writes the folder BUNDLE (an OCI image layout, the same bytes on every run of one recipe with techniques),
    BUNDLE.measurements.json (clock readings) and BUNDLE.report.html (a page for people). A variant that is larger than the
    original or misses the accuracy budget is not shipped: the original is.
    """
    try:
        path, release_counter = BundlePath(line, name, version), Counter.parse(counter)
    except FormatError as e:
        raise UsageError(
            e.what, code=e.code, where="--line, --name, --version, --counter", expected=e.expected, actual=e.actual
        ) from e
    for variable in _ONE_THREAD:
        os.environ.setdefault(variable, "1")
    with needs_extra("packager"):
        from packager.auto.cache import TrialCache, default_cache_folder
        from packager.pack import PackRequest
        from packager.pack import pack as run_pack
        from packager.recipe import load_recipe
    loaded = load_recipe(recipe)
    kept = TrialCache(None if loaded.auto is None else cache or default_cache_folder())
    request = PackRequest(model, data, path, release_counter, out, loaded, kept)
    result = run_pack(request, progress=progress)
    for warning in _warnings(result):
        step(f"warning: {warning}")
    if explain:
        for reason in _explanation(result):
            step(reason)
    show(_json(result), _text(result), as_json=as_json)


def _explanation(result: PackResult) -> list[str]:
    from packager.auto.record import explanation

    record = result.facts.search
    return ["no search: the recipe names its techniques"] if record is None else explanation(record)


def _warnings(result: PackResult) -> list[str]:
    from packager.tasks.doubt import doubt_about_labels

    found = []
    if result.facts.parts.origin == "synthetic":
        found.append("no --data: calibrated and judged on made-up inputs; nothing is known about the field")
    doubt = doubt_about_labels(result.facts.metric, result.facts.original.value, result.facts.parts.test.labels)
    if doubt is not None:
        found.append(doubt)
    for candidate in result.facts.candidates:
        budget = candidate.evaluation.budget
        if candidate.refused is not None:
            found.append(f"{candidate.id} does not ship, the original does: {candidate.refused}")
        elif budget.verdict.value == "unproven":
            drop = candidate.evaluation.drop
            needed = (
                f"about {budget.samples_needed} test rows would do"
                if budget.samples_needed
                else "more rows alone will not prove it"
            )
            found.append(
                f"{candidate.id}: the accuracy budget is unproven: the drop may be up to {drop.high:.4f}, allowed "
                f"{budget.allowed_drop:g}, {drop.samples} test rows; {needed}. `sealift sign` asks for --accept-unproven"
            )
        latency = result.latency.get(candidate.id)
        if latency is not None and latency.low > 1.02:
            found.append(f"{candidate.id} is slower than the original on this machine: {latency.ratio:.2f} times its latency")
    for variant, score in result.facts.golden.scores:
        if score.share < 0.95:
            missed = ", ".join(f"{kind} ({count})" for kind, count in score.survivors)
            found.append(f"{variant}: golden probes catch {score.share:.0%} of damaged copies, below 95 %; missed: {missed}")
    return found


def _json(result: PackResult) -> dict[str, object]:
    facts = result.facts
    main = facts.shipped[0]
    stored = facts.stored(main)
    latency = result.latency.get(main.id)
    return {
        "ok": True,
        "bundle": str(result.out),
        "manifest": str(result.bundle.digest),
        "manifest_bytes": len(result.bundle.manifest_bytes),
        "path": str(result.bundle.path),
        "counter": str(result.bundle.contract.counter),
        "variant": main.id,
        "task": facts.task,
        "metric": facts.metric,
        "data": facts.parts.origin,
        "accuracy": {
            "before": facts.original.to_json(),
            "after": main.evaluation.estimate.to_json(),
            "drop": main.evaluation.drop.to_json(),
        },
        "size": {
            "before": facts.original_bytes,
            "after": main.size_bytes,
            "ratio": round(facts.original_bytes / main.size_bytes, 4),
            "stored": len(stored.data),
            "encoding": stored.encoding,
            "stored_ratio": round(facts.original_bytes / len(stored.data), 4),
        },
        "latency_ratio": None if latency is None else latency.to_json(),
        "budget": main.evaluation.budget.to_json(),
        "golden": {
            "probes": facts.golden.count,
            "mutation_score": round(facts.golden.worst_share, 4),
            "mutation": {variant: score.to_json() for variant, score in facts.golden.scores},
        },
        "variants": [_variant_json(candidate, facts) for candidate in facts.candidates],
        "measurements": str(result.measurements),
        "recipe": None if result.recipe is None else str(result.recipe),
        "page": str(result.page),
    }


def _variant_json(candidate: Candidate, facts: PackFacts) -> dict[str, object]:
    return {
        "id": candidate.id,
        "digest": str(candidate.model.digest),
        "bytes": candidate.size_bytes,
        "stored_bytes": len(facts.stored(candidate).data),
        "encoding": facts.stored(candidate).encoding,
        "shipped": candidate.refused is None,
        "refused": candidate.refused,
        "verdict": candidate.evaluation.budget.verdict.value,
    }


def _text(result: PackResult) -> str:
    facts = result.facts
    lines = [str(result.bundle.digest), f"bundle    {result.out} ({result.bundle.path}, counter {result.bundle.contract.counter})"]
    before = facts.original
    lines.append(f"original  {facts.original_bytes} bytes, {facts.metric} {before.value:.4f} [{before.low:.4f}, {before.high:.4f}]")
    for candidate in facts.shipped:
        judged = candidate.evaluation
        after = judged.estimate
        ratio = facts.original_bytes / candidate.size_bytes
        lines.append(
            f"variant   {candidate.id}: {candidate.size_bytes} bytes, {ratio:.2f} times smaller, "
            f"{judged.metric} {after.value:.4f} [{after.low:.4f}, {after.high:.4f}]"
        )
        lines.append(
            f"          drop {judged.drop.value:.4f} [{judged.drop.low:.4f}, {judged.drop.high:.4f}], budget "
            f"{judged.budget.allowed_drop:g}: {judged.budget.verdict.value}"
        )
        stored = facts.stored(candidate)
        if stored.encoding is not None:
            size = len(stored.data)
            lines.append(f"          stored in {size} bytes ({stored.encoding}), {facts.original_bytes / size:.2f} times smaller")
        latency = result.latency.get(candidate.id)
        if latency is not None:
            lines.append(
                f"          latency {latency.ratio:.2f} of the original [{latency.low:.2f}, {latency.high:.2f}] on this machine"
            )
    if result.recipe is not None:
        lines.append(f"recipe    {result.recipe} repeats this without a search")
    idle = sum(score.without_effect for _, score in facts.golden.scores)
    lines.append(
        f"golden    {facts.golden.count} probes catch {facts.golden.worst_share:.1%} of damaged copies"
        + (f"; {idle} more change no output and are not counted" if idle else "")
    )
    return "\n".join(lines)
