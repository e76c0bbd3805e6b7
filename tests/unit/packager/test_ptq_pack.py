"""Every technique's result is a variant that ships: sealed, self-tested, and open to golden probes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packager.pack import pack
from packager.ptq.dynamic import Int8Dynamic
from packager.ptq.equalise import Equalise
from packager.ptq.fp16 import Fp16
from packager.ptq.static import Int8Static
from packager.ptq.weight_only import WeightOnly
from packager.recipe import LatencyPlan
from packager.technique import TechniqueStep

from .models import pack_request


@pytest.mark.parametrize(
    ("steps", "ratio"),
    [
        pytest.param([("int8-static", Int8Static(rounding="gptq", bias_correction=True))], 2.4, id="static"),
        pytest.param([("equalise", Equalise()), ("int8-static", Int8Static(format="qoperator"))], 2.4, id="equalised"),
        pytest.param([("int8-dynamic", Int8Dynamic())], 2.3, id="dynamic"),
        pytest.param([("weight-only", WeightOnly())], 3.0, id="weights of 8 bits"),
        pytest.param([("gptq", WeightOnly(bits=4, block=32, method="gptq"))], 4.0, id="weights of 4 bits"),
        pytest.param([("fp16", Fp16())], 1.9, id="half precision"),
    ],
)
def test_the_result_ships_smaller_and_its_probes_catch_defects(
    trained: Path, tmp_path: Path, steps: list[tuple[str, Any]], ratio: float
) -> None:
    request = pack_request(trained, tmp_path / "bundle")
    techniques = tuple(TechniqueStep(name, config) for name, config in steps)
    recipe = replace(request.recipe, techniques=techniques, latency=LatencyPlan(rounds=0))
    facts = pack(replace(request, recipe=recipe)).facts
    variant = facts.shipped[0]
    assert variant.id == "-".join(name for name, _ in steps)
    assert facts.original_bytes / variant.size_bytes > ratio
    assert variant.evaluation.drop.value < 0.02
    assert facts.golden.worst_share > 0.9
