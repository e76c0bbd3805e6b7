"""A town for all tests of this folder, and a world of its own for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.threats.town import Town, build_town
from tests.threats.world import World


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    return build_town(tmp_path_factory.mktemp("town"))


@pytest.fixture
def world(town: Town, tmp_path: Path) -> Iterator[World]:
    made = World(town, tmp_path)
    yield made
    made.close()
