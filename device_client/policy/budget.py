"""Did the self-test stay within what the release signed for: memory of the process, and time of one inference?

The contract's budget is declared by the release engineer. A named class of device has milliseconds; any other is held to the
ratio to the model that runs here, both measured on this machine with its own probes. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from device_client.bundle.contract import Budget
from device_client.errors import SelfTestError

NOTICEABLE_MS = 0.1
"""Below this difference two latencies count as equal: a ratio of microseconds says more about the clock than about a model."""


@dataclass(frozen=True)
class Measured:
    """What the self-test measured: peak resident bytes of its process, median milliseconds of one inference."""

    peak_bytes: int
    latency_ms: float


def check_memory_budget(budget: Budget, measured: Measured) -> None:
    """The process that ran the model needed no more memory than was signed for.

    Raises:
        SelfTestError: ``selftest_over_memory``.
    """
    if measured.peak_bytes > budget.ram_bytes:
        raise SelfTestError(
            "the model needs more memory than its release signed for",
            code="selftest_over_memory",
            where="budget.ram_bytes",
            expected=f"at most {budget.ram_bytes} bytes",
            actual=f"{measured.peak_bytes} bytes",
        )


def latency_limit_ms(budget: Budget, *, device_class: str, active_ms: float | None) -> float | None:
    """Milliseconds that one inference may take here; None where the budget says nothing about this device."""
    named = dict(budget.latency_ms).get(device_class)
    if named is not None:
        return named
    if budget.latency_ratio is None or active_ms is None:
        return None
    return max(active_ms * budget.latency_ratio, active_ms + NOTICEABLE_MS)


def check_latency(measured: Measured, limit_ms: float | None) -> None:
    """One inference is as fast as was signed for.

    Raises:
        SelfTestError: ``selftest_slow``.
    """
    if limit_ms is not None and measured.latency_ms > limit_ms:
        raise SelfTestError(
            "the model is slower than its release signed for",
            code="selftest_slow",
            where="budget.latency",
            expected=f"at most {limit_ms:.3f} ms",
            actual=f"{measured.latency_ms:.3f} ms",
        )
