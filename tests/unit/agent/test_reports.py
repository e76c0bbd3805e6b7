"""Reports against the real server and a hostile one: none is lost, none is told twice, none blocks the others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.names import SECOND
from device_client.bundle.strict_json import canonical_json
from device_client.errors import TransportError
from device_client.install import report
from device_client.install.http import Answer, HttpClient, LostConnectionError, ServerRefusalError
from device_client.install.report import PAYLOAD_TYPE, send_reports
from device_client.install.state import DeviceState, open_state
from tests.threats.world import World
from tests.unit.device import world as simulated

REPORTS = "/v1/devices/me/reports"


class LossyHttp(HttpClient):
    """The way to the real server; the answers to the first reports are lost after the server has given them."""

    def __init__(self, url: str, *, lost: int) -> None:
        super().__init__(url, retries=0, sleep=lambda _: None)
        self.lost = lost

    def request(self, method: str, path: str, **arguments: Any) -> Answer:
        answer = super().request(method, path, **arguments)
        if path == REPORTS and self.lost:
            self.lost -= 1
            raise LostConnectionError("the answer was lost", code="transport", where=path)
        return answer


@pytest.mark.parametrize("lost", [1, 3])
def test_a_crash_between_sending_and_the_answer_leads_to_exactly_one_report_of_the_deployment(real: World, lost: int) -> None:
    http = LossyHttp(real.server.url, lost=lost)
    assert real.poll(http=http).result == "installed"
    told = [entry for entry in real.reports() if entry["event"] == "installed" and entry["target"]["version"] == SECOND]
    assert len(told) == 1, "the server has it"
    assert real.waiting() == 1, "and the device does not know that"
    while real.waiting():
        real.poll(http=http)
    told = [entry for entry in real.reports() if entry["event"] == "installed" and entry["target"]["version"] == SECOND]
    assert len(told) == 1


def test_a_report_is_signed_for_one_server_under_counters_that_only_grow(real: World) -> None:
    real.poll()
    told = real.reports()  # checks the signatures, over the payload type
    counters = [entry["counter"] for entry in told]
    assert counters == sorted(set(counters))
    assert told[-1]["event"] == "installed"
    assert told[-1]["audience"] == real.server.url
    assert told[-1]["device_id"] == real.device.identity.device_id
    assert {"root", "targets", "snapshot", "timestamp"} <= set(told[-1]["marks"])


def test_a_report_that_the_server_will_never_take_does_not_hold_up_the_others(real: World) -> None:
    with open_state(real.device.folder.state) as state, state.transaction():
        counter = state.next_report_counter()
        good = real.reports()[-1]
        strange = canonical_json(good | {"counter": counter, "event": "levitated"})
        state.add_report(counter, real.device.identity.sign(strange, payload_type=PAYLOAD_TYPE))
    result = real.poll()
    assert (result.result, result.reports_waiting) == ("installed", 1)
    assert real.reports()[-1]["event"] == "installed"
    assert real.rows("SELECT counter FROM outbox") == ((counter,),), "what was refused is kept, not dropped"


def test_a_report_that_was_left_behind_is_told_with_the_marks_of_now_so_that_no_alarm_is_raised(real: World) -> None:
    with open_state(real.device.folder.state) as state, state.transaction():
        counter = state.next_report_counter()
        late = real.reports()[-1] | {"counter": counter, "event": "alarm", "code": "behind", "marks": {"root": 1, "timestamp": 1}}
        real.device.identity.sign(canonical_json(late), payload_type=PAYLOAD_TYPE)
    real.poll()
    with open_state(real.device.folder.state) as state, state.transaction():
        state.add_report(counter, real.device.identity.sign(canonical_json(late), payload_type=PAYLOAD_TYPE))
    assert real.poll().reports_waiting == 0
    installed, told = real.reports()[-2:]
    assert (told["event"], told["code"], told["created"]) == ("alarm", "behind", late["created"])
    assert told["counter"] > installed["counter"]
    assert told["marks"] == installed["marks"]
    assert told["active"]["version"] == SECOND
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(real.data / "server.db")) as connection:
        assert connection.execute("SELECT count(*) FROM audit_log WHERE code = 'mark_decreased'").fetchone() == (0,)


def test_a_date_that_the_device_no_longer_believes_in_is_told_as_such(real: World) -> None:
    real.wrong_clock = real.true_time() + timedelta(days=36_500)
    real.refusal()
    assert real.waiting() > 0
    real.wrong_clock = None
    assert real.poll().reports_waiting == 0
    assert any(entry["detail"].startswith("[dated 21") for entry in real.reports() if entry["detail"])


# A hostile server, in memory.


class Judge(simulated.FakeServer):
    """Refuses reports as it is told."""

    verdict: Callable[[Mapping[str, Any]], ServerRefusalError | None] = staticmethod(lambda said: None)
    seen = 0

    def _take(self, body: bytes) -> Answer:
        self.seen += 1
        refusal = self.verdict(simulated.payload_of(body))
        if refusal is not None:
            raise refusal
        self.reports.append(body)
        return Answer(202, {}, b"{}")


def refusal(status: int, code: str = "field_value", **members: object) -> ServerRefusalError:
    return ServerRefusalError(code=code, where=REPORTS, actual=f"status {status}", status=status, problem={"code": code, **members})


@pytest.fixture
def world(tmp_path: Path) -> simulated.World:
    made = simulated.World(tmp_path / "device")
    made.server = Judge()
    return made


def queue(world: simulated.World, number: int) -> DeviceState:
    """An open state with that many reports that wait."""
    state = world.state()
    with state.transaction():
        for _ in range(number):
            happening = report.Happening("alarm", report.State.IDLE, code="behind")
            report.queue_report(state, world.device, simulated.THE_MODEL, happening, now=world.now)
    return state


def send(world: simulated.World, state: DeviceState) -> int:
    return send_reports(state, world.device, world.server, now=world.now)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_refusal_that_is_not_about_the_report_stops_the_sending_and_loses_nothing(world: simulated.World, status: int) -> None:
    world.server.verdict = lambda said: refusal(status)
    with queue(world, 5) as state:
        assert send(world, state) == 5
        assert world.server.seen == 1


def test_no_number_of_bad_reports_shuts_the_good_ones_out(world: simulated.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report.random, "randrange", random.Random(3).randrange)
    with queue(world, 120) as state:
        good = state.outbox()[-1][0]
        world.server.verdict = lambda said: None if said["counter"] == good else refusal(422)
        for _ in range(20):
            send(world, state)
        assert [simulated.payload_of(body)["counter"] for body in world.server.reports] == [good]
        assert len(state.outbox()) == 119
        assert world.server.seen <= 20 * 64, "and what a server can make a device send at one poll is bounded"


def test_a_server_that_always_knows_a_higher_counter_neither_loses_a_report_nor_uses_the_counter_up(world: simulated.World) -> None:
    world.server.verdict = lambda said: refusal(409, "report_counter", last_counter=said["counter"] + 10)
    with queue(world, 3) as state:
        for _ in range(5):
            assert send(world, state) == 3
        assert state.outbox()[-1][0] < 1000
        world.server.verdict = lambda said: refusal(409, "report_counter", last_counter=2**53)
        assert send(world, state) == 3, "a counter that no device can reach is not believed"
        world.server.verdict = lambda said: None
        assert send(world, state) == 0
    assert len(world.server.reports) == 3


def test_reports_go_out_although_no_metadata_can_be_had(world: simulated.World) -> None:
    with queue(world, 2):
        pass
    with pytest.raises(TransportError):
        simulated.poll(
            world.device,
            simulated.THE_MODEL,
            clock=world.clock,
            uptime=world.uptime,
            http=world.server,
            fetcher=simulated.Unreachable(),
        )
    assert [event for event, _ in world.events()] == ["alarm", "alarm", "failed"]
    with world.state() as state:
        assert state.outbox() == []


def test_the_outbox_of_a_device_that_nobody_listens_to_stays_bounded(world: simulated.World) -> None:
    with world.state() as state:
        for n in range(140):
            happening = report.Happening("awaiting_audit", report.State.IDLE, version=f"1.{n}")
            with state.transaction():
                report.queue_report(state, world.device, simulated.THE_MODEL, happening, now=world.now)
        waiting = state.outbox()
        assert len(waiting) <= 128
        assert json.loads(canonical_json(simulated.payload_of(waiting[-1][1])))["target"]["version"] == "1.139"
