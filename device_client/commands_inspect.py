"""``sealift inspect``: one call into ``device_client.inspect``, shown."""

from __future__ import annotations

from pathlib import Path

import click

from device_client.console import json_option, show
from device_client.inspect import inspect_layout


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--card", is_flag=True, help="Show the whole model card, not only its first lines.")
@json_option
def inspect(bundle: Path, *, card: bool, as_json: bool) -> None:
    """Show what is inside a bundle, verified or not, and by whom.

    BUNDLE is a folder that `sealift pack` wrote. Every blob is read and compared with its digest; a folder that is not
    one whole bundle is refused with the reason. A folder carries no signature: what a device will accept is decided by
    the signed metadata of a repository.
    """
    found = inspect_layout(bundle)
    show(found.to_json(), found.to_text(whole_card=card), as_json=as_json)
