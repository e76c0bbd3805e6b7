"""What the device came with, told outside the database: a lost state is made anew around it, and something runs at once.

One file for each model beside the state, written once at ``init --factory``: the deployment, and the evidence that proves it. It
is no more trusted than a row: what it says counts only as far as the evidence verifies from ``root.json``, the blobs are whole,
and memory, floor and policy let it run. Nothing is lowered by it.
"""

from __future__ import annotations

import base64
import binascii
import logging
from datetime import datetime
from pathlib import Path

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.path import ModelPath, check_name
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, LimitError, StateError, VerificationError
from device_client.install.folder import Device, DeviceFolder
from device_client.install.installed import verify_installed
from device_client.install.rollback import Holdings, find_target
from device_client.install.state import DeviceState
from device_client.install.state_deployments import Deployment
from device_client.install.store import open_store
from device_client.limits import MIB
from device_client.trust.files import sync_folder, write_atomic
from device_client.trust.times import format_time, parse_time

logger = logging.getLogger(__name__)

SCHEMA = 1
MAX_FACTORY_BYTES = 64 * MIB  # mostly signed roles, whose own caps are far below
_MAX_FILES = 8192
_KEYS = ("schema", "version", "manifest", "variant", "variant_digest", "counter", "seq", "installed", "evidence")


def keep_factory(folder: DeviceFolder, deployment: Deployment, evidence: dict[str, bytes]) -> None:
    """Writes the file of one model; on the disk when this returns.

    Raises:
        StateError: the disk refuses (``state_unwritable``).
    """
    path = _path(folder, deployment.model)
    data = canonical_json(
        {
            "schema": SCHEMA,
            "version": deployment.version,
            "manifest": str(deployment.manifest),
            "variant": deployment.variant,
            "variant_digest": str(deployment.variant_digest),
            "counter": deployment.counter.to_json(),
            "seq": deployment.seq,
            "installed": format_time(deployment.installed),
            "evidence": {name: base64.b64encode(role).decode("ascii") for name, role in evidence.items()},
        }
    )
    try:
        for made in (path.parent.parent, path.parent):
            if not made.is_dir():
                made.mkdir(mode=0o700)
                sync_folder(made.parent)
        write_atomic(path, data, mode=0o600)
    except OSError as e:
        raise StateError("cannot keep the factory bundle", code="state_unwritable", where=str(path), actual=e.strerror) from e


def bring_back_factory(device: Device, state: DeviceState, model: ModelPath, *, now: datetime) -> Deployment | None:
    """Puts the factory bundle of a model into a state that was made anew, and lets it run if it may; None if it does not.

    In a transaction of its own. Damage of the file is no error: the next poll installs what is newest.

    Raises:
        StateError: the state cannot be written.
    """
    try:
        read = _read(_path(device.folder, model), model)
    except (VerificationError, OSError) as e:
        logger.warning("the factory bundle of %s cannot be read: %s", model, e)
        return None
    if read is None:
        return None
    deployment, evidence = read
    held = Holdings(device, state, open_store(device.folder), model)
    try:
        with state.transaction():
            deployment = state.add_factory(deployment, evidence)
            agreed = verify_installed(state, deployment, root=device.root)
            state.commit(deployment, floor=agreed.release.floor)
            target = find_target(held, running=None, now=now, only=deployment.manifest)
            if target is not None:
                state.fall_back(target.deployment)
    except VerificationError as e:
        logger.warning("the factory bundle of %s is not what was signed: %s", model, e)
        return None
    return None if target is None else target.deployment


def _path(folder: DeviceFolder, model: ModelPath) -> Path:
    return folder.path / "factory" / model.line / f"{model.model}.json"


def _read(path: Path, model: ModelPath) -> tuple[Deployment, dict[str, bytes]] | None:
    if not path.exists():
        return None
    with path.open("rb") as file:
        data = file.read(MAX_FACTORY_BYTES + 1)
    if len(data) > MAX_FACTORY_BYTES:
        raise LimitError("the factory file is too long", code="too_large", where=path.name, expected=MAX_FACTORY_BYTES)
    fields = Fields(parse_strict(data, max_bytes=MAX_FACTORY_BYTES, where=path.name), where=path.name, known=_KEYS)
    fields.integer("schema", minimum=SCHEMA, maximum=SCHEMA)
    deployment = Deployment(
        model=model,
        version=check_name(fields.raw("version"), what="version", where=path.name),
        manifest=Digest.parse(fields.raw("manifest"), where=path.name),
        variant=fields.text("variant"),
        variant_digest=Digest.parse(fields.raw("variant_digest"), where=path.name),
        counter=Counter.from_json(fields.raw("counter"), where=path.name),
        seq=fields.integer("seq"),
        installed=parse_time(fields.raw("installed"), path.name),
    )
    return deployment, fields.mapping("evidence", _decode, max_items=_MAX_FILES)


def _decode(value: object, where: str) -> bytes:
    try:
        return base64.b64decode(str(value), validate=True)
    except binascii.Error as e:
        raise FormatError("not base64", code="field_value", where=where) from e
