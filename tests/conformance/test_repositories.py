"""Every repository of the catalogue, played against the client under test: real HTTP, the executable's own ``main``.

``make test`` plays all that need no waiting, in this process. `python -m tests.conformance.repositories --processes --slow`
plays all of them against the executable.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conformance.loopback import Loopback
from tests.conformance.play import Case, Client, in_process, play_case
from tests.conformance.repositories import CASES, CHAPTERS, OPEN

QUICK = [one for one in CASES if not one.is_slow]


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with Loopback() as made:
        yield made


@pytest.fixture(scope="module")
def client() -> Client:
    return in_process()


def _parameter(one: Case) -> object:
    marks = [pytest.mark.xfail(reason=OPEN[one.name], strict=True)] if one.name in OPEN else []
    return pytest.param(one, id=one.name, marks=marks)


@pytest.mark.parametrize("one", [_parameter(one) for one in QUICK])
def test_the_client_does_what_the_repository_asks_for(one: Case, server: Loopback, client: Client, tmp_path: Path) -> None:
    outcome = play_case(one, folder=tmp_path / "case", server=server, client=client)
    assert outcome.disagreement is None, f"{one.sentence}\n{outcome.disagreement}"


def test_the_catalogue_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 400
    assert [name for name, times in Counter(one.name for one in CASES).items() if times > 1] == []
    assert all(one.sentence.endswith(".") for one in CASES)
    assert all(CHAPTERS.values())
    assert set(OPEN) <= {one.name for one in CASES}


def _always(status: int) -> Client:
    """A client that verifies nothing and answers ``status`` to all but ``init``."""

    def run(words: Sequence[str]) -> tuple[int, str]:
        if "init" in words:
            shutil.copyfile(words[-1], Path(words[words.index("--metadata-dir") + 1], "root.json"))
            return 0, ""
        return status, "error: whatever" if status else ""

    return run


@pytest.mark.parametrize("status", [0, 1])
def test_a_client_that_verifies_nothing_agrees_with_no_repository(status: int, server: Loopback, tmp_path: Path) -> None:
    """Each case must notice a client that takes everything, and one that refuses everything."""
    agreed = {
        one.name
        for one in QUICK[::5]
        if play_case(one, folder=tmp_path / one.name, server=server, client=_always(status)).disagreement is None
    }
    assert agreed == set()
