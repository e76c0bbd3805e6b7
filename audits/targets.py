"""What is audited: the exact decoded bytes of each variant of a bundle, and the original beside it.

Every byte comes through the device's own verifier (``verify_bundle``) and walker (``check_model``); the digest is taken
from the buffer that the runtime and the bridge get, so a verdict is about those bytes and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from device_client.bundle.contract import Contract
from device_client.bundle.digest import Digest
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.verified import verify_bundle
from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel, check_model
from device_client.install.layer_decoder import read_model
from device_client.limits import DEFAULT_LIMITS, Limits

ORIGINAL = "original"


@dataclass(frozen=True)
class Subject:
    """A model under audit.

    Attributes:
        id: the variant's id, or ``original``.
        model: the walker-checked bytes.
        input_range: of the model's input, from the contract; None where it says nothing.
        features: what the contract allows the walker to accept; a twin with other weights needs the same.
    """

    id: str
    model: CheckedModel
    input_range: tuple[float, float] | None
    features: tuple[str, ...] = ()

    @property
    def is_original(self) -> bool:
        """True for the uncompressed model, which is compared with and not attested."""
        return self.id == ORIGINAL


@dataclass(frozen=True)
class BundleTargets:
    """The variants of one verified bundle."""

    manifest: Digest
    path: str
    variants: tuple[Subject, ...]


def load_bundle(directory: Path, *, limits: Limits = DEFAULT_LIMITS) -> BundleTargets:
    """Verifies a bundle directory and reads all its variants.

    The directory's own index names the manifest: nobody has signed anything yet when an audit runs. The digest is in
    the report, and `sign` compares it with what it signs.

    Raises:
        VerificationError: whatever the device's verifier or walker refuses.
        UsageError: a variant is called ``original``.
    """
    layout = LayoutDirectory(directory, limits=limits)
    descriptor = layout.manifest_descriptor()
    bundle = verify_bundle(layout, descriptor.digest, manifest_size=descriptor.size, closed=True, limits=limits)
    contract = bundle.contract
    variants = []
    for variant in contract.variants:
        if variant.id == ORIGINAL:
            raise UsageError(
                "a variant is called 'original'", code="variant_name", where=str(directory), hint="give the variant another id"
            )
        data = read_model(layout, bundle.manifest, variant)
        model = check_model(data, features=contract.features, where=f"variant {variant.id}", limits=limits)
        variants.append(Subject(variant.id, model, _input_range(contract), tuple(contract.features)))
    return BundleTargets(bundle.digest, str(bundle.path), tuple(variants))


def load_original(path: Path, *, like: BundleTargets, limits: Limits = DEFAULT_LIMITS) -> Subject:
    """Reads the uncompressed model; its input range is the one of the variants.

    Raises:
        UsageError: the file cannot be read.
        VerificationError: the walker refuses it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_model_bytes + 1)
    except OSError as e:
        raise UsageError("cannot read the original model", code="original_missing", where=str(path), hint=e.strerror) from e
    model = check_model(data, where=str(path), limits=limits)  # no features: nobody has signed a contract for this file
    return Subject(ORIGINAL, model, like.variants[0].input_range if like.variants else None)


def _input_range(contract: Contract) -> tuple[float, float] | None:
    return contract.inputs[0].range if contract.inputs else None
