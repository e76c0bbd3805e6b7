"""The ModelPack config blob: what other tools show about the artifact. Decides nothing on a device.

CNCF ModelPack v1 (``application/vnd.cncf.model.config.v1+json``) asks for ``descriptor``, ``config`` and ``modelfs``.
Everything in it is derived from the contract and the layers, so that it cannot tell a different story, and it holds
no creation time, so that equal inputs give equal bytes.

    config = ModelConfig.of(contract, layers)       # layers without the config itself, contract first
    data = config.to_bytes()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from device_client.bundle import media_types
from device_client.bundle.contract import Contract
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError
from device_client.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True)
class ModelConfig:
    """Name and version of the model, its format and precision, and the digest of each decoded layer in order.

    ``precision`` is ``mixed`` when the variants differ. ``diff_ids`` are the layers' digests, but for an encoded layer
    that of the decoded bytes.
    """

    name: str
    version: str
    family: str
    format: str
    precision: str
    diff_ids: tuple[Digest, ...]

    @classmethod
    def of(cls, contract: Contract, layers: Sequence[Descriptor]) -> ModelConfig:
        """The config that belongs to a contract and the layers of its manifest."""
        decoded = {variant.id: variant.model.digest for variant in contract.variants}
        return cls(
            name=contract.model,
            version=contract.version,
            family=contract.line,
            format=_one_of([variant.format for variant in contract.variants]),
            precision=_one_of([variant.precision for variant in contract.variants]),
            diff_ids=tuple(decoded.get(layer.annotation(media_types.ANNOTATION_VARIANT) or "", layer.digest) for layer in layers),
        )

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return canonical_json(
            {
                "descriptor": {"name": self.name, "version": self.version, "family": self.family},
                "config": {"format": self.format, "precision": self.precision},
                "modelfs": {"type": "layers", "diffIds": [str(digest) for digest in self.diff_ids]},
            }
        )


def parse_config(data: bytes, *, where: str = "config", limits: Limits = DEFAULT_LIMITS) -> ModelConfig:
    """Reads what ``ModelConfig.to_bytes`` writes.

    Fields of ModelPack that Sealift does not write are ignored: the config restricts nothing, and the ones that are
    read are compared with the contract by ``verified.py``.

    Raises:
        LimitError: longer than ``max_config_bytes``.
        FormatError: not strict JSON, or a missing or ill-typed field.
    """
    fields = Fields(parse_strict(data, max_bytes=limits.max_config_bytes, where=where, limits=limits), where=where)
    descriptor, config, modelfs = (fields.fields(name) for name in ("descriptor", "config", "modelfs"))
    modelfs.text("type", choices=("layers",))
    return ModelConfig(
        name=descriptor.text("name"),
        version=descriptor.text("version"),
        family=descriptor.text("family"),
        format=config.text("format"),
        precision=config.text("precision"),
        diff_ids=modelfs.items("diffIds", _read_digest, max_items=limits.max_layers),
    )


def check_config(config: ModelConfig, contract: Contract, layers: Sequence[Descriptor], *, where: str = "config") -> None:
    """Refuses a config that tells another story than the contract.

    Raises:
        FormatError: the first field that differs.
    """
    expected = ModelConfig.of(contract, layers)
    for field in ("name", "version", "family", "format", "precision", "diff_ids"):
        if getattr(config, field) != getattr(expected, field):
            raise FormatError(
                f"config and contract differ in '{field}'",
                code="config_mismatch",
                where=where,
                expected=ascii(getattr(expected, field))[:200],
                actual=ascii(getattr(config, field))[:200],
            )


def _one_of(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else "mixed"


def _read_digest(value: object, where: str) -> Digest:
    return Digest.parse(value, where=where)
