"""Device profiles: what a multiply-accumulate, a byte and a kernel call cost on six classes of device, each with its source.

A frozen table, so that a modelled figure is the same on every run and machine. A number is from a public measurement or
document that its ``source`` names, or it says ``estimate`` and from what. Estimates are for comparing two models on one
device, not two devices, and not for planning a battery.

The microcontrollers' figures are medians of board measurements in MLPerf Tiny v0.7 (closed division, STMicroelectronics,
results/<board>/{ic,kws}/energy): energy and throughput over the MACs that ``macs.py`` counts in those two networks.
NUCLEO-L4R5ZI: 12 298 uJ and 3.962 per second over 12.50 M MACs; 4 636 uJ and 10.298 over 2.66 M. NUCLEO-H7A3ZI-Q: 11 200 uJ
and 14.197; 3 713 uJ and 44.819. The two networks differ by 1.6 to 1.8 times per MAC, so each geometric mean below is good to about
a third.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from packager.measure.fusion import FP16, FP32, INT8

KB = 1000
MB = 1000 * KB
GB = 1000 * MB
_HOROWITZ = "Horowitz, ISSCC 2014, figure 1.1.9 (45 nm)"
_TINY = "MLPerf Tiny v0.7, STMicroelectronics"


@dataclass(frozen=True)
class Sourced:
    """A number and where it is from; ``source`` begins with ``estimate`` where nobody measured it."""

    value: float
    source: str

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {"value": self.value, "source": self.source}


@dataclass(frozen=True)
class DeviceProfile:
    """One class of device; one core of it.

    ``macs_per_s`` and ``pj_per_mac``: by arithmetic, sustained, everything that the core spends. ``near``: SRAM or cache, and
    ``far``: DRAM, or flash where weights stay in it (``weights_stay_far``). ``pj_per_*_byte``: picojoules;
    ``*_bytes_per_s``: sustained. ``call_us``: microseconds between two kernels. ``active_mw``: milliwatts while it waits for
    data or calls. ``runtime_ram_bytes``: what the runtime takes before any model.
    """

    name: str
    title: str
    cpu_features: tuple[str, ...]
    macs_per_s: Mapping[str, Sourced]
    pj_per_mac: Mapping[str, Sourced]
    near_bytes: Sourced
    pj_per_near_byte: Sourced
    pj_per_far_byte: Sourced
    near_bytes_per_s: Sourced
    far_bytes_per_s: Sourced
    call_us: Sourced
    active_mw: Sourced
    ram_bytes: Sourced
    flash_bytes: Sourced
    runtime_ram_bytes: Sourced
    runtime_flash_bytes: Sourced
    weights_stay_far: bool = False

    def to_json(self) -> dict[str, object]:
        """Every number with its source."""
        single = {name: item.to_json() for name, item in vars(self).items() if isinstance(item, Sourced)}
        return {
            "title": self.title,
            "cpu_features": list(self.cpu_features),
            "macs_per_s": {kind: item.to_json() for kind, item in self.macs_per_s.items()},
            "pj_per_mac": {kind: item.to_json() for kind, item in self.pj_per_mac.items()},
            **single,
        }


def _widths(int8: float, fp16: float, fp32: float, *sources: str) -> dict[str, Sourced]:
    return {
        kind: Sourced(value, source) for kind, value, source in zip((INT8, FP16, FP32), (int8, fp16, fp32), sources, strict=True)
    }


_SLOWER_M4 = "estimate: int8 / 3, as two SIMD products per cycle against one float product in about 1.5, loads included"
_SLOWER_M7 = "estimate: int8 / 2, as the core issues a float product and a load in one cycle"
_NO_HALF = "estimate: as fp32; the core has no half-precision vectors, values are widened"
_DEARER = "estimate: the board's power over the rate above"
_MCU_RUNTIME = (
    "estimate: TensorFlow Lite Micro with the kernels of a small network; its paper (David et al. 2021) gives 16 to 100 KB"
)

CORTEX_M4 = DeviceProfile(
    name="cortex-m4",
    title="Cortex-M4F microcontroller, 120 MHz (STM32L4R5)",
    cpu_features=("dsp", "fpu-sp"),
    macs_per_s=_widths(36.7e6, 12.2e6, 12.2e6, f"{_TINY}, NUCLEO-L4R5ZI: 49.5e6 and 27.4e6", _NO_HALF, _SLOWER_M4),
    pj_per_mac=_widths(1310, 3990, 3990, f"{_TINY}, NUCLEO-L4R5ZI: 984 and 1745 pJ", _DEARER, _DEARER),
    near_bytes=Sourced(640 * 1024, "STM32L4R5 data sheet: SRAM"),
    pj_per_near_byte=Sourced(100, "estimate: 48.7 mW at 120 MHz is 406 pJ per cycle; one cycle per 32-bit word"),
    pj_per_far_byte=Sourced(200, "estimate: as SRAM, twice the cycles for flash with its cache"),
    near_bytes_per_s=Sourced(480e6, "estimate: one 32-bit word per cycle"),
    far_bytes_per_s=Sourced(240e6, "estimate: half of SRAM"),
    call_us=Sourced(10, "estimate: interpreter and kernel set-up, about 1200 cycles"),
    active_mw=Sourced(48.7, f"{_TINY}, NUCLEO-L4R5ZI, image classification"),
    ram_bytes=Sourced(640 * 1024, "STM32L4R5 data sheet"),
    flash_bytes=Sourced(2 * 1024 * 1024, "STM32L4R5 data sheet"),
    runtime_ram_bytes=Sourced(16 * KB, _MCU_RUNTIME),
    runtime_flash_bytes=Sourced(100 * KB, _MCU_RUNTIME),
    weights_stay_far=True,
)
CORTEX_M7 = DeviceProfile(
    name="cortex-m7",
    title="Cortex-M7 microcontroller, 280 MHz (STM32H7A3)",
    cpu_features=("dsp", "fpu-dp"),
    macs_per_s=_widths(145.5e6, 72.7e6, 72.7e6, f"{_TINY}, NUCLEO-H7A3ZI-Q: 177.5e6 and 119.1e6", _NO_HALF, _SLOWER_M7),
    pj_per_mac=_widths(1119, 2200, 2200, f"{_TINY}, NUCLEO-H7A3ZI-Q: 896 and 1398 pJ", _DEARER, _DEARER),
    near_bytes=Sourced(1024 * 1024, "STM32H7A3 data sheet: SRAM that an application gets of 1.4 MB"),
    pj_per_near_byte=Sourced(142, "estimate: 159 mW at 280 MHz is 568 pJ per cycle; one cycle per 32-bit word"),
    pj_per_far_byte=Sourced(284, "estimate: as SRAM, twice the cycles for flash with its cache"),
    near_bytes_per_s=Sourced(1120e6, "estimate: one 32-bit word per cycle"),
    far_bytes_per_s=Sourced(560e6, "estimate: half of SRAM"),
    call_us=Sourced(4, "estimate: interpreter and kernel set-up, about 1200 cycles"),
    active_mw=Sourced(159, f"{_TINY}, NUCLEO-H7A3ZI-Q, image classification"),
    ram_bytes=Sourced(1024 * 1024, "STM32H7A3 data sheet: SRAM that an application gets of 1.4 MB"),
    flash_bytes=Sourced(2 * 1024 * 1024, "STM32H7A3 data sheet"),
    runtime_ram_bytes=Sourced(16 * KB, _MCU_RUNTIME),
    runtime_flash_bytes=Sourced(100 * KB, _MCU_RUNTIME),
    weights_stay_far=True,
)

_LINUX_RUNTIME = "measured here: interpreter, numpy and onnxruntime, before any model"
_ORT_FLASH = "estimate: Python, numpy and the onnxruntime wheel, unpacked"
_CACHE = f"{_HOROWITZ}: 100 pJ for 64 bits of a 1 MB cache"
_DRAM = f"{_HOROWITZ}: 1.3 to 2.6 nJ for 64 bits; the middle"


_linux = partial(
    DeviceProfile,
    pj_per_near_byte=Sourced(12.5, _CACHE),
    pj_per_far_byte=Sourced(240, _DRAM),
    runtime_ram_bytes=Sourced(64 * 1024 * 1024, _LINUX_RUNTIME),
    runtime_flash_bytes=Sourced(300 * MB, _ORT_FLASH),
)


_A32_POWER = "Arm, announcement of the Cortex-A32, 2016: below 75 mW per core at 1 GHz in 28 nm"
WATCH = _linux(
    name="watch",
    title="Watch-class core, 1 GHz (Cortex-A32 or A53, as in wearable chips)",
    cpu_features=("neon",),
    macs_per_s=_widths(
        1.5e9, 1e9, 1e9, "estimate: 1.5 times fp32, without dot products", _NO_HALF, "estimate: half of two products per cycle"
    ),
    pj_per_mac=_widths(50, 75, 75, *[f"{_A32_POWER}, over the rate above"] * 3),
    near_bytes=Sourced(256 * 1024, "estimate: second-level cache"),
    near_bytes_per_s=Sourced(4e9, "estimate"),
    far_bytes_per_s=Sourced(1.5e9, "estimate: one core on LPDDR3/4"),
    call_us=Sourced(8, "estimate: onnxruntime's time per kernel on x86, at this clock"),
    active_mw=Sourced(75, _A32_POWER),
    ram_bytes=Sourced(512 * MB, "estimate: half of a 1 GB watch"),
    flash_bytes=Sourced(4 * GB, "estimate"),
)
_PI_POWER = "estimate: board power with all cores busy less idle, by four"
PI_4 = _linux(
    name="raspberry-pi-4",
    title="Raspberry Pi 4, one Cortex-A72 core, 1.5 GHz",
    cpu_features=("asimd",),
    macs_per_s=_widths(
        9e9,
        6e9,
        6e9,
        "estimate: 1.5 times fp32, without dot products",
        _NO_HALF,
        "estimate: half of the peak, 8 products per cycle",
    ),
    pj_per_mac=_widths(100, 150, 150, *[f"{_PI_POWER}: 0.9 W, over the rate above"] * 3),
    near_bytes=Sourced(1 * MB, "BCM2711: second-level cache"),
    near_bytes_per_s=Sourced(10e9, "estimate"),
    far_bytes_per_s=Sourced(3e9, "estimate: one core on LPDDR4-3200, 32 bits wide"),
    call_us=Sourced(5, "estimate: onnxruntime's time per kernel on x86, at this clock"),
    active_mw=Sourced(900, _PI_POWER),
    ram_bytes=Sourced(1 * GB, "product brief: the smallest version"),
    flash_bytes=Sourced(8 * GB, "estimate: a small memory card"),
)
PI_5 = _linux(
    name="raspberry-pi-5",
    title="Raspberry Pi 5, one Cortex-A76 core, 2.4 GHz",
    cpu_features=("asimd", "asimddp", "fphp", "asimdhp"),
    macs_per_s=_widths(
        30e9,
        19e9,
        9.6e9,
        "estimate: 40 % of the peak, 32 products per cycle with dot products",
        "estimate: half of the peak, 16 products per cycle",
        "estimate: half of the peak, 8 products per cycle",
    ),
    pj_per_mac=_widths(53, 84, 167, *[f"{_PI_POWER}: 1.6 W, over the rate above"] * 3),
    near_bytes=Sourced(2 * MB, "BCM2712: shared third-level cache"),
    near_bytes_per_s=Sourced(25e9, "estimate"),
    far_bytes_per_s=Sourced(7e9, "estimate: one core on LPDDR4X-4267, 32 bits wide"),
    call_us=Sourced(2.5, "estimate: onnxruntime's time per kernel on x86, at this clock"),
    active_mw=Sourced(1600, _PI_POWER),
    ram_bytes=Sourced(2 * GB, "product brief: the smallest version"),
    flash_bytes=Sourced(8 * GB, "estimate: a small memory card"),
)
_SERVER_POWER = "estimate: 200 W of a 24-core package under vector load, per core"
X86_SERVER = _linux(
    name="x86-server",
    title="x86 server core with AVX-512 VNNI, 2.5 GHz",
    cpu_features=("avx2", "avx512f", "avx512_vnni"),
    macs_per_s=_widths(
        96e9,
        32e9,
        32e9,
        "estimate: 30 % of the peak, 128 products per cycle with VNNI",
        _NO_HALF,
        "estimate: 40 % of the peak, 32 products per cycle",
    ),
    pj_per_mac=_widths(83, 250, 250, *[f"{_SERVER_POWER}, over the rate above"] * 3),
    near_bytes=Sourced(1 * MB, "estimate: second-level cache"),
    near_bytes_per_s=Sourced(80e9, "estimate"),
    far_bytes_per_s=Sourced(12e9, "estimate: one core on DDR4"),
    call_us=Sourced(1.5, "estimate: onnxruntime, small kernels"),
    active_mw=Sourced(8000, _SERVER_POWER),
    ram_bytes=Sourced(8 * GB, "estimate: a small virtual machine"),
    flash_bytes=Sourced(100 * GB, "estimate"),
)

PROFILES = (CORTEX_M4, CORTEX_M7, WATCH, PI_4, PI_5, X86_SERVER)
"""In order of size."""


def profiles_digest() -> Digest:
    """Names the table that modelled figures were made with."""
    return Digest.of(canonical_json({profile.name: profile.to_json() for profile in PROFILES}))
