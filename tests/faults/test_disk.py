"""The rules by which a disk forgets."""

from __future__ import annotations

from tests.faults.disk import ROOT, Commit, Event, Inode, Kind, Name, Sync, Write, cuts, trees

BASE = {ROOT: Inode(Kind.FOLDER, 0o700, names={"old": 1}), 1: Inode(Kind.FILE, data=b"old")}
CREATE = Name("create new", ((ROOT, "new", 2),), Inode(Kind.FILE))
WRITE = Write("write", 2, 0, b"fresh!")
RENAME = Name("rename", ((ROOT, "new", None), (ROOT, "old", 2)))
FILE, FOLDER = Sync("fsync file", 2), Sync("fsync folder", ROOT)


def contents(*events: Event) -> set[tuple[tuple[str, bytes], ...]]:
    """What may be on the disk after these events: names with bytes."""
    return {tuple((name, data) for name, (_, _, data) in sorted(tree.items())) for _, tree in trees(BASE, events)}


def test_a_synced_file_under_a_synced_name_is_all_that_may_be_there() -> None:
    assert contents(CREATE, WRITE, FILE, RENAME, FOLDER) == {(("old", b"fresh!"),)}


def test_a_rename_without_a_synced_folder_may_be_forgotten() -> None:
    found = contents(CREATE, WRITE, FILE, RENAME)
    assert (("old", b"old"),) in found
    assert (("new", b"fresh!"), ("old", b"old")) in found


def test_a_rename_of_a_file_that_was_not_synced_may_leave_an_empty_a_torn_or_a_zeroed_one() -> None:
    found = contents(CREATE, WRITE, RENAME)
    assert {dict(each)["old"] for each in found} >= {b"", b"fre", bytes(6), b"fresh!"}


def test_a_later_name_may_be_there_without_an_earlier_one() -> None:
    second = Name("create other", ((ROOT, "other", 3),), Inode(Kind.FILE))
    assert (("old", b"old"), ("other", b"")) in contents(CREATE, second)


def test_a_commit_is_there_at_once_and_takes_its_log_with_it() -> None:
    base = {
        ROOT: Inode(Kind.FOLDER, names={"db": 1, "db-wal": 2}),
        1: Inode(Kind.FILE, data=b"a"),
        2: Inode(Kind.FILE, data=b"log"),
    }
    found = [tree for _, tree in trees(base, [Commit("commit", 1, b"b", ((ROOT, "db-wal"),))])]
    assert all({name: data for name, (_, _, data) in tree.items()} == {"db": b"b"} for tree in found)


def test_a_file_in_a_folder_that_was_not_synced_goes_with_it() -> None:
    folder = Name("mkdir", ((ROOT, "blobs", 4),), Inode(Kind.FOLDER, 0o700))
    inside = Name("create", ((4, "blob", 5),), Inode(Kind.FILE))
    events = (folder, inside, Write("write", 5, 0, b"data"), Sync("fsync file", 5), Sync("fsync blobs", 4))
    assert contents(*events) == {(("old", b"old"),), (("blobs", b""), ("blobs/blob", b"data"), ("old", b"old"))}


def test_what_the_server_had_seen_is_part_of_the_point() -> None:
    events = (Sync("fsync", ROOT, outside=0), Sync("fsync", ROOT, outside=1))
    assert sorted(cut.outside for cut in cuts(BASE, events, end=1)) == [0, 1]
