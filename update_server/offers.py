"""Which version of a model the server offers: what its published channel document calls latest.

A hint to devices and nothing more; a device installs only what both roles agree on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from device_client.bundle.path import ModelPath


def offered_version(connection: sqlite3.Connection, model: ModelPath) -> str | None:
    """The version that is offered, or None."""
    row = connection.execute("SELECT version FROM offers WHERE model = ?", (str(model),)).fetchone()
    return None if row is None else str(row["version"])


def set_offers(connection: sqlite3.Connection, line: str, offers: Mapping[ModelPath, str]) -> None:
    """Makes ``offers`` the whole of what is offered for the models of ``line``."""
    # no LIKE: a line name may hold '_', which LIKE takes for any character
    connection.execute("DELETE FROM offers WHERE substr(model, 1, ?) = ?", (len(line) + 1, f"{line}/"))
    connection.executemany(
        "INSERT INTO offers(model, version) VALUES (?, ?)", [(str(model), version) for model, version in offers.items()]
    )
