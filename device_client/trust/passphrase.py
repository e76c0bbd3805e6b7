"""Where the passphrase of a private key comes from: the environment, a file named there, or a prompt.

Never an argument (visible to every process of the machine), never a log line. Only command files call this.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from device_client.errors import UsageError

MAX_PASSPHRASE_BYTES = 1024


def ask_passphrase(name: str, *, confirm: bool = False) -> bytes:
    """The passphrase for the key called ``name``.

    Order: ``SEALIFT_PASSPHRASE``, then the first line of the file that ``SEALIFT_PASSPHRASE_FILE`` names, then a prompt.

    Raises:
        UsageError: none of the three is there, or the file cannot be read.
    """
    from_environment = os.environ.get("SEALIFT_PASSPHRASE")
    if from_environment:
        return from_environment.encode()
    file_name = os.environ.get("SEALIFT_PASSPHRASE_FILE")
    if file_name:
        return _first_line(Path(file_name))
    if not sys.stdin.isatty():
        raise UsageError(
            f"no passphrase for {name}",
            code="passphrase_missing",
            hint="set SEALIFT_PASSPHRASE_FILE to a file that holds it, or run on a terminal",
        )
    answer: str = click.prompt(f"Passphrase for {name}", hide_input=True, confirmation_prompt=confirm, err=True)
    return answer.encode()


def _first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            line = file.read(MAX_PASSPHRASE_BYTES).splitlines()
    except OSError as e:
        raise UsageError("cannot read the passphrase file", code="passphrase_missing", where=str(path), hint=str(e.strerror)) from e
    if not line or not line[0]:
        raise UsageError("the passphrase file is empty", code="passphrase_missing", where=str(path))
    return line[0]
