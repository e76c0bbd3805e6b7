"""The release counter ``[epoch, n]``: what makes a downgrade visible whatever the version is called."""

from __future__ import annotations

import re
from dataclasses import dataclass

from device_client.errors import FormatError

_TEXT = re.compile(r"(0|[1-9][0-9]{0,9})\.(0|[1-9][0-9]{0,9})\Z")
_END = 2**31


@dataclass(frozen=True, order=True)
class Counter:
    """``epoch`` and ``n``, each in [0, 2**31); ordered by epoch first (DESIGN 3)."""

    epoch: int
    n: int

    def __post_init__(self) -> None:
        for part in (self.epoch, self.n):
            if type(part) is not int or not 0 <= part < _END:
                raise FormatError("counter out of range", code="counter_syntax", expected="integers in [0, 2^31)", actual=self)

    @classmethod
    def parse(cls, text: str) -> Counter:
        """Reads the command line's ``E.N``.

        Raises:
            FormatError: not two plain non-negative integers.
        """
        match = _TEXT.match(text)
        if not match:
            raise FormatError("not a counter", code="counter_syntax", expected="E.N, for example 0.1", actual=repr(text)[:60])
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def from_json(cls, value: object, *, where: str) -> Counter:
        """Reads the JSON form ``[epoch, n]``.

        Raises:
            FormatError: not a list of two integers in range.
        """
        if not isinstance(value, list) or len(value) != 2 or any(type(part) is not int for part in value):
            raise FormatError("not a counter", code="counter_syntax", where=where, expected="[epoch, n]", actual=repr(value)[:60])
        return cls(value[0], value[1])

    def to_json(self) -> list[int]:
        """The JSON form ``[epoch, n]``."""
        return [self.epoch, self.n]

    def __str__(self) -> str:
        return f"{self.epoch}.{self.n}"
