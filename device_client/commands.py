"""``sealift device``: make a device, enrol it, poll, ask how it stands, run its model.

Each command is one call into ``install`` or ``inference``; numpy and the runtime load only where a model runs.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.command_options import DigestType, ModelPathType, chosen_model, dir_option, existing_file, followed_model
from device_client.commands_agent import run
from device_client.commands_care import explain, recover, reset, rollback
from device_client.commands_import import import_file
from device_client.commands_service import serve
from device_client.console import json_option, show, step
from device_client.errors import MissingExtraError, SealiftError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from device_client.install.folder import Device
    from device_client.install.state import Deployment

    Array = np.ndarray[Any, Any]

MAX_INPUT_BYTES = 1 << 30
_MAX_POLICY_BYTES = 64 * 1024
_MAX_ROOT_BYTES = 512_000


@click.group()
def device() -> None:
    """Poll, verify, install, run."""


for command in (recover, rollback, reset, explain, import_file, serve, run):
    device.add_command(command)


@device.command()
@dir_option
@click.option("--root", type=existing_file, required=True, help="The trusted root.json, brought by a person.")
@click.option("--root-sha256", type=DigestType(), required=True, help="Its digest, brought on another way.")
@click.option("--server", required=True, help="Base URL of the update server.")
@click.option("--model", "models", type=ModelPathType(), required=True, multiple=True, help="What to follow; may be repeated.")
@click.option("--policy", type=existing_file, help="Acceptance policy (TOML); the default takes PASSED and WARNED.")
@click.option(
    "--factory", type=existing_file, help="Offline file whose models the device is born with; they may have expired since."
)
@click.option("--unsafe-plain-http", is_flag=True, help="Allow http:// to another machine; exposes the device's token.")
@json_option
def init(
    path: Path,
    *,
    root: Path,
    root_sha256: Digest,
    server: str,
    models: tuple[ModelPath, ...],
    policy: Path | None,
    factory: Path | None,
    unsafe_plain_http: bool,
    as_json: bool,
) -> None:
    """Make a device's folder from a trusted root. Fetches nothing, refuses a folder that is in use."""
    from device_client.install.folder import init_device
    from device_client.install.import_factory import install_factory

    born_with: dict[ModelPath, Deployment] = {}

    def prepare(device: Device) -> None:
        if factory is not None:
            born_with.update(install_factory(device, factory))

    made = init_device(
        path,
        root=_read(root, _MAX_ROOT_BYTES),
        root_sha256=root_sha256,
        server=server,
        models=models,
        policy=None if policy is None else _read(policy, _MAX_POLICY_BYTES),
        unsafe_plain_http=unsafe_plain_http,
        prepare=prepare,
    )
    born = "".join(f", with {model} {found.version}" for model, found in born_with.items())
    result: dict[str, object] = {
        "ok": True,
        "dir": str(path),
        "device_id": made.identity.device_id,
        "server": made.config.server,
        "models": [str(model) for model in made.config.models],
        "factory": {str(model): found.version for model, found in born_with.items()},
        "unsafe": list(made.unsafe),
    }
    show(
        result,
        f"device {made.identity.device_id[:16]} made in {path}{born}; next: sealift device enroll --dir {path}",
        as_json=as_json,
    )


@device.command()
@dir_option
@json_option
def enroll(path: Path, *, as_json: bool) -> None:
    """Introduce the device to its server; safe to repeat."""
    from device_client.install.enroll import enroll as enroll_device
    from device_client.install.folder import open_device

    enrolment = enroll_device(open_device(path))
    result: dict[str, object] = {"ok": True, "device_id": enrolment.device_id, "state": enrolment.state}
    show(result, f"enrolled as {enrolment.device_id[:16]}: {enrolment.state}", as_json=as_json)


@device.command()
@dir_option
@click.option("--model", type=ModelPathType(), help="Only this model; all of the device's otherwise.")
@json_option
def poll(path: Path, *, model: ModelPath | None, as_json: bool) -> None:
    """Ask for, check and install the newest release. Exit 1 and a code if it was refused; the old model stays."""
    from device_client.install.folder import open_device
    from device_client.install.poll import poll as poll_model

    opened = open_device(path)
    models = opened.config.models if model is None else (followed_model(model, opened.config.models),)
    if len(models) == 1:
        result = poll_model(opened, models[0])
        show(result.to_json(), _poll_line(result.to_json()), as_json=as_json)
        return
    results: list[dict[str, object]] = []
    for each in models:
        try:
            results.append(poll_model(opened, each).to_json())
        except SealiftError as refusal:  # one model's refusal does not keep the others from their update
            results.append({"ok": False, "model": str(each), **refusal.to_json()})
    is_ok = all(entry["ok"] for entry in results)
    show({"ok": is_ok, "results": results}, "\n".join(map(_poll_line, results)), as_json=as_json)
    if not is_ok:
        raise click.exceptions.Exit(1)


@device.command()
@dir_option
@json_option
def status(path: Path, *, as_json: bool) -> None:
    """What runs, what is remembered, what waits, and how it is protected."""
    from device_client.install.folder import open_device
    from device_client.install.status import read_status, status_text

    found = read_status(open_device(path))
    show(found, status_text(found), as_json=as_json)


@device.command()
@dir_option
@click.option("--model", type=ModelPathType(), help="Which model; may be left out where the device has one.")
@click.option(
    "--input", "input_file", type=existing_file, required=True, help=".npz with one array for each input ('x' fits a single one)."
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the outputs to this .npz instead of stdout.")
@json_option
def infer(path: Path, *, model: ModelPath | None, input_file: Path, output: Path | None, as_json: bool) -> None:
    """Run the installed model, from bytes that are hashed as they are loaded."""
    from device_client.inference.model import open_model
    from device_client.install.folder import open_device

    opened = open_device(path)
    wanted = chosen_model(model, opened.config.models)
    inputs = _load_inputs(input_file)
    folder, target = opened.folder.resolved(), None if output is None else output.absolute()
    # The session factory's rule: in an empty working directory, relative names in a model lead nowhere.
    with contextlib.chdir(folder.empty), open_model(folder, wanted) as loaded:
        names = [spec.name for spec in loaded.contract.inputs]
        if len(names) == 1 and set(inputs) == {"x"}:
            inputs = {names[0]: inputs["x"]}
        outputs = loaded.run(inputs)
        found = loaded.deployment
    result: dict[str, object] = {
        "ok": True,
        "model": str(wanted),
        "version": found.version,
        "variant": found.variant,
        "digest": str(found.variant_digest),
    }
    if target is None:
        values = {name: array.tolist() for name, array in outputs.items()}
        show({**result, "outputs": values}, "\n".join(f"{name}: {value}" for name, value in values.items()), as_json=as_json)
    else:
        _write_outputs(target, outputs)
        show({**result, "output": str(target)}, f"{', '.join(outputs)} written to {target}", as_json=as_json)


def _poll_line(result: Mapping[str, object]) -> str:
    if not result["ok"]:
        return f"{result['model']}: refused, {result['code']}: {result['error']}"
    ends = {"fall_back": "; withdrawn: an earlier bundle runs instead", "stop": "; STOPPED by policy"}
    end = ends.get(str(result["standing"]), "")
    if result["result"] == "none":
        return f"{result['model']}: the server offers nothing{end}"
    what = "installed" if result["result"] == "installed" else "is current"
    return (
        f"{result['model']}: {result['version']} ({result['variant']}) {what}, {result['bytes_downloaded']} bytes downloaded{end}"
    )


def _load_inputs(path: Path) -> dict[str, Array]:
    """Arrays of an .npz file; object arrays (pickles) are refused."""
    try:
        import numpy as np
    except ModuleNotFoundError as e:
        raise MissingExtraError("device", missing="numpy") from e
    import zipfile

    try:
        if path.stat().st_size > MAX_INPUT_BYTES:
            raise ValueError(f"more than {MAX_INPUT_BYTES} bytes")
        with np.load(path, allow_pickle=False) as archive:
            return {str(name): archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as e:
        raise UsageError(
            f"cannot read the inputs: {e}"[:200],
            code="input_file",
            where=str(path),
            expected="an .npz file with one array for each input",
        ) from e


def _write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    import io

    import numpy as np

    from device_client.trust.files import write_atomic

    buffer = io.BytesIO()
    np.savez(buffer, **dict(outputs))  # type: ignore[arg-type]  # names of arrays, never savez's own options
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as e:
        raise UsageError("cannot write the outputs", code="output_file", where=str(path), actual=e.strerror) from e
    step(f"wrote {path}")


def _read(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UsageError("file too long", code="too_large", where=str(path), expected=f"at most {max_bytes} bytes")
    return data
