"""The documents hold together: links lead somewhere, what they name exists, code in them parses."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.project import PACKAGES, ROOT, documents, text_files

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TEST_REFERENCE = re.compile(r"`(tests/[A-Za-z0-9_./]+\.py)(?:::([A-Za-z0-9_]+))?`")
SOURCE_REFERENCE = re.compile(
    r"`((?:device_client|packager|update_server|audits|demo|keys|docs|requirements)/[A-Za-z0-9_./-]+\.[a-z]+)`"
)

REQUIRED = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs/glossary.md", "docs/errors.md",
            "docs/threat-model.md", "docs/bundle-format.md", "docs/http-api.md", "docs/data.md")  # fmt: skip


def _blocks(language: str) -> Iterator[tuple[Path, str]]:
    for path in documents():
        for found, text in CODE_BLOCK.findall(path.read_text()):
            if found == language:
                yield path, text


def _prose(path: Path) -> str:
    return CODE_BLOCK.sub("", path.read_text())


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_document_that_people_look_for_exists(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_to_a_heading_of_it(document: Path) -> None:
    for target in LINK.findall(_prose(document)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{document.name}: {target}"
        assert path.is_relative_to(ROOT), f"{document.name}: {target} leaves the repository"
        if anchor:
            assert anchor in {_anchor(heading) for heading in HEADING.findall(path.read_text())}, f"{document.name}: {target}"


def test_every_python_block_parses_and_imports_what_exists() -> None:
    for path, text in _blocks("python"):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{path.name}: {node.module} has no {missing}"


def test_every_json_and_toml_block_parses() -> None:
    for _, text in _blocks("json"):
        json.loads(text)
    for _, text in _blocks("toml"):
        tomllib.loads(text)


def test_every_make_target_in_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for path in documents():
        for target in re.findall(r"`make ([a-z-]+)`", path.read_text()):
            assert target in targets, f"{path.name}: make {target}"


def test_every_test_that_a_document_names_exists() -> None:
    for path in documents():
        for file, function in TEST_REFERENCE.findall(path.read_text()):
            assert (ROOT / file).is_file(), f"{path.name}: {file}"
            if function:
                assert f"def {function}(" in (ROOT / file).read_text(), f"{path.name}: {file}::{function}"


def test_every_source_file_that_a_document_names_exists() -> None:
    for path in documents():
        if path.name == "CHANGELOG.md":
            continue
        for file in SOURCE_REFERENCE.findall(path.read_text()):
            assert (ROOT / file).is_file(), f"{path.name}: {file}"


def test_every_document_in_docs_is_on_the_map_in_the_readme() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall((ROOT / "README.md").read_text())}
    for path in documents():
        name = str(path.relative_to(ROOT))
        if name.startswith("docs/") and not name.startswith("docs/adr/"):
            assert name in linked, f"README.md does not link {name}"


def test_every_text_file_ends_with_one_newline_and_has_no_trailing_spaces() -> None:
    for path, text in text_files():
        if path.suffix in {".py", ".md", ".toml", ".txt", ".in"} and text and "vectors" not in path.parts:
            assert text.endswith("\n"), path
            assert not text.endswith("\n\n"), path
            assert not re.search(r"[ \t]+$", text, re.MULTILINE), path
