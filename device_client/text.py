r"""Text from outside, made safe to show on a terminal."""

from __future__ import annotations


def printable(text: str, *, keep_lines: bool = False) -> str:
    r"""``text`` with every character that is not plainly visible written as an escape such as ``\x1b``.

    Terminal control, C1, bidirectional and zero-width characters all count. ``keep_lines`` lets line ends through.
    """
    return "".join(
        character if character.isprintable() or (keep_lines and character == "\n") else ascii(character)[1:-1] for character in text
    )
