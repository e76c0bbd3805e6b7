"""What a worker found out, as one line of JSON: written by ``worker.py``, read by the supervisor as untrusted input.

The line is bounded and its form is closed: whatever a worker prints, the supervisor gets an ``Outcome`` or a ``ValueError``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

SCHEMA = 1
MAX_BYTES = 64 * 1024
MAX_WORDS_CHARS = 200
MAX_SECONDS = 10 * 365 * 86400

ANSWERED = "answered"  # the server was reached and the poll came to its end, well or by a refusal
UNREACHABLE = "unreachable"  # no server, or one that is not well
BUSY = "busy"  # another process holds the lock
FAILED = "failed"  # this machine could not do it
KINDS = (ANSWERED, BUSY, UNREACHABLE, FAILED)  # from good to bad


@dataclass(frozen=True)
class Outcome:
    """How one run of a worker ended.

    Attributes:
        kind: one of ``KINDS``, the worst of all models.
        words: a line for each model, for the log.
        poll_s: when the server wants to be asked again, in seconds; None if it did not say.
        retry_after_s: for how long the server asked to be left alone; None if it did not.
        reports_waiting: reports that the server has not taken yet.
        is_watching: whether a bundle is on probation, so that somebody must look at it before the next poll.
    """

    kind: str
    words: tuple[str, ...] = ()
    poll_s: int | None = None
    retry_after_s: int | None = None
    reports_waiting: int = 0
    is_watching: bool = False

    def to_line(self) -> bytes:
        """The wire form: one line."""
        value = {
            "schema": SCHEMA,
            "kind": self.kind,
            "words": [words[:MAX_WORDS_CHARS] for words in self.words],
            "poll_s": self.poll_s,
            "retry_after_s": self.retry_after_s,
            "reports_waiting": self.reports_waiting,
            "is_watching": self.is_watching,
        }
        return json.dumps(value).encode() + b"\n"


def parse_outcome(data: bytes) -> Outcome:
    """Reads the wire form.

    Raises:
        ValueError: too long, not JSON, or of another form; the text says which.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ValueError("not JSON") from e
    names = {"schema", "kind", "words", "poll_s", "retry_after_s", "reports_waiting", "is_watching"}
    if not isinstance(value, dict) or set(value) != names or value["schema"] != SCHEMA or value["kind"] not in KINDS:
        raise ValueError("not an outcome of this version")
    words = value["words"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("words that are no texts")
    if not isinstance(value["is_watching"], bool):
        raise ValueError("not yes or no: is_watching")  # noqa: TRY004  # one error for all that is wrong with it
    return Outcome(
        kind=value["kind"],
        words=tuple(_printable(word) for word in words),
        poll_s=_seconds(value["poll_s"]),
        retry_after_s=_seconds(value["retry_after_s"]),
        reports_waiting=_seconds(value["reports_waiting"]) or 0,
        is_watching=value["is_watching"],
    )


def worst(kinds: list[str]) -> str:
    """The worst of several kinds; of none, ``ANSWERED``."""
    return max(kinds, key=KINDS.index, default=ANSWERED)


def _seconds(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("not a count")
    return min(value, MAX_SECONDS)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_WORDS_CHARS])
