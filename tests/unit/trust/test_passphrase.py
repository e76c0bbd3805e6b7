"""Where a passphrase comes from, in which order, and that it is never shown."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from device_client.trust.passphrase import MAX_PASSPHRASE_BYTES, ask_passphrase
from tests.unit.trust.edited import code_of


class Terminal:
    """A person at a terminal, or none: answers the prompt and keeps how it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_there = True
        self.asked: list[tuple[str, dict[str, Any]]] = []
        stdin = io.StringIO()
        monkeypatch.setattr(stdin, "isatty", lambda: self.is_there)
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(click, "prompt", self._prompt)
        for name in ("SEALIFT_PASSPHRASE", "SEALIFT_PASSPHRASE_FILE"):
            monkeypatch.delenv(name, raising=False)

    def _prompt(self, text: str, **how: Any) -> str:
        self.asked.append((text, how))
        return "gesprochen ü"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(monkeypatch)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> Path:
    monkeypatch.setenv("SEALIFT_PASSPHRASE_FILE", str(tmp_path / "secret"))
    return tmp_path / "secret"


def test_the_environment_comes_before_the_file_and_the_file_before_the_prompt(
    file: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(b"from the file\nanother line\n")
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "from the environment ü")
    assert ask_passphrase("release.key") == "from the environment ü".encode()
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "")
    assert ask_passphrase("release.key") == b"from the file"
    assert not terminal.asked
    monkeypatch.setenv("SEALIFT_PASSPHRASE_FILE", "")
    assert ask_passphrase("release.key") == "gesprochen ü".encode()


def test_a_person_is_asked_without_echo_on_stderr_and_twice_for_a_new_key(terminal: Terminal) -> None:
    ask_passphrase("release.key")
    ask_passphrase("release.key", confirm=True)
    (text, first), (_, second) = terminal.asked
    assert "release.key" in text
    assert first == {"hide_input": True, "confirmation_prompt": False, "err": True}
    assert second == {"hide_input": True, "confirmation_prompt": True, "err": True}


def test_without_a_person_there_is_no_prompt(terminal: Terminal) -> None:
    terminal.is_there = False
    assert code_of(lambda: ask_passphrase("release.key")) == "passphrase_missing"
    assert not terminal.asked


@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        (b"one line", b"one line"),
        (b"\xff\x00 not text\r\n", b"\xff\x00 not text"),
        (b"a" * MAX_PASSPHRASE_BYTES, b"a" * MAX_PASSPHRASE_BYTES),
        (b"a" * (MAX_PASSPHRASE_BYTES + 1), b"a" * MAX_PASSPHRASE_BYTES),
    ],
)
def test_a_passphrase_file_gives_its_first_line(content: bytes, passphrase: bytes, file: Path) -> None:
    file.write_bytes(content)
    assert ask_passphrase("release.key") == passphrase


@pytest.mark.parametrize("content", [b"", b"\n", b"\nsecond line\n", None])
def test_a_passphrase_file_without_a_first_line_is_refused(content: bytes | None, file: Path, terminal: Terminal) -> None:
    if content is not None:
        file.write_bytes(content)
    assert code_of(lambda: ask_passphrase("release.key")) == "passphrase_missing"
    assert not terminal.asked
