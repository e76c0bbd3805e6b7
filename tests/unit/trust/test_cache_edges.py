"""What may lie in the metadata cache, and what is taken out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from device_client.trust.cache import clear_strangers


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_the_cache_is_made_where_there_is_none(tmp_path: Path) -> None:
    clear_strangers(tmp_path / "a" / "cache")
    assert (tmp_path / "a" / "cache").is_dir()
    clear_strangers(tmp_path / "a" / "cache")


def test_a_file_or_a_link_to_nothing_in_its_place_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        clear_strangers(tmp_path / name)
        assert (tmp_path / name).is_dir()
        assert not (tmp_path / name).is_symlink()


def test_what_python_tuf_put_there_stays(tmp_path: Path) -> None:
    (tmp_path / "root_history").mkdir()
    (tmp_path / "root_history" / "1.root.json").write_text("1")
    (tmp_path / "timestamp.json").write_text("2")
    (tmp_path / "root.json").symlink_to(Path("root_history") / "1.root.json")
    before = _names(tmp_path)
    clear_strangers(tmp_path)
    assert _names(tmp_path) == before
    assert (tmp_path / "root.json").read_text() == "1"


@pytest.mark.parametrize("folder", ["", "root_history"])
def test_folders_links_and_pipes_are_taken_away_and_what_a_link_names_is_not(folder: str, tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    (cache / "root_history").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("x")
    inside = cache / folder
    (inside / "folder" / "deep").mkdir(parents=True)
    (inside / "link").symlink_to(elsewhere)
    (inside / "file link").symlink_to(elsewhere / "kept")
    os.mkfifo(inside / "pipe")
    (inside / "a.json").write_text("stays")
    clear_strangers(cache)
    assert _names(cache) == {"root_history", str(Path(folder) / "a.json")}
    assert (elsewhere / "kept").read_text() == "x"


@pytest.mark.parametrize("kind", ["link", "file", "broken link"])
def test_a_history_that_is_no_folder_of_its_own_is_taken_away(kind: str, tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    cache.mkdir()
    elsewhere.mkdir()
    (elsewhere / "1.root.json").write_text("x")
    if kind == "file":
        (cache / "root_history").write_text("x")
    else:
        (cache / "root_history").symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    clear_strangers(cache)
    assert _names(cache) == set()
    assert _names(elsewhere) == {"1.root.json"}


def test_root_json_may_be_a_link_but_no_folder(tmp_path: Path) -> None:
    (tmp_path / "root.json" / "x").mkdir(parents=True)
    clear_strangers(tmp_path)
    assert _names(tmp_path) == set()
