"""The session factory runs the checked bytes under options that nothing outside this project chooses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from device_client.errors import FormatError, PolicyError, UsageError, VerificationError
from device_client.inference import session
from device_client.inference.runtime import import_runtime
from device_client.inference.session import check_inputs, open_session
from device_client.inference.walker import ValueSpec, check_model
from tests.unit.inference import models
from tests.unit.inference.bare import bare

onnxruntime = import_runtime()  # like everywhere: telemetry off before the first import
X = np.array([[1.0, 2.0, 3.0]], np.float32)


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the runtime was given."""
    seen: dict[str, Any] = {}
    real = onnxruntime.InferenceSession

    def spy(data: object, **given: Any) -> Any:
        seen.update(data=data, environment=dict(os.environ), **given)
        return real(data, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    return seen


def test_a_checked_model_runs() -> None:
    with open_session(check_model(models.linear().SerializeToString())) as session:
        outputs = session.run({"x": X})
    assert outputs.keys() == {"y"}
    np.testing.assert_array_equal(outputs["y"], 2 * X)


def test_a_path_or_plain_bytes_cannot_be_opened() -> None:
    for thing in ("model.onnx", models.linear().SerializeToString()):
        with pytest.raises(TypeError):
            open_session(thing)  # type: ignore[arg-type]


def test_format_threads_and_providers_are_fixed(options: dict[str, Any]) -> None:
    model = check_model(models.linear().SerializeToString())
    open_session(model, threads=2)
    assert options["data"] is model.data
    assert options["sess_options"].get_session_config_entry("session.load_model_format") == "ONNX"
    assert options["sess_options"].intra_op_num_threads == 2
    assert options["sess_options"].inter_op_num_threads == 1
    assert options["sess_options"].execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options["sess_options"].use_deterministic_compute
    assert options["providers"] == ["CPUExecutionProvider"]
    assert options["enable_fallback"] == 0
    assert options["read_config_from_model"] == 0


def test_the_runtimes_environment_variables_have_no_effect(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    monkeypatch.setenv("ORT_ANYTHING", "x")
    open_session(check_model(models.linear().SerializeToString()))
    assert [name for name in options["environment"] if name.startswith("ORT_")] == ["ORT_DISABLE_TELEMETRY"]
    assert os.environ["ORT_ANYTHING"] == "x", "the caller's environment comes back"


def test_the_runtime_keeps_no_telemetry(tmp_path: Path) -> None:
    script = "import os; from device_client.inference import runtime as r; r.import_runtime(); print(os.listdir('/proc/self/task'))"
    environment = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count(",") == 0, "no thread sends anything"
    assert not list(tmp_path.iterdir()), "no device id and no queue of events is written"


def configured() -> onnx.ModelProto:
    """A model whose metadata asks for options: profiling writes a file, so an effect can be seen."""
    model = models.linear()
    config = {"session_options": {"intra_op_num_threads": 7, "inter_op_num_threads": 5, "enable_profiling": 1}}
    model.metadata_props.add(key="ort_config", value=json.dumps(config))
    return model


def test_options_in_the_models_metadata_have_no_effect(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    data = configured().SerializeToString()

    # The control: a bare session in the same process takes the options from the metadata.
    bare = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert bare.get_session_options().intra_op_num_threads == 7
    assert bare.get_session_options().enable_profiling
    bare.end_profiling()
    for path in tmp_path.iterdir():
        path.unlink()

    session = open_session(check_model(data))
    session.run({"x": X})
    given = session._runtime.get_session_options()
    assert (given.intra_op_num_threads, given.inter_op_num_threads, given.enable_profiling) == (1, 1, False)
    assert not list(tmp_path.iterdir())


def test_with_the_environment_hidden_alone_options_in_metadata_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    real = onnxruntime.InferenceSession

    def not_told(data: object, **given: Any) -> Any:
        del given["read_config_from_model"]
        return real(data, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", not_told)
    found = open_session(check_model(configured().SerializeToString()))._runtime.get_session_options()
    assert (found.intra_op_num_threads, found.enable_profiling) == (1, False)


def test_with_the_environment_visible_options_in_metadata_are_refused_and_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # Measured: without read_config_from_model=0 the runtime takes them here, although it was given options.
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    monkeypatch.setattr(session, "clean_runtime", lambda: nullcontext(onnxruntime))
    with pytest.raises(FormatError) as caught:
        open_session(check_model(configured().SerializeToString()))
    assert caught.value.code == "model_session"


def test_options_in_metadata_that_the_bare_runtime_takes_are_those_of_the_environment() -> None:
    data = configured().SerializeToString()
    with tempfile.TemporaryDirectory() as cwd:
        taken = bare(data, cwd=Path(cwd), environment={"ORT_LOAD_CONFIG_FROM_MODEL": "1"}, default_options=True)
        assert (taken.said["threads"], taken.said["profiling"]) == (7, True)
        assert list(Path(cwd).iterdir()), "a profile was written"
    assert bare(data, default_options=True).said["threads"] == 0


def test_an_operator_set_that_only_the_environment_allows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.model([scaler()], opsets=[onnx.helper.make_opsetid("ai.onnx.ml", 1)])
    model.opset_import[0].version = 999
    data = model.SerializeToString()
    assert not bare(data).loaded
    assert bare(data, environment={"ALLOW_RELEASED_ONNX_OPSET_ONLY": "0"}).loaded
    monkeypatch.setenv("ALLOW_RELEASED_ONNX_OPSET_ONLY", "0")
    with pytest.raises(FormatError) as caught:
        open_session(check_model(data, features=("domain:ai.onnx.ml",)))
    assert caught.value.code == "model_session"


def test_a_library_of_operators_that_the_bare_runtime_would_map_is_no_file_of_ours(tmp_path: Path) -> None:
    """``register_custom_ops_library`` runs a library's constructors; no model names one, and no code of ours calls it."""
    source = next(Path(np.__file__).parent.rglob("_pcg64*.so"))  # any library will do
    library = tmp_path / "operators.so"
    library.write_bytes(source.read_bytes())
    script = (
        "import sys, onnxruntime as o\ntry: o.SessionOptions().register_custom_ops_library(sys.argv[1])\n"
        "except Exception: pass\nprint(sys.argv[1] in open('/proc/self/maps').read())"
    )
    environment = {"ORT_DISABLE_TELEMETRY": "1", "LD_BIND_NOW": ""}
    done = subprocess.run([sys.executable, "-c", script, str(library)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def scaler(domain: str = "ai.onnx.ml") -> onnx.NodeProto:
    return onnx.helper.make_node("Scaler", ["x"], ["y"], domain=domain, scale=[2.0], offset=[0.0])


DOMAINS = (
    "com.microsoft",
    "com.microsoft.extensions",
    "ai.onnx.contrib",
    "ai.onnx.ml",
    "ai.onnx.training",
    "ai.onnx.preview.training",
)


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_operator_of_another_domain_is_refused_unless_the_contract_names_it(domain: str) -> None:
    data = models.model([scaler(domain)], opsets=[onnx.helper.make_opsetid(domain, 1)]).SerializeToString()
    with pytest.raises(VerificationError) as caught:
        check_model(data)
    assert caught.value.code == "model_domain"
    check_model(data, features=(f"domain:{domain}",))


def test_the_domains_that_are_refused_are_ones_that_the_bare_runtime_runs() -> None:
    for node in (scaler(), onnx.helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")):
        data = models.model([node], opsets=[onnx.helper.make_opsetid(node.domain, 1)]).SerializeToString()
        assert bare(data).output is not None


def test_a_provider_that_the_bare_runtime_silently_replaces_is_refused() -> None:
    data = models.linear().SerializeToString()
    asked = bare(data, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert asked.said["providers"] == ["CPUExecutionProvider"], "asked for one, got another, without an error"
    with pytest.raises(PolicyError):
        open_session(check_model(data), providers=("CUDAExecutionProvider", "CPUExecutionProvider"))


def chatty() -> bytes:
    """A weight that nothing uses, which the runtime warns about."""
    weights = [onnx.numpy_helper.from_array(np.ones(3, np.float32), name) for name in ("w", "unused")]
    return models.model([onnx.helper.make_node("Mul", ["x", "w"], ["y"])], initializers=weights).SerializeToString()


def test_the_runtime_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert "unused" in bare(chatty(), severity=2).stderr
    open_session(check_model(chatty()))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("providers", [(), ("CUDAExecutionProvider",), ("CPUExecutionProvider", "Evil")], ids=str)
def test_providers_outside_the_closed_list_are_refused(providers: tuple[str, ...]) -> None:
    with pytest.raises(PolicyError) as caught:
        open_session(check_model(models.linear().SerializeToString()), providers=providers)
    assert caught.value.code == "provider_not_allowed"


def test_a_model_that_the_runtime_refuses_is_one_short_error() -> None:
    data = models.model([onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])]).SerializeToString()
    with pytest.raises(FormatError) as caught:
        open_session(check_model(data))
    assert caught.value.code == "model_session"
    assert "\n" not in str(caught.value)


def test_a_model_that_fails_while_running_is_one_error() -> None:
    shape = onnx.helper.make_tensor("s", onnx.TensorProto.INT64, [1], [7])
    node = onnx.helper.make_node("Reshape", ["x", "s"], ["y"])
    with (
        open_session(check_model(models.model([node], initializers=[shape]).SerializeToString())) as session,
        pytest.raises(FormatError) as caught,
    ):
        session.run({"x": X})
    assert caught.value.code == "model_run"


SPECS = (ValueSpec("x", "float32", ("N", 3)), ValueSpec("s", "int64", ("N",)))
GOOD: dict[str, Any] = {"x": X, "s": np.zeros(1, np.int64)}
BAD: dict[str, dict[str, Any]] = {
    "missing input": {"x": X},
    "unknown input": {**GOOD, "z": X},
    "wrong dtype": {**GOOD, "x": X.astype(np.float64)},
    "wrong rank": {**GOOD, "x": X[0]},
    "wrong size": {**GOOD, "x": X[:, :2]},
    "two sizes for one name": {**GOOD, "s": np.zeros(2, np.int64)},
    "not a number": {**GOOD, "x": X * np.float32("nan")},
    "infinite": {**GOOD, "x": np.full((1, 3), np.inf, np.float32)},
    "a list": {**GOOD, "x": [[1.0, 2.0, 3.0]]},
}


def test_fitting_inputs_are_taken() -> None:
    check_inputs(SPECS, GOOD)


@pytest.mark.parametrize("inputs", BAD.values(), ids=BAD.keys())
def test_unfit_inputs_are_refused_before_the_run(inputs: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        check_inputs(SPECS, inputs)
    assert caught.value.code == "input_mismatch"
