"""Writes a recipe as TOML, every setting included, so that what a search chose can be read, kept, changed and repeated.

The counterpart of ``read_recipe``: reading what this writes gives the same recipe and so the same digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from device_client.trust.files import write_new
from packager.recipe import Recipe


def recipe_path(bundle: Path) -> Path:
    """Where the recipe of a bundle folder lies."""
    return bundle.with_name(f"{bundle.name}.recipe.toml")


def write_recipe(bundle: Path, recipe: Recipe) -> Path:
    """Writes the recipe beside the bundle.

    Raises:
        UsageError: the file exists.
    """
    path = recipe_path(bundle)
    write_new(path, recipe_text(recipe).encode())
    return path


def recipe_text(recipe: Recipe) -> str:
    """The recipe as a TOML document."""
    return "\n".join(_table(recipe.to_json(), path=())) + "\n"


def _table(values: Mapping[str, object], *, path: tuple[str, ...]) -> Iterator[str]:
    """Simple values first, then tables, then arrays of tables: TOML ends a table where the next one begins."""
    for key, value in values.items():
        if value is not None and not _is_table(value) and not _is_array_of_tables(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in values.items():
        name = (*path, key)
        if _is_table(value) and isinstance(value, Mapping):
            lines = list(_table(value, path=name))
            if lines:
                yield from ("", f"[{'.'.join(map(_key, name))}]", *lines)
        elif _is_array_of_tables(value) and isinstance(value, list):
            for item in value:
                yield from ("", f"[[{'.'.join(map(_key, name))}]]", *_table(item, path=name))


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_array_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _key(key: str) -> str:
    is_bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if is_bare else _text(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    raise TypeError(f"no TOML for {type(value).__name__}")


def _text(value: str) -> str:
    """A JSON string is a TOML basic string, but for one control character that JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
