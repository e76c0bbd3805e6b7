"""A training entry point called in this very process: quick, and isolated from nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from audits.data import Floats, Integers
from audits.isolated.child import takes_fix
from device_client.bundle.digest import Digest
from device_client.errors import UsageError

_MAX_SOURCE_BYTES = 8 * 1024 * 1024


class InProcessTrainer:
    """Calls the entry point in this very process.

    It isolates nothing: whoever wires the command puts a child process in its place.

    Args:
        function: ``train(x, y, *, seed)`` or ``train(x, y, *, seed, fix)``, which returns ONNX bytes.
        name: for errors, and part of ``identity`` together with the function's source file.
    """

    def __init__(self, function: Callable[..., Any], *, name: str) -> None:
        self._function = function
        self._name = name

    @property
    def takes_fix(self) -> bool:
        """See ``FixTrainer``."""
        return takes_fix(self._function)

    @property
    def identity(self) -> str:
        """The name and the digest of the file that holds the function; other files that it imports are not in it."""
        source = inspect.getsourcefile(inspect.unwrap(self._function))
        if source is None:
            return self._name
        with Path(source).open("rb") as file:
            return f"{self._name}@{Digest.of(file.read(_MAX_SOURCE_BYTES))}"

    def train(self, x: Floats, y: Integers, *, seed: int, fix: Mapping[str, Any]) -> bytes:
        """See ``FixTrainer``.

        Raises:
            UsageError: the function does not give bytes (``entry_point``).
        """
        made = self._function(x, y, seed=seed, fix=dict(fix)) if fix else self._function(x, y, seed=seed)
        if type(made) is not bytes:
            raise UsageError(
                "the training gave no ONNX bytes",
                code="entry_point",
                where=self._name,
                expected="bytes",
                actual=type(made).__name__,
            )
        return made
