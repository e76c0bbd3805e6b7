"""Steps 7 to 11 of a poll: the bundle is fetched, verified, walked and tried; nothing that runs has changed when this ends."""

from __future__ import annotations

from dataclasses import dataclass

from device_client.bundle.contract import Contract, Variant
from device_client.bundle.verified import VerifiedBundle, verify_bundle
from device_client.inference.model import check_against_contract
from device_client.inference.walker import check_model
from device_client.install.cycle import Cycle
from device_client.install.download import wanted_of_variant
from device_client.install.facts import read_facts
from device_client.install.machine import Event
from device_client.install.offer import fetch_contract
from device_client.install.selftest import SelfTestLimits, SelfTestReport
from device_client.policy.memory import check_variant_memory
from device_client.policy.selection import DeviceFacts, providers_for, select_variant
from device_client.trust.agreement import AgreedRelease


@dataclass(frozen=True)
class Tried:
    """A variant that passed its self-test here."""

    variant: Variant
    report: SelfTestReport


def try_release(cycle: Cycle, agreed: AgreedRelease) -> Tried:
    """Gets, checks and tries a release that this device may take.

    Raises:
        VerificationError: it is not what was signed, does not fit this machine, or does not compute what it promises.
        TransportError: a blob does not arrive.
        StateError: this machine cannot do it now.
    """
    facts = read_facts()
    cycle.ledger.go(Event.ACCEPTED)
    # 7. Only the blobs that are missing, each to exactly its signed size.
    contract, variant = _download(cycle, agreed, facts)
    # 8. The bundle is what its digest, path and counter say, by the same code that admitted it to the server.
    cycle.ledger.go(Event.DOWNLOADED)
    bundle = _verify(cycle, agreed, variant)
    # 9. The model file holds nothing but a model, and the one that the contract describes.
    model = _walk(cycle, bundle, variant)
    cycle.ledger.go(Event.VERIFIED)
    # 10. Everything the self-test needs lies on this disk, synced. The child parses the probes: the agent needs neither
    # numpy nor trust in a parser for that.
    golden = cycle.store.read(bundle.contract.golden.layer)
    cycle.ledger.go(Event.STAGED)
    # 11. It computes the golden outputs here, in the real runtime, in a child with limits.
    report = _test(cycle, model, golden, contract, variant, facts)
    cycle.ledger.go(Event.PASSED)
    return Tried(variant, report)


def _download(cycle: Cycle, agreed: AgreedRelease, facts: DeviceFacts) -> tuple[Contract, Variant]:
    manifest, contract = fetch_contract(cycle, agreed)
    variant = select_variant(contract, agreed.audit, policy=cycle.device.policy, facts=facts, now=cycle.now())
    check_variant_memory(variant.model.digest, agreed, cycle.state.memory(cycle.model))
    cycle.fetch(wanted_of_variant(manifest, variant))
    return contract, variant


def _verify(cycle: Cycle, agreed: AgreedRelease, variant: Variant) -> VerifiedBundle:
    return verify_bundle(
        cycle.store,
        agreed.manifest.digest,
        manifest_size=agreed.manifest.length,
        path=agreed.path,
        counter=agreed.release.counter,
        variants=(variant.id,),
        decoded=True,
        limits=cycle.limits,
    )


def _walk(cycle: Cycle, bundle: VerifiedBundle, variant: Variant) -> bytes:
    data = cycle.store.read(variant.model.digest)
    model = check_model(data, features=bundle.contract.features, where=f"variant {variant.id}", limits=cycle.limits)
    check_against_contract(model, bundle.contract, variant)
    return model.data


def _test(cycle: Cycle, model: bytes, golden: bytes, contract: Contract, variant: Variant, facts: DeviceFacts) -> SelfTestReport:
    return cycle.selftest(
        model,
        golden,
        variant=variant.id,
        probes=contract.golden.count,
        tolerance=contract.golden.tolerance(variant.id),
        features=contract.features,
        providers=providers_for(variant, facts.providers),
        cwd=cycle.device.folder.empty,
        limits=SelfTestLimits.for_model(
            model_bytes=len(model), ram_bytes=variant.requires.ram_bytes, device_ram_bytes=facts.ram_bytes
        ),
    )
