"""``open_model`` for programs: a model by its name, on the device whose folder the caller or the environment names.

The checks are those of ``model.py``; this finds the folder and the full name. The program runs as the user who owns the
device's folder; other users and other languages use the local service (``docs/inference-protocol.md``). A program that
wants what the service has (another process that may be killed, updates without a restart) uses it, too.
"""

from __future__ import annotations

import os
from pathlib import Path

from device_client.bundle.path import ModelPath
from device_client.errors import UsageError
from device_client.inference.model import Model
from device_client.inference.model import open_model as open_active
from device_client.install.config import DeviceConfig
from device_client.install.folder import open_device
from device_client.limits import DEFAULT_LIMITS, Limits

FOLDER_VARIABLE = "SEALIFT_DEVICE_DIR"


def open_model(name: str, *, device: str | os.PathLike[str] | None = None, limits: Limits = DEFAULT_LIMITS) -> Model:
    """Opens the active deployment of a model, after every check of the load path.

    Args:
        name: ``line/model``, or the model alone where the device follows one of that name.
        device: the device's folder; without it, the one in ``SEALIFT_DEVICE_DIR``.
        limits: bounds on what is read.

    Raises:
        UsageError: no folder is named (``device_dir``), or no such model, or more than one (``model_unknown``).
        StateError: no device there, or nothing is installed.
        PolicyError: the owner's policy keeps the model from running.
        VerificationError: what is on this disk is not what was installed.
    """
    folder = device if device is not None else os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise UsageError(
            "which device?",
            code="device_dir",
            expected=f"a folder made by `sealift device init`, as device=... or in {FOLDER_VARIABLE}",
            hint=f"set {FOLDER_VARIABLE}",
        )
    opened = open_device(Path(folder))
    return open_active(opened.folder, full_name(name, opened.config), limits=limits)


def full_name(name: str, config: DeviceConfig) -> ModelPath:
    """The followed model that ``name`` means.

    Raises:
        UsageError: none, or more than one (``model_unknown``).
    """
    found = [model for model in config.models if name in {str(model), model.model}]
    if len(found) == 1:
        return found[0]
    raise UsageError(
        "more than one model has this name" if found else "the device does not follow this model",
        code="model_unknown",
        expected=", ".join(map(str, found or config.models)),
        actual=ascii(name)[:90],
        hint="write LINE/MODEL" if found else "the list is in device.toml",
    )
