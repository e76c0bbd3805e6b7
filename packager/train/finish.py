"""The end of every technique that trains: the module becomes ONNX again, in the packager's normal form.

Also the only place that knows how a technique's result is put together: new bytes, the module that they come from, one more
entry of evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from packager.data import Dataset
from packager.export import export_to_onnx
from packager.torch_run import torch_reproducible
from packager.train.need import count_parameters
from packager.train.rows import make_rows

if TYPE_CHECKING:
    from packager.technique import Compressed


def finish(
    model: Compressed, module: Any, example: Dataset, *, technique: str, seed: int, evidence: Mapping[str, object]
) -> Compressed:
    """Exports ``module`` and hands it on with its bytes.

    Args:
        model: what the technique was given.
        module: what it made of it.
        example: rows to trace and to compare with.
        technique: its name.
        seed: of the export, which draws nothing; only so that nothing else does.
        evidence: what it did.

    Raises:
        UsageError: the module cannot be exported, or the file computes something else.
    """
    data = export_normal_form(module, example, technique=technique, seed=seed)
    facts: dict[str, object] = {"technique": technique, **evidence}
    if model.module is not None:
        facts["parameters"] = {"before": count_parameters(model.module), "after": count_parameters(module)}
    facts["bytes"] = {"before": len(model.data), "after": len(data)}
    return replace(model, data=data, precision="fp32", evidence=(*model.evidence, facts), module=module)


def export_normal_form(module: Any, example: Dataset, *, technique: str, seed: int) -> bytes:
    """The module's ONNX file, folded and short, checked against the module."""
    from packager.prepare import prepare_onnx

    with torch_reproducible(seed):
        source = export_to_onnx(module.eval(), make_rows(module, example).example(), where=technique)
    return prepare_onnx(source, where=technique).model.data
