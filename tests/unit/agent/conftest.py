"""A device with a real server, in this process; built once, copied for each test."""

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
def real(town: Town, tmp_path: Path) -> Iterator[World]:
    """Runs the first release; the second is on offer."""
    made = World(town, tmp_path)
    yield made
    made.close()
