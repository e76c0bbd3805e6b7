"""``sealift device recover|rollback|reset|explain``: what keeps a device sound, and what a person asks of it."""

from __future__ import annotations

from pathlib import Path

import click

from device_client.bundle.path import ModelPath
from device_client.command_options import ModelPathType, chosen_model, dir_option
from device_client.console import json_option, show
from device_client.errors import StateError

_model_option = click.option("--model", type=ModelPathType(), help="Which model; may be left out where the device has one.")


@click.command()
@dir_option
@json_option
def recover(path: Path, *, as_json: bool) -> None:
    """At every start of the machine: verify what is installed, offline; go back if it is not sound. Exit 1 if nothing may run."""
    from device_client.install.boot import recover as recover_device
    from device_client.install.folder import open_device

    done = recover_device(open_device(path))
    results = [each.to_json() for each in done]
    lines = [_recovered_line(each) for each in results]
    is_ok = all(each["ok"] for each in results)
    show({"ok": is_ok, "results": results}, "\n".join(lines), as_json=as_json)
    if not is_ok:
        raise click.exceptions.Exit(1)


@click.command()
@dir_option
@_model_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def rollback(path: Path, *, model: ModelPath | None, yes: bool, as_json: bool) -> None:
    """Go back to the newest earlier bundle that may run; the one that runs is not taken again."""
    from device_client.install.by_hand import roll_back_by_hand
    from device_client.install.folder import open_device

    opened = open_device(path)
    wanted = chosen_model(model, opened.config.models)
    if not yes:
        click.confirm(f"{wanted}: go back to an earlier bundle, and never take the present one again?", abort=True, err=True)
    found = roll_back_by_hand(opened, wanted)
    result: dict[str, object] = {"ok": True, "model": str(wanted), "version": found.version, "manifest": str(found.manifest)}
    show(result, f"{wanted}: {found.version} runs again", as_json=as_json)


@click.command()
@dir_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def reset(path: Path, *, yes: bool, as_json: bool) -> None:
    """Forget everything that was installed, but for the factory bundle; keep root, memory, identity and waiting reports."""
    from device_client.install.by_hand import reset as reset_device
    from device_client.install.folder import open_device

    opened = open_device(path)
    if not yes:
        click.confirm(f"{path}: remove every installed bundle?", abort=True, err=True)
    running = reset_device(opened)
    versions = {str(model): None if found is None else found.version for model, found in running.items()}
    text = "\n".join(f"{model}: {version or 'nothing'} runs" for model, version in versions.items())
    show({"ok": True, "running": versions}, text, as_json=as_json)


@click.command()
@dir_option
@_model_option
@json_option
def explain(path: Path, *, model: ModelPath | None, as_json: bool) -> None:
    """Why the last poll of a model ended as it did: every question, its answer, and the value that decided."""
    from device_client.install.decision import decision_text, read_decision
    from device_client.install.folder import open_device
    from device_client.install.state import open_state

    opened = open_device(path)
    wanted = chosen_model(model, opened.config.models)
    with open_state(opened.folder.state) as state:
        data = state.decision(wanted)
    if data is None:
        raise StateError("nothing was decided yet", code="no_decision", where=str(wanted), hint="run `sealift device poll`")
    found = read_decision(data)
    show({"ok": True, **found}, decision_text(found), as_json=as_json)


def _recovered_line(result: dict[str, object]) -> str:
    texts = {
        "sound": f"{result['version']} is sound",
        "rolled_back": f"went back to {result['version']} ({result['code']})",
        "safe": f"SAFE: nothing on this device may run ({result['code'] or 'as before'})",
        "none": "nothing is installed",
    }
    return f"{result['model']}: {texts[str(result['result'])]}"
