"""Resolves ``module:function`` given on the command line by the person who runs it.

Used by `pack` and `audit` for models and data. Not used on the device: a device never runs code named by input.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_client.errors import UsageError


def is_entry_point(text: str) -> bool:
    """True for ``module:function``, as opposed to a file name."""
    module, separator, function = text.partition(":")
    return bool(separator) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_entry_point(text: str) -> Callable[..., Any]:
    """Imports the function, with the current directory importable.

    Raises:
        UsageError: the module cannot be imported or has no such function.
    """
    module_name, _, function_name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        raise UsageError(
            "cannot import the module",
            code="entry_point",
            where=text,
            actual=f"no module named {e.name}",
            hint="run from the folder that holds the module, or install it",
        ) from e
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(
            "the module has no such function",
            code="entry_point",
            where=text,
            hint=f"define {function_name}() in {module_name}",
        )
    found: Callable[..., Any] = function
    return found
