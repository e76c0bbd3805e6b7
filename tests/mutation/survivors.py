"""The mutants that no test kills and why that is accepted: ``survivors.toml``, written and reviewed by hand."""

from __future__ import annotations

import tomllib
from pathlib import Path

GOAL_PERCENT = 95.0
LIST = Path(__file__).with_name("survivors.toml")
# equivalent: no test could tell; doubled: another barrier behind it suffices; untested: deliberately.
KINDS = ("equivalent", "doubled", "untested")

# File, function, the lines taken away and those put in, without their indentation.
Change = tuple[str, str, str, str]


def entries() -> list[dict[str, str]]:
    """The list as it is written: ``file``, ``function``, ``was``, ``now``, ``kind`` and ``reason`` each."""
    found: list[dict[str, str]] = []
    for group in tomllib.loads(LIST.read_text(encoding="utf-8")).get("accepted", []):
        common = {key: value for key, value in group.items() if key != "changes"}
        found += [{**common, "was": change["was"], "now": change["now"]} for change in group["changes"]]
    return found


def accepted() -> dict[Change, str]:
    """The kind and the reason for each accepted survivor."""
    return {_change(entry): f"{entry['kind']}: {entry['reason']}" for entry in entries()}


def _change(entry: dict[str, str]) -> Change:
    return entry["file"], entry["function"], entry["was"], entry["now"]
