"""Writes an LZMA stream that holds literals only: the same bytes whatever library a machine has, and a reader's second opinion.

Raw LZMA (the form of 7-Zip's ``lzma-specification``) with lc = lp = pb = 0 and an end marker, without any header. No matches are
sought, so it is larger than what a real encoder makes; every decoder reads it.
"""

from __future__ import annotations

_TOP = 1 << 24
_BITS = 11


class _RangeCoder:
    def __init__(self) -> None:
        self.out = bytearray()
        self._low = 0
        self._range = 0xFFFFFFFF
        self._cache = 0
        self._waiting = 1

    def bit(self, probabilities: dict[object, int], context: object, bit: int) -> None:
        probability = probabilities.setdefault(context, 1 << (_BITS - 1))
        bound = (self._range >> _BITS) * probability
        if bit:
            self._low += bound
            self._range -= bound
            probabilities[context] = probability - (probability >> 5)
        else:
            self._range = bound
            probabilities[context] = probability + (((1 << _BITS) - probability) >> 5)
        self._normalise()

    def direct(self, bit: int) -> None:
        self._range >>= 1
        if bit:
            self._low += self._range
        self._normalise()

    def finish(self) -> bytes:
        for _ in range(5):
            self._shift()
        return bytes(self.out)

    def _normalise(self) -> None:
        while self._range < _TOP:
            self._range = (self._range << 8) & 0xFFFFFFFF
            self._shift()

    def _shift(self) -> None:
        if self._low < 0xFF000000 or self._low > 0xFFFFFFFF:
            carry = self._low >> 32
            for index in range(self._waiting):
                self.out.append((self._cache if index == 0 else 0xFF) + carry & 0xFF)
            self._waiting = 0
            self._cache = self._low >> 24 & 0xFF
        self._waiting += 1
        self._low = (self._low << 8) & 0xFFFFFFFF


def lzma_literals(data: bytes, *, with_end: bool = True) -> bytes:
    """``data`` as literals; ``with_end`` writes the marker that ends the stream."""
    coder = _RangeCoder()
    probabilities: dict[object, int] = {}
    for byte in data:
        coder.bit(probabilities, "is match", 0)
        node = 1
        for shift in range(7, -1, -1):
            bit = byte >> shift & 1
            coder.bit(probabilities, ("literal", node), bit)
            node = node << 1 | bit
    if with_end:  # a match of length 2 at the distance that means the end
        coder.bit(probabilities, "is match", 1)
        coder.bit(probabilities, "is repeated", 0)
        coder.bit(probabilities, "length choice", 0)
        for depth in range(3):
            coder.bit(probabilities, ("length", 1 << depth), 0)
        for depth in range(6):
            coder.bit(probabilities, ("slot", (1 << depth) - 1), 1)
        for _ in range(26):
            coder.direct(1)
        for depth in range(4):
            coder.bit(probabilities, ("align", depth), 1)
    return coder.finish()
