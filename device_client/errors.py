"""The one tree of errors: what failed, where, expected and actual, and the remedy.

Every error carries a stable ``code`` (listed in ``docs/errors.md``) and the exit status of the command line.
Libraries raise these and never print or exit. Wrong use by a programmer stays ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations


class SealiftError(Exception):
    """Base of all expected failures.

    Args:
        what: what failed, in lower case, without a final period and without secrets.
        code: stable machine-readable reason, ``snake_case``.
        where: file, role, URL or step.
        expected: the value the rule asks for.
        actual: the value that was found.
        hint: the remedy, one imperative sentence.
    """

    exit_status = 1

    def __init__(
        self,
        what: str,
        *,
        code: str,
        where: str | None = None,
        expected: object | None = None,
        actual: object | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.code = code
        self.where = where
        self.expected = expected
        self.actual = actual
        self.hint = hint
        super().__init__(self._message())

    def _message(self) -> str:
        text = self.what
        if self.expected is not None and self.actual is not None:
            text += f": expected {self.expected}, got {self.actual}"
        elif self.expected is not None:
            text += f": expected {self.expected}"
        elif self.actual is not None:
            text += f": got {self.actual}"
        return f"{text} ({self.where})" if self.where else text

    def to_json(self) -> dict[str, str | None]:
        """The error as a flat record for ``--json`` and for reports."""
        return {
            "code": self.code,
            "error": self.what,
            "where": self.where,
            "expected": None if self.expected is None else str(self.expected),
            "actual": None if self.actual is None else str(self.actual),
            "hint": self.hint,
        }


class UsageError(SealiftError):
    """The person gave a wrong option, file or recipe; nothing was changed."""

    exit_status = 2


class MissingExtraError(UsageError):
    """An optional dependency is not installed; the hint is the install line."""

    def __init__(self, extra: str, *, missing: str) -> None:
        super().__init__(
            f"this command needs the extra '{extra}'",
            code="missing_extra",
            where=f"module {missing} is not installed",
            hint=f"pip install 'sealift[{extra}]'",
        )


class VerificationError(SealiftError):
    """Something from outside does not hold; never retried, downgraded or skipped."""


class FormatError(VerificationError):
    """Bytes that are not what the format says: syntax, type, unknown required feature."""


class LimitError(VerificationError):
    """Input beyond its limit (``limits.Limits``); reading stopped there."""


class IntegrityError(VerificationError):
    """Bytes whose digest or size differs from what was signed."""


class TrustError(VerificationError):
    """Signed metadata that does not prove what it must: signature, role, rollback, agreement."""


class PolicyError(VerificationError):
    """Verified, but this device's policy, memory or hardware does not accept it."""


class SelfTestError(VerificationError):
    """The model did not reproduce its golden probes, or its child process died or ran over a limit."""


class TransportError(SealiftError):
    """The network or the remote side failed; may be retried with a bound."""


class StateError(SealiftError):
    """The state on this machine (database, store, lock) is missing, foreign or damaged."""
