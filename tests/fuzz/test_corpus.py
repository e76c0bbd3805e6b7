"""Every kept input of every fuzz target, replayed: no finding, none slow, memory within its bound.

The corpus holds what ``run.py --keep`` kept, and minimised findings (``found-...``) so that they stay mended. ``make fuzz`` runs
longer.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from pathlib import Path

import pytest

from device_client.errors import SealiftError
from device_client.limits import MIB
from tests.fuzz.target import CORPUS, NAMES, Finding, Target, accepted, kept, load, promise

MAX_CORPUS_BYTES = 1_000_000
MAX_SECONDS = 2.0  # processor time of one input; the slowest takes some ten milliseconds
MAX_MEMORY = 16 * MIB  # of Python objects at any time, over all inputs of at most 64 KiB


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def inputs(name: str) -> dict[str, bytes]:
    seeds = {f"seed {number}": data for number, data in enumerate(load(name).seeds())}
    return seeds | {path.name: path.read_bytes() for path in kept(name)}


def test_every_kept_input_passes_quickly(name: str) -> None:
    target = load(name)
    for label, data in inputs(name).items():
        started = time.process_time()
        target.fuzz_one(data)
        assert time.process_time() - started < MAX_SECONDS, label


def test_memory_stays_within_its_bound(name: str) -> None:
    target, found = load(name), inputs(name)
    chosen = random.Random(name).sample(sorted(found), min(len(found), 60))
    target.fuzz_one(next(iter(found.values())))  # what is imported or cached once does not count
    tracemalloc.start()
    try:
        for label in chosen:
            target.fuzz_one(found[label])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MAX_MEMORY


def test_structured_changes_give_no_finding_and_are_the_same_each_time(name: str) -> None:
    target, rng = load(name), random.Random(f"changes {name}")
    seeds = list(target.seeds())
    for number in range(150):
        data = rng.choice(seeds)
        changed = target.mutate(data, random.Random(number))
        assert changed == target.mutate(data, random.Random(number))
        target.fuzz_one(changed[: target.MAX_BYTES])


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_CORPUS_BYTES
    assert {path.parent.name for path in files} == set(NAMES)
    for path in files:
        assert path.stat().st_size <= load(path.parent.name).MAX_BYTES, path


def test_a_finding_is_no_refusal() -> None:
    """The judge itself: what it lets pass, and what not."""
    assert not issubclass(Finding, SealiftError)
    with pytest.raises(Finding):
        promise(False, "kept")
    for error in (ValueError("x"), RecursionError(), MemoryError(), KeyError("x"), SealiftError("not a refusal", code="x")):
        with pytest.raises(type(error)):
            accepted(_raiser(error))


def test_a_target_that_is_not_there_is_named() -> None:
    with pytest.raises(SystemExit, match="no fuzz target"):
        load("nothing")
    assert all(isinstance(load(name).WORDS, tuple) for name in NAMES)
    assert {path.stem for path in (Path(__file__).parent / "targets").glob("[a-z]*.py")} == set(NAMES)


def _raiser(error: Exception):  # type: ignore[no-untyped-def]
    def call() -> Target:
        raise error

    return call
