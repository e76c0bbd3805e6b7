"""Trains the demo's network and writes it as ONNX: what a data scientist hands to the release engineer.

python -m demo.train --out original.onnx --seed 1 --size regular
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from demo import digits
from device_client.trust.files import write_atomic
from packager.export import export_module


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="ONNX file to write.")
@click.option("--seed", required=True, type=int, help="Seed of weights, order and noise.")
@click.option("--size", required=True, type=click.Choice(sorted(digits.SIZES)), help="Shape and regularisation.")
@click.option("--json", "as_json", is_flag=True, hidden=True)
def train(out: Path, seed: int, size: str, as_json: bool) -> None:
    """Train on the member rows and export."""
    data = export_module(
        lambda: digits.train(seed=seed, size=digits.SIZES[size]),
        where="demo.digits:train",
        seed=seed,
        example=lambda: {"x": digits.pack_data()["x"][:2]},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, data)
    click.echo(json.dumps({"model": str(out), "bytes": len(data)}))


if __name__ == "__main__":
    train()
