"""The search on small real networks: what it tries, keeps, survives and hands on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from device_client.bundle.digest import Digest
from device_client.errors import MissingExtraError, UsageError
from packager import technique, variants
from packager.auto import plans, workshop
from packager.auto.cache import Made, TrialCache, trial_key
from packager.auto.search import SearchResult, search
from packager.auto.settings import AutoPlan
from packager.auto.trial import Trial
from packager.auto.yardstick import distortion
from packager.codebook import Codebook
from packager.data import Dataset
from packager.latency import LatencyRatio
from packager.pack import PackRequest, PackResult, pack
from packager.ptq.equalise import Equalise
from packager.ptq.fp16 import Fp16, narrow_weights
from packager.ptq.static import Int8Static
from packager.ptq.weight_only import WeightOnly
from packager.recipe import load_recipe
from packager.recipe_writer import recipe_text
from packager.shrink import shrink_model
from packager.technique import Compressed, Technique, TechniqueContext, TechniqueStep
from packager.training_plan import TrainingPlan

from ..models import mlp, pack_request


@pytest.fixture(autouse=True)
def equal_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock decides in a test; networks this small are slower in INT8."""
    ratio = LatencyRatio(1.0, 0.99, 1.01, 9, 1.0, 1.0)
    monkeypatch.setattr("packager.auto.search.measure_ratio", lambda *_, **__: ratio)


def dataset(count: int, *, seed: int = 0) -> Dataset:
    x = np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)
    return Dataset({"x": x}, None, None, None, "test")


def context() -> TechniqueContext:
    return TechniqueContext(calibration=dataset(48), validation=dataset(64, seed=1), task="classification")


def original() -> Compressed:
    return Compressed(shrink_model(mlp(features=64, hidden=96, classes=10)), "fp32")


def run(cache: TrialCache | None = None, **settings: Any) -> SearchResult:
    plan = replace(AutoPlan(), **settings)
    return search(
        original(), context(), plan=plan, allowed_drop=0.05, max_bytes=len(original().data), cache=cache or TrialCache(None)
    )


def step(**settings: Any) -> TechniqueStep:
    return TechniqueStep("int8-static", Int8Static(**settings))


def register(monkeypatch: pytest.MonkeyPatch, name: str, apply: Any) -> TechniqueStep:
    monkeypatch.setitem(technique.TECHNIQUES, name, Technique(Int8Static.from_toml, apply))
    return TechniqueStep(name, Int8Static())


def test_a_search_finds_a_smaller_variant_within_the_budget() -> None:
    result = run()
    best = result.ranking["portable"][0]
    assert best.size_bytes < len(original().data) / 2
    assert best.drop <= 0.05
    assert best.is_portable


def test_a_technique_that_fails_is_told_and_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(*_: Any) -> Compressed:
        raise UsageError("cannot take this model", code="quantise_failed")

    def foreign(*_: Any) -> Compressed:
        raise ValueError("truth value of an array")

    chains = [(register(monkeypatch, "named", named),), (register(monkeypatch, "foreign", foreign),), (step(),)]
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: chains)
    result = run()
    assert [trial.failure is None for trial in result.trials[:3]] == [False, False, True]
    assert "cannot take this model" in (result.trials[0].failure or "")
    assert "truth value" in (result.trials[1].failure or "")
    assert result.ranking["portable"]


def test_a_variant_that_does_not_run_is_a_failed_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = register(monkeypatch, "broken", lambda *_: Compressed(b"no model", "int8"))
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: [(broken,)])
    trials = run().trials
    assert trials[0].model is None
    assert "does not run" in (trials[0].failure or "")


def test_a_finished_chain_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(TrialCache(tmp_path))
    monkeypatch.setattr(workshop, "apply_technique", lambda *_: pytest.fail("made again"))
    second = run(TrialCache(tmp_path))
    assert [trial.model and trial.model.data for trial in first.trials] == [
        trial.model and trial.model.data for trial in second.trials
    ]


def test_a_damaged_cache_entry_is_made_again(tmp_path: Path) -> None:
    chain = (step(),)
    good = workshop.Workshop(original(), context(), TrialCache(tmp_path)).make(chain).model
    for path in tmp_path.glob("*.onnx"):
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    again = workshop.Workshop(original(), context(), TrialCache(tmp_path)).make(chain).model
    assert good is not None
    assert again is not None
    assert again.data == good.data


@pytest.mark.parametrize("content", [b"", b"[]", b'{"failure": null}', b'{"failure": null, "failure": null}', b"{" * 5000])
def test_a_record_that_is_not_one_is_no_trial(tmp_path: Path, content: bytes) -> None:
    key = Digest.of(b"key")
    (tmp_path / f"{key.hex}.json").write_bytes(content)
    assert TrialCache(tmp_path).load(key) is None


def test_a_failure_is_kept_too(tmp_path: Path) -> None:
    key = Digest.of(b"key")
    TrialCache(tmp_path).store(key, Made(None, "no"))
    assert TrialCache(tmp_path).load(key) == Made(None, "no")


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    cache = TrialCache(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    cache.store(Digest.of(b"key"), Made(None, "no"))
    assert cache.load(Digest.of(b"key")) is None


def test_a_failure_of_the_machine_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: Any) -> Compressed:
        raise MemoryError

    def missing(*_: Any) -> Compressed:
        raise MissingExtraError("train", missing="torchao")

    for name, apply in (("starved", starved), ("missing", missing)):
        chain = (register(monkeypatch, name, apply),)
        assert workshop.Workshop(original(), context(), TrialCache(tmp_path)).make(chain).failure
    assert not list(tmp_path.iterdir())


def test_trials_with_a_loss_of_the_user_are_not_kept(tmp_path: Path) -> None:
    given = replace(context(), training=TrainingPlan(loss="mine:loss"))
    assert workshop.Workshop(original(), given, TrialCache(tmp_path)).make((step(),)).model
    assert not list(tmp_path.iterdir())


def test_the_oldest_trials_go_where_the_folder_is_too_large(tmp_path: Path) -> None:
    for age in range(4):
        path = tmp_path / f"{age}.onnx"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000 - age, 1000 - age))
    TrialCache(tmp_path, max_bytes=250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.onnx", "1.onnx"]


def test_another_packager_makes_its_own_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    before = trial_key(Digest.of(b"m"), (step(),), context(), data={})
    monkeypatch.setattr("packager.auto.cache._sources_digest", lambda: "other")
    assert trial_key(Digest.of(b"m"), (step(),), context(), data={}) != before


def test_the_key_depends_on_everything_that_decides_the_result() -> None:
    def key(**changes: Any) -> Digest:
        values: dict[str, Any] = {"model": Digest.of(b"m"), "chain": (step(),), "seed": 0, "data": {"calibration": "a"}, **changes}
        return trial_key(values["model"], values["chain"], replace(context(), seed=values["seed"]), data=values["data"])

    others = [
        key(model=Digest.of(b"other")),
        key(chain=(step(calibration="percentile"),)),
        key(seed=1),
        key(data={"calibration": "b"}),
    ]
    assert key() == key()
    assert len({key(), *others}) == 5


def test_the_time_is_over_and_what_was_found_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(float(value) for value in range(10_000))
    plan = AutoPlan(max_seconds=3.0)
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: FIVE)
    result = search(
        original(),
        context(),
        plan=plan,
        allowed_drop=0.05,
        max_bytes=len(original().data),
        cache=TrialCache(None),
        clock=lambda: next(now),
    )
    assert 0 < len(result.trials) < len(FIVE)
    assert result.ranking["portable"]
    assert "after 3 s" in result.ended


def test_a_long_plan_leaves_time_for_coarser_weights_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(float(value) for value in range(10_000))
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: [(plans.WEIGHTS,), *FIVE])
    monkeypatch.setattr("packager.auto.search.coarser", lambda _: iter([(plans.WEIGHTS, TechniqueStep("codebook", Codebook()))]))
    found = search(
        original(),
        context(),
        plan=AutoPlan(max_seconds=9.0),
        allowed_drop=0.9,
        max_bytes=len(original().data),
        cache=TrialCache(None),
        clock=lambda: next(now),
    )
    assert any(trial.chain[-1].name == "codebook" for trial in found.trials)
    assert FIVE[0] in [trial.chain for trial in found.trials]
    assert "after 9 s" in found.ended


FIVE = [
    (step(),),
    (step(per_channel=False),),
    (step(calibration="percentile"),),
    (step(calibration="entropy"),),
    (step(exclude_ops=("Relu",)),),
]


def test_the_search_never_sees_the_test_part(monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path) -> None:
    seen: set[bytes] = set()

    def spy(model: Compressed, _: Any, given: TechniqueContext) -> Compressed:
        for part in (given.calibration, given.validation, given.train):
            seen.update(part.row_digests() if part is not None else ())
        return model

    chain = (register(monkeypatch, "spy", spy),)
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: [chain])
    result = pack(searching(trained, tmp_path))
    assert seen
    assert not seen & set(result.facts.parts.test.row_digests())


def searching(
    trained: Path, folder: Path, text: str = "[auto]\nmax_seconds = 5.0\n[budget]\naccuracy_drop = 0.05", name: str = "out"
) -> PackRequest:
    plain = pack_request(trained, folder / name)
    (folder / "auto.toml").write_text(text)
    return replace(plain, recipe=load_recipe(folder / "auto.toml"), out=folder / name)


def test_the_written_recipe_repeats_the_choice_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    found: PackResult = pack(searching(trained, tmp_path))
    assert found.recipe is not None
    again = pack(replace(searching(trained, tmp_path, name="again"), recipe=load_recipe(found.recipe)))
    assert again.bundle.digest == found.bundle.digest
    assert again.recipe is None


def test_how_the_search_went_is_beside_the_bundle_and_not_in_it(trained: Path, tmp_path: Path) -> None:
    result = pack(searching(trained, tmp_path))
    told = json.loads(result.measurements.read_bytes())["search"]
    assert told["trials"]
    assert sum(row["outcome"].startswith("chosen") for row in told["trials"]) == 1
    assert result.facts.recipe.auto is None
    assert not any(b'"trials"' in path.read_bytes() for path in result.out.rglob("*") if path.is_file())


def test_a_file_in_half_precision_never_gets_larger(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = searching(trained, tmp_path)
    half = narrow_weights(Path(request.model).read_bytes(), Fp16()).data
    (tmp_path / "half.onnx").write_bytes(half)
    kept = [(TechniqueStep("equalise", Equalise()),), (TechniqueStep("fp16", Fp16()),)]  # the first stays in FP32
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: kept)
    monkeypatch.setattr("packager.auto.search.coarser", lambda *_: iter(()))
    facts = pack(replace(request, model=str(tmp_path / "half.onnx"))).facts
    assert facts.original_bytes > len(half)
    assert facts.search is not None
    assert [facts.search.reason(trial)[:6] for trial in facts.search.result.trials] == ["larger", "chosen"]
    assert facts.shipped[0].size_bytes <= len(half)


def test_nothing_within_the_budget_ships_the_original(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: [])
    result = pack(searching(trained, tmp_path))
    assert [variant.id for variant in result.facts.shipped] == ["fp32"]
    assert result.facts.recipe.techniques == ()


@pytest.mark.parametrize(
    "text",
    [
        "technique = []",
        '[[technique]]\nname = "int8-static"\nexclude_ops = ["Add"]\n[[variant]]\n[[variant.technique]]\nname = "int8-static"',
        '[auto]\nprefer = "size"\nclasses = ["portable", "x86-vnni"]',
        'technique = []\n[inputs."a b.c"]\nmeaning = "quotes \\" and \\\\ and \\u007f ünïcode"\nrange = [0.0, 1e-7]\n'
        '[budget.latency_ms]\nraspberry-pi-4 = 20.0\n[[preprocessing]]\nop = "scale"\ninput = "x"\nfactor = 0.0625\noffset = 0.0',
    ],
)
def test_a_written_recipe_reads_as_the_same(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    recipe = load_recipe(path)
    path.write_text(recipe_text(recipe))
    again = load_recipe(path)
    assert again == recipe
    assert again.digest() == recipe.digest()


KILLED = """
import os, signal, sys
from pathlib import Path
from packager.auto import workshop
from packager.auto.cache import TrialCache
from tests.unit.packager.auto.test_search import FIVE, context, original

made = workshop.Workshop(original(), context(), TrialCache(Path(sys.argv[1])))
made.make(FIVE[0])
made.make(FIVE[1])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_search_keeps_every_finished_trial(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], check=False, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert not list(tmp_path.glob(".*"))


def plan_of(*, eight_bits_do: bool) -> list[plans.Chain]:
    return list(
        plans.first_wave(
            original().data,
            context=context(),
            trains=False,
            classes=("portable", "x86-vnni"),
            eight_bits_do=lambda: eight_bits_do,
        )
    )


def test_where_weights_of_8_bits_do_the_plan_tries_few_values_and_else_more_bits_before_anything_slower() -> None:
    few, more = plan_of(eight_bits_do=True), plan_of(eight_bits_do=False)
    assert [chain[-1].name for chain in few[:5]] == ["weight-only", "fp16", "codebook", "codebook", "codebook"]
    assert [getattr(chain[-1].config, "bits", None) for chain in more[:7]] == [8, None, 8, 9, 10, 11, 12]
    assert all(chain[-1].config.method == "gptq" for chain in more[2:7])
    assert few[5:] == more[7:]


def test_a_search_makes_no_chain_twice() -> None:
    chains = [trial.chain for trial in run().trials]
    assert len(set(chains)) == len(chains) > 5


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        pytest.param((step(),), (step(calibration="percentile", rounding="gptq"),), True, id="other ranges and roundings"),
        pytest.param((step(),), (TechniqueStep("equalise", Equalise()), step()), True, id="equalised before"),
        pytest.param((), (plans.WEIGHTS,), True, id="weights that are folded to FP32"),
        pytest.param((plans.HALF,), (plans.WEIGHTS, TechniqueStep("codebook", Codebook())), True, id="folded from anything"),
        pytest.param((step(),), (step(per_channel=False),), False, id="per tensor"),
        pytest.param((step(),), (step(format="qoperator"),), False, id="other operators"),
        pytest.param((step(),), (step(exclude_nodes=("n1",)),), False, id="fewer nodes"),
        pytest.param((), (replace(plans.WEIGHTS, config=WeightOnly(form="dequantise")),), False, id="weights kept as integers"),
    ],
)
def test_chains_with_the_same_arithmetic_are_told_from_others(one: plans.Chain, other: plans.Chain, alike: bool) -> None:
    assert (plans.arithmetic(one) == plans.arithmetic(other)) is alike


def test_what_computes_as_a_slow_trial_does_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = LatencyRatio(1.5, 1.4, 1.6, 9, 1.0, 1.5)
    monkeypatch.setattr("packager.auto.search.measure_ratio", lambda *_, **__: slow)
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: [(step(),), (step(calibration="percentile"),)])
    first, second = run().trials[:2]
    assert first.model is not None
    assert second.model is None
    assert "not tried" in (second.failure or "")
    assert "1.50 times" in (second.failure or "")


def test_what_computes_alike_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[LatencyRatio] = []

    def measured(*_: Any, **__: Any) -> LatencyRatio:
        timed.append(LatencyRatio(0.9 + len(timed) / 100, 0.8, 0.95, 9, 1.0, 0.9))
        return timed[-1]

    monkeypatch.setattr("packager.auto.search.measure_ratio", measured)
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: [(plans.WEIGHTS,), (plans.HALF,), (step(),)])
    monkeypatch.setattr("packager.auto.search.coarser", lambda *_: iter(()))
    monkeypatch.setattr("packager.auto.search.gentler", lambda *_: [])
    result = run()
    assert len(timed) == 2
    assert result.trials[0].latency is result.trials[1].latency is timed[0]
    assert result.trials[2].latency is timed[1]


def test_a_reading_that_is_a_little_slow_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measured(*_: Any, rounds: int, **__: Any) -> LatencyRatio:
        asked.append(rounds)
        ratio = 1.08 if len(asked) == 1 else 1.0
        return LatencyRatio(ratio, ratio - 0.02, ratio + 0.02, rounds, 1.0, ratio)

    monkeypatch.setattr("packager.auto.search.measure_ratio", measured)
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: [(plans.WEIGHTS,)])
    monkeypatch.setattr("packager.auto.search.coarser", lambda *_: iter(()))
    result = run()
    assert asked == [16, 64]
    assert result.ranking["portable"]


def test_what_would_be_chosen_is_timed_with_care_where_it_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measured(*_: Any, rounds: int, **__: Any) -> LatencyRatio:
        asked.append(rounds)
        if len(asked) == 1:
            return LatencyRatio(1.0, 0.97, 1.01, rounds, 1.0, 1.0)  # weights: as fast as the original
        low, high = (0.9, 1.1) if rounds == 16 else (1.06, 1.1)  # the other: seems faster, and is not
        return LatencyRatio(0.5 if rounds == 16 else 1.08, low, high, rounds, 1.0, 1.0)

    monkeypatch.setattr("packager.auto.search.measure_ratio", measured)
    monkeypatch.setattr("packager.auto.search.first_wave", lambda *_, **__: [(plans.WEIGHTS,), (step(),)])
    monkeypatch.setattr("packager.auto.search.coarser", lambda *_: iter(()))
    monkeypatch.setattr("packager.auto.search.gentler", lambda *_: [])
    result = run()
    assert asked == [16, 16, 64]
    assert [trial.chain for trial in result.ranking["portable"]] == [(plans.WEIGHTS,)]


def offered(*trials: Trial, refuse: set[int]) -> tuple[list[int], Trial | None]:
    """The distortions that were judged, in order, and what was chosen; ``refuse``: indices that miss on the test part."""
    judged: list[int] = []

    class Bench(variants._Bench):
        def __init__(self) -> None:
            self._recipe = load_recipe(None)

        def judged(self, name: str, model: Compressed) -> Any:
            index = next(index for index, trial in enumerate(trials) if trial.model is model)
            judged.append(index)
            drop = SimpleNamespace(value=1.0 if index in refuse else 0.0)
            return SimpleNamespace(evaluation=SimpleNamespace(drop=drop), refused="missed" if index in refuse else None)

    chosen, _ = Bench().offer(trials, [])
    return judged, chosen


def distorted(value: float) -> Trial:
    return Trial((step(),), Compressed(b"model", "int8"), distortion=value)


def test_after_a_miss_on_the_test_part_comes_what_errs_clearly_less() -> None:
    trials = [distorted(value) for value in (1e-2, 9e-3, 2e-3, 1.9e-3, 1e-4, 1e-5)]
    assert offered(*trials, refuse=set()) == ([0], trials[0])
    assert offered(*trials, refuse={0}) == ([0, 2], trials[2])
    assert offered(*trials, refuse={0, 2}) == ([0, 2, 4], trials[4])
    assert offered(*trials, refuse={0, 2, 4, 5}) == ([0, 2, 4], None)  # three readings of the test part, never more


def test_a_trial_without_any_error_is_offered_once() -> None:
    trials = [distorted(0.0), distorted(0.0)]
    assert offered(*trials, refuse={0, 1}) == ([0], None)


def test_outputs_are_compared_where_they_are_finite_and_there() -> None:
    want = {"y": np.array([[1.0, -np.inf], [3.0, 5.0]], np.float32), "n": np.array([1, 2])}
    off = {**want, "y": want["y"] + np.float32(1.0)}
    assert distortion(want, want) == 0.0
    assert distortion(want, off) == pytest.approx(1.0 / np.var([1.0, 3.0, 5.0]))
    for broken in ({"n": want["n"]}, {"y": want["y"][:, :1]}, {"y": np.zeros((2, 2), np.float32)}):
        assert distortion(want, broken) == 1.0
