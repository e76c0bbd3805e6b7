"""The child: gives up network and files, limits itself, then imports other people's code and runs it on the given arrays.

Started by ``process``. Reads ``job.json`` and arrays in its folder, writes one result file for each task, each complete before it
has its name. Whatever the code does ends here: the parent believes bytes that pass its own readers, and nothing else.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from device_client.entrypoint import load_entry_point
from device_client.errors import SealiftError, UsageError
from device_client.inference.confine import drop_privileges, forbid_dumps, leave_network, set_limit

FAILED = 3
"""Exit status after an error that is on stderr in full."""
_PR_SET_PDEATHSIG = 1
JOB, ISOLATION_FD = "job.json", "isolation_fd"


def main() -> None:
    """Entry point of the child process; its one argument is its folder."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    _confine(job, folder)
    try:
        {"train": _train, "call": _call, "describe": _describe}[job["kind"]](job, folder)
    except SealiftError as e:
        sys.stderr.write(f"\nerror: {' '.join(str(e).split())}\n")
        sys.stderr.flush()
        os._exit(FAILED)
    sys.stdout.flush()
    os._exit(0)  # threads that the code left behind are not ours to wait for


def takes_fix(function: Callable[..., Any]) -> bool:
    """True if the function has a parameter ``fix``, or takes any keyword."""
    parameters = inspect.signature(function).parameters.values()
    return any(item.name == "fix" or item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters)


def _confine(job: Mapping[str, Any], folder: Path) -> None:
    """From here on: no network, no privilege, no file beyond the named ones, no core dump, bounds on memory, files and time."""
    from audits.isolated.files import interpreter_folders, limit_files

    _end_with(job["parent"])
    network = leave_network()
    privileges = drop_privileges()
    forbid_dumps()
    set_limit(resource.RLIMIT_DATA, job["memory_bytes"])
    set_limit(resource.RLIMIT_FSIZE, job["file_bytes"])
    signal.alarm(job["wall_s"] + 30)  # where the kernel does not end this process with its parent
    files = limit_files(readable=[*interpreter_folders(), *job["readable"]], writable=[str(folder)])
    with os.fdopen(job[ISOLATION_FD], "w", encoding="utf-8") as pipe:
        json.dump({"network": network, "privileges": privileges, "files": files}, pipe)


def _end_with(parent: int) -> None:
    """A training that may take hours does not go on for a parent that was killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before it could be watched
        os._exit(FAILED)


def _train(job: Mapping[str, Any], folder: Path) -> None:
    """One model for each task, all in this process: importing torch once costs less than once for each."""
    from audits.isolated.arrays import parse_array
    from audits.isolated.export import to_onnx

    x, y, rows = (parse_array((folder / f"{name}.npy").read_bytes(), where=name) for name in ("x", "y", "rows"))
    train = load_entry_point(job["entry"])
    starts = job["starts"]
    for index, seed in enumerate(job["seeds"]):
        picked = rows[starts[index] : starts[index + 1]]
        _seed_everything(seed)
        try:
            made = train(x[picked], y[picked], seed=seed, **({"fix": job["fix"]} if job.get("fix") else {}))
        except UsageError as e:
            if not isinstance(e.__cause__, NotImplementedError):
                raise
            _put(folder / f"{index:06d}.result", b"")  # the code says that it cannot do this
            continue
        model = to_onnx(made, example=x[:2], names=(job["input"], job["output"]), where=job["entry"])
        _put(folder / f"{index:06d}.result", model)


def _describe(job: Mapping[str, Any], folder: Path) -> None:
    """What is known of a function without calling it: whether it takes the keyword ``fix``, and the digest of its file."""
    from device_client.bundle.digest import Digest

    function = inspect.unwrap(load_entry_point(job["entry"]))
    source = inspect.getsourcefile(function)
    digest = None if source is None else str(Digest.of(Path(source).read_bytes()))
    _put(folder / "000000.result", json.dumps({"takes_fix": takes_fix(function), "source": digest}).encode())


def _call(job: Mapping[str, Any], folder: Path) -> None:
    """Calls a function without arguments and keeps the named arrays of the mapping that it returns."""
    import numpy as np

    from audits.isolated.arrays import array_bytes

    _seed_everything(0)
    made = load_entry_point(job["entry"])()
    if not isinstance(made, Mapping):
        raise UsageError("the function gave no mapping", code="isolated_result", where=job["entry"], actual=type(made).__name__)
    for index, name in enumerate(job["arrays"]):
        if name in made:
            array = np.asarray(made[name])
            if array.dtype.kind not in "fiub":
                raise UsageError(
                    f"wrong {name}", code="isolated_result", where=job["entry"], expected="numbers", actual=str(array.dtype)
                )
            _put(folder / f"{index:06d}.result", array_bytes(array))
        else:
            _put(folder / f"{index:06d}.result", b"")


def _put(path: Path, data: bytes) -> None:
    """The name appears when the file is complete: the parent counts names to show progress."""
    temporary = path.with_suffix(".part")
    temporary.write_bytes(data)
    temporary.rename(path)


def _seed_everything(seed: int) -> None:
    """Generators that code may use without saying so; its own ``seed`` argument is the one that it should use."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)  # the global generator is the one that forgetful code draws from
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
        torch.set_num_threads(1)
