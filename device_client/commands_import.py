"""``sealift device import``: one call into ``install.import_offline`` for each model, and its result as ``poll`` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from device_client.bundle.path import ModelPath
from device_client.console import json_option, show, step
from device_client.errors import FormatError, SealiftError, UsageError


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--dir",
    "path",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SEALIFT_DEVICE_DIR",
    required=True,
    help="The device's folder (or SEALIFT_DEVICE_DIR).",
)
@click.option("--model", metavar="LINE/MODEL", help="Only this model; all of the device's that are in the file otherwise.")
@json_option
def import_file(file: Path, *, path: Path, model: str | None, as_json: bool) -> None:
    """Install from FILE, which `sealift export` wrote, by every check of a poll and without any network.

    Exit 1 and a code if it was refused; the old model stays. What there is to report waits for the next poll.
    """
    from device_client.install.folder import open_device
    from device_client.install.import_offline import open_import

    device = open_device(path)
    step(f"reading {file}")
    with open_import(device, file) as found:
        wanted = found.models if model is None else (_wanted(model, found.models),)
        for each in found.missing if model is None else ():
            step(f"{each}: not in the file")
        if len(wanted) == 1:
            result = found.run(wanted[0]).to_json()
            show(result, _line(result), as_json=as_json)
            return
        results: list[dict[str, object]] = []
        for each in wanted:
            try:
                results.append(found.run(each).to_json())
            except SealiftError as refusal:  # one model's refusal does not keep the others from their update
                results.append({"ok": False, "model": str(each), **refusal.to_json()})
    is_ok = all(entry["ok"] for entry in results)
    show({"ok": is_ok, "results": results}, "\n".join(map(_line, results)), as_json=as_json)
    if not is_ok:
        raise click.exceptions.Exit(1)


def _wanted(name: str, models: tuple[ModelPath, ...]) -> ModelPath:
    try:
        model = ModelPath.parse(name)
    except FormatError as e:
        raise UsageError(e.what, code=e.code, where="--model", expected=e.expected, actual=e.actual) from e
    if model not in models:
        raise UsageError(
            "the file holds nothing of this model for this device",
            code="import_models",
            where="--model",
            expected=" or ".join(map(str, models)),
            actual=name,
        )
    return model


def _line(result: Mapping[str, object]) -> str:
    if not result["ok"]:
        return f"{result['model']}: refused, {result['code']}: {result['error']}"
    ends = {"fall_back": "; withdrawn: an earlier bundle runs instead", "stop": "; STOPPED by policy"}
    end = ends.get(str(result["standing"]), "")
    what = "installed" if result["result"] == "installed" else "is current"
    return f"{result['model']}: {result['version']} ({result['variant']}) {what}, {result['bytes_downloaded']} bytes read{end}"
