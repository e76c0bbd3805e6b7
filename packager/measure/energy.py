"""Energy of one inference, with how it was obtained. A number without that word is worth nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["measured", "modelled", "unavailable"]


@dataclass(frozen=True)
class Energy:
    """Microjoules of one inference of one row, above idle; ``None`` where there is no figure.

    ``source``: the meter, or the profile of the model, or the reason that there is none. ``interval``: 95 %, of measured
    figures only.
    """

    value: float | None
    kind: Kind
    source: str
    interval: tuple[float, float] | None = None

    @classmethod
    def unavailable(cls, reason: str) -> Energy:
        """No figure, and why."""
        return cls(None, "unavailable", reason)

    def to_json(self) -> dict[str, object]:
        """As it stands in report and measurements; four digits, as no figure here has more."""
        value: dict[str, object] = {
            "value": None if self.value is None else _rounded(self.value),
            "unit": "microjoule",
            "kind": self.kind,
            "source": self.source,
        }
        if self.interval is not None:
            value["interval"] = [_rounded(bound) for bound in self.interval]
        return value


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
