"""Every error code in the code is in ``docs/errors.md`` with its class, and every code there is in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.architecture.project import PACKAGES, ROOT, sources

ROW = re.compile(r"^\| `([a-z0-9_]+)` \| ([A-Za-z, ]+) \| (.+) \| (.+) \|$", re.MULTILINE)
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class Raised:
    code: str
    raiser: str  # what is called with `code=`
    where: str


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _error_classes() -> set[str]:
    """Names of ``SealiftError`` and of everything that inherits from it, in any package."""
    bases: dict[str, list[str]] = {}
    for package in PACKAGES:
        for _, tree in sources(package):
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = [_name(base) for base in node.bases]
    found = {"SealiftError"}
    while more := {name for name, parents in bases.items() if found & set(parents)} - found:
        found |= more
    return found


CLASSES = _error_classes()


def _raised() -> Iterator[Raised]:
    for package in PACKAGES:
        for path, tree in sources(package):
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    for keyword in node.keywords:
                        if keyword.arg == "code":
                            where = f"{path.relative_to(ROOT)}:{keyword.lineno}"
                            yield from (Raised(code, _name(node.func), where) for code in _strings(keyword.value))


def _strings(value: ast.expr) -> Iterator[str]:
    """The codes of a literal, or of a choice between literals; a code passed on is found where it is chosen."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str) and CODE.fullmatch(value.value):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from _strings(value.body)
        yield from _strings(value.orelse)


def _is_in_the_code(code: str, strings: set[str], prefixes: set[str]) -> bool:
    return code in strings or code.startswith(tuple(prefixes))


def _all_strings() -> tuple[set[str], set[str]]:
    """Every literal string, and the beginnings of codes that are put together (``f"device_{state}"``)."""
    strings, prefixes = set(), set()
    for package in PACKAGES:
        for _, tree in sources(package):
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    strings.add(node.value)
                if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.JoinedStr):
                    first = node.value.values[0]
                    if isinstance(first, ast.Constant):
                        prefixes.add(str(first.value))
    return strings, prefixes


def _documented() -> dict[str, set[str]]:
    rows = ROW.findall((ROOT / "docs/errors.md").read_text())
    assert len(rows) == len({code for code, *_ in rows}), "a code is listed twice"
    return {code: set(classes.split(", ")) for code, classes, _, _ in rows}


def test_every_code_in_the_code_is_documented() -> None:
    documented = _documented()
    missing = {raised.code: raised.where for raised in _raised() if raised.code not in documented}
    assert not missing, missing


def test_every_documented_code_is_in_the_code() -> None:
    strings, prefixes = _all_strings()
    unknown = [code for code in _documented() if not _is_in_the_code(code, strings, prefixes)]
    assert not unknown, unknown


def test_every_code_is_documented_under_the_classes_that_raise_it() -> None:
    documented = _documented()
    wrong = [
        f"{raised.code}: {raised.raiser} at {raised.where}"
        for raised in _raised()
        if raised.raiser in CLASSES and raised.code in documented and raised.raiser not in documented[raised.code]
    ]
    assert not wrong, wrong


def test_every_documented_class_exists() -> None:
    named = {name for classes in _documented().values() for name in classes}
    assert named <= CLASSES, named - CLASSES
