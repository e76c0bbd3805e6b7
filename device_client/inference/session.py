"""The one session factory: a checked model in, a session that can only compute what its bytes say out.

Used by inference, self-test, audits and packager alike, so that what was measured is what runs. onnxruntime is told
the format, gets no option from the environment or from the model's own metadata (it would read ``ort_config`` there
when ``ORT_LOAD_CONFIG_FROM_MODEL`` is set), and only providers of a closed list. The caller of a process that loads models
makes an empty, read-only directory its working directory: relative file names then lead nowhere, should a runtime
ever find one that ``walker.py`` did not refuse.

    with open_session(check_model(data)) as session:
        outputs = session.run({"x": array})

numpy and onnxruntime are imported inside functions: the base install has neither.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from device_client.errors import FormatError, PolicyError, UsageError
from device_client.inference.runtime import clean_runtime
from device_client.inference.walker import CheckedModel, ValueSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

ALLOWED_PROVIDERS = ("CPUExecutionProvider",)
"""Execution providers that tests cover; a name outside is refused, whatever the runtime offers."""


class Session:
    """A loaded model. Made by ``open_session`` only; close it, or use it in a ``with`` statement."""

    def __init__(self, model: CheckedModel, runtime: Any) -> None:
        self.model = model
        self._runtime = runtime
        self._output_names = [spec.name for spec in model.outputs]

    @property
    def inputs(self) -> tuple[ValueSpec, ...]:
        """What ``run`` needs, as the file declares it."""
        return self.model.inputs

    @property
    def outputs(self) -> tuple[ValueSpec, ...]:
        """What ``run`` returns, as the file declares it."""
        return self.model.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes all outputs.

        Args:
            inputs: one array for each of ``inputs``, of exactly that dtype and shape, finite.

        Raises:
            UsageError: missing, unknown or unfit input (``input_mismatch``).
            FormatError: the runtime failed on this model (``model_run``).
        """
        check_inputs(self.inputs, inputs)
        return self.compute(dict(inputs))

    def compute(self, feed: dict[str, Array]) -> dict[str, Array]:
        """Computes all outputs of inputs that were checked: by ``run``, or by an ``InputPlan`` with this session's inputs.

        Calls the runtime below its Python wrapper, which looks for missing inputs and foreign values once more; that takes
        longer than our whole check.

        Raises:
            FormatError: the runtime failed on this model (``model_run``).
        """
        names = self._output_names
        try:
            values = self._runtime._sess.run(names, feed, None)
        except Exception as e:  # onnxruntime raises its own classes, RuntimeError and ValueError
            raise FormatError(f"the runtime failed: {_first_line(e)}", code="model_run", where=str(self.model.digest)) from e
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        """Frees the runtime's memory; ``run`` fails afterwards."""
        self._runtime = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_session(
    model: CheckedModel, *, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 1, basic: bool = False
) -> Session:
    """Loads a model that the walker accepted.

    Args:
        model: from ``check_model``; the runtime gets ``model.data``, the bytes that were hashed.
        providers: names of ``ALLOWED_PROVIDERS``, in order of preference; there is no silent fallback to others.
        threads: threads inside one operator; operators run one after another.
        basic: with basic optimisations only. For the packager's look at half-precision files from outside: onnxruntime 1.32
            dies of a memory fault when it fuses some of them, and what a device gets is FP32.

    Raises:
        FormatError: the runtime refuses the model (``model_session``).
        PolicyError: a provider outside the closed list (``provider_not_allowed``).
        MissingExtraError: onnxruntime is not installed.
    """
    if not isinstance(model, CheckedModel):
        raise TypeError("open_session needs a CheckedModel; there is no way to run a path or plain bytes")
    unknown = [name for name in providers if name not in ALLOWED_PROVIDERS]
    if unknown or not providers:
        raise PolicyError(
            "execution provider not on the closed list",
            code="provider_not_allowed",
            expected=", ".join(ALLOWED_PROVIDERS),
            actual=", ".join(unknown) or "none",
        )
    if threads < 1:
        raise ValueError("threads must be at least 1")
    with clean_runtime() as onnxruntime:
        options = _options(onnxruntime, threads=threads)
        if basic:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        runtime = _create(onnxruntime, model, options=options, providers=providers)
    return Session(model, runtime)


def fold_constants(model: CheckedModel) -> bytes:
    """The model after the runtime's basic optimisations (constants folded, batch normalisation merged), as an ONNX file.

    For the packager: these optimisations are the same on every CPU. Nothing is run but what folding computes, on this
    machine, without limits: give it models of your own only. Writes to a temporary directory.

    Raises:
        FormatError: the runtime refuses the model (``model_session``).
        MissingExtraError: onnxruntime is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="sealift-") as folder, clean_runtime() as onnxruntime:
        target = Path(folder) / "folded.onnx"
        options = _options(onnxruntime, threads=1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        _create(onnxruntime, model, options=options, providers=ALLOWED_PROVIDERS)
        return target.read_bytes()


def _options(onnxruntime: Any, *, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # errors come back as exceptions; libraries do not print
    # Without this the runtime guesses the format from the bytes, and guesses ORT's own first.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _create(onnxruntime: Any, model: CheckedModel, *, options: Any, providers: Sequence[str]) -> Any:
    """The only place where a session of the runtime is made."""
    try:
        # Measured: should the environment ask for options in metadata all the same, 0 makes the runtime fail, not take them.
        return onnxruntime.InferenceSession(
            model.data, sess_options=options, providers=list(providers), enable_fallback=0, read_config_from_model=0
        )
    except Exception as e:  # onnxruntime raises its own classes, RuntimeError and ValueError
        raise FormatError(f"the runtime refuses the model: {_first_line(e)}", code="model_session", where=str(model.digest)) from e


def check_inputs(specs: Sequence[ValueSpec], inputs: Mapping[str, Array]) -> None:
    """Checks names, dtypes, shapes (one size for each named dimension) and that every number is finite.

    Raises:
        UsageError: what differs, with expected and actual (``input_mismatch``).
    """
    import numpy as np

    expected = [spec.name for spec in specs]
    if sorted(expected) != sorted(inputs):
        raise _mismatch("inputs differ", "input names", expected=", ".join(sorted(expected)), actual=", ".join(sorted(inputs)))
    sizes: dict[str, int] = {}
    for spec in specs:
        array = inputs[spec.name]
        if not isinstance(array, np.ndarray):
            raise _mismatch("not an array", spec.name, expected="numpy array", actual=type(array).__name__)
        is_text = spec.dtype == "string" and array.dtype.kind in "OUS"
        if array.dtype.name != spec.dtype and not is_text:
            raise _mismatch("wrong element type", spec.name, expected=spec.dtype, actual=array.dtype.name)
        if spec.shape is not None:
            _check_shape(spec.name, spec.shape, array.shape, sizes)
        if array.dtype.kind in "fc" and not bool(np.isfinite(array).all()):
            raise _mismatch("not finite", spec.name, expected="finite numbers", actual="NaN or infinity")


def _check_shape(name: str, expected: tuple[int | str, ...], actual: tuple[int, ...], sizes: dict[str, int]) -> None:
    fits = len(expected) == len(actual)
    for want, have in zip(expected, actual, strict=False):
        if isinstance(want, int):
            fits = fits and want == have
        elif want:
            fits = fits and sizes.setdefault(want, have) == have
    if not fits:
        raise _mismatch("wrong shape", name, expected=expected, actual=actual)


def _mismatch(what: str, where: str, *, expected: object, actual: object) -> UsageError:
    return UsageError(what, code="input_mismatch", where=where, expected=expected, actual=actual)


def _first_line(error: Exception) -> str:
    """The runtime's message, short, and on one line: it may quote names from the model."""
    return " ".join(str(error).split())[:300]
