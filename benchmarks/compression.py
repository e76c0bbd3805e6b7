"""The compression issue's figures, all in one run: other people's networks, peers, emulated CPUs, both case studies, time.

    make bench-compression
    python -m benchmarks.compression --only kws,resnet8 --no-studies          # a part; the rest is null with that reason

Reads models and data under ``SEALIFT_DATA`` (docs/data.md). NNCF is measured where ``SEALIFT_NNCF_PYTHON`` names a Python that has
it, aarch64 where ``SEALIFT_ARM64`` names a folder with one (docs/case-studies.md). Takes about half an hour on two cores; trained
networks are kept under ``results/compression``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compression_goals import Found, goals
from benchmarks.compression_masks import MAKERS
from benchmarks.compression_models import CASES, Arrays
from benchmarks.compression_row import ROOT, Row, emulated_loss, measure, run_pack
from benchmarks.compression_runtime import aarch64, haswell
from benchmarks.results_file import RESULTS, Goal, Results
from packager.measurements import describe_machine

FOLDER = RESULTS / "compression"
STUDIES = {"wearable": 6, "factory": 5}  # with three seeds C14 is undecided: -0.41 points on one machine, -0.53 on another
_MB = 1_000_000
_HELP_RUNS = 7
_STUDY_TIMEOUT_S = 3600


def main() -> None:
    """Runs everything, prints the table, writes ``results/compression.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="models to measure, with commas between")
    parser.add_argument("--no-studies", action="store_true", help="leave the two case studies out")
    asked = parser.parse_args()
    results = Results("compression")
    results.goals, results.rows = run(only=[name for name in asked.only.split(",") if name], with_studies=not asked.no_studies)
    print(results.table())
    print(f"\n{results.write()}")
    if any(goal.met is False for goal in results.goals):
        sys.exit(1)


def run(*, only: Sequence[str], with_studies: bool) -> tuple[list[Goal], list[dict[str, Any]]]:
    """Goals and rows."""
    data = os.environ.get("SEALIFT_DATA")
    if not data or not Path(data).is_dir():
        reason = "SEALIFT_DATA names no folder (docs/data.md)"
        names = [case.id for case in CASES]
        nothing = replace(_empty(), errors=dict.fromkeys(names, reason), studies=dict.fromkeys(STUDIES, reason))
        return [*goals(nothing), *_time_goals({}), _no_digest(reason), help_goal()], []
    shutil.rmtree(FOLDER / "packed", ignore_errors=True)
    found = _measured(Path(data), only=only, with_studies=with_studies)
    rows = [line for row in found.rows.values() for line in row.to_json()]
    rows += [{"cpu": cpu, "model": "", "loss": told} for cpu, told in found.losses.items() if isinstance(told, str)]
    rows += [
        {"cpu": cpu, "model": name, "loss": loss}
        for cpu, losses in found.losses.items()
        if not isinstance(losses, str)
        for name, loss in losses.items()
    ]
    rows += [{"model": name, "not measured": why} for name, why in found.errors.items()]
    rows += [{"model": row.id, "seconds to pack": round(row.wall_s, 1)} for row in found.rows.values()]
    return [*goals(found), *_time_goals(found.rows), digest_goal(Path(data), only), help_goal()], rows


def _empty() -> Found:
    return Found(
        rows={},
        judged=[case.id for case in CASES if case.judged],
        third_party=[case.id for case in CASES if case.third_party],
        cases=list(STUDIES),
        broken=["masked", "gelu"],
        cpu_features=describe_machine()["cpu_features"],
    )


def _measured(data: Path, *, only: Sequence[str], with_studies: bool) -> Found:
    rows: dict[str, Row] = {}
    errors: dict[str, str] = {}
    studies: dict[str, dict[str, Any] | str] = {
        name: _study(name, data, seeds) if with_studies else "left out by --no-studies" for name, seeds in STUDIES.items()
    }

    def add(name: str, model: Path, arrays: Arrays, task: str = "auto") -> None:
        _say(f"{name}: pack, peers, latency")
        try:
            rows[name] = measure(name, model, arrays, FOLDER / "packed", task=task)
        except Exception as e:  # noqa: BLE001  # one row that cannot be measured must not cost the others
            errors[name] = " ".join(f"{type(e).__name__}: {e}".split())[:300]
            _say(f"{name}: {errors[name]}")
            return
        for line in rows[name].to_json():  # at once, so that a run that is cut short has shown what it found
            _say(json.dumps(line))

    for case in CASES:
        if not only or case.id in only:
            add(case.id, data / case.model, case.rows(data), _known_task(case.task))
    for maker, name in zip(MAKERS, ("masked", "gelu"), strict=True):
        if not only or name in only:
            made = maker(data, FOLDER / "nets")
            add(name, made.model, made.arrays)
    for name, study in studies.items():
        if isinstance(study, dict):
            with np.load(study["pack_data"], allow_pickle=False) as arrays:
                add(name, Path(study["pack_model"]), {key: arrays[key] for key in arrays.files})
    found = replace(_empty(), rows=rows, errors=errors, studies=studies)
    return replace(found, losses=_losses(rows))


def _known_task(task: str) -> str:
    """The task, where recipes of this version know it."""
    from packager.tasks.choose import TASKS

    return task if task in TASKS else "auto"


def _losses(rows: Mapping[str, Row]) -> dict[str, dict[str, float | str] | str]:
    """C10: every row on every emulated CPU that can be had and that its variant claims."""
    found: dict[str, dict[str, float | str] | str] = {}
    for name, runner in (("haswell", haswell()), ("aarch64", aarch64())):
        if isinstance(runner, str):
            found[name] = runner
            continue
        losses: dict[str, float | str] = {}
        for row in rows.values():
            if not _claims(row, name):
                continue
            _say(f"{row.id} on {name}")
            try:
                losses[row.id] = round(emulated_loss(row, runner), 5)
            except (RuntimeError, subprocess.TimeoutExpired) as e:
                losses[row.id] = " ".join(str(e).split())[-160:]
            _say(f"{row.id} on {name}: {losses[row.id]}")
        found[name] = losses
    return found


def _claims(row: Row, cpu: str) -> bool:
    """Whether the first variant may run there: a variant that needs another architecture or VNNI does not claim these."""
    if row.packed is None:
        return False
    requires = row.packed.requires
    arch, features = ("x86_64", {"avx2"}) if cpu == "haswell" else ("aarch64", {"asimd"})
    return (not requires.arch or arch in requires.arch) and set(requires.cpu_features) <= features


def _study(name: str, data: Path, seeds: int) -> dict[str, Any] | str:
    """The example as a process, or what went wrong."""
    _say(f"case study: {name}, {seeds} seeds")
    command = [
        sys.executable,
        "-m",
        f"examples.{name}",
        "--data",
        str(data),
        "--out",
        str(FOLDER / name),
        "--seeds",
        str(seeds),
        "--json",
    ]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_STUDY_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"took longer than {_STUDY_TIMEOUT_S} s"
    if done.returncode:
        return " ".join(done.stderr.split())[-300:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _time_goals(rows: Mapping[str, Row]) -> list[Goal]:
    """C16: the slowest pack in each class of size, by the size of what was given."""
    found = []
    for identity, least, most, bound in (("C16", 0, _MB, 60.0), ("C16-4MB", _MB, 4 * _MB, 300.0)):
        times = {row.id: row.wall_s for row in rows.values() if least < row.source_bytes <= most and row.packed is not None}
        what = f"slowest `sealift pack` of a model up to {most // _MB} MB"
        if not times:
            found.append(Goal(identity, what, None, "<=", bound, "s", "no such model was packed"))
            continue
        slowest = max(times, key=lambda name: times[name])
        found.append(Goal(identity, f"{what} ({slowest})", times[slowest], "<=", bound, "s"))
    return found


def digest_goal(data: Path, only: Sequence[str]) -> Goal:
    """C17: the recipe that a first run chose, in two empty homes and caches, with two hash seeds."""
    if only and "kws" not in only:
        return _no_digest("left out by --only")
    case = next(case for case in CASES if case.id == "kws")
    digests: list[str] = []
    recipe: Path | None = None
    with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name:
        rows = Path(name) / "kws.npz"
        np.savez(rows, allow_pickle=False, **case.rows(data))
        for seed in ("1", "2", "3"):
            home = Path(name) / f"home-{seed}"
            home.mkdir()
            environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PYTHONHASHSEED": seed}
            _say(f"kws again, hash seed {seed}")
            answer = run_pack(
                data / case.model, rows, home / "bundle", name="kws", task="auto", recipe=recipe, environment=environment
            )
            if isinstance(answer, str):
                return _no_digest(answer)
            if seed == "1":  # a search chooses, and a clock may have a say in it; what must repeat is the recipe that it wrote
                recipe = Path(str(answer["recipe"])) if answer.get("recipe") else None
            else:
                digests.append(str(answer["manifest"]))
    return Goal("C17", "different digests: one recipe, two empty caches, two hash seeds", float(len(set(digests))), "<=", 1.0, "")


def _no_digest(reason: str) -> Goal:
    return Goal("C17", "different digests: one recipe, two empty caches, two hash seeds", None, "<=", 1.0, "", reason)


def help_goal() -> Goal:
    """C18: the quickest of some runs, which is what the machine can do while nothing else runs."""
    times = []
    for _ in range(_HELP_RUNS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sealift", "pack", "--help"], cwd=ROOT, capture_output=True, check=True)
        times.append(time.perf_counter() - begun)
    return Goal("C18", f"`sealift pack --help`, quickest of {_HELP_RUNS}", min(times), "<=", 0.5, "s")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
