"""The list of accepted survivors is about the code as it is, and says why for each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutation.survivors import KINDS, LIST, accepted, entries

ROOT = Path(__file__).resolve().parents[2]


def _function_text(file: str, function: str) -> str:
    source = (ROOT / file).read_text(encoding="utf-8")
    scope: ast.AST = ast.parse(source)
    for name in function.split("."):
        scope = next(node for node in ast.iter_child_nodes(scope) if getattr(node, "name", None) == name)
    segment = ast.get_source_segment(source, scope) or ""
    return "\n".join(line.strip() for line in segment.splitlines())


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{Path(entry['file']).stem}.{entry['function']}")
def test_an_accepted_survivor_is_a_change_to_code_that_is_there(entry: dict[str, str]) -> None:
    assert entry["was"] in _function_text(entry["file"], entry["function"]), "fixed or moved: take it out of survivors.toml"
    assert entry["was"] != entry["now"]


def test_every_accepted_survivor_has_its_kind_and_a_reason_and_stands_there_once() -> None:
    for entry in entries():
        assert entry["kind"] in KINDS
        assert len(entry["reason"]) > 20
    assert len(accepted()) == len(entries()), f"the same change twice in {LIST.name}"
