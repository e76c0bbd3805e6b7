"""Which execution providers a variant is opened with."""

from __future__ import annotations

from dataclasses import replace

from device_client.bundle import Requires
from device_client.policy.selection import providers_for
from tests.unit.bundle.samples import sample_contract

AVAILABLE = ("CUDAExecutionProvider", "CPUExecutionProvider")
VARIANT = sample_contract().variants[0]


def test_a_variant_that_asks_for_none_gets_all_that_the_device_has_in_its_order() -> None:
    assert providers_for(replace(VARIANT, requires=Requires()), AVAILABLE) == AVAILABLE


def test_a_variant_that_asks_for_some_gets_no_other() -> None:
    asking = replace(VARIANT, requires=Requires(providers=("CPUExecutionProvider", "TensorrtExecutionProvider")))
    assert providers_for(asking, AVAILABLE) == ("CPUExecutionProvider",)
