"""What a new version of a role would change, in lines for the person who signs it.

Every field that differs gets a line, whatever it means: a share of devices, a floor, a verdict, a key. A signature is
on all of it, so what is not shown here is signed unread. Text from outside is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tuf.api.metadata import Metadata

from device_client.text import printable

_HEADLINE = ("version", "expires", "issued")  # in the first line, or checked against the clock


def changes_of(
    current: Metadata[Any] | None, metadata: Metadata[Any], *, describe: Callable[[str, Mapping[str, Any]], str | None]
) -> tuple[str, ...]:
    """One headline, then one line for each difference to the published version.

    Args:
        current: the published version, verified; None before the first.
        metadata: what would be signed.
        describe: what a target's bytes say, where the entry alone does not tell (a channel document).
    """
    before = current.signed.to_dict() if current else {}
    after = metadata.signed.to_dict()
    lines = [f"version {before.get('version', 'none')} -> {after['version']}, expires {after['expires']}"]
    old, new = before.get("targets", {}), after.get("targets", {})
    for path in sorted(set(old) | set(new)):
        if old.get(path) != new.get(path):
            lines.extend(_target_lines(path, old.get(path), new.get(path), describe))
    for key in sorted((set(before) | set(after)) - {"targets", *_HEADLINE}):
        if current is not None or key not in {"_type", "spec_version"}:
            lines.extend(_differences(key, before.get(key), after.get(key)))
    return tuple(printable(line) for line in lines)


def _target_lines(
    path: str,
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None,
    describe: Callable[[str, Mapping[str, Any]], str | None],
) -> Iterator[str]:
    verb = "add" if old is None else "remove" if new is None else "change"
    shown = new if new is not None else old or {}
    yield f"{verb} {path} {str(shown.get('hashes', {}).get('sha256', ''))[:12]}"
    if new is None:
        return
    for key in sorted((set(new) | set(old or {})) - {"hashes"}):
        yield from (f"  {line}" for line in _differences(key, (old or {}).get(key), new.get(key)))
    if said := describe(path, new):
        yield f"  says {said}"


def _differences(name: str, old: object, new: object) -> Iterator[str]:
    """One line for each leaf that differs; lists are leaves."""
    if old == new:
        return
    if isinstance(new, dict) and new and isinstance(old, dict | None):
        for key in sorted(set(new) | set(old or {})):
            yield from _differences(f"{name}.{key}", (old or {}).get(key), new.get(key))
    elif old is None:
        yield f"add {name} = {_text(new)}"
    elif new is None:
        yield f"remove {name} = {_text(old)}"
    else:
        yield f"change {name}: {_text(old)} -> {_text(new)}"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, sort_keys=True)
