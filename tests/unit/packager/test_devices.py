from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from packager.data import Dataset
from packager.measure.device_model import model_all, model_on
from packager.measure.energy import Energy
from packager.measure.pareto import pareto_front
from packager.measure.profiles import CORTEX_M4, PI_4, PROFILES, DeviceProfile, Sourced, profiles_digest
from packager.measure.workload import Workload, count_workload
from packager.ptq.static import Int8Static, quantise_int8_static

from .models import mlp


def workload(*, features: int = 64, hidden: int = 256) -> Workload:
    return count_workload(mlp(features=features, hidden=hidden, classes=10))


def numbers(profile: DeviceProfile) -> list[Sourced]:
    single = [item for item in vars(profile).values() if isinstance(item, Sourced)]
    return [*single, *profile.macs_per_s.values(), *profile.pj_per_mac.values()]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_number_of_a_profile_is_above_zero_and_has_a_source(profile: DeviceProfile) -> None:
    for item in numbers(profile):
        assert item.value > 0
        assert (
            re.match(r"estimate\b|measured here|[A-Z]", item.source)
            or "data sheet" in item.source
            or "product brief" in item.source
        )


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_narrower_arithmetic_costs_no_more(profile: DeviceProfile) -> None:
    cost, rate = profile.pj_per_mac, profile.macs_per_s
    assert cost["int8"].value < cost["fp32"].value
    assert cost["int8"].value <= cost["fp16"].value <= cost["fp32"].value
    assert rate["int8"].value >= rate["fp16"].value >= rate["fp32"].value


def test_the_classes_that_a_bundle_may_be_judged_for_are_there() -> None:
    names = {profile.name for profile in PROFILES}
    assert {"cortex-m4", "cortex-m7", "watch", "raspberry-pi-4", "raspberry-pi-5", "x86-server"} == names
    assert profiles_digest() == profiles_digest()


def test_energy_and_time_are_the_sum_of_counted_work_times_the_profile() -> None:
    """By hand: one Gemm pair, everything near but the weights, which stay in flash."""
    load = workload()
    figures = model_on(load, CORTEX_M4)
    work = load.macs.total + load.other_elements["fp32"]
    calls_us = load.kernels * CORTEX_M4.call_us.value
    expected = (
        work * CORTEX_M4.pj_per_mac["fp32"].value
        + load.activation_bytes * CORTEX_M4.pj_per_near_byte.value
        + load.weight_bytes * CORTEX_M4.pj_per_far_byte.value
    ) / 1e6 + calls_us * CORTEX_M4.active_mw.value / 1e3
    assert figures.energy.value == pytest.approx(expected, rel=1e-9)
    seconds = (
        work / CORTEX_M4.macs_per_s["fp32"].value
        + load.activation_bytes / CORTEX_M4.near_bytes_per_s.value
        + load.weight_bytes / CORTEX_M4.far_bytes_per_s.value
        + calls_us * 1e-6
    )
    assert figures.latency_ms == pytest.approx(seconds * 1e3, rel=1e-9)
    assert figures.energy.kind == "modelled"


def test_a_quantised_model_costs_less_on_every_profile() -> None:
    data = mlp(features=256, hidden=256, classes=10)
    calibration = Dataset({"x": np.random.default_rng(0).random((20, 256), dtype=np.float32)}, None, None, None, "data")
    quantised = quantise_int8_static(data, Int8Static(), calibration).data
    for before, after in zip(model_all(count_workload(data)), model_all(count_workload(quantised)), strict=True):
        assert before.energy.value is not None
        assert after.energy.value is not None
        assert after.energy.value < before.energy.value
        assert after.latency_ms < before.latency_ms


def test_what_does_not_fit_near_is_paid_far() -> None:
    small = replace(PI_4, near_bytes=Sourced(64.0, "estimate"))
    assert model_on(workload(), small).energy.value > model_on(workload(), PI_4).energy.value  # type: ignore[operator]


def test_a_model_that_is_too_large_for_a_device_does_not_fit_and_the_reason_has_both_numbers() -> None:
    figures = model_on(replace(workload(), file_bytes=3_000_000), CORTEX_M4)
    assert not figures.fits
    assert "flash" in figures.misfits[0]
    assert "3100000" in figures.misfits[0]
    assert model_on(workload(), CORTEX_M4).fits


def test_operators_that_cannot_be_counted_leave_no_figure_rather_than_a_low_one() -> None:
    load = workload()
    unknown = replace(load, macs=replace(load.macs, uncounted=("odd",)))
    energy = model_on(unknown, PI_4).energy
    assert (energy.value, energy.kind) == (None, "unavailable")
    assert "could not be counted" in energy.source


def test_an_energy_says_its_kind_and_source_wherever_it_stands() -> None:
    assert Energy(12.34567, "modelled", "profile x").to_json() == {
        "value": 12.35, "unit": "microjoule", "kind": "modelled", "source": "profile x",
    }  # fmt: skip
    assert Energy.unavailable("no meter").to_json()["value"] is None


@pytest.mark.parametrize(
    ("points", "front"),
    [
        pytest.param([(1, 3), (2, 2), (3, 1), (3, 3)], (True, True, True, False), id="one is beaten in both"),
        pytest.param([(1, 1), (1, 1), (1, 2)], (True, True, False), id="equals share the front"),
        pytest.param([(1, float("nan")), (2, 0)], (True, True), id="no figure is the worst figure"),
        pytest.param([], (), id="nothing"),
    ],
)
def test_the_front_is_what_nothing_beats_in_everything(points: list[tuple[float, float]], front: tuple[bool, ...]) -> None:
    assert pareto_front(points) == front
