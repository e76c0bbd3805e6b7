"""A trained model and the bundle made of it, once per run: training and packing take seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sealift


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model, its data and a recipe."""
    from .models import RECIPE, TRAINER  # here, because signing's tests need no onnx

    folder = tmp_path_factory.mktemp("trained")
    (folder / "trainer.py").write_text(TRAINER)
    (folder / "recipe.toml").write_text(RECIPE)
    script = (
        "import pathlib, numpy as np, trainer\n"
        "from packager.export import export_module\n"
        "data = trainer.data()\n"
        "np.savez('data.npz', **data)\n"
        "model = export_module(trainer.model, where='trainer', seed=0, example=lambda: {'x': data['x'][:2]})\n"
        "pathlib.Path('model.onnx').write_bytes(model)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path(sealift.__file__).parent}{os.pathsep}{folder}"}
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=folder, env=environment, check=True)
    return folder


@pytest.fixture(scope="session")
def packed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from packager.pack import pack

    from .models import pack_request

    return pack(pack_request(trained, tmp_path_factory.mktemp("packed") / "bundle"))
