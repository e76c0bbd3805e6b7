"""Changes to a JSON document that leave it JSON: another value, key or order in one or a few places.

Plain byte changes nearly always end in the parser; these get to the rules behind it.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

INTERESTING: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 0.0, -0.0, 0.5, 1e308, 1e-320, "", "a", "..", "channel",
    "1.0.0", "a" * 65, "\x00", "\x1b[2J", "\u202e", "é", "sha256:" + "0" * 64, "sha256:" + "A" * 64, "2026-06-01T12:00:00Z",
    "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2026-02-30T00:00:00Z", [], {}, [0, 0], [0, 1], [1, 0], [[]], {"": None},
)  # fmt: skip
NAMES = ("schema", "digest", "size", "length", "urls", "data", "subject", "features", "counter", "floor", "custom", "annotations")


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """A document with one to four changes; of no JSON, a document made of one interesting value."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = _interesting(rng)
    box = [value]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(box, rng)
    try:
        text = json.dumps(box[0], ensure_ascii=rng.random() < 0.2, separators=rng.choice(((",", ":"), (", ", ": "))))
    except (ValueError, RecursionError):
        return data
    if rng.random() < 0.05:
        text = _double_a_key(text, rng)
    return text.encode("utf-8", "surrogatepass")


def _interesting(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(INTERESTING))  # later changes go into it


def _change(box: list[Any], rng: random.Random) -> None:
    places = _places(box)
    holder, key = rng.choice(places)
    rng.choice(_CHANGES)(holder, key, places, rng)


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of the document; bounded, so that a large one does not slow the run."""
    found: list[tuple[Any, Any]] = []
    waiting = [root]
    while waiting and len(found) < 2000:
        at = waiting.pop()
        keys = list(at) if isinstance(at, dict) else range(len(at))
        for key in keys:
            found.append((at, key))
            if isinstance(at[key], (dict, list)):
                waiting.append(at[key])
    return found


Places = list[tuple[Any, Any]]


def _set(holder: Any, key: Any, _: Places, rng: random.Random) -> None:
    holder[key] = _interesting(rng)


def _nudge(holder: Any, key: Any, _: Places, rng: random.Random) -> None:
    value = holder[key]
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        letter = rng.choice("a0.-_/:Z \n\x7fé" + chr(rng.randrange(32, 127)))
        holder[key] = rng.choice((value[:at] + letter + value[at:], value[:at] + letter + value[at + 1 :], value[:at], value * 2))
    elif isinstance(value, bool) or value is None:
        holder[key] = rng.choice((True, False, None))
    elif isinstance(value, (int, float)):
        holder[key] = rng.choice((value + 1, value - 1, -value, value * 2, float(value) if abs(value) < 1e300 else 0, value // 2))
    else:
        _set(holder, key, [], rng)


def _remove(holder: Any, key: Any, places: Places, rng: random.Random) -> None:
    if holder is not places[0][0]:  # never the document itself
        del holder[key]


def _copy(holder: Any, key: Any, places: Places, rng: random.Random) -> None:
    """A value of the document in another place: digests, names and objects where another one belongs."""
    other, name = rng.choice(places)
    holder[key] = copy.deepcopy(other[name])


def _insert(holder: Any, key: Any, places: Places, rng: random.Random) -> None:
    other, name = rng.choice(places)
    value = _interesting(rng) if rng.random() < 0.5 else copy.deepcopy(other[name])
    if isinstance(holder, dict):
        holder[rng.choice((*NAMES, str(name), f"{key}x"))] = value
    else:
        holder.insert(key, value)


def _nest(holder: Any, key: Any, _: Places, rng: random.Random) -> None:
    for _level in range(rng.choice((1, 2, 31, 33))):
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}


def _shuffle(holder: Any, key: Any, _: Places, rng: random.Random) -> None:
    if isinstance(holder, list):
        rng.shuffle(holder)
    else:
        _nudge(holder, key, [], rng)


_CHANGES: tuple[Callable[[Any, Any, Places, random.Random], None], ...] = (
    _set, _set, _nudge, _nudge, _nudge, _remove, _copy, _copy, _insert, _nest, _shuffle,
)  # fmt: skip


def _double_a_key(text: str, rng: random.Random) -> str:
    """The first member of some object, once more: what a lenient reader takes the last of."""
    starts = [at for at, letter in enumerate(text) if letter == "{"]
    at = rng.choice(starts) + 1 if starts else 0
    return f'{text[:at]}"{rng.choice(NAMES)}":0,"{rng.choice(NAMES)}":0,{text[at:]}' if at else text
