"""The device API: enrolment by proof of possession, what is next, signed reports."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from device_client.trust.keys import key_to_json
from device_client.trust.times import format_time
from tests.unit.update_server.world import LINE, MODEL, NOW, Client, FakeDevice, World, code_of, make_bundle
from update_server import devices, enrolment, journal
from update_server.api_device import POLL_S, poll_interval_s
from update_server.audience import is_loopback_url

NEXT = f"/v1/devices/me/next?model={LINE}/{MODEL}"
REPORTS = "/v1/devices/me/reports"


@pytest.fixture
def device(world: World) -> FakeDevice:
    return FakeDevice(world.clock)


def alarms(client: Client) -> list[str]:
    rows = client.service.database.read(
        lambda connection: connection.execute("SELECT code FROM audit_log WHERE outcome = 'alarm' ORDER BY id").fetchall()
    )
    return [row["code"] for row in rows]


def test_a_device_on_this_machine_is_accepted_and_enrolling_again_keeps_it(client: Client, device: FakeDevice) -> None:
    answer = device.enroll(client)
    assert (answer.status_code, answer.json()["state"], answer.json()["device_id"]) == (201, "accepted", device.device_id)
    first = device.token
    assert client("GET", NEXT, token=first).status_code == 204
    assert device.enroll(client).status_code == 200
    assert code_of(client("GET", NEXT, token=first)) == "token_unknown"
    assert client("GET", NEXT, token=device.token).status_code == 204


@pytest.mark.parametrize(
    ("address", "headers"),
    [("192.0.2.7", {}), ("127.0.0.1", {"x-forwarded-for": "192.0.2.7"}), ("127.0.0.1", {"via": "1.1 proxy"})],
)
def test_a_device_from_elsewhere_waits_for_the_operator(
    world: World, client: Client, device: FakeDevice, address: str, headers: dict[str, str]
) -> None:
    remote = Client(world, client.service, address=address)
    answer = remote("POST", "/v1/enroll", content=device.enrolment(), headers=headers)
    token = answer.json()["token"]
    assert answer.json()["state"] == "pending"
    assert code_of(remote("GET", NEXT, token=token)) == "device_pending"
    assert code_of(remote("POST", REPORTS, token=token, content=device.report())) == "device_pending"
    for state, status in (("accepted", 204), ("blocked", 403)):
        done = client("PUT", f"/v1/devices/{device.device_id}/state", token=world.tokens["operator"], json={"state": state})
        assert done.json()["state"] == state
        assert remote("GET", NEXT, token=token).status_code == status


def test_a_device_on_this_machine_waits_too_unless_init_said_otherwise(tmp_path: Any) -> None:
    world = World(tmp_path, accept_loopback_devices=False)
    with world.service() as service:
        assert FakeDevice(world.clock).enroll(Client(world, service)).json()["state"] == "pending"


def test_only_the_holder_of_the_key_can_enrol_it(client: Client, device: FakeDevice) -> None:
    victim = CryptoSigner.generate_ed25519()
    answer = device.enroll(client, public_key=key_to_json(victim.public_key))
    assert (answer.status_code, code_of(answer)) == (422, "signature_threshold")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"audience": "https://elsewhere.example"}, "audience"),
        ({"audience": "http://127.0.0.1.evil.example"}, "audience"),
        ({"issued": format_time(NOW - timedelta(minutes=11))}, "clock_skew"),
        ({"issued": format_time(NOW + timedelta(minutes=11))}, "clock_skew"),
        ({"schema": 2}, "schema_unknown"),
        ({"extra": 1}, "field_unknown"),
        ({"models": []}, "field_value"),
        ({"models": ["a/b/c"]}, "name_syntax"),
        ({"public_key": key_to_json(CryptoSigner.generate_ecdsa().public_key)}, "key_type"),
        ({"facts": {}}, "field_missing"),
    ],
)
def test_an_enrolment_that_breaks_a_rule_is_refused(client: Client, device: FakeDevice, changes: dict[str, Any], code: str) -> None:
    answer = device.enroll(client, **changes)
    assert (answer.status_code, code_of(answer)) == (422, code)


def test_a_clock_that_is_off_is_told_the_time(client: Client, device: FakeDevice) -> None:
    assert device.enroll(client, issued="1970-01-01T00:00:00Z").json()["server_time"] == format_time(NOW)


def test_an_older_enrolment_cannot_be_replayed(world: World, client: Client, device: FakeDevice) -> None:
    old = device.enrolment()
    world.clock.now += timedelta(minutes=1)
    device.enroll(client)
    answer = client("POST", "/v1/enroll", content=old)
    assert (answer.status_code, code_of(answer)) == (409, "enroll_replayed")
    assert client("GET", NEXT, token=device.token).status_code == 204


def test_strangers_cannot_fill_the_table_of_devices(world: World, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MAX_PENDING_DEVICES", 2)
    remote = Client(world, client.service, address="192.0.2.7")
    answers = [FakeDevice(world.clock).enroll(remote) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert code_of(answers[2]) == "enroll_full"


def test_refusals_are_logged_at_a_bounded_rate(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_REFUSALS_PER_MINUTE", 3)
    for _ in range(10):
        client("GET", NEXT)
    client.world.clock.now += timedelta(minutes=2)
    client("GET", NEXT)
    client.service.database.write(lambda connection: None).result()
    rows = client.service.database.read(lambda connection: connection.execute("SELECT detail FROM audit_log").fetchall())
    assert [row["detail"] for row in rows][:3] == [""] * 3
    assert len(rows) == 4
    assert rows[3]["detail"].startswith("7 further")


def test_next_names_what_the_channel_calls_latest(client: Client, device: FakeDevice) -> None:
    device.enroll(client)
    client.release(make_bundle("1.0.0", 1))
    answer = client("GET", NEXT, token=device.token)
    assert answer.json() == {"schema": 1, "model": "clinic/digits", "version": "1.0.0", "poll_s": poll_interval_s(device.device_id)}
    assert answer.headers["sealift-poll-seconds"] == str(answer.json()["poll_s"])
    etag = answer.headers["etag"]
    assert client("GET", NEXT, token=device.token, headers={"if-none-match": etag}).status_code == 304
    client.release(make_bundle("1.0.1", 2))
    answer = client("GET", NEXT, token=device.token, headers={"if-none-match": etag})
    assert (answer.status_code, answer.json()["version"]) == (200, "1.0.1")
    assert client("GET", "/v1/devices/me/next?model=clinic/other", token=device.token).status_code == 204


def test_next_refuses_what_is_not_a_model_and_whoever_is_not_a_device(world: World, client: Client, device: FakeDevice) -> None:
    device.enroll(client)
    assert code_of(client("GET", "/v1/devices/me/next?model=..", token=device.token)) == "name_syntax"
    assert code_of(client("GET", "/v1/devices/me/next", token=device.token)) == "bad_request"
    assert code_of(client("GET", NEXT)) == "token_missing"
    assert code_of(client("GET", NEXT, token=world.tokens["operator"])) == "token_role"


def test_poll_intervals_spread_around_the_mean() -> None:
    assert poll_interval_s("0" * 64) == round(POLL_S * 0.9)
    assert poll_interval_s("f" * 64) == round(POLL_S * 1.1)


def test_a_report_is_stored_once(world: World, client: Client, device: FakeDevice) -> None:
    device.enroll(client)
    report = device.report()
    answer = client("POST", REPORTS, token=device.token, content=report)
    assert (answer.status_code, answer.json()) == (202, {"schema": 1, "counter": 1, "status": "stored"})
    answer = client("POST", REPORTS, token=device.token, content=report)
    assert (answer.status_code, answer.json()["status"]) == (200, "duplicate")
    page = client("GET", "/v1/devices", token=world.tokens["operator"]).json()
    assert page["devices"][0]["running"] == {"clinic/digits": {"version": "1.0.0", "event": "installed", "code": None}}
    assert (page["devices"][0]["last_counter"], page["more"]) == (1, False)


def test_a_replayed_or_rewritten_report_is_a_conflict(client: Client, device: FakeDevice) -> None:
    device.enroll(client)
    for counter in (1, 5):
        assert client("POST", REPORTS, token=device.token, content=device.report(counter=counter)).status_code == 202
    answer = client("POST", REPORTS, token=device.token, content=device.report(counter=3))
    assert (answer.status_code, code_of(answer), answer.json()["last_counter"]) == (409, "report_counter", 5)
    answer = client("POST", REPORTS, token=device.token, content=device.report(counter=5, event="current"))
    assert (answer.status_code, code_of(answer)) == (409, "report_conflict")
    late = device.report(counter=1)
    assert client("POST", REPORTS, token=device.token, content=late).json()["status"] == "duplicate"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"created": format_time(NOW + timedelta(hours=1))}, 422, "clock_skew"),
        ({"audience": "https://elsewhere.example"}, 422, "audience"),
        ({"device_id": "0" * 64}, 403, "report_device"),
        ({"state": "sleeping"}, 422, "field_value"),
        ({"event": "hacked"}, 422, "field_value"),
        ({"code": "Not A Code"}, 422, "field_value"),
        ({"counter": 0}, 422, "field_value"),
        ({"counter": True}, 422, "field_type"),
        ({"marks": {"Root": 1}}, 422, "field_value"),
        ({"floor": [0]}, 422, "counter_syntax"),
        ({"active": {"version": "channel"}}, 422, "field_missing"),
        ({"extra": 1}, 422, "field_unknown"),
        ({"detail": "x" * 1025}, 422, "field_type"),
    ],
)
def test_a_report_that_breaks_a_rule_is_refused(
    client: Client, device: FakeDevice, changes: dict[str, Any], status: int, code: str
) -> None:
    device.enroll(client)
    answer = client("POST", REPORTS, token=device.token, content=device.report(**changes))
    assert (answer.status_code, code_of(answer)) == (status, code)


def test_a_report_by_another_key_is_refused(client: Client, device: FakeDevice) -> None:
    device.enroll(client)
    thief = FakeDevice(device.clock)
    answer = client("POST", REPORTS, token=device.token, content=thief.report(device_id=device.device_id))
    assert (answer.status_code, code_of(answer)) == (422, "signature_threshold")


def test_an_enrolment_is_not_taken_for_a_report(client: Client, device: FakeDevice) -> None:
    device.enroll(client)
    assert code_of(client("POST", REPORTS, token=device.token, content=device.enrolment())) == "field_value"
    both = json.loads(device.report())
    both["signatures"] *= 2
    assert client("POST", REPORTS, token=device.token, content=json.dumps(both)).status_code == 422


def test_a_device_that_was_turned_back_is_heard_and_raises_an_alarm(client: Client, device: FakeDevice) -> None:
    device.enroll(client)
    assert client("POST", REPORTS, token=device.token, content=device.report(generation=3)).status_code == 202
    assert alarms(client) == []
    worse = device.report(generation=2, floor=[0, 0], marks={"root": 1, "timestamp": 4})
    assert client("POST", REPORTS, token=device.token, content=worse).status_code == 202
    assert alarms(client) == ["generation_decreased", "mark_decreased", "floor_decreased"]


def test_the_operator_pages_through_devices(world: World, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "PAGE_SIZE", 2)
    ids = sorted(json.loads(FakeDevice(world.clock).enroll(client).content)["device_id"] for _ in range(3))
    page = client("GET", "/v1/devices", token=world.tokens["operator"]).json()
    assert ([item["device_id"] for item in page["devices"]], page["more"]) == (ids[:2], True)
    page = client("GET", f"/v1/devices?after={ids[1]}", token=world.tokens["operator"]).json()
    assert ([item["device_id"] for item in page["devices"]], page["more"]) == (ids[2:], False)
    missing = client("PUT", f"/v1/devices/{'0' * 64}/state", token=world.tokens["operator"], json={"state": "accepted"})
    assert (missing.status_code, code_of(missing)) == (404, "device_unknown")
    assert code_of(client("GET", "/v1/devices", token="x" * 43)) == "token_unknown"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8470", True),
        ("http://localhost", True),
        ("http://[::1]:80", True),
        ("https://127.0.0.1", False),
        ("http://127.0.0.1/", False),
        ("http://127.0.0.1:99999", False),
        ("http://user@127.0.0.1", False),
        ("http://127.0.0.1.example.com", False),
        ("http://[::1", False),
    ],
)
def test_which_urls_are_this_machine(url: str, expected: bool) -> None:
    assert is_loopback_url(url) is expected


def test_the_payload_types_are_those_of_the_document() -> None:
    assert enrolment.PAYLOAD_TYPE == "application/vnd.sealift.enroll.v1+json"
