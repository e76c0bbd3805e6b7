"""Changes to a protobuf message that keep its lengths right: fields are removed, doubled, moved, renumbered and rewritten.

No schema: bytes that read as a message are taken for one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

_MAX_DEPTH = 12
_INTEGERS = (0, 1, 2, 3, 5, 10, 16, 17, 127, 128, 2**16, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
_TEXTS = (
    b"", b"location", b"offset", b"length", b"secret.bin", b"../x", b"*/_ORT_MEM_ADDR_/*", b"com.microsoft", b"ai.onnx.ml",
    b"ai.onnx", b"If", b"Loop", b"Scan", b"Constant", b"Mul", b"x", b"y", b"w", b"\xff", b"a" * 300,
)  # fmt: skip


@dataclass
class Node:
    """A field; ``content`` is a number, raw bytes, or the fields of a message."""

    number: int
    wire: int
    content: int | bytes | list[Node]


def mutate_protobuf(data: bytes, rng: random.Random) -> bytes:
    """A message with one to four changes."""
    tree = _parse(data, depth=0) or []
    for _ in range(rng.choice((1, 1, 2, 4))):
        messages = _messages(tree)
        rng.choice(_CHANGES)(rng.choice(messages), messages, rng)
    return _encoded(tree)


def _parse(data: bytes, *, depth: int) -> list[Node] | None:
    found: list[Node] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if at < 0 or number == 0:
            return None
        if wire == 0:
            value, at = _varint(data, at)
            node = Node(number, wire, value)
        elif wire in {1, 5}:
            width = 8 if wire == 1 else 4
            node, at = Node(number, wire, data[at : at + width]), at + width
        elif wire == 2:
            length, at = _varint(data, at)
            if at < 0 or at + length > len(data):
                return None
            content = data[at : at + length]
            inner = _parse(content, depth=depth + 1) if 1 < length < 20_000 and depth < _MAX_DEPTH else None
            node, at = Node(number, wire, content if inner is None else inner), at + length
        else:
            return None
        if at < 0 or at > len(data):
            return None
        found.append(node)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number and the position behind it, which is -1 where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if at < 0 or at >= len(data):
            return 0, -1
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    return 0, -1


def _encoded(tree: list[Node]) -> bytes:
    out = bytearray()
    for node in tree:
        out += _number(node.number << 3 | node.wire)
        if isinstance(node.content, int):
            out += _number(node.content)
        else:
            content = node.content if isinstance(node.content, bytes) else _encoded(node.content)
            out += content if node.wire != 2 else _number(len(content)) + content
    return bytes(out)


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _messages(tree: list[Node]) -> list[list[Node]]:
    """Every message of the tree, the whole one first; bounded."""
    found = [tree]
    for message in found:
        found += [node.content for node in message if isinstance(node.content, list)]
        if len(found) > 3000:
            break
    return found


def _rewrite(message: list[Node], _: list[list[Node]], rng: random.Random) -> None:
    if not message:
        return
    node = rng.choice(message)
    if isinstance(node.content, int):
        node.content = rng.choice((*_INTEGERS, node.content + 1, max(0, node.content - 1)))
    elif isinstance(node.content, bytes) and node.wire == 2:
        cut = rng.randrange(len(node.content) + 1)
        node.content = rng.choice((*_TEXTS, node.content[:cut], node.content + b"\0", node.content * 2))[:20_000]


def _remove(message: list[Node], _: list[list[Node]], rng: random.Random) -> None:
    if message:
        message.pop(rng.randrange(len(message)))


def _double(message: list[Node], messages: list[list[Node]], rng: random.Random) -> None:
    """A field of this or another message, once more."""
    source = rng.choice(messages) if rng.random() < 0.3 else message
    if source:
        node = rng.choice(source)
        again = _parse(_encoded([node]), depth=0)
        message.insert(rng.randrange(len(message) + 1), again[0] if again else Node(node.number, 0, 1))


def _add(message: list[Node], _: list[list[Node]], rng: random.Random) -> None:
    number = rng.choice((*range(1, 26), 999))
    content: int | bytes = rng.choice(_INTEGERS) if rng.random() < 0.5 else rng.choice(_TEXTS)
    message.insert(rng.randrange(len(message) + 1), Node(number, 0 if isinstance(content, int) else 2, content))


def _renumber(message: list[Node], _: list[list[Node]], rng: random.Random) -> None:
    if message:
        rng.choice(message).number = rng.choice(range(1, 26))


def _deepen(message: list[Node], _: list[list[Node]], rng: random.Random) -> None:
    """The message inside itself, through one field number, some or too many levels deep."""
    number = rng.choice(range(1, 16))
    content = _encoded(message)[:2000]
    for _level in range(rng.choice((1, 3, 70))):
        content = _number(number << 3 | 2) + _number(len(content)) + content
    message.append(Node(number, 2, content))


_CHANGES: tuple[Callable[[list[Node], list[list[Node]], random.Random], None], ...] = (
    _rewrite, _rewrite, _rewrite, _remove, _double, _double, _add, _add, _renumber, _deepen,
)  # fmt: skip
