"""The service end to end: what a client sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from device_client.service.client import InferenceClient
from tests.unit.service.conftest import Town

X = np.array([[1, 2, 3]], np.float32)
Connect = Callable[[], InferenceClient]


def test_a_client_lists_describes_and_runs_the_active_model(town: Town, connect: Connect) -> None:
    made = town.release("1.0.0", counter=1, scale=2.0)
    with town.serving():
        client = connect()
        client.ping()
        (listed,) = client.models()
        assert (listed["model"], listed["version"], listed["state"]) == ("digits/ocr", "1.0.0", "idle")
        described = client.describe("ocr")
        assert described["inputs"] == [made.contract.inputs[0].to_json()]
        result = client.run("ocr", {"x": X})
        np.testing.assert_array_equal(result.outputs["y"], 2 * X)
        assert (result.version, result.manifest, result.variant) == ("1.0.0", str(made.digest), "int8")
        assert client.models()[0]["state"] == "running"
