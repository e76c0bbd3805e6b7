"""The variant is the first in the contract's order that fits and was audited; unaudited ones do not exist."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.bundle import Contract, Digest, Requires
from device_client.errors import PolicyError
from device_client.policy.policy import AcceptancePolicy
from device_client.policy.selection import DeviceFacts, providers_for, select_variant
from device_client.trust.custom import AuditCustom
from tests.unit.bundle.samples import sample_contract
from tests.unit.policy.agreed import NOW, audit, verdict

FACTS = DeviceFacts("x86_64", frozenset({"avx2", "avx_vnni"}), 1 << 30, ("CPUExecutionProvider",), "onnxruntime 1", "sealift 1")


def contract(*requires: Requires) -> Contract:
    models = {f"v{index}": bytes([index]) * (index + 1) for index in range(len(requires))}
    made = sample_contract(models=models)
    return replace(made, variants=tuple(replace(v, requires=r) for v, r in zip(made.variants, requires, strict=True)))


def audited(made: Contract, *names: str) -> AuditCustom:
    return audit(variants={made.variant(name).model.digest: verdict() for name in names})


def select(made: Contract, entry: AuditCustom, *, facts: DeviceFacts = FACTS) -> str:
    return select_variant(made, entry, policy=AcceptancePolicy(), facts=facts, now=NOW).id


def refusal(made: Contract, entry: AuditCustom, *, facts: DeviceFacts = FACTS) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        select(made, entry, facts=facts)
    return caught.value


def test_the_first_fitting_variant_is_taken() -> None:
    made = contract(Requires(cpu_features=("amx_int8",)), Requires(cpu_features=("avx_vnni",)), Requires())
    assert select(made, audited(made, "v0", "v1", "v2")) == "v1"


def test_an_unaudited_variant_does_not_exist() -> None:
    made = contract(Requires(), Requires())
    assert select(made, audited(made, "v1")) == "v1"
    assert refusal(made, audit(variants={Digest.of(b"other"): verdict()})).code == "variant_not_audited"
    assert refusal(made, audit(variants={})).code == "variant_not_audited"


def test_an_unacceptable_verdict_passes_on_to_the_next_variant() -> None:
    made = contract(Requires(), Requires())
    first, second = (made.variant(name).model.digest for name in ("v0", "v1"))
    assert select(made, audit(variants={first: verdict("FAILED"), second: verdict()})) == "v1"
    assert refusal(made, audit(variants={first: verdict("FAILED"), second: verdict(hours=-1)})).code == "verdict_failed"


MISFITS = {
    "another architecture": Requires(arch=("aarch64",)),
    "a missing cpu feature": Requires(cpu_features=("avx2", "avx512f")),
    "too little memory": Requires(ram_bytes=(1 << 30) + 1),
    "no such provider": Requires(providers=("CUDAExecutionProvider",)),
}


@pytest.mark.parametrize("requires", MISFITS.values(), ids=MISFITS.keys())
def test_a_variant_that_does_not_fit_is_refused_with_the_reason(requires: Requires) -> None:
    made = contract(requires)
    error = refusal(made, audited(made, "v0"))
    assert error.code == "no_variant_fits"
    assert "v0: " in str(error)


@pytest.mark.parametrize(("runtime", "format_"), [("litert", "tflite"), ("onnxruntime", "ort")])
def test_another_runtime_or_format_does_not_fit(runtime: str, format_: str) -> None:
    made = contract(Requires())
    made = replace(made, variants=(replace(made.variants[0], runtime=runtime, format=format_),))
    assert refusal(made, audited(made, "v0")).code == "no_variant_fits"


def test_matching_requirements_fit() -> None:
    made = contract(Requires(("arm64", "x86_64"), ("AVX2",), 1 << 30, ("CUDAExecutionProvider", "CPUExecutionProvider")))
    assert select(made, audited(made, "v0")) == "v0"
    assert providers_for(made.variant("v0"), FACTS.providers) == ("CPUExecutionProvider",)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5), st.integers(0, 100), st.integers(0, 100))
def test_more_memory_never_leads_to_a_later_variant(needs: list[int], less: int, more: int) -> None:
    made = contract(*(Requires(ram_bytes=need) for need in needs))
    entry = audited(made, *(variant.id for variant in made.variants))
    low, high = sorted((less, more))
    try:
        chosen = select(made, entry, facts=replace(FACTS, ram_bytes=low))
    except PolicyError:
        return
    assert select(made, entry, facts=replace(FACTS, ram_bytes=high)) <= chosen
