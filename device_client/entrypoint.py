"""Resolves ``module:function`` given on the command line by the person who runs it.

Used by `pack` and `audit` for models and data. Not used on the device: a device never runs code named by input.
"""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_client.errors import SealiftError, UsageError


def is_entry_point(text: str) -> bool:
    """True for ``module:function``, as opposed to a file name."""
    module, separator, function = text.partition(":")
    return bool(separator) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_entry_point(text: str) -> Callable[..., Any]:
    """Imports the function, with the current directory importable; what it raises when called becomes a ``UsageError``.

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
    except Exception as e:
        raise _failed("importing the module failed", text, e, hint=f"try it: python -c 'import {module_name}'") from e
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(
            "the module has no such function",
            code="entry_point",
            where=text,
            hint=f"define {function_name}() in {module_name}",
        )

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except SealiftError:
            raise
        except Exception as e:
            hint = f"try it: python -c 'import {module_name} as m; m.{function_name}()'"
            raise _failed("the function failed", text, e, hint=hint) from e

    return call


def _failed(what: str, text: str, error: Exception, *, hint: str) -> UsageError:
    """Somebody else's code raised: the line where, instead of a traceback through this program."""
    ours = (__file__, importlib.__file__)  # a syntax error ends there; its message names its line itself
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    outside = frames[-1] if frames and frames[-1].filename not in ours else None
    where = text if outside is None else f"{text}, line {outside.lineno} of {outside.filename}"
    return UsageError(what, code="entry_point", where=where, actual=f"{type(error).__name__}: {error}"[:300], hint=hint)
