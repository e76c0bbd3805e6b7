"""What is known about a pack once everything was measured: the one input of all documents in a bundle.

Contract, report, model card and bill of materials are functions of these facts alone, so none can tell another story,
and since no clock reading is among them, none can change from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from device_client.bundle.contract import TensorSpec
from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.inference.walker import CheckedModel
from packager.encode.stored import StoredModel, store_model
from packager.evaluate import Evaluation
from packager.golden import GoldenResult
from packager.load import LoadedModel
from packager.metrics import Estimate
from packager.recipe import Recipe
from packager.split import DataParts


@dataclass(frozen=True)
class Candidate:
    """A variant that was tried. ``refused``: why it does not ship, or ``None`` if it does."""

    id: str
    model: CheckedModel
    precision: str
    evaluation: Evaluation
    evidence: tuple[dict[str, object], ...]
    refused: str | None

    @property
    def size_bytes(self) -> int:
        """Size of the bytes that the runtime gets."""
        return len(self.model.data)


@dataclass(frozen=True)
class PackFacts:
    """Everything that the documents are made from. ``candidates``: all that were tried, in order."""

    path: BundlePath
    counter: Counter
    recipe: Recipe
    loaded: LoadedModel
    parts: DataParts
    inputs: tuple[TensorSpec, ...]
    task: str
    metric: str
    original: Estimate
    candidates: tuple[Candidate, ...]
    golden: GoldenResult
    _stored: dict[Digest, StoredModel] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shipped(self) -> tuple[Candidate, ...]:
        """The variants in the bundle; the first is the one that was asked for, or the original in its place."""
        return tuple(candidate for candidate in self.candidates if candidate.refused is None)

    def stored(self, candidate: Candidate) -> StoredModel:
        """How the bundle holds a candidate, by the encodings that the recipe allows; worked out once."""
        digest = candidate.model.digest
        if digest not in self._stored:
            self._stored[digest] = store_model(candidate.model.data, encodings=self.recipe.storage.encodings)
        return self._stored[digest]

    @property
    def original_bytes(self) -> int:
        """Size of the original in FP32 normal form: what sizes are compared with."""
        return len(self.loaded.model.data)
