"""The database, the settings and the data folder: exact, whole or absent, one owner."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile, Targets

from device_client.errors import FormatError, SealiftError, StateError, TrustError, UsageError
from device_client.trust.files import write_new
from packager.repository import new_root, new_targets, to_bytes
from tests.unit.update_server.world import AUDIT, NOW, RELEASE, Keys, World
from update_server import data_folder
from update_server.audience import check_public_url
from update_server.data_folder import init_server
from update_server.database import Database, create_database
from update_server.service import open_service
from update_server.settings import Settings, load_settings
from update_server.tokens import Kind, find_bearer, issue_token


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_database(tmp_path / "server.db")
    return tmp_path / "server.db"


def insert(connection: sqlite3.Connection, model: str) -> str:
    connection.execute("INSERT INTO offers VALUES (?, '1')", (model,))
    return model


def models(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return sorted(row[0] for row in connection.execute("SELECT model FROM offers"))
    finally:
        connection.close()


def test_writes_from_many_threads_are_all_committed_and_acknowledged_after_it(path: Path) -> None:
    database = Database(path)
    seen: list[bool] = []

    def write(number: int) -> None:
        database.write(lambda connection: insert(connection, f"m{number:02}")).result()
        seen.append(f"m{number:02}" in models(path))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()
    assert seen == [True] * 40
    assert len(models(path)) == 40


def test_one_failing_write_does_not_take_the_others_of_its_group_with_it(path: Path) -> None:
    database = Database(path)
    gate = threading.Event()
    database.write(lambda connection: gate.wait(5))  # the next three wait together

    def fails(connection: sqlite3.Connection) -> None:
        insert(connection, "half")
        raise UsageError("no", code="no")

    first = database.write(lambda connection: insert(connection, "a"))
    second = database.write(fails)
    third = database.write(lambda connection: insert(connection, "b"))
    gate.set()
    assert (first.result(), third.result()) == ("a", "b")
    with pytest.raises(UsageError):
        second.result()
    database.close()
    assert models(path) == ["a", "b"]


def test_a_write_whose_client_left_is_not_done(path: Path) -> None:
    database = Database(path)
    gate = threading.Event()
    database.write(lambda connection: gate.wait(5))
    left = database.write(lambda connection: insert(connection, "left"))
    assert left.cancel()
    gate.set()
    database.write(lambda connection: insert(connection, "stayed")).result()
    database.close()
    assert models(path) == ["stayed"]


def test_an_error_of_the_disk_fails_every_write_of_the_group(path: Path) -> None:
    database = Database(path)
    gate = threading.Event()
    database.write(lambda connection: gate.wait(5))

    def full(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    futures: list[Future[Any]] = [database.write(lambda connection: insert(connection, "a")), database.write(full)]
    gate.set()
    for future in futures:
        with pytest.raises(StateError) as caught:
            future.result()
        assert caught.value.code == "storage_full"
    assert database.write(lambda connection: insert(connection, "later")).result() == "later"
    database.close()
    assert models(path) == ["later"]


def test_a_closed_database_takes_no_more_writes(path: Path) -> None:
    database = Database(path)
    database.close()
    database.close()
    with pytest.raises(StateError) as caught:
        database.write(lambda connection: None)
    assert caught.value.code == "stopping"


def test_the_reading_connection_cannot_write(path: Path) -> None:
    database = Database(path)
    with pytest.raises(StateError):
        database.read(lambda connection: insert(connection, "x"))
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON offers BEGIN DELETE FROM audit_log; END",
        "CREATE TABLE more(x)",
        "DROP TABLE drafts",
        "PRAGMA user_version=2",
        "PRAGMA application_id=1",
    ],
)
def test_a_database_that_is_not_exactly_ours_is_refused(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(StateError) as caught:
        Database(path)
    assert caught.value.code == "database_foreign"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(StateError):
        Database(tmp_path / "x.db")


def test_a_token_is_stored_hashed_and_replaced_by_the_next(path: Path) -> None:
    database = Database(path)

    def issue() -> str:
        return database.write(lambda c: issue_token(c, kind=Kind.PUBLISHER, subject="release-x", expires=NOW)).result()

    first, second = issue(), issue()
    assert len(first) == 43
    assert database.read(lambda connection: find_bearer(connection, first)) is None
    bearer = database.read(lambda connection: find_bearer(connection, second))
    assert bearer is not None
    assert (bearer.kind, bearer.subject, bearer.is_expired(NOW)) == (Kind.PUBLISHER, "release-x", True)
    assert not bearer.is_expired(NOW - timedelta(seconds=1))
    database.close()
    assert second.encode() not in path.read_bytes()


def test_init_makes_a_whole_server_and_private_tokens(world: World) -> None:
    assert sorted(path.name for path in world.data.iterdir()) == ["blobs", "server.db", "server.toml", "tuf"]
    assert sorted(path.name for path in (world.data / "tuf").iterdir()) == [
        "1.root.json", "1.snapshot.json", "1.targets.json", "timestamp.json",
    ]  # fmt: skip
    assert set(world.made.token_files) == {RELEASE, AUDIT, "operator"}
    for path in world.made.token_files.values():
        assert path.stat().st_mode & 0o777 == 0o600
    assert load_settings(world.data) == world.settings
    assert not list(world.folder.glob(".new-*"))


def refuse_init(world: World, code: str, **changes: Any) -> None:
    data, tokens = world.folder / "second", world.folder / "tokens2"
    with pytest.raises(SealiftError) as caught:
        world.init(changes.pop("data", data), tokens=changes.pop("tokens", tokens), **changes)
    assert caught.value.code == code
    assert not data.exists()
    assert not list(tokens.glob("*"))
    assert not list(world.folder.glob(".new-*"))


def test_init_refuses_what_it_would_overwrite(world: World) -> None:
    refuse_init(world, "data_exists", data=world.data)
    refuse_init(world, "file_exists", tokens=world.folder / "tokens")
    refuse_init(world, "tokens_inside", tokens=world.folder / "second" / "tokens")


def test_a_database_elsewhere_is_not_overwritten_and_goes_with_a_failed_init(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = world.folder / "elsewhere.db"
    settings = replace(world.settings, database=f"sqlite:{elsewhere}")

    def interrupted(path: Path, data: bytes, *, mode: int = 0o644) -> None:
        if path.name == "operator.token":
            assert elsewhere.exists()
            raise KeyboardInterrupt
        write_new(path, data, mode=mode)

    monkeypatch.setattr(data_folder, "write_new", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.init(world.folder / "second", tokens=world.folder / "tokens2", settings=settings)
    monkeypatch.undo()
    assert not elsewhere.exists()
    assert not (world.folder / "second").exists()
    assert not list((world.folder / "tokens2").iterdir())
    elsewhere.write_bytes(b"precious")
    refuse_init(world, "file_exists", settings=settings, data=world.folder / "third", tokens=world.folder / "tokens3")
    assert elsewhere.read_bytes() == b"precious"


def test_init_refuses_a_key_that_root_does_not_name(world: World) -> None:
    refuse_init(world, "online_key", snapshot_signer=CryptoSigner.generate_ed25519())
    refuse_init(world, "online_key", timestamp_signer=world.keys.signers["snapshot"][0])


def test_init_refuses_stores_of_another_kind(world: World) -> None:
    refuse_init(world, "storage_url", settings=replace(world.settings, database="postgresql://host/db"))
    refuse_init(world, "storage_url", settings=replace(world.settings, blobs="s3://bucket"))
    refuse_init(world, "storage_url", settings=replace(world.settings, database="sqlite://host/db"))


def test_init_refuses_an_expired_ceremony(world: World) -> None:
    refuse_init(world, "metadata_expired", now=NOW + timedelta(days=400))


def test_init_refuses_a_folder_without_a_ceremony(world: World) -> None:
    refuse_init(world, "ceremony_missing", repo=world.folder / "nothing")


def _unsigned_root(repo: Path, keys: Keys) -> None:
    (repo / "1.root.json").write_bytes(to_bytes(new_root(keys.roles(), now=NOW)))


def _root_of_others(repo: Path, keys: Keys) -> None:
    others = Keys()
    (repo / "2.root.json").write_bytes(others.signed("root", new_root(others.roles(), now=NOW)))


def _gap(repo: Path, keys: Keys) -> None:
    (repo / "3.root.json").write_bytes((repo / "1.root.json").read_bytes())


def _targets_of_others(repo: Path, keys: Keys) -> None:
    others = Keys()
    (repo / "1.targets.json").write_bytes(others.signed("targets", new_targets(others.roles(), now=NOW)))


def _shared_keys(repo: Path, keys: Keys) -> None:
    keys.signers[AUDIT] = keys.signers[RELEASE]
    (repo / "1.targets.json").write_bytes(keys.signed("targets", new_targets(keys.roles(), now=NOW)))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_unsigned_root, "signature_threshold"),
        (_root_of_others, "root_chain"),
        (_gap, "root_chain"),
        (_targets_of_others, "signature_threshold"),
        (_shared_keys, "roles_share_keys"),
    ],
)
def test_init_refuses_a_ceremony_that_does_not_verify(world: World, damage: Any, code: str) -> None:
    damage(world.folder / "repo" / "metadata", world.keys)
    refuse_init(world, code)


def test_init_takes_the_newest_root_of_a_chain(world: World) -> None:
    root = new_root(world.keys.roles(), now=NOW)
    root.signed.version = 2
    (world.folder / "repo" / "metadata" / "2.root.json").write_bytes(world.keys.signed("root", root))
    assert world.init(world.folder / "second", tokens=world.folder / "tokens2").root_version == 2


def test_an_empty_folder_may_become_the_data_folder(world: World) -> None:
    (world.folder / "second").mkdir()
    world.init(world.folder / "second", tokens=world.folder / "tokens2")
    assert load_settings(world.folder / "second") == world.settings


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("schema = 2", "settings_syntax"),
        ("not toml", "settings_syntax"),
        ('schema = 1\nsnapshot_key = "file:a"', "settings_syntax"),
        (Settings("file:a", "file:b").to_toml() + "unknown = 1", "settings_syntax"),
        (Settings("file:a", "file:b").to_toml().replace("false", '"no"'), "settings_syntax"),
        (Settings("file:a", "file:b").to_toml().replace("[]", "[1]"), "settings_syntax"),
        (Settings("file:a", "file:b").to_toml().replace('"file:a"', "1"), "settings_syntax"),
        (Settings("file:a", "file:b", database="mysql:x").to_toml(), "storage_url"),
    ],
)
def test_settings_that_are_not_understood_are_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "server.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings(tmp_path)
    assert caught.value.code == code


def test_settings_survive_a_round_trip_and_name_absolute_stores(tmp_path: Path) -> None:
    settings = Settings("file:/a b\\c", 'file:/"q"', "sqlite:///srv/x.db", "file:b", True, ("https://models.example.com",))
    (tmp_path / "server.toml").write_text(settings.to_toml())
    assert load_settings(tmp_path) == settings
    assert settings.database_path(tmp_path) == Path("/srv/x.db")
    assert settings.blobs_path(tmp_path) == tmp_path / "b"


@pytest.mark.parametrize(
    "url", ["https://x/", "ftp://x", "x", "https://u@x", "https://x?q", "https://x#f", " https://x", "https://[x"]
)
def test_a_public_url_is_a_base_url(url: str) -> None:
    with pytest.raises(FormatError):
        check_public_url(url)
    assert check_public_url("https://models.example.com/a") == "https://models.example.com/a"


def test_a_folder_that_is_no_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, open_service(tmp_path, loopback=True, passphrase=lambda name: b""):
        pass
    assert caught.value.code == "server_data"


def test_a_damaged_web_root_is_said_to_be_damaged(world: World) -> None:
    (world.data / "tuf" / "1.snapshot.json").unlink()
    with pytest.raises(StateError) as caught, world.service():
        pass
    assert caught.value.code == "repository_damaged"


def test_top_level_targets_that_lists_a_target_is_refused(world: World) -> None:
    targets: Metadata[Targets] = new_targets(world.keys.roles(), now=NOW)
    targets.signed.targets["x"] = TargetFile(1, {"sha256": "0" * 64}, "x")
    (world.folder / "repo" / "metadata" / "1.targets.json").write_bytes(world.keys.signed("targets", targets))
    with pytest.raises(TrustError) as caught:
        init_server(
            world.folder / "second", repo=world.folder / "repo", settings=world.settings,
            snapshot_signer=world.keys.signers["snapshot"][0], timestamp_signer=world.keys.signers["timestamp"][0],
            tokens=world.folder / "tokens2", now=NOW,
        )  # fmt: skip
    assert caught.value.code == "targets_lists_targets"
