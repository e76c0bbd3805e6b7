"""docs/policy.md says every key, with its default, its values and whether it weakens anything, and invents none."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from device_client.errors import UsageError
from device_client.policy.policy import DEFAULT_POLICY_TEXT, AcceptancePolicy, parse_policy

DOCUMENT = (Path(__file__).parents[3] / "docs/policy.md").read_text()
BLOCKS = re.findall(r"^```toml\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| `([a-z_]+)` \| (.+?) \| `(.+?)` \| .* \| (.+) \|$", re.MULTILINE)
TABLES = ("audit", "import", "reactions")
DEFAULTS = {key: value for table in TABLES for key, value in tomllib.loads(DEFAULT_POLICY_TEXT)[table].items()}
ROWS = {key: (values, default, weakens) for key, values, default, weakens in ROW.findall(DOCUMENT)}


def table_of(key: str) -> str:
    return next(table for table in TABLES if key in tomllib.loads(DEFAULT_POLICY_TEXT)[table])


def test_every_key_has_a_row_with_its_default() -> None:
    shown = {key: tomllib.loads(f"value = {default}")["value"] for key, (_, default, _) in ROWS.items()}
    assert shown == DEFAULTS


def test_the_policies_in_the_document_are_read_and_the_first_is_the_default() -> None:
    first, *others = (parse_policy(block.encode()) for block in BLOCKS)
    assert first == AcceptancePolicy()
    assert others


def test_a_key_that_weakens_a_check_is_called_unsafe_and_no_other() -> None:
    for key, (_, _, weakens) in ROWS.items():
        assert weakens.startswith("**yes**") == key.startswith("unsafe_"), key


@pytest.mark.parametrize(("key", "values"), [(key, row[0]) for key, row in ROWS.items() if " to " in row[0]])
def test_a_range_in_the_document_is_the_one_that_is_read(key: str, values: str) -> None:
    least, most = map(int, values.split(" to "))
    for value in (least, most):
        parse_policy(f"schema = 1\n[{table_of(key)}]\n{key} = {value}".encode())
    for value in (least - 1, most + 1):
        with pytest.raises(UsageError):
            parse_policy(f"schema = 1\n[{table_of(key)}]\n{key} = {value}".encode())


@pytest.mark.parametrize(("key", "values"), [(key, row[0]) for key, row in ROWS.items() if row[0].startswith("`")])
def test_a_choice_in_the_document_is_the_one_that_is_read(key: str, values: str) -> None:
    listed = re.findall(r"`([a-z_]+)`", values)
    for value in ("keep", "stop", "fall_back", "quick", "standard", "deep", "ignore"):
        data = f'schema = 1\n[{table_of(key)}]\n{key} = "{value}"'.encode()
        if value in listed:
            parse_policy(data)
        else:
            with pytest.raises(UsageError):
                parse_policy(data)
