"""The demo's two honest versions: trained, packed and audited, both at once, and smaller if the audit says so."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from demo.names import FIRST, FIRST_COUNTER, LINE, MODEL, SECOND
from demo.processes import Workshop
from device_client.console import step
from device_client.errors import SealiftError

SIZES = ("regular", "small")  # tried in this order until the audit passes; its threshold stays
_SEEDS = {FIRST: 1, SECOND: 2}
RECIPE = """\
schema = 1
task = "classification"

[[technique]]
name = "int8-static"

[budget]
accuracy_drop = 0.01

[inputs.x]
meaning = "brightness of 8 by 8 pixels, row by row"
range = [0.0, 1.0]

[outputs.y]
meaning = "one score for each digit, 0 to 9"

[card]
description = "Reads one handwritten digit."
licence = "the digits are part of scikit-learn (BSD-3-Clause)"
intended_use = "demonstration of Sealift"
limitations = "trained on half of 1797 small images; not for real use"
"""


@dataclass(frozen=True)
class Made:
    """What `pack` and `audit run` answered for one version, and the size of its network."""

    size: str
    packed: dict[str, Any]
    audited: dict[str, Any]

    @property
    def verdicts(self) -> dict[str, str]:
        """The audit's verdict on each variant that ships; the original is shown for comparison only."""
        return {subject["id"]: subject["verdict"] for subject in self.audited["subjects"] if subject["id"] != "original"}


def make_models(shop: Workshop) -> Made:
    """Makes both versions; returns the first one's answers.

    Raises:
        SealiftError: no size passes the audit.
    """
    (shop.folder / "recipe.toml").write_text(RECIPE)
    for size in SIZES:
        begun = time.monotonic()
        with ThreadPoolExecutor(len(_SEEDS)) as pool:  # two cores, and every process of ours uses one thread
            made = list(pool.map(lambda version: _make_version(shop, size, version), _SEEDS))  # noqa: B023
        verdicts = {verdict for item in made for verdict in item.verdicts.values()}
        step(f"{'model':<14} {_describe(made[0])}  ({time.monotonic() - begun:.1f} s)")
        caught = " and ".join(f"{item.packed['golden']['mutation_score']:.0%}" for item in made)
        step(f"{'':<14} the golden probes catch {caught} of deliberately damaged copies (95% is the aim)")
        if verdicts == {"PASSED"}:
            return made[0]
        step(f"{'':<14} not passed ({', '.join(sorted(verdicts))}): a smaller, more regular model is trained; the threshold stays")
    raise SealiftError("no model passes the audit", code="demo_step", where=str(shop.folder / "audit"))


def _make_version(shop: Workshop, size: str, version: str) -> Made:
    for stale in (f"bundles/{version}", f"audit/{version}"):  # of a larger size that did not pass
        shutil.rmtree(shop.folder / stale, ignore_errors=True)
    (shop.folder / f"bundles/{version}.measurements.json").unlink(missing_ok=True)
    (shop.folder / f"bundles/{version}.report.html").unlink(missing_ok=True)
    original = f"models/{size}-{version}.onnx"
    shop.run_module("demo.train", f"--out {original} --seed {_SEEDS[version]} --size {size}")
    counter = FIRST_COUNTER + list(_SEEDS).index(version)
    packed = shop.run(
        f"pack {original} --data demo.digits:pack_data --recipe recipe.toml --line {LINE} --name {MODEL} "
        f"--version {version} --counter 0.{counter} --out bundles/{version}"
    )
    audited = shop.run(
        f"audit run bundles/{version} --data demo.digits:audit_data --original {original} --recipe recipe.toml "
        f"--out audit/{version}"
    )
    return Made(size, packed.answer, audited.answer)


def _describe(made: Made) -> str:
    before, after = (made.packed["accuracy"][name]["value"] for name in ("before", "after"))
    return (
        f"{FIRST} and {SECOND} trained, packed, audited: accuracy {before:.1%} -> {after:.1%}, "
        f"{made.packed['size']['ratio']:.2f} times smaller, audit {', '.join(made.verdicts.values())} ({made.size} network)"
    )
