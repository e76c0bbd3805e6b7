"""The command line that both case studies share."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from examples.page import Page
from examples.shelf import Shelf


@dataclass(frozen=True)
class Asked:
    """What the user asked for. ``say``: takes one line about what goes on."""

    data: Path
    shelf: Shelf
    seeds: int
    say: Callable[[str], None]


Study = Callable[[Asked], tuple[dict[str, Any], Page]]


def command(study: Study, *, name: str, seeds: int) -> click.Command:
    """The study as a command.

    Args:
        study: gives its results, and the page that shows them.
        name: of the case.
        seeds: how many by default.
    """

    @click.command(name=name, help=f"Train, distil, pack and compare: the {name} case study.")
    @click.option("--data", type=click.Path(path_type=Path), help="Folder of the data [default: SEALIFT_DATA].")
    @click.option(
        "--out", type=click.Path(path_type=Path), default=Path(f"{name}-study"), show_default=True, help="Folder to write."
    )
    @click.option("--seeds", type=click.IntRange(1, 20), default=seeds, show_default=True, help="How often to train.")
    @click.option("--json", "as_json", is_flag=True, help="Results as JSON instead of a table.")
    def run(data: Path | None, out: Path, seeds: int, as_json: bool) -> None:
        folder = data or (Path(os.environ["SEALIFT_DATA"]) if os.environ.get("SEALIFT_DATA") else None)
        if folder is None:
            raise click.UsageError("give --data DIR, or set SEALIFT_DATA; see docs/data.md")
        begun = time.monotonic()

        def say(line: str) -> None:
            print(f"{time.monotonic() - begun:6.0f} s  {line}", file=sys.stderr, flush=True)

        try:
            results, page = study(Asked(folder, Shelf(out), seeds, say))
        except FileNotFoundError as e:
            raise click.UsageError(str(e)) from e
        results["page"] = str(page.write(out / "report.html"))
        (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        click.echo(json.dumps(results, indent=2) if as_json else f"{page.text()}\n\n{results['page']}")

    return run
