"""A model that may run: the active deployment's bytes, hashed at load, walked, and opened by the one session factory.

There is no function here that takes a path or plain bytes. The way in is the device's state (what was activated, in one
transaction, on verified evidence) and its store (``read`` hashes what it returns); between hash and session the bytes
stay in this process' memory.

    with open_model(folder, ModelPath("digits", "ocr")) as model:
        outputs = model.run({"x": array})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from device_client.bundle.contract import Contract, Variant, parse_contract
from device_client.bundle.digest import Digest
from device_client.bundle.features import KNOWN_ENCODINGS
from device_client.bundle.manifest import parse_manifest
from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, IntegrityError, PolicyError, StateError
from device_client.inference.inputs import InputPlan
from device_client.inference.session import ALLOWED_PROVIDERS, Session, open_session
from device_client.inference.walker import CheckedModel, check_model
from device_client.install.folder import DeviceFolder, read_config, read_root
from device_client.install.installed import verify_installed
from device_client.install.machine import State
from device_client.install.state import Deployment, DeviceState, open_state
from device_client.install.store import BlobStore, open_store
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.policy.selection import providers_for
from device_client.trust.times import format_time

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Installed:
    """What is active and may run, read and compared; not yet its model's bytes, which can be large."""

    deployment: Deployment
    contract: Contract
    variant: Variant
    store: BlobStore
    limits: Limits

    def read_model(self) -> bytes:
        """The bytes that the runtime gets, hashed as read: they are the ones that the contract names.

        Raises:
            IntegrityError: missing or damaged on this disk.
        """
        return self.store.read(self.variant.model.digest)

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers for the variant on this machine."""
        return providers_for(self.variant, ALLOWED_PROVIDERS)


class Model:
    """An open model. Made by ``open_model`` only; use it in a ``with`` statement."""

    def __init__(self, session: Session, *, deployment: Deployment, contract: Contract) -> None:
        self._session = session
        self._plan = InputPlan(contract.inputs, session.inputs)
        self.deployment = deployment
        self.contract = contract

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs.

        Args:
            inputs: one array for each of the contract's inputs: its dtype and shape, one size for each named dimension,
                every number finite and within its range.

        Raises:
            UsageError: an input that the contract does not allow (``input_mismatch``).
            FormatError: the runtime failed (``model_run``).
        """
        return self._session.compute(self._plan.check(inputs))

    def close(self) -> None:
        """Frees the runtime's memory; ``run`` fails afterwards."""
        self._session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.close()


def open_model(folder: DeviceFolder, model: ModelPath, *, limits: Limits = DEFAULT_LIMITS) -> Model:
    """Opens the active deployment of ``model``; changes nothing on disk, and needs no network.

    The steps:
        1. to 4. ``find_installed``: what is active and may run, its evidence, manifest and contract, and that these agree.
        5. The model's bytes, hashed as read, walked under the contract's features, and what the contract describes.
        6. A session over those bytes.

    Raises:
        StateError: nothing is installed (``not_installed``), or the state cannot be read.
        PolicyError: ``stopped_by_policy``, by the standing that the last poll found.
        IntegrityError: bytes on this disk are not what was installed.
        FormatError: they contradict each other.
    """
    installed = find_installed(folder, model, limits=limits)  # 1 to 4
    return start_model(installed, installed.read_model(), hashed=installed.variant.model.digest)  # 5, 6


def find_installed(folder: DeviceFolder, model: ModelPath, *, limits: Limits = DEFAULT_LIMITS) -> Installed:
    """What is active for ``model`` and may run, without its model's bytes.

    The steps:
        1. The active deployment, from the state; the owner's policy does not keep it from running.
        2. The evidence that it was activated on still proves it, from the read-only root on: whoever wrote the state cannot choose.
        3. The manifest that it names, hashed as read; the contract that the manifest names, likewise.
        4. The deployment, manifest and contract tell one story: path, counter, variant, digest of the model.

    Raises:
        StateError: nothing is installed (``not_installed``), or the state cannot be read.
        PolicyError: ``stopped_by_policy``.
        TrustError: ``evidence_mismatch``, or what else the evidence does not prove.
        IntegrityError: bytes on this disk are not what was installed.
        FormatError: they contradict each other.
    """
    with open_state(folder.state, read_only=True) as state:
        deployment = runnable(state, model)  # 1
        check_evidence(folder, state, deployment, limits=limits)  # 2
    store = open_store(folder, limits=limits)
    manifest = parse_manifest(store.read(deployment.manifest), encodings=KNOWN_ENCODINGS, limits=limits)  # 3
    contract = parse_contract(store.read(manifest.contract.digest), encodings=KNOWN_ENCODINGS, limits=limits)
    return Installed(deployment, contract, _agreed_variant(contract, deployment), store, limits)  # 4


def check_evidence(folder: DeviceFolder, state: DeviceState, deployment: Deployment, *, limits: Limits) -> None:
    """What the deployment was activated on still proves it, from the read-only root on.

    Raises:
        TrustError: ``evidence_mismatch``, or what else the evidence does not prove.
        StateError, UsageError: the root or the configuration that names its digest cannot be read.
    """
    verify_installed(state, deployment, root=read_root(folder, read_config(folder)), limits=limits)


def start_model(installed: Installed, data: bytes, *, hashed: Digest | None = None) -> Model:
    """Walks the bytes, compares them with the contract, and opens a session over them.

    Args:
        installed: what they belong to.
        data: the model's bytes; immutable.
        hashed: their digest, where the store has hashed these very bytes; otherwise they are hashed here.

    Raises:
        IntegrityError: other bytes than the contract names.
        FormatError: a structure that is refused, or not what the contract describes.
    """
    contract, variant = installed.contract, installed.variant
    where = f"variant {variant.id}"
    checked = check_model(data, features=contract.features, hashed=hashed, where=where, limits=installed.limits)
    check_against_contract(checked, contract, variant)
    session = open_session(checked, providers=installed.providers)
    return Model(session, deployment=installed.deployment, contract=contract)


def check_against_contract(model: CheckedModel, contract: Contract, variant: Variant) -> None:
    """The file takes and gives what the contract says: names, element types, operator set.

    Raises:
        IntegrityError: other bytes than the variant's.
        FormatError: ``contract_model_mismatch``.
    """
    if model.digest != variant.model.digest:
        raise IntegrityError(
            "not the variant's bytes", code="blob_digest_mismatch", expected=variant.model.digest, actual=model.digest
        )
    if model.opset != variant.opset:
        raise _mismatch("operator set", expected=variant.opset, actual=model.opset)
    for what, specs, values in (("inputs", contract.inputs, model.inputs), ("outputs", contract.outputs, model.outputs)):
        promised = {spec.name: spec.dtype for spec in specs}
        found = {value.name: value.dtype for value in values}
        if promised != found:
            raise _mismatch(what, expected=promised, actual=found)


def runnable(state: DeviceState, model: ModelPath) -> Deployment:
    """The active deployment, if the owner's policy lets it run.

    Raises:
        StateError: nothing is installed (``not_installed``), or nothing that was may run (``safe``).
        PolicyError: ``stopped_by_policy``.
    """
    deployment, stop = state.active(model), state.stopped(model)
    if deployment is None and state.progress(model).state is State.SAFE:
        raise StateError(
            "nothing on this device may run", code="safe", where=str(model), hint="`sealift device status` and `explain` say why"
        )
    if deployment is None:
        raise StateError("no model is installed", code="not_installed", where=str(model), hint="run `sealift device poll`")
    if stop is not None:
        raise PolicyError(
            "the device's policy keeps this model from running",
            code="stopped_by_policy",
            where=f"{model}/{deployment.version}",
            actual=f"{stop.code}, since {format_time(stop.since)}",
            hint="it runs again after the first poll that finds the cause gone; `sealift device status` says more",
        )
    return deployment


def _agreed_variant(contract: Contract, deployment: Deployment) -> Variant:
    variant = contract.variant(deployment.variant)
    told = (contract.path.of_model, contract.version, contract.counter, variant.model.digest)
    if told != (deployment.model, deployment.version, deployment.counter, deployment.variant_digest):
        raise _mismatch("state", expected=f"{deployment.model}/{deployment.version}", actual=str(contract.path))
    return variant


def _mismatch(what: str, *, expected: object, actual: object) -> FormatError:
    return FormatError(
        f"the contract and what it describes differ: {what}", code="contract_model_mismatch", expected=expected, actual=actual
    )
