"""The page's sections, each a function of the facts and readings that gives HTML. What they show, they never decide."""

from __future__ import annotations

import json
from html import escape

from packager.facts import Candidate, PackFacts
from packager.footprint import process_bytes
from packager.measure.device_model import DeviceFigures, model_all
from packager.measure.profiles import PROFILES, DeviceProfile, Sourced
from packager.measure.workload import Workload
from packager.report_page.parts import amount, change, definitions, energy_text, note, section, size, table, tag, times_smaller
from packager.report_page.plots import BarRow, bars
from packager.report_page.readings import Readings

_MAX_OPERATORS = 12


def before_after(facts: PackFacts, readings: Readings) -> str:
    """The original and what ships, line by line, and how each line was obtained."""
    shipped = facts.shipped
    loads = [facts.original_workload, *(facts.workloads[item.id] for item in shipped)]
    before = facts.original
    value = f"{before.value:.4f}<br><span class='sub'>{before.low:.4f} to {before.high:.4f}</span>"
    rows = [
        ["File", size(facts.original_bytes), *(_against(item.size_bytes, facts.original_bytes) for item in shipped), "counted"],
        [
            "As stored",
            size(facts.original_bytes),
            *(_against(facts.stored_bytes(item), facts.original_bytes) for item in shipped),
            "counted",
        ],
        [escape(facts.metric), value, *(_judged(item) for item in shipped), f"measured, {before.samples} test rows"],
        ["Latency", "1", *(_latency(item, readings) for item in shipped), "measured on the packing machine; not in the bundle"],
        ["Energy, metered", *_metered(shipped, readings), "measured where the machine has a meter; not in the bundle"],
        ["Multiply-accumulates", *(amount(load.macs.total) for load in loads), "counted from the graph"],
        ["of them in INT8", *(_share(load) for load in loads), "counted from the graph as the runtime fuses it"],
        ["Peak activations", *(_peak(load, loads[0]) for load in loads), "planned, one row"],
        ["Process memory", *(size(process_bytes(load)) for load in loads), "modelled upper bound, onnxruntime included"],
    ]
    head = ["", "original", *(item.id for item in shipped), "how it was obtained"]
    return section("Before and after", table(head, rows))


def devices(facts: PackFacts) -> str:
    """Energy, time and memory on each profile, original against what ships first."""
    main = facts.shipped[0]
    pairs = zip(model_all(facts.original_workload), model_all(facts.workloads[main.id]), strict=True)
    rows = [
        [
            escape(after.profile.title),
            energy_text(before.energy.value),
            energy_text(after.energy.value),
            change(before.energy.value or 0.0, after.energy.value or 0.0),
            f"{before.latency_ms:.3g} → {after.latency_ms:.3g} ms",
            size(after.ram_bytes),
            _fits(after),
        ]
        for before, after in pairs
    ]
    head = ["Device class, one core", "Energy, original", f"Energy, {main.id}", "Change", "Time", "RAM needed", "Fits"]
    about = (
        "Modelled, not measured: counted operations and bytes times each profile's figures, above idle. Good for comparing two "
        "models on one device, within about a third for the microcontrollers; not for planning a battery. A microcontroller runs "
        "no onnxruntime: its rows are what the same graph would cost in a runtime for such devices."
    )
    sources = "".join(f"<h3>{escape(profile.title)}</h3>{_profile(profile)}" for profile in PROFILES)
    return section(
        "Energy, time and memory on devices",
        note(about)
        + table(head, rows, numeric=frozenset({1, 2, 3, 4, 5}))
        + f"<details><summary>Each number of the profiles, and where it is from</summary>{sources}</details>",
    )


def operators(facts: PackFacts) -> str:
    """Where the arithmetic is."""
    main = facts.shipped[0]
    load = facts.workloads[main.id]
    ranked = sorted(load.macs.rows, key=lambda row: (-row.macs, row.node))[:_MAX_OPERATORS]
    total = max(1, load.macs.total)
    rows = [
        BarRow(f"{row.node} ({row.arithmetic})", row.macs, f"{row.macs / total:.0%}", f"{row.node}: {row.op_type}, {row.macs} MACs")
        for row in ranked
    ]
    more = f" {len(load.macs.uncounted)} operators could not be counted." if load.macs.uncounted else ""
    about = (
        f"{main.id}: {amount(load.macs.total)} multiply-accumulates in {load.kernels} kernel calls; memory peaks at "
        f"{load.memory.at}.{more}"
    )
    return section("Where the work is", note(about) + f"<figure>{bars(rows, label='share of multiply-accumulates')}</figure>")


def provenance(facts: PackFacts, *, manifest: str) -> str:
    """Digests, data and the recipe."""
    entries = {
        "Bundle manifest": f"<code>{escape(manifest)}</code>",
        "Source": f"{escape(facts.loaded.source_name)}<br><code>{facts.loaded.source_digest}</code>",
        "Recipe": f"<code>{facts.recipe.digest()}</code>",
        "Data, split": escape(facts.parts.origin),
        **{f"Data, {name}": f"<code>{digest}</code>" for name, digest in facts.parts.digests()},
        "Licence": escape(facts.recipe.card.licence or "not stated"),
    }
    recipe = escape(json.dumps(facts.recipe.to_json(), indent=2, sort_keys=True, ensure_ascii=False))
    steps = "".join(f"<li>{escape(text)}</li>" for text in facts.loaded.notes)
    return section(
        "Provenance",
        definitions(entries)
        + (f"<h3>Preparation of the original</h3><ul>{steps}</ul>" if steps else "")
        + f"<details><summary>The effective recipe</summary><pre>{recipe}</pre></details>",
    )


def _against(after: int, before: int) -> str:
    return f"{size(after)}<br><span class='sub'>{times_smaller(before, after)}</span>"


def _judged(item: Candidate) -> str:
    found = item.evaluation
    return (
        f"{found.estimate.value:.4f}<br><span class='sub'>{found.estimate.low:.4f} to {found.estimate.high:.4f}; "
        f"drop {found.drop.value:+.4f} [{found.drop.low:+.4f}, {found.drop.high:+.4f}]</span> {tag(found.budget.verdict.value)}"
    )


def _latency(item: Candidate, readings: Readings) -> str:
    ratio = readings.latency.get(item.id)
    if ratio is None:
        return "not measured"
    return f"{ratio.ratio:.3f}<br><span class='sub'>{ratio.low:.3f} to {ratio.high:.3f}, {ratio.rounds} rounds</span>"


def _metered(shipped: tuple[Candidate, ...], readings: Readings) -> list[str]:
    first = next(iter(readings.energy.values()), None)
    cells = ["not measured" if first is None else energy_text(first.original.value)]
    for item in shipped:
        pair = readings.energy.get(item.id)
        if pair is None:
            cells.append("not measured")
        elif pair.variant.value is None:
            cells.append(f"unavailable<br><span class='sub'>{escape(pair.variant.source)}</span>")
        else:
            cells.append(f"{energy_text(pair.variant.value)}<br><span class='sub'>{escape(pair.variant.source)}</span>")
    return cells


def _share(load: Workload) -> str:
    return f"{load.macs.by_arithmetic['int8'] / max(1, load.macs.total):.0%}"


def _peak(load: Workload, original: Workload) -> str:
    text = size(load.memory.peak_bytes)
    return (
        text
        if load is original
        else f"{text}<br><span class='sub'>{change(original.memory.peak_bytes, load.memory.peak_bytes)}</span>"
    )


def _fits(figures: DeviceFigures) -> str:
    return "yes" if figures.fits else f"no<br><span class='sub'>{escape('; '.join(figures.misfits))}</span>"


def _profile(profile: DeviceProfile) -> str:
    numbers: dict[str, Sourced] = {
        **{f"macs_per_s, {kind}": item for kind, item in profile.macs_per_s.items()},
        **{f"pj_per_mac, {kind}": item for kind, item in profile.pj_per_mac.items()},
        **{name: item for name, item in vars(profile).items() if isinstance(item, Sourced)},
    }
    rows = [[escape(name), f"{item.value:,.6g}", escape(item.source)] for name, item in numbers.items()]
    return table(["Figure", "Value", "Source"], rows, numeric=frozenset({1}))
