"""Carries out the attacks one after the other and judges what the device did."""

from __future__ import annotations

import time
from collections.abc import Callable

from demo import attacks
from demo.attacker import WebRoot
from demo.attacks import Attack, Stage
from demo.device import DemoDevice
from demo.names import FIRST_COUNTER, SECOND
from demo.processes import Workshop
from demo.report import AttackOutcome
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.verified import verify_bundle
from device_client.console import step

_INFERS_ACCURACY = 0.5  # a model that still works; guessing gives 0.1
TOTAL = 7


def besiege(shop: Workshop, device: DemoDevice, *, web: WebRoot, seen_timestamp: bytes) -> list[AttackOutcome]:
    """The seven attacks with their controls.

    Args:
        shop: the demo's folder and processes.
        device: the device under attack; the first release is active.
        web: the server's folder with all stolen keys; the second release is published there, honestly.
        seen_timestamp: the timestamp that the device saw last.
    """
    source = shop.folder / "bundles" / SECOND
    layout = LayoutDirectory(source)
    model = verify_bundle(layout, layout.manifest_descriptor().digest).contract.variants[0]
    stage = Stage(web, web.online, shop.folder / "reissued", source, FIRST_COUNTER + 2)
    makers: tuple[Callable[[], Attack], ...] = (
        lambda: attacks.flipped_byte(stage, version=SECOND, blob=model.layer),
        lambda: attacks.replayed_timestamp(stage, old_timestamp=seen_timestamp),
        lambda: attacks.release_role_alone(stage),
        lambda: attacks.other_variant_audited(stage),
        lambda: attacks.key_outside_role(stage),
        lambda: attacks.lower_counter(stage),
        lambda: attacks.listed_by_top_level(stage),
    )
    return [_strike(make(), device, number=number) for number, make in enumerate(makers, start=1)]


def _strike(attack: Attack, device: DemoDevice, *, number: int) -> AttackOutcome:
    begun = time.monotonic()
    before = device.active_version()
    attack.strike()
    refused = device.poll()
    still = device.active_version() == before and device.accuracy() > _INFERS_ACCURACY
    attack.mend()
    installed = device.poll().answer
    outcome = AttackOutcome(
        name=attack.name,
        holds=attack.holds,
        expected_code=attack.code,
        code=refused.answer.get("code"),
        refused=refused.status == 1 and refused.answer.get("code") == attack.code,
        still_inferring=still,
        control_installed=installed.get("result") == "installed" and installed.get("version") == attack.version,
    )
    _tell(outcome, number, old=before, new=attack.version, seconds=time.monotonic() - begun, answers=(refused.answer, installed))
    return outcome


def _tell(outcome: AttackOutcome, number: int, *, old: str, new: str, seconds: float, answers: tuple[object, object]) -> None:
    said = f"refused ({outcome.code})" if outcome.refused else f"NOT REFUSED as {outcome.expected_code}: {answers[0]}"
    kept = f"{old} still infers" if outcome.still_inferring else f"{old} DOES NOT INFER"
    control = f"mended, {new} installs" if outcome.control_installed else f"CONTROL FAILED: {answers[1]}"
    label = f"attack {number} of {TOTAL}"
    step(f"{label:<14} {outcome.name}, holding {outcome.holds}: {said}; {kept}; {control}  ({seconds:.1f} s)")
