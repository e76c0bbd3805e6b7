"""Workers that die, hang, eat memory or fail: the request hears why, it is counted, and the next one is served."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from device_client.install.health import Health
from device_client.service.client import InferenceClient, ServiceError
from device_client.service.server import InferenceServer
from tests.unit.device.world import THE_MODEL
from tests.unit.inference import models
from tests.unit.service.conftest import Town

X = np.array([[1, 2, 3]], np.float32)
Connect = Callable[[], InferenceClient]


def pid_of(server: InferenceServer) -> int:
    pid = server.pool.slot(THE_MODEL).pid
    assert pid is not None
    return pid


def hungry() -> bytes:
    """y = x, by way of a tensor of six gigabytes for a batch of two, and of few bytes for a batch of one."""
    sizes = numpy_helper.from_array(np.array([500_000_000, 1], np.int64), "factor")
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Sub", ["shape", "one"], ["less"]),  # (batch - 1, 2)
        helper.make_node("Mul", ["less", "factor"], ["much"]),
        helper.make_node("Max", ["much", "least"], ["size"]),
        helper.make_node("Expand", ["zero", "size"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    constants = [
        sizes,
        numpy_helper.from_array(np.array([1, 1], np.int64), "one"),
        numpy_helper.from_array(np.array([1, 1], np.int64), "least"),
        numpy_helper.from_array(np.zeros((1, 1), np.float32), "zero"),
    ]
    return models.model(nodes, initializers=constants).SerializeToString()


def picky() -> bytes:
    """y = x for a batch of one; the runtime fails on every other."""
    shape = numpy_helper.from_array(np.array([1, 3], np.int64), "shape")
    made: onnx.ModelProto = models.model([helper.make_node("Reshape", ["x", "shape"], ["y"])], initializers=[shape])
    return made.SerializeToString()


def refusal(client: InferenceClient, inputs: dict[str, np.ndarray]) -> ServiceError:  # type: ignore[type-arg]
    with pytest.raises(ServiceError) as caught:
        client.run("ocr", inputs)
    return caught.value


def outcome(client: InferenceClient) -> str:
    try:
        client.run("ocr", {"x": X})
    except ServiceError as error:
        return error.code
    return "ok"


def test_a_worker_that_died_between_requests_is_replaced_unnoticed_and_counted(town: Town, connect: Connect) -> None:
    made = town.release("1.0.0", counter=1)
    with town.serving() as server:
        client = connect()
        client.run("ocr", {"x": X})
        first = pid_of(server)
        os.kill(first, signal.SIGKILL)
        time.sleep(0.1)
        np.testing.assert_array_equal(client.run("ocr", {"x": X}).outputs["y"], 2 * X)
        assert pid_of(server) != first
    assert town.total(made) == Health(runs=2, crashes=1)


def test_a_worker_that_hangs_is_killed_and_the_request_hears_of_it(town: Town, connect: Connect) -> None:
    town.configure("deadline_ms = 1500")
    made = town.release("1.0.0", counter=1)
    with town.serving() as server:
        client = connect()
        client.run("ocr", {"x": X})
        hanging = pid_of(server)
        os.kill(hanging, signal.SIGSTOP)
        error = refusal(client, {"x": X})
        assert (error.code, error.where) == ("worker_timeout", "digits/ocr/1.0.0")
        assert not Path(f"/proc/{hanging}").exists()
        codes = []
        while "ok" not in codes:  # the pause and the load may take longer than this deadline
            codes.append(outcome(client))
            assert len(codes) < 30
        assert set(codes) <= {"worker_restarting", "ok"}
    assert town.total(made) == Health(runs=2, crashes=1)


def test_a_worker_that_dies_of_a_request_takes_only_that_request_with_it(town: Town, connect: Connect) -> None:
    made = town.release("1.0.0", counter=1)
    with town.serving() as server:
        client = connect()
        client.run("ocr", {"x": X})
        worker = pid_of(server)
        os.kill(worker, signal.SIGSTOP)
        threading.Timer(0.5, os.kill, (worker, signal.SIGKILL)).start()
        error = refusal(client, {"x": X})
        assert (error.code, error.actual) == ("worker_crashed", "SIGKILL")
        assert client.run("ocr", {"x": X}).version == "1.0.0"
    assert town.total(made) == Health(runs=2, crashes=1)


def test_a_worker_that_needs_more_memory_than_its_bound_is_replaced(town: Town, connect: Connect) -> None:
    town.configure("max_message_bytes = 65536")
    made = town.release("1.0.0", counter=1, data=hungry(), golden_scale=1.0)
    with town.serving() as server:
        client = connect()
        np.testing.assert_array_equal(client.run("ocr", {"x": X}).outputs["y"], X)
        first = pid_of(server)
        error = refusal(client, {"x": np.zeros((2, 3), np.float32)})
        assert error.code == "worker_memory"
        np.testing.assert_array_equal(client.run("ocr", {"x": X}).outputs["y"], X)
        assert pid_of(server) != first
    assert town.total(made) == Health(runs=2, crashes=1)


def test_a_failure_of_the_runtime_is_counted_and_the_worker_goes_on(town: Town, connect: Connect) -> None:
    made = town.release("1.0.0", counter=1, data=picky(), golden_scale=1.0)
    with town.serving() as server:
        client = connect()
        client.run("ocr", {"x": X})
        first = pid_of(server)
        error = refusal(client, {"x": np.zeros((2, 3), np.float32)})
        assert error.code == "model_run"
        client.run("ocr", {"x": X})
        assert pid_of(server) == first
    assert town.total(made) == Health(runs=3, failures=1)


def test_outputs_that_are_not_finite_are_given_and_counted(town: Town, connect: Connect) -> None:
    made = town.release("1.0.0", counter=1, data=models.linear(scale=float("inf")).SerializeToString(), golden_scale=1.0)
    with town.serving():
        outputs = connect().run("ocr", {"x": X}).outputs
        assert np.isinf(outputs["y"]).all()
    assert town.total(made) == Health(runs=1, non_finite=1)


def test_inputs_that_the_contract_does_not_allow_count_for_nothing(town: Town, connect: Connect) -> None:
    made = town.release("1.0.0", counter=1)
    with town.serving():
        client = connect()
        for inputs in (
            {"x": X.astype(np.float64)}, {"x": X[:, :2]}, {"x": X * 1e6}, {"x": X * np.float32(np.nan)}, {"z": X}, {},
        ):  # fmt: skip
            error = refusal(client, inputs)
            assert error.code == "input_mismatch"
            assert error.expected
            assert error.actual is not None
    assert town.total(made) == Health()


def test_a_worker_has_no_environment_no_network_no_capabilities_no_dumps_and_an_empty_folder(town: Town, connect: Connect) -> None:
    town.release("1.0.0", counter=1)
    with town.serving() as server:
        connect().run("ocr", {"x": X})
        process = Path(f"/proc/{pid_of(server)}")
        assert process.joinpath("cwd").readlink() == town.device.folder.empty.resolve()
        # What OpenMP and OpenBLAS are told is set by the worker itself; /proc shows what the process was started with.
        assert process.joinpath("environ").read_bytes() == b""
        limits = process.joinpath("limits").read_text()
        for name, bound in {"Max core file size": "0", "Max processes": "0", "Max open files": "64"}.items():
            (line,) = [line for line in limits.splitlines() if line.startswith(name)]
            assert line.split()[-3] == bound, line
        assert "unlimited" not in next(line for line in limits.splitlines() if line.startswith("Max address space"))
        status = dict(line.split(":\t", 1) for line in process.joinpath("status").read_text().splitlines() if ":\t" in line)
        assert status["NoNewPrivs"] == "1"
        assert [int(status[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff")] == [0, 0, 0]
        ours, theirs = (Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", process.name))
        assert ours != theirs or "shared" in server.pool.slot(THE_MODEL)._current.worker.network  # type: ignore[union-attr]


CONFINED = """
import os, socket, sys
from device_client.inference.confine import leave_files, limit_process
limit_process(memory_bytes=1 << 28, open_files=64)
state = leave_files()
outcomes = []
for attempt in (lambda: open(sys.argv[1]), lambda: open(sys.argv[1] + "x", "w"), lambda: os.listdir("/"),
                lambda: os.kill(os.getppid(), 0), lambda: socket.create_connection(("127.0.0.1", 1))):
    try:
        attempt()
        outcomes.append("done")
    except OSError as error:
        outcomes.append(type(error).__name__)
print(state, *outcomes, sep="|")
"""


def test_a_confined_process_reads_writes_signals_and_reaches_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    command = [sys.executable, "-c", CONFINED, str(tmp_path / "secret")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)})
    state, *outcomes = done.stdout.strip().split("|")
    if state != "none":
        pytest.skip(f"files are {state}")
    assert outcomes[:3] == ["PermissionError"] * 3
    assert set(outcomes[3:]) <= {"PermissionError", "done", "ConnectionRefusedError"}  # by the kernel's age
    control = subprocess.run(
        [*command[:2], CONFINED.replace("state = leave_files()", "state = 'free'"), command[-1]],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert control.stdout.strip().split("|")[1:4] == ["done"] * 3


def test_a_worker_keeps_no_files_where_the_kernel_has_landlock(town: Town, connect: Connect) -> None:
    town.release("1.0.0", counter=1)
    with town.serving() as server:
        connect().run("ocr", {"x": X})
        current = server.pool.slot(THE_MODEL)._current
        assert current is not None
        assert current.worker.files == "none" or "Landlock" in current.worker.files


def test_an_unused_worker_ends_and_the_next_request_starts_one(town: Town, connect: Connect) -> None:
    town.release("1.0.0", counter=1)
    with town.serving() as server:
        client, slot = connect(), server.pool.slot(THE_MODEL)
        client.run("ocr", {"x": X})
        first = pid_of(server)
        assert not slot.end_if_unused(idle_s=3600)
        assert slot.end_if_unused(idle_s=0)
        assert not Path(f"/proc/{first}").exists()
        assert client.models()[0]["state"] == "idle"
        assert client.run("ocr", {"x": X}).version == "1.0.0"


def test_workers_end_when_the_service_is_killed(town: Town) -> None:
    """The service's own end cannot be tested in this process: here its end of the socket closes, as the kernel would."""
    town.release("1.0.0", counter=1)
    with town.serving() as server:
        with InferenceClient(town.socket) as client:
            client.run("ocr", {"x": X})
        running = server.pool.slot(THE_MODEL)._current
        assert running is not None
        running.worker._connection.close()
        assert running.worker._process.wait(timeout=10) == 0
