"""The recipe: everything that decides what `pack` does, from a TOML file into frozen dataclasses.

Every key has a default; an unknown key is an error. The recipe's digest is taken over the effective values, defaults
included, so it names what was done and not how the file was written. A recipe without techniques asks for a search
(``packager.auto``); what that chose is a recipe with techniques, and that one is what a bundle carries.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from device_client.bundle.contract import Budget
from device_client.bundle.digest import Digest
from device_client.bundle.preprocessing import PreprocessingStep, read_step
from device_client.bundle.strict_json import canonical_json
from device_client.errors import FormatError, UsageError
from packager.auto.settings import AutoPlan
from packager.golden_plan import GoldenPlan
from packager.ptq.static import Int8Static
from packager.tasks.choose import METRICS, TASKS
from packager.technique import TechniqueStep, read_technique
from packager.toml_table import TomlTable
from packager.training_plan import TrainingPlan

SCHEMA = 1
MAX_RECIPE_BYTES = 256 * 1024
METRIC_NAMES = ("auto", *sorted({name for names in METRICS.values() for name in names}))
ENCODINGS = ("zstd", "codebook")
DEFAULT_BUDGET = Budget(accuracy_drop=0.005, ram_bytes=256 * 1024 * 1024, latency_ratio=1.5)


@dataclass(frozen=True)
class DataPlan:
    """How data without a ``split`` column is divided; the rest of the shares is the test part.

    ``synthetic_rows``: how many rows are made up where there is no data.
    """

    calibration_share: float = 0.2
    validation_share: float = 0.2
    max_calibration_rows: int = 512
    synthetic_rows: int = 1000


@dataclass(frozen=True)
class TensorMeaning:
    """What a person says about an input or output: text, and the closed interval of its values if known."""

    meaning: str = ""
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class LatencyPlan:
    """Rounds of the interleaved latency measurement; 0 leaves it out."""

    rounds: int = 30


@dataclass(frozen=True)
class StoragePlan:
    """How model layers may be stored; none: as they are. The smallest form is taken, where it saves."""

    encodings: tuple[str, ...] = ENCODINGS


@dataclass(frozen=True)
class Card:
    """What the model card says and no measurement can."""

    description: str = ""
    licence: str = ""
    intended_use: str = ""
    limitations: str = ""


@dataclass(frozen=True)
class Recipe:
    """One reproducible way from a model and data to a bundle.

    ``techniques``: of the first variant. ``further``: of each other variant. ``auto``: how to search for techniques instead.
    """

    task: str = "auto"
    metric: str = "auto"
    output: str = ""
    seed: int = 0
    include_original: bool = False
    techniques: tuple[TechniqueStep, ...] = (TechniqueStep("int8-static", Int8Static()),)
    further: tuple[tuple[TechniqueStep, ...], ...] = ()
    auto: AutoPlan | None = None
    data: DataPlan = DataPlan()
    train: TrainingPlan = field(default_factory=TrainingPlan)
    budget: Budget = DEFAULT_BUDGET
    golden: GoldenPlan = field(default_factory=GoldenPlan)
    latency: LatencyPlan = LatencyPlan()
    storage: StoragePlan = StoragePlan()
    inputs: dict[str, TensorMeaning] = field(default_factory=dict)
    outputs: dict[str, TensorMeaning] = field(default_factory=dict)
    preprocessing: tuple[PreprocessingStep, ...] = ()
    card: Card = Card()

    def to_json(self) -> dict[str, object]:
        """The effective recipe, as it stands in the report."""
        return {
            "schema": SCHEMA,
            "task": self.task,
            "metric": self.metric,
            "output": self.output,
            "seed": self.seed,
            "include_original": self.include_original,
            **self._what_to_do(),
            "data": dict(vars(self.data)),
            "train": dict(vars(self.train)),
            "budget": self.budget.to_json(),
            "golden": dict(vars(self.golden)),
            "latency": dict(vars(self.latency)),
            "storage": {"encodings": list(self.storage.encodings)},
            "inputs": {name: _meaning_json(value) for name, value in sorted(self.inputs.items())},
            "outputs": {name: _meaning_json(value) for name, value in sorted(self.outputs.items())},
            "preprocessing": [step.to_json() for step in self.preprocessing],
            "card": dict(vars(self.card)),
        }

    def _what_to_do(self) -> dict[str, object]:
        if self.auto is not None:
            return {"auto": _plain(self.auto)}
        further = [{"technique": [step.to_json() for step in chain]} for chain in self.further]
        return {"technique": [step.to_json() for step in self.techniques], **({"variant": further} if further else {})}

    def digest(self) -> Digest:
        """Digest of the effective values."""
        return Digest.of(canonical_json(self.to_json()))


def load_recipe(path: Path | None) -> Recipe:
    """Reads a recipe file, or gives the default one, a search, for ``None``.

    Raises:
        UsageError: no such file, not TOML, an unknown key, or a value out of its range.
    """
    if path is None:
        return read_recipe({}, where="no recipe")
    if not path.is_file():
        raise UsageError(
            "recipe file not found", code="recipe_missing", where=str(path), hint="leave --recipe out to search for one"
        )
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise UsageError(
            "recipe file too large", code="recipe_syntax", where=str(path), expected=f"at most {MAX_RECIPE_BYTES} bytes"
        )
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(
            "the recipe is not TOML", code="recipe_syntax", where=str(path), actual=e, hint="see docs/recipes.md for an example"
        ) from e
    return read_recipe(value, where=str(path))


def read_recipe(value: object, *, where: str) -> Recipe:
    """Reads a parsed TOML document.

    Raises:
        UsageError: an unknown key, or a value of a wrong type or out of its range.
    """
    table, default = TomlTable(value, where=where), Recipe()
    table.integer("schema", SCHEMA, minimum=SCHEMA, maximum=SCHEMA)
    steps = table.list_of_tables("technique")
    further = _read_further(table)
    auto = _read_auto(table, is_search=steps is None, has_variants=bool(further))
    recipe = Recipe(
        task=table.text("task", default.task, choices=TASKS),
        metric=table.text("metric", default.metric, choices=METRIC_NAMES),
        output=table.text("output", default.output),
        seed=table.integer("seed", default.seed, minimum=0, maximum=2**32 - 1),
        include_original=table.boolean("include_original", default=default.include_original),
        techniques=tuple(read_technique(step) for step in steps or ()),
        further=further,
        auto=auto,
        data=_read_data(table.table("data")),
        train=TrainingPlan.from_toml(table.table("train")),
        budget=_read_budget(table.table("budget"), default.budget),
        golden=_read_golden(table.table("golden")),
        latency=_read_latency(table.table("latency")),
        storage=_read_storage(table.table("storage")),
        inputs={name: _read_meaning(item) for name, item in table.tables("inputs").items()},
        outputs={name: _read_meaning(item) for name, item in table.tables("outputs").items()},
        preprocessing=_read_preprocessing(table, where=where),
        card=_read_card(table.table("card")),
    )
    table.finish()
    return recipe


def _read_further(table: TomlTable) -> tuple[tuple[TechniqueStep, ...], ...]:
    found = []
    for item in table.list_of_tables("variant") or ():
        found.append(tuple(read_technique(step) for step in item.list_of_tables("technique") or ()))
        item.finish()
    return tuple(found)


def _read_auto(table: TomlTable, *, is_search: bool, has_variants: bool) -> AutoPlan | None:
    """The search, where no technique is named; naming both is a contradiction."""
    is_asked = table.has("auto")
    plan = AutoPlan.from_toml(table.table("auto"))
    if (is_asked or is_search) and (has_variants or not is_search):
        raise UsageError(
            "a recipe names techniques or asks for a search, not both",
            code="recipe_value",
            where=table.where,
            expected="[auto], or technique and [[variant]]",
            hint="remove [auto], or remove every technique; a recipe with [[variant]] needs a first technique of its own",
        )
    return plan if is_search else None


def _read_data(table: TomlTable) -> DataPlan:
    default = DataPlan()
    plan = DataPlan(
        table.number("calibration_share", default.calibration_share, minimum=0.001, maximum=0.9),
        table.number("validation_share", default.validation_share, minimum=0.0, maximum=0.9),
        table.integer("max_calibration_rows", default.max_calibration_rows, minimum=1, maximum=100_000),
        table.integer("synthetic_rows", default.synthetic_rows, minimum=10, maximum=100_000),
    )
    table.finish()
    if plan.calibration_share + plan.validation_share >= 1:
        raise UsageError(
            "no share is left for the test part",
            code="recipe_value",
            where=table.where,
            expected="calibration_share + validation_share below 1",
            actual=plan.calibration_share + plan.validation_share,
        )
    return plan


def _read_budget(table: TomlTable, default: Budget) -> Budget:
    latency_ms = table.numbers("latency_ms", minimum=1e-6, maximum=1e9)
    ratio = table.optional_number("latency_ratio", minimum=1e-6, maximum=1e6)
    budget = Budget(
        accuracy_drop=table.number("accuracy_drop", default.accuracy_drop, minimum=0.0, maximum=1.0),
        ram_bytes=table.integer("ram_bytes", default.ram_bytes, minimum=1, maximum=2**50),
        latency_ms=latency_ms,
        latency_ratio=default.latency_ratio if ratio is None and not latency_ms else ratio,
    )
    table.finish()
    return budget


def _read_golden(table: TomlTable) -> GoldenPlan:
    default = GoldenPlan()
    plan = GoldenPlan(
        table.integer("probes", default.probes, minimum=1, maximum=1024),
        table.integer("max_probes", default.max_probes, minimum=1, maximum=4096),
        table.integer("max_bytes", default.max_bytes, minimum=1, maximum=32 * 1024 * 1024),
        table.integer("mutants", default.mutants, minimum=10, maximum=10_000),
        table.number("min_score", default.min_score, minimum=0.0, maximum=1.0),
    )
    table.finish()
    return plan


def _read_latency(table: TomlTable) -> LatencyPlan:
    plan = LatencyPlan(table.integer("rounds", LatencyPlan().rounds, minimum=0, maximum=10_000))
    table.finish()
    return plan


def _read_storage(table: TomlTable) -> StoragePlan:
    plan = StoragePlan(table.texts("encodings", StoragePlan().encodings))
    table.finish()
    if not set(plan.encodings) <= set(ENCODINGS) or len(set(plan.encodings)) != len(plan.encodings):
        raise UsageError(
            "wrong recipe value of 'encodings'",
            code="recipe_value",
            where=table.where,
            expected=f"some of {', '.join(ENCODINGS)}, each once",
            actual=repr(list(plan.encodings))[:80],
        )
    return plan


def _read_meaning(table: TomlTable) -> TensorMeaning:
    meaning = TensorMeaning(table.text("meaning", ""), table.optional_range("range"))
    table.finish()
    return meaning


def _read_card(table: TomlTable) -> Card:
    card = Card(*(table.text(name, "") for name in ("description", "licence", "intended_use", "limitations")))
    table.finish()
    return card


def _read_preprocessing(table: TomlTable, *, where: str) -> tuple[PreprocessingStep, ...]:
    """The contract's own reader decides what a step may be, so that a recipe cannot ask for more."""
    found = []
    for index, value in enumerate(table.list_of_raw_tables("preprocessing")):
        at = f"{where}: preprocessing[{index}]"
        try:
            found.append(read_step(value, at))
        except FormatError as e:
            raise UsageError(
                e.what, code="recipe_value", where=e.where or at, expected=e.expected, actual=e.actual, hint="see docs/recipes.md"
            ) from e
    return tuple(found)


def _plain(plan: AutoPlan) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(plan).items()}


def _meaning_json(value: TensorMeaning) -> dict[str, object]:
    return {"meaning": value.meaning, "range": None if value.range is None else list(value.range)}
