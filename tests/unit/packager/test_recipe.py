from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import sealift
from device_client.bundle.preprocessing import Scale
from device_client.errors import UsageError
from packager.auto.settings import AutoPlan
from packager.ptq.static import Int8Static
from packager.recipe import Recipe, load_recipe, read_recipe
from packager.technique import TechniqueStep

FULL = """
schema = 1
task = "classification"
seed = 7
include_original = true

[[technique]]
name = "int8-static"
calibration = "percentile"
reduce_range = false
exclude_ops = ["Add"]

[data]
calibration_share = 0.1
max_calibration_rows = 50

[budget]
accuracy_drop = 0.02
ram_bytes = 1000000
[budget.latency_ms]
"raspberry-pi-4" = 12.5

[inputs.x]
meaning = "grey image"
range = [0, 1]

[[preprocessing]]
op = "scale"
input = "x"
factor = 0.0625
offset = 0.0

[card]
licence = "Apache-2.0"
"""


def load(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    return load_recipe(path)


def test_without_a_file_it_is_a_search() -> None:
    recipe = load_recipe(None)
    assert recipe.auto == AutoPlan()
    assert recipe.techniques == ()


def test_a_recipe_with_techniques_is_no_search(tmp_path: Path) -> None:
    recipe = load(tmp_path, "[[technique]]\nname = 'int8-static'\n[[variant]]\n[[variant.technique]]\nname = 'int8-static'")
    assert recipe.auto is None
    assert recipe.techniques == recipe.further[0] == (TechniqueStep("int8-static", Int8Static()),)


@pytest.mark.parametrize("text", ["technique = []\n[auto]", "[[variant]]", "[auto]\n[[technique]]\nname = 'int8-static'"])
def test_a_recipe_that_names_techniques_and_asks_for_a_search_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="not both"):
        load(tmp_path, text)


@pytest.mark.parametrize("text", ["[auto]\nclasses = []", "[auto]\nclasses = ['mars']", "[auto]\nprefer = 'luck'", "[auto]\nx = 1"])
def test_wrong_settings_of_a_search_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        load(tmp_path, text)


def test_every_key_arrives(tmp_path: Path) -> None:
    recipe = load(tmp_path, FULL)
    assert (recipe.task, recipe.seed, recipe.include_original) == ("classification", 7, True)
    assert recipe.techniques[0].config == Int8Static(calibration="percentile", reduce_range=False, exclude_ops=("Add",))
    assert recipe.budget.latency_ms == (("raspberry-pi-4", 12.5),)
    assert recipe.budget.latency_ratio is None
    assert recipe.inputs["x"].range == (0.0, 1.0)
    assert recipe.preprocessing == (Scale("x", 0.0625, 0.0),)


def test_the_digest_names_effective_values_and_not_the_writing(tmp_path: Path) -> None:
    plain = load(tmp_path, "[[technique]]\nname='int8-static'\n")
    assert (
        load(tmp_path, "# a comment\nseed = 0\n[[technique]]\nname='int8-static'\n").digest() == plain.digest() == Recipe().digest()
    )
    assert load(tmp_path, "seed = 1").digest() != load(tmp_path, "").digest() != plain.digest()


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        pytest.param("sead = 1", "recipe_key", "did you mean 'seed'?", id="misspelt key"),
        pytest.param("[budget]\naccuracy = 1", "recipe_key", "accuracy_drop", id="misspelt key in a table"),
        pytest.param('[[technique]]\nname = "int8-static"\nbits = 4', "recipe_key", "remove the key", id="unknown setting"),
        pytest.param('[[technique]]\nname = "int4"', "recipe_technique", "int8-static", id="unknown technique"),
        pytest.param("[[technique]]", "recipe_technique", "int8-static", id="technique without a name"),
        pytest.param('technique = "int8-static"', "recipe_value", "", id="technique as a string"),
        pytest.param("schema = 2", "recipe_value", "", id="a later schema"),
        pytest.param('seed = "1"', "recipe_value", "", id="text for a number"),
        pytest.param("seed = true", "recipe_value", "", id="boolean for a number"),
        pytest.param("seed = -1", "recipe_value", "", id="negative seed"),
        pytest.param('task = "ranking"', "recipe_value", "", id="unknown task"),
        pytest.param("[budget]\naccuracy_drop = 1.5", "recipe_value", "", id="drop above one"),
        pytest.param("[budget]\naccuracy_drop = nan", "recipe_value", "", id="not a number"),
        pytest.param('[storage]\nencodings = ["delta"]', "recipe_value", "", id="an encoding that nobody produces"),
        pytest.param('[storage]\nencodings = ["zstd", "zstd"]', "recipe_value", "", id="an encoding twice"),
        pytest.param("[inputs.x]\nrange = [1, 0]", "recipe_value", "", id="range the wrong way round"),
        pytest.param("[inputs.x]\nrange = [-inf, 0]", "recipe_value", "", id="infinite range"),
        pytest.param("data = 3", "recipe_type", "", id="number for a table"),
        pytest.param("[data]\ncalibration_share = 0.5\nvalidation_share = 0.5", "recipe_value", "", id="nothing left to test"),
        pytest.param('[[preprocessing]]\nop = "python"', "recipe_value", "docs/recipes.md", id="unknown preprocessing"),
        pytest.param("seed = ", "recipe_syntax", "docs/recipes.md", id="not TOML"),
    ],
)
def test_a_wrong_recipe_names_the_file_and_the_remedy(tmp_path: Path, text: str, code: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    error = caught.value
    assert error.code == code
    assert "recipe.toml" in str(error)
    assert says in f"{error.hint} {error.expected}"


def test_a_missing_recipe_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(tmp_path / "none.toml")
    assert caught.value.code == "recipe_missing"


def test_a_recipe_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not TOML"):
        load_recipe(tmp_path / "recipe.toml")


def test_an_empty_list_of_techniques_keeps_the_original(tmp_path: Path) -> None:
    assert load(tmp_path, "technique = []").techniques == ()


def test_the_documented_recipe_reads_and_names_the_defaults() -> None:
    document = (Path(sealift.__file__).parent / "docs/recipes.md").read_text()
    value = tomllib.loads(document.split("```toml\n")[1].split("```")[0])
    documented = read_recipe(value, where="docs/recipes.md")
    default = Recipe()
    assert (documented.task, documented.seed, documented.techniques) == (default.task, default.seed, default.techniques)
    assert (documented.data, documented.golden, documented.latency) == (default.data, default.golden, default.latency)
    assert documented.budget.accuracy_drop == default.budget.accuracy_drop
    assert value["budget"]["latency_ratio"] == default.budget.latency_ratio
