"""Options and argument types that the commands of ``sealift device`` share."""

from __future__ import annotations

from pathlib import Path

import click

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, UsageError


class ModelPathType(click.ParamType[ModelPath]):
    """``LINE/MODEL``."""

    name = "LINE/MODEL"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> ModelPath:
        """The path, or a usage error."""
        try:
            return ModelPath.parse(str(value))
        except FormatError as e:
            self.fail(str(e), param, ctx)


class DigestType(click.ParamType[Digest]):
    """64 hex digits, with or without ``sha256:``."""

    name = "SHA256"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Digest:
        """The digest, or a usage error."""
        text = str(value).lower()
        try:
            return Digest(text.removeprefix("sha256:"))
        except FormatError as e:
            self.fail(str(e), param, ctx)


existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
dir_option = click.option(
    "--dir",
    "path",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SEALIFT_DEVICE_DIR",
    required=True,
    help="The device's folder (or SEALIFT_DEVICE_DIR).",
)


def followed_model(model: ModelPath, models: tuple[ModelPath, ...]) -> ModelPath:
    """``model``, if the device follows it.

    Raises:
        UsageError: ``model_unknown``.
    """
    if model not in models:
        raise UsageError(
            "the device does not follow this model",
            code="model_unknown",
            expected=", ".join(map(str, models)),
            actual=model,
            hint="the list is in device.toml",
        )
    return model


def chosen_model(model: ModelPath | None, models: tuple[ModelPath, ...]) -> ModelPath:
    """The model that a command is about: the one named, or the only one that the device follows.

    Raises:
        UsageError: ``model_unknown``.
    """
    if model is not None:
        return followed_model(model, models)
    if len(models) != 1:
        raise UsageError("which model?", code="model_unknown", expected=", ".join(map(str, models)), hint="add --model")
    return models[0]
