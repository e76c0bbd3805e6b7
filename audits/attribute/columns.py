"""A sensitive column as a few values: the ones that it takes, or bins of about equal numbers of records.

Bins come from members and held-outs together, so that they say nothing about membership. The values themselves are records:
they stay in memory, and results hold their number only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audits.attribute.settings import AttributeSettings
from audits.data import Floats, Integers
from device_client.errors import UsageError


@dataclass(frozen=True)
class Column:
    """One sensitive column.

    Attributes:
        index: in the input.
        name: the policy's, or the index as text.
        values: what the attacker tries: the distinct values, or the median of each bin, float32, (K,).
        codes: which of them each record has, (N,).
        binned: whether the values are medians.
    """

    index: int
    name: str
    values: Floats
    codes: Integers
    binned: bool


def find_columns(settings: AttributeSettings, *, width: int) -> tuple[tuple[int, str], ...]:
    """Index and name of each sensitive column.

    Args:
        settings: of the policy.
        width: columns of the records.

    Raises:
        UsageError: no such column, one named twice, or not as many names as columns (``attribute_column``).
    """
    if settings.columns and len(settings.columns) != width:
        raise _no_column("the policy names another number of columns", expected=width, actual=len(settings.columns))
    found = []
    for item in settings.sensitive:
        if isinstance(item, str) and item not in settings.columns:
            raise _no_column("the policy names no such column", expected="one of `columns`", actual=repr(item))
        index = settings.columns.index(item) if isinstance(item, str) else item
        if index >= width:
            raise _no_column("a column is out of range", expected=f"below {width}", actual=index)
        found.append((index, settings.columns[index] if settings.columns else str(index)))
    if len({index for index, _ in found}) != len(found):
        raise _no_column("a column is named twice", expected="each once", actual=list(settings.sensitive))
    return tuple(found)


def discretise(x: Floats, index: int, name: str, *, settings: AttributeSettings) -> Column | str:
    """The column's values and codes, or why it cannot be attacked.

    Args:
        x: records, (N, F).
        index: of the column.
        name: for people.
        settings: ``max_values`` and ``bins``.
    """
    given = x[:, index]
    values, codes = np.unique(given, return_inverse=True)
    if len(values) < 2:
        return f"column {name} has one value only"
    if len(values) <= settings.max_values:
        return Column(index, name, values.astype(np.float32), codes.reshape(-1).astype(np.int64), binned=False)
    edges = np.unique(np.quantile(given.astype(np.float64), np.linspace(0, 1, settings.bins + 1)[1:-1]))
    raw = np.searchsorted(edges, given.astype(np.float64), side="right")
    _, bins = np.unique(raw, return_inverse=True)
    bins = bins.reshape(-1)
    if bins.max() == 0:
        return f"column {name} has one value in almost all records"
    medians = np.array([np.median(given[bins == code]) for code in range(bins.max() + 1)], dtype=np.float32)
    return Column(index, name, medians, bins.astype(np.int64), binned=True)


def _no_column(what: str, *, expected: object, actual: object) -> UsageError:
    return UsageError(
        what,
        code="attribute_column",
        where="policy, section attribute",
        expected=expected,
        actual=actual,
        hint="name the columns of the model's input in `columns`, or use indices from 0",
    )
