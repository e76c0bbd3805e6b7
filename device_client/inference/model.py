"""A model that may run: the active deployment's bytes, hashed at load, walked, and opened by the one session factory.

There is no function here that takes a path or plain bytes. The way in is the device's state (what was activated, in one
transaction, on verified evidence) and its store (``read`` hashes what it returns); between hash and session the bytes
stay in this process' memory.

    with open_model(folder, ModelPath("digits", "ocr")) as model:
        outputs = model.run({"x": array})
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from device_client.bundle.contract import Contract, TensorSpec, Variant, parse_contract
from device_client.bundle.features import KNOWN_ENCODINGS
from device_client.bundle.manifest import parse_manifest
from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, IntegrityError, PolicyError, StateError, UsageError
from device_client.inference.session import Session, open_session
from device_client.inference.walker import CheckedModel, check_model
from device_client.install.facts import read_facts
from device_client.install.folder import DeviceFolder
from device_client.install.state import Deployment, open_state
from device_client.install.store import open_store
from device_client.limits import DEFAULT_LIMITS, Limits
from device_client.policy.selection import providers_for
from device_client.trust.times import format_time

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class Model:
    """An open model. Made by ``open_model`` only; use it in a ``with`` statement."""

    def __init__(self, session: Session, *, deployment: Deployment, contract: Contract) -> None:
        self._session = session
        self.deployment = deployment
        self.contract = contract

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs.

        Args:
            inputs: one array for each of the contract's inputs: its dtype and shape, finite, within its range.

        Raises:
            UsageError: an input that the contract does not allow (``input_mismatch``).
            FormatError: the runtime failed (``model_run``).
        """
        check_ranges(self.contract.inputs, inputs)
        return self._session.run(inputs)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session.close()


def open_model(folder: DeviceFolder, model: ModelPath, *, limits: Limits = DEFAULT_LIMITS) -> Model:
    """Opens the active deployment of ``model``; changes nothing on disk, and needs no network.

    The steps:
        1. The active deployment, from the state; the owner's policy does not keep it from running.
        2. The manifest that it names, hashed as read; the contract that the manifest names, likewise.
        3. The deployment, manifest and contract tell one story: path, counter, variant, digest of the model.
        4. The model's bytes, hashed as read, walked under the contract's features, and what the contract describes.
        5. A session over those bytes.

    Raises:
        StateError: nothing is installed (``not_installed``), or the state cannot be read.
        PolicyError: ``stopped_by_policy``, by the standing that the last poll found.
        IntegrityError: bytes on this disk are not what was installed.
        FormatError: they contradict each other.
    """
    with open_state(folder.state) as state:
        deployment, stop = state.active(model), state.stopped(model)  # 1
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
    store = open_store(folder, limits=limits)
    manifest = parse_manifest(store.read(deployment.manifest), encodings=KNOWN_ENCODINGS, limits=limits)  # 2
    contract = parse_contract(store.read(manifest.contract.digest), encodings=KNOWN_ENCODINGS, limits=limits)
    variant = _agreed_variant(contract, deployment)  # 3
    checked = check_model(  # 4
        store.read(variant.model.digest), features=contract.features, where=f"variant {variant.id}", limits=limits
    )
    check_against_contract(checked, contract, variant)
    session = open_session(checked, providers=providers_for(variant, read_facts().providers))  # 5
    return Model(session, deployment=deployment, contract=contract)


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


def check_ranges(specs: tuple[TensorSpec, ...], inputs: Mapping[str, Array]) -> None:
    """Every input stays in the interval that the contract promises for it.

    Raises:
        UsageError: ``input_mismatch``.
    """
    for spec in specs:
        array = inputs.get(spec.name)
        if spec.range is None or array is None or not getattr(array, "size", 0) or array.dtype.kind not in "iufb":
            continue  # missing or mistyped inputs are the session's to refuse
        low, high = float(array.min()), float(array.max())
        if not (spec.range[0] <= low and high <= spec.range[1]):
            raise UsageError(
                "input outside the contract's range",
                code="input_mismatch",
                where=spec.name,
                expected=f"{spec.range[0]:g}..{spec.range[1]:g}",
                actual=f"{low:g}..{high:g}",
            )


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
