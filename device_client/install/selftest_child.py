"""The child of ``selftest.py``: limits itself, then reads the model and runs the golden probes. Prints one JSON object.

The order is the point: interpreter and runtime load first, from our own files; then the limits; then the first byte of
the model is read. Nothing here is imported by the agent.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from device_client.bundle.contract import Tolerance, ToleranceKind
from device_client.bundle.fields import Fields, read_text
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, SealiftError, SelfTestError
from device_client.inference.confine import drop_privileges, leave_network
from device_client.inference.golden import compare, parse_golden, record
from device_client.inference.runtime import import_runtime
from device_client.inference.session import Session, open_session
from device_client.inference.walker import check_model

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MAX_HEADER_BYTES = 64 * 1024
_LATENCY_ROUNDS, _LATENCY_S = 15, 1.0
_MAX_OUTPUT_BYTES = 64 * 1024
_MEMORY_SIGNS = ("bad_alloc", "bad allocation", "failed to allocate", "cannot allocate memory", "out of memory")


def main() -> None:
    """Entry point of the child process."""
    network = leave_network()
    _load_runtime()
    privileges = drop_privileges()
    source = sys.stdin.buffer
    header = Fields(parse_strict(source.readline(_MAX_HEADER_BYTES), max_bytes=_MAX_HEADER_BYTES, where="header"), where="header")
    _limit(header)
    result = _run(header, source)
    result |= {"network": network, "privileges": privileges}
    sys.stdout.write(canonical_json(result).decode())
    sys.stdout.flush()
    os._exit(0)  # the runtime's destructors are not ours to wait for


def _run(header: Fields, source: BinaryIO) -> dict[str, object]:
    try:
        model = source.read(header.integer("model_bytes"))
        golden = source.read(header.integer("golden_bytes"))
        begin = time.perf_counter()
        checked = check_model(model, features=header.items("features", read_text), where="self-test")
        with open_session(checked, providers=header.items("providers", read_text)) as session:
            probes = parse_golden(golden)
            if probes.count != header.integer("probes"):
                raise FormatError("other number of golden probes", code="golden_count", actual=probes.count)
            compare(probes.expected_for(header.text("variant")), record(session, probes.inputs), _tolerance(header))
            latency_ms = _median_ms(session, probes.inputs, count=probes.count)
    except SealiftError as error:
        return _failure(error)
    except MemoryError:
        return _outcome("selftest_memory", what="the self-test ran out of memory")
    return {
        "ok": True,
        "seconds": round(time.perf_counter() - begin, 6),
        "peak_bytes": _peak_bytes(),
        "latency_ms": round(latency_ms, 6),
    }


def _median_ms(session: Session, inputs: Mapping[str, Array], *, count: int) -> float:
    """Median milliseconds of one inference over all probes, several times each, within a bounded time."""
    times: list[float] = []
    end = time.perf_counter() + _LATENCY_S
    while len(times) < _LATENCY_ROUNDS and (not times or time.perf_counter() < end):
        begin = time.perf_counter()
        record(session, inputs)
        times.append((time.perf_counter() - begin) * 1000 / count)
    return sorted(times)[len(times) // 2]


def _peak_bytes() -> int:
    """Peak resident bytes of this program alone: what getrusage says also counts the process that started it."""
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123  # as below
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _tolerance(header: Fields) -> Tolerance:
    fields = header.fields("tolerance", known=("kind", "value"))
    return Tolerance(cast("ToleranceKind", fields.text("kind")), fields.number("value"))


def _failure(error: SealiftError) -> dict[str, object]:
    if isinstance(error, SelfTestError):
        code = error.code
    elif any(sign in str(error).lower() for sign in _MEMORY_SIGNS):
        code = "selftest_memory"
    else:
        code = "selftest_refused"
    return _outcome(code, what=error.what, where=error.where, expected=error.expected, actual=error.actual)


def _outcome(code: str, *, what: str, where: object = None, expected: object = None, actual: object = None) -> dict[str, object]:
    texts = {"what": what, "where": where, "expected": expected, "actual": actual}
    return {"ok": False, "code": code} | {name: "" if text is None else str(text)[:1000] for name, text in texts.items()}


def _load_runtime() -> None:
    """Imports the runtime while there is still memory, files and threads to do so."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # the parent gives an empty environment
    import safetensors.numpy  # noqa: F401  # loads numpy, too

    import_runtime()


def _limit(header: Fields) -> None:
    """Hard limits, from here on; memory and CPU time on top of what was used up to now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(used.ru_utime + used.ru_stime) + 1 + header.integer("cpu_s")
    _set(resource.RLIMIT_CORE, 0)  # a core file would hold weights
    _set(resource.RLIMIT_FSIZE, _MAX_OUTPUT_BYTES)
    _set(resource.RLIMIT_NOFILE, header.integer("open_files"))
    _set(resource.RLIMIT_NPROC, 0)  # no further process or thread (of a user other than root)
    _set(resource.RLIMIT_CPU, cpu_s, grace=5)  # the soft limit names the cause (SIGXCPU), the hard one only kills
    _set(resource.RLIMIT_AS, _address_space_bytes() + header.integer("memory_bytes"))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(header.integer("wall_s"))  # ends this process should its parent die


def _set(kind: int, value: int, *, grace: int = 0) -> None:
    _, hard = resource.getrlimit(kind)
    bound = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
    resource.setrlimit(kind, (min(value, bound), bound))


def _address_space_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # before any path library is needed
        pages = int(file.read(200).split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
