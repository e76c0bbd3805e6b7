from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from device_client.inference.walker import check_model
from packager.measure.metered_run import MIN_ROUNDS, Pace, measure_energy, meter_models
from packager.measure.meters import Meter, NoMeter, find_meter

from .models import mlp, rows


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content + "\n")


def rapl(sysfs: Path, zone: str, name: str, *, energy: int = 1000, wraps_at: int = 262143328850) -> None:
    put(sysfs / "class/powercap" / zone / "name", name)
    put(sysfs / "class/powercap" / zone / "energy_uj", str(energy))
    put(sysfs / "class/powercap" / zone / "max_energy_range_uj", str(wraps_at))


def found(sysfs: Path) -> Meter:
    meter = find_meter(sysfs=sysfs)
    assert isinstance(meter, Meter)
    return meter


def test_a_machine_without_meters_says_so(tmp_path: Path) -> None:
    meter = find_meter(sysfs=tmp_path)
    assert isinstance(meter, NoMeter)
    assert "no power meter" in meter.reason


def test_rapl_counts_packages_and_not_their_parts(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", energy=5000)
    rapl(tmp_path, "intel-rapl:0:0", "core", energy=3000)
    rapl(tmp_path, "intel-rapl:0:1", "package-0-part", energy=2000)
    rapl(tmp_path, "intel-rapl:1", "psys", energy=9000)
    meter = found(tmp_path)
    assert meter.read_uj is not None
    assert meter.read_uj() == 5000
    assert meter.wraps_at_uj == 262143328850


def test_two_packages_are_added(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", energy=5000)
    rapl(tmp_path, "intel-rapl:1", "package-1", energy=7000)
    meter = found(tmp_path)
    assert meter.read_uj is not None
    assert meter.read_uj() == 12000


def test_a_sensor_on_the_supply_is_read_as_power(tmp_path: Path) -> None:
    put(tmp_path / "class/hwmon/hwmon0/name", "coretemp")
    put(tmp_path / "class/hwmon/hwmon0/power1_input", "1")
    put(tmp_path / "class/hwmon/hwmon1/name", "ina226")
    put(tmp_path / "class/hwmon/hwmon1/power1_input", "2500000")
    meter = found(tmp_path)
    assert meter.name.startswith("ina226")
    assert meter.read_uw is not None
    assert meter.read_uw() == 2_500_000


def test_a_sensor_without_power_gives_voltage_times_current(tmp_path: Path) -> None:
    put(tmp_path / "class/hwmon/hwmon0/name", "ina3221")
    put(tmp_path / "class/hwmon/hwmon0/in1_input", "5000")
    put(tmp_path / "class/hwmon/hwmon0/curr1_input", "400")
    meter = found(tmp_path)
    assert meter.read_uw is not None
    assert meter.read_uw() == 2_000_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_meter_that_only_root_may_read_is_named(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0")
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").chmod(0)
    meter = find_meter(sysfs=tmp_path)
    assert isinstance(meter, NoMeter)
    assert "may not read" in meter.reason


def test_a_meter_that_holds_no_number_is_named(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0")
    put(tmp_path / "class/powercap/intel-rapl:0/energy_uj", "off")
    meter = find_meter(sysfs=tmp_path)
    assert isinstance(meter, NoMeter)
    assert "gives no number" in meter.reason


@dataclass
class Bench:
    """A machine: time passes by sleeping and working, and energy is used at 2 W idle and more while work runs."""

    now: float = 0.0
    used_uj: float = 0.0
    idle_w: float = 2.0
    wraps_at: int = 10**12
    calls: dict[str, int] = field(default_factory=dict)

    def pass_time(self, seconds: float, *, watts: float) -> None:
        self.now += seconds
        self.used_uj += watts * seconds * 1e6

    def work(self, name: str, *, seconds: float, extra_w: float) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        self.pass_time(seconds, watts=self.idle_w + extra_w)

    def counter(self) -> Meter:
        return Meter("bench", read_uj=lambda: int(self.used_uj) % self.wraps_at, wraps_at_uj=self.wraps_at)

    @property
    def pace(self) -> Pace:
        return Pace(lambda: self.now, lambda seconds: self.pass_time(seconds, watts=self.idle_w))


def measured(bench: Bench, meter: Meter) -> tuple[float, float]:
    pair = measure_energy(
        lambda: bench.work("original", seconds=0.01, extra_w=3.0),
        lambda: bench.work("variant", seconds=0.002, extra_w=1.5),
        meter,
        pace=bench.pace,
    )
    assert pair.original.kind == pair.variant.kind == "measured"
    assert pair.original.value is not None
    assert pair.variant.value is not None
    assert pair.ratio == pytest.approx(pair.variant.value / pair.original.value)
    return pair.original.value, pair.variant.value


def test_idle_power_is_taken_off() -> None:
    bench = Bench()
    original, variant = measured(bench, bench.counter())
    assert original == pytest.approx(30_000, rel=0.01)  # 3 W for 10 ms
    assert variant == pytest.approx(3_000, rel=0.01)


def test_a_counter_that_wraps_while_it_is_read_loses_nothing() -> None:
    bench = Bench(wraps_at=1_500_000)
    original, variant = measured(bench, bench.counter())
    assert original == pytest.approx(30_000, rel=0.01)
    assert variant == pytest.approx(3_000, rel=0.01)


def test_a_power_gauge_is_averaged_over_the_run() -> None:
    bench = Bench()
    last = [bench.now, bench.used_uj]

    def power() -> int:
        if bench.now > last[0]:
            last.append((bench.used_uj - last[1]) / (bench.now - last[0]))
            last[0], last[1] = bench.now, bench.used_uj
        return int(last[-1] if len(last) > 2 else 2e6)

    original, variant = measured(bench, Meter("gauge", read_uw=power))
    assert original == pytest.approx(30_000, rel=0.15)
    assert variant == pytest.approx(3_000, rel=0.15)


def test_work_that_does_not_stand_out_from_idle_has_no_figure() -> None:
    bench = Bench()
    pair = measure_energy(
        lambda: bench.work("original", seconds=0.01, extra_w=0.0),
        lambda: bench.work("variant", seconds=0.01, extra_w=0.0),
        bench.counter(),
        pace=bench.pace,
    )
    assert pair.original.kind == "unavailable"
    assert pair.ratio is None


def test_a_meter_that_goes_away_leaves_a_reason() -> None:
    def gone() -> int:
        raise OSError(19, "No such device")

    bench = Bench()
    pair = measure_energy(lambda: None, lambda: None, Meter("usb meter", read_uj=gone), pace=bench.pace)
    assert "stopped giving readings" in pair.variant.source


def test_too_few_rounds_are_refused() -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="at least"):
        measure_energy(lambda: None, lambda: None, bench.counter(), rounds=MIN_ROUNDS - 1, pace=bench.pace)


def test_without_a_meter_the_measurements_say_why() -> None:
    model = check_model(mlp())
    pair = meter_models(model, model, [{"x": rows(1)}], meter=NoMeter("nothing there"))
    assert pair.to_json()["source"] == "nothing there"
    assert pair.to_json()["value"] is None
