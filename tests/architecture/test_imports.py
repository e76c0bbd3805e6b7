"""Which package may import what; the rules between packages that need the import graph are in pyproject.toml."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture.project import PACKAGES, ROOT, imported_modules, is_standard_library, sources

HEAVY = (
    "numpy", "torch", "onnx", "onnxruntime", "fastapi", "starlette", "uvicorn", "art", "safetensors", "zstandard", "sklearn",
    "scipy", "matplotlib", "google", "sympy", "oras", "jsonschema",
)  # fmt: skip

BLOCKER = """
import importlib.abc, sys

BLOCKED = set(sys.argv[1].split(","))

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
        return None

sys.meta_path.insert(0, Blocker())
"""

IMPORT_ALL = (
    BLOCKER
    + """
import importlib, pkgutil
import device_client

names = ["device_client"] + [m.name for m in pkgutil.walk_packages(device_client.__path__, "device_client.")]
for name in names:
    importlib.import_module(name)
loaded = BLOCKED & {name.partition(".")[0] for name in sys.modules}
assert not loaded, loaded
print(len(names))
"""
)

FRONT_DOOR = (
    BLOCKER
    + """
import sealift
from device_client.console import run_main
sys.exit(run_main(sealift.cli, prog_name="sealift", args=sys.argv[2:]))
"""
)

REGISTER = 'sealift.COMMANDS["extra"] = sealift._Entry("needs_extra:command", "device", "Needs an extra.")'

# Import name -> the distribution that provides it, where they differ.
DISTRIBUTIONS = {"art": "adversarial-robustness-toolbox", "sklearn": "scikit-learn", "torch_pruning": "torch-pruning"}

# Which extras of pyproject.toml each package may count on.
EXTRAS = {
    "device_client": ("device",),
    "packager": ("device", "packager", "train"),
    "update_server": ("server",),
    "audits": ("device", "audit", "dp"),
    "demo": ("all",),
    "examples": ("all",),
    "tests": ("dev", "proofs"),
    "benchmarks": ("dev",),
}


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_module_of_the_device_imports_without_the_extras() -> None:
    done = _run(IMPORT_ALL, ",".join(HEAVY))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


def test_the_front_door_shows_help_without_the_extras() -> None:
    done = _run(FRONT_DOOR, ",".join(HEAVY), "--help")
    assert done.returncode == 0, done.stderr
    for word in ("pack", "sign", "publish", "audit", "server", "device", "demo"):
        assert word in done.stdout


@pytest.mark.parametrize("arguments", [("keys",), ("sign",), ("publish",), ("device",), ("device", "status"), ("inspect",)])
def test_a_command_of_the_base_install_shows_help_without_the_extras(arguments: tuple[str, ...]) -> None:
    done = _run(FRONT_DOOR, ",".join(HEAVY), *arguments, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: sealift" in done.stdout


def test_a_missing_extra_is_one_error_with_the_install_line(tmp_path: Path) -> None:
    (tmp_path / "needs_extra.py").write_text("import onnxruntime\n")
    door = FRONT_DOOR.replace("import sealift\n", f"import sealift\nsys.path.insert(0, {str(tmp_path)!r})\n{REGISTER}\n")
    done = _run(door, ",".join(HEAVY), "extra")
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "error: this command needs the extra 'device' (module onnxruntime is not installed) [missing_extra]\n"
        "hint: pip install 'sealift[device]'\n"
    )


def test_the_bundle_format_uses_only_the_standard_library_errors_and_limits() -> None:
    allowed = ("device_client.bundle", "device_client.errors", "device_client.limits")
    for path, tree in sources("device_client/bundle"):
        for module in imported_modules(tree):
            assert is_standard_library(module) or module.startswith(allowed), f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("package", EXTRAS)
def test_every_library_that_a_package_imports_is_one_that_its_extras_declare(package: str) -> None:
    declared = _declared(("", *EXTRAS[package]))
    for path, tree in sources(package):
        for module in imported_modules(tree):
            top = module.partition(".")[0]
            if is_standard_library(top) or top in (*EXTRAS, "sealift"):
                continue
            assert DISTRIBUTIONS.get(top, top) in declared, f"{path.relative_to(ROOT)} imports {module}: declare it"


def _declared(extras: tuple[str, ...]) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    for extra in extras:
        for requirement in project["optional-dependencies"][extra] if extra else project["dependencies"]:
            if inner := re.fullmatch(r"sealift\[(.+)\]", requirement):
                found |= _declared(tuple(inner.group(1).split(",")))
            else:
                found.add(re.split(r"[^A-Za-z0-9_-]", requirement)[0].lower())
    return found


def test_no_module_loads_pickles() -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for package in PACKAGES:
        for path, tree in sources(package):
            loaded = banned & {module.partition(".")[0] for module in imported_modules(tree)}
            assert not loaded, f"{path.relative_to(ROOT)} imports {loaded}"


def test_every_module_has_a_docstring() -> None:
    modules = [(path, tree) for package in PACKAGES for path, tree in sources(package)]
    silent = [str(path.relative_to(ROOT)) for path, tree in modules if not ast.get_docstring(tree)]
    assert not silent, silent


def test_the_runtime_is_imported_in_one_place_with_its_telemetry_off() -> None:
    """Its submodules may be used elsewhere, after ``import_runtime()``."""
    for package in (*PACKAGES, "tests", "benchmarks"):
        for path, tree in sources(package):
            name = path.relative_to(ROOT).as_posix()
            imported = {module for module in imported_modules(tree) if module.partition(".")[0] == "onnxruntime"}
            if name != "device_client/inference/runtime.py" and imported:
                assert "onnxruntime" not in imported, name
                assert "import_runtime()" in path.read_text(encoding="utf-8"), name
