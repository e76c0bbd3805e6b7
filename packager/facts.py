"""What is known about a pack once everything was measured: the one input of all documents in a bundle.

Contract, report, model card and bill of materials are functions of these facts alone, so none can tell another story,
and since no clock reading is among them, none can change from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from device_client.bundle.contract import TensorSpec
from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.inference.walker import CheckedModel
from packager.auto.record import SearchRecord
from packager.encode.stored import StoredModel, store_model
from packager.evaluate import Evaluation
from packager.feed import feed_rows
from packager.golden import GoldenResult
from packager.load import LoadedModel
from packager.measure.pareto import pareto_front
from packager.measure.workload import Workload, count_workload
from packager.metrics import Estimate
from packager.recipe import Recipe
from packager.split import DataParts


@dataclass(frozen=True)
class TrialRow:
    """One combination that a search tried, judged on the validation part; most never become a candidate.

    ``steps``: techniques with what matters of their settings, for people. ``bytes``, ``stored_bytes``: as the runtime gets
    it and as it is stored. ``metric``, ``drop``: values of the search's metric, ``None`` where it never got so far. ``verdict``:
    ``met``, ``unproven``, ``missed``, or ``failed``. ``note``: why it was rejected, or chosen.
    """

    id: str
    steps: tuple[str, ...]
    bytes: int
    stored_bytes: int
    metric: float | None
    drop: float | None
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """What compressing one node alone does. ``sqnr_db``: signal over quantisation noise at the output; ``drop``: of the metric."""

    node: str
    op: str
    sqnr_db: float | None = None
    drop: float | None = None


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
    """Everything that the documents are made from.

    ``candidates``: all that were judged on the test part, in order. ``recipe``: with the techniques that a search chose.
    ``search``: how it went; beside the bundle only, since its course depends on a clock. ``trials``: of that search, for the
    page. ``sensitivity``: per node, where a search or technique measured it.
    """

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
    search: SearchRecord | None = None
    trials: tuple[TrialRow, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    _stored: dict[Digest, StoredModel] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def original_workload(self) -> Workload:
        """What one inference of the original costs."""
        return self._count(self.loaded.model.data)

    @cached_property
    def workloads(self) -> Mapping[str, Workload]:
        """The same for each candidate, by id."""
        return {candidate.id: self._count(candidate.model.data) for candidate in self.candidates}

    @cached_property
    def front(self) -> frozenset[str]:
        """Ids of candidates and trials that none beats in stored size and drop at once; failed ones are never among them."""
        points = [(item.id, self.stored_bytes(item), item.evaluation.drop.value) for item in self.candidates]
        points += [
            (item.id, item.stored_bytes, item.drop) for item in self.trials if item.drop is not None and item.stored_bytes > 0
        ]
        flags = pareto_front([(size, drop) for _, size, drop in points])
        return frozenset(identity for (identity, _, _), on_front in zip(points, flags, strict=True) if on_front)

    def _count(self, data: bytes) -> Workload:
        return count_workload(data, example=feed_rows(self.loaded.model.inputs, self.parts.test.inputs))

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

    def stored_bytes(self, candidate: Candidate) -> int:
        """Size of a candidate's layer: what a device downloads."""
        return len(self.stored(candidate).data)

    @property
    def original_bytes(self) -> int:
        """Size of the original in FP32 normal form: what sizes are compared with."""
        return len(self.loaded.model.data)
