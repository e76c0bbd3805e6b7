"""What a counted model would cost on a profiled device: energy, time, and whether it fits. Modelled, never measured.

Energy = MACs x pJ by arithmetic + bytes moved x pJ by where they lie + calls x power. Time likewise, with rates in place
of energies. Values lie near (SRAM, cache) as long as they fit there. Idle power, sensors and radio are not in it.

The model knows arithmetic and bytes. It does not know how well a kernel is written: the two networks that the
microcontrollers' figures come from lie a third above and a third below it.
"""

from __future__ import annotations

from dataclasses import dataclass

from packager.measure.energy import Energy
from packager.measure.fusion import ARITHMETICS
from packager.measure.profiles import PROFILES, DeviceProfile
from packager.measure.workload import Workload


@dataclass(frozen=True)
class DeviceFigures:
    """One model on one profile.

    ``latency_ms``: modelled, one row. ``ram_bytes``, ``flash_bytes``: needed, runtime included. ``misfits``: why it does not
    fit; empty if it does.
    """

    profile: DeviceProfile
    energy: Energy
    latency_ms: float
    ram_bytes: int
    flash_bytes: int
    misfits: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether both memories are large enough."""
        return not self.misfits

    def to_json(self) -> dict[str, object]:
        """As it stands in the report."""
        return {
            "energy": self.energy.to_json(),
            "latency_ms_modelled": float(f"{self.latency_ms:.4g}"),
            "ram_bytes": self.ram_bytes,
            "flash_bytes": self.flash_bytes,
            "fits": self.fits,
            "misfits": list(self.misfits),
        }


def model_all(workload: Workload) -> tuple[DeviceFigures, ...]:
    """The model on every profile, in their order."""
    return tuple(model_on(workload, profile) for profile in PROFILES)


def model_on(workload: Workload, profile: DeviceProfile) -> DeviceFigures:
    """The figures of one model on one profile."""
    near, far = _bytes_moved(workload, profile)
    work = {kind: workload.macs.by_arithmetic[kind] + workload.other_elements.get(kind, 0) for kind in ARITHMETICS}
    calls_s = workload.kernels * profile.call_us.value * 1e-6
    picojoules = (
        sum(count * profile.pj_per_mac[kind].value for kind, count in work.items())
        + near * profile.pj_per_near_byte.value
        + far * profile.pj_per_far_byte.value
        + calls_s * profile.active_mw.value * 1e9
    )
    seconds = (
        sum(count / profile.macs_per_s[kind].value for kind, count in work.items())
        + near / profile.near_bytes_per_s.value
        + far / profile.far_bytes_per_s.value
        + calls_s
    )
    energy = Energy(picojoules / 1e6, "modelled", f"profile {profile.name}: counted operations and bytes times its figures")
    if workload.macs.uncounted:
        energy = Energy.unavailable(f"{len(workload.macs.uncounted)} operators could not be counted")
    ram, flash = _memory(workload, profile)
    return DeviceFigures(profile, energy, seconds * 1e3, ram, flash, _misfits(profile, ram=ram, flash=flash))


def _bytes_moved(workload: Workload, profile: DeviceProfile) -> tuple[int, int]:
    """Bytes from and to near and far memory."""
    room = int(profile.near_bytes.value) - workload.memory.arena_bytes
    near = far = 0
    if room >= 0:
        near += workload.activation_bytes
    else:
        far += workload.activation_bytes
    if profile.weights_stay_far or workload.weight_bytes > room:
        far += workload.weight_bytes
    else:
        near += workload.weight_bytes
    return near, far


def _memory(workload: Workload, profile: DeviceProfile) -> tuple[int, int]:
    copies = 0 if profile.weights_stay_far else 2
    ram = int(profile.runtime_ram_bytes.value) + workload.memory.arena_bytes + copies * workload.file_bytes
    return ram, int(profile.runtime_flash_bytes.value) + workload.file_bytes


def _misfits(profile: DeviceProfile, *, ram: int, flash: int) -> tuple[str, ...]:
    pairs = (("RAM", ram, int(profile.ram_bytes.value)), ("flash", flash, int(profile.flash_bytes.value)))
    return tuple(f"needs {need} bytes of {what}, the profile has {have}" for what, need, have in pairs if need > have)
