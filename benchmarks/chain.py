"""The chain end to end: what the demo measures, and whether packing twice gives the same bytes.

    make bench

Runs `sealift demo` once and `sealift pack` twice, in processes and folders of their own. Takes a few minutes. The
wall times belong to the machine that is named beside them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.results_file import Goal, Results

_STEP = re.compile(r"^(\S.*?)\s{2,}(.*)  \((\d+\.\d) s\)$")


def main() -> None:
    """Runs everything, prints the table, writes ``results/chain.json``."""
    results = Results("chain")
    with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name:
        folder = Path(name)
        answer, steps = _demo()
        results.rows += steps
        digests, packs = _pack_twice(folder)
        results.rows += packs
    results.goals += _goals(answer, digests)
    print(results.table())
    print(f"\n{results.write()}")
    if any(goal.met is False for goal in results.goals):
        sys.exit(1)


def _demo() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    done = _run("demo", "--json")
    steps = [match for line in done.stderr.splitlines() if (match := _STEP.match(line))]
    return _last_json(done.stdout), [{"step": f"demo: {match[1]}", "seconds": float(match[3])} for match in steps]


def _pack_twice(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    model = folder / "digits.onnx"
    train = [sys.executable, "-m", "demo.train", "--out", str(model), "--seed", "1", "--size", "regular"]
    subprocess.run(train, check=True, capture_output=True)
    digests, rows = [], []
    for name in ("first", "second"):
        begun = time.monotonic()
        where = ("--line", "digits", "--name", "mlp", "--version", "1.0.0", "--out", str(folder / name / "bundle"))
        done = _run("pack", str(model), "--data", "demo.digits:pack_data", *where, "--json")
        rows.append({"step": f"pack, {name} time", "seconds": round(time.monotonic() - begun, 1)})
        digests.append(str(_last_json(done.stdout)["manifest"]))
    return digests, rows


def _goals(demo: dict[str, Any], digests: list[str]) -> Iterator[Goal]:
    yield Goal("chain.drop", "accuracy lost to compression", demo["accuracy"]["drop"]["value"] * 100, "<=", 1.0, "points")
    yield Goal("chain.size", "size before / after", demo["size"]["ratio"], ">", 3.0, "")
    yield Goal("chain.attacks", "attacks refused, of seven", demo["attacks_refused"], ">=", 7, "")
    yield Goal("chain.controls", "controls installed, of seven", demo["controls_installed"], ">=", 7, "")
    yield Goal("chain.demo", "wall time of the demo, two cores", demo["seconds"], "<=", 180, "s")
    yield Goal("chain.same", "different digests in two packs", len(set(digests)) - 1, "<=", 0, "")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "sealift", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"sealift {' '.join(arguments)} failed\n{done.stderr}")
    return done


def _last_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
