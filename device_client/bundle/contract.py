"""The contract: what a bundle claims to be, needs, and promises. The first layer of every bundle.

Frozen types and their JSON form; ``contract_reader.py`` holds the rules of reading. Everything here is a claim of the
release role until ``verified.py`` has compared it with the manifest, and ``device_client.trust`` with what was signed.

    contract = parse_contract(data)                 # or a VerificationError
    contract.variant("int8-static").model.digest    # the bytes that the runtime gets, and that audits attest
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.features import KNOWN_ENCODINGS
from device_client.bundle.path import BundlePath
from device_client.bundle.preprocessing import PreprocessingStep
from device_client.bundle.strict_json import canonical_json
from device_client.errors import FormatError
from device_client.limits import DEFAULT_LIMITS, Limits

SCHEMA = "1.0"
"""``major.minor`` that ``to_bytes`` writes. A reader takes every minor of major 1 and refuses other majors."""

ToleranceKind = Literal["exact", "one_lsb", "absolute"]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the model as the runtime sees it.

    ``shape`` has an integer per fixed dimension and a name per dynamic one; ``range`` is the closed interval that
    values stay in, if promised. ``meaning`` is text for people.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str
    range: tuple[float, float] | None = None

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        value: dict[str, object] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "meaning": self.meaning}
        if self.range is not None:
            value["range"] = list(self.range)
        return value


@dataclass(frozen=True)
class Requires:
    """What a device must have to run a variant. Empty ``arch``, ``cpu_features`` or ``providers``: any will do.

    ``cpu_features`` are all needed; one of ``arch`` and one of ``providers`` is. ``ram_bytes`` is the peak of the
    process that runs the model.
    """

    arch: tuple[str, ...] = ()
    cpu_features: tuple[str, ...] = ()
    ram_bytes: int = 0
    providers: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "arch": list(self.arch),
            "cpu_features": list(self.cpu_features),
            "ram_bytes": self.ram_bytes,
            "providers": list(self.providers),
        }


@dataclass(frozen=True)
class Expected:
    """The metric that the release engineer measured on held-out data, with its interval (same unit, low then high)."""

    metric: str
    value: float
    interval: tuple[float, float]

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {"metric": self.metric, "value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True)
class ModelRef:
    """The bytes that the runtime gets: what a device stores, hashes at load, and what audits attest."""

    digest: Digest
    size: int

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {"digest": str(self.digest), "size": self.size}


@dataclass(frozen=True)
class Variant:
    """One form of the model. ``layer`` is the blob as stored, ``model`` the same after decoding."""

    id: str
    runtime: str
    format: str
    opset: int
    precision: str
    layer: Digest
    model: ModelRef
    requires: Requires
    expected: Expected

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "id": self.id,
            "runtime": self.runtime,
            "format": self.format,
            "opset": self.opset,
            "precision": self.precision,
            "layer": str(self.layer),
            "model": self.model.to_json(),
            "requires": self.requires.to_json(),
            "expected": self.expected.to_json(),
        }


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from its golden value: ``value`` is the largest allowed absolute difference.

    In units of the output. ``exact`` has 0.0; ``one_lsb`` says that ``value`` is one quantisation step of the output.
    """

    kind: ToleranceKind
    value: float

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {"kind": self.kind, "value": self.value}


@dataclass(frozen=True)
class Golden:
    """The golden probes: their blob, how many there are, and the tolerance of each variant."""

    layer: Digest
    count: int
    tolerances: tuple[tuple[str, Tolerance], ...]

    def tolerance(self, variant_id: str) -> Tolerance:
        """The tolerance of a variant.

        Raises:
            FormatError: there is no such variant.
        """
        for name, tolerance in self.tolerances:
            if name == variant_id:
                return tolerance
        raise FormatError("no such variant", code="variant_unknown", where="contract.golden", actual=repr(variant_id)[:80])

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "layer": str(self.layer),
            "count": self.count,
            "tolerances": {name: tolerance.to_json() for name, tolerance in self.tolerances},
        }


@dataclass(frozen=True)
class Budget:
    """What the recipe allows; declared, never measured.

    ``accuracy_drop``: fraction in [0, 1]. ``latency_ms``: milliseconds for one inference, per named device class.
    ``latency_ratio``: to the model that is active on the device.
    """

    accuracy_drop: float
    ram_bytes: int
    latency_ms: tuple[tuple[str, float], ...] = ()
    latency_ratio: float | None = None

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        value: dict[str, object] = {"accuracy_drop": self.accuracy_drop, "ram_bytes": self.ram_bytes}
        if self.latency_ms:
            value["latency_ms"] = dict(self.latency_ms)
        if self.latency_ratio is not None:
            value["latency_ratio"] = self.latency_ratio
        return value


@dataclass(frozen=True)
class Lineage:
    """Where the bundle comes from: digests of source model, recipe and data sets, and versions of the tools."""

    source: Digest
    recipe: Digest
    datasets: tuple[tuple[str, Digest], ...] = ()
    tools: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "source": str(self.source),
            "recipe": str(self.recipe),
            "datasets": {name: str(digest) for name, digest in self.datasets},
            "tools": dict(self.tools),
        }


@dataclass(frozen=True)
class Contract:
    """All of it. Maps are held as pairs sorted by name, so that equal contracts compare equal."""

    line: str
    model: str
    version: str
    counter: Counter
    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: tuple[PreprocessingStep, ...]
    variants: tuple[Variant, ...]
    golden: Golden
    budget: Budget
    lineage: Lineage
    features: tuple[str, ...] = ()

    @property
    def path(self) -> BundlePath:
        """``line/model/version``."""
        return BundlePath(self.line, self.model, self.version)

    def variant(self, variant_id: str) -> Variant:
        """The variant with this id.

        Raises:
            FormatError: there is none.
        """
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        raise FormatError(
            "no such variant",
            code="variant_unknown",
            where="contract.variants",
            expected=" | ".join(variant.id for variant in self.variants),
            actual=repr(variant_id)[:80],
        )

    def to_bytes(self) -> bytes:
        """The canonical bytes, after reading them back: a contract that a reader would refuse is never written.

        Raises:
            VerificationError: what ``parse_contract`` says about them.
        """
        data = canonical_json(
            {
                "schema": SCHEMA,
                "line": self.line,
                "model": self.model,
                "version": self.version,
                "counter": self.counter.to_json(),
                "task": self.task,
                "inputs": [spec.to_json() for spec in self.inputs],
                "outputs": [spec.to_json() for spec in self.outputs],
                "preprocessing": [step.to_json() for step in self.preprocessing],
                "variants": [variant.to_json() for variant in self.variants],
                "golden": self.golden.to_json(),
                "budget": self.budget.to_json(),
                "lineage": self.lineage.to_json(),
                "features": list(self.features),
            }
        )
        parse_contract(data, encodings=KNOWN_ENCODINGS)
        return data


def parse_contract(
    data: bytes, *, where: str = "contract", encodings: Collection[str] = (), limits: Limits = DEFAULT_LIMITS
) -> Contract:
    """Reads a contract and checks everything that can be said without the manifest.

    Args:
        data: its bytes.
        where: for errors.
        encodings: what the caller decodes, or looks after otherwise; the features ``encoding:<name>`` of others are unknown to it.
        limits: bounds of sizes and numbers.

    Raises:
        LimitError: longer than ``max_contract_bytes`` or too deep.
        FormatError: syntax, another major schema, an unknown feature, a missing, ill-typed or contradictory field.
    """
    from device_client.bundle.contract_reader import read_contract  # the reader imports the types above

    return read_contract(data, where=where, encodings=encodings, limits=limits)
