"""ART imported: it is optional, slow to import, and warns about its own optional parts; so inside a ``with`` statement only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from device_client.errors import MissingExtraError


@contextmanager
def importable_art() -> Iterator[None]:
    """ART can be imported inside, and is quiet.

    Raises:
        MissingExtraError: ART is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import art  # noqa: F401
        except ImportError as e:
            raise MissingExtraError("audit", missing=e.name or "art") from e
        yield
