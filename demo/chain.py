"""The chain, step by step: keys, models, server, release, device, inference; then the attacks.

Each step runs real commands in processes of their own and says in one line what happened and what it cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from demo import digits
from demo.attacker import WebRoot
from demo.ceremony import make_keys, steal_keys
from demo.device import DemoDevice
from demo.models import make_models
from demo.names import AUDIT, FIRST, LINE, MODEL, RELEASE, SECOND
from demo.processes import Workshop
from demo.report import Report
from demo.siege import besiege
from device_client.console import step
from device_client.errors import SealiftError


class Chain:
    """Runs everything in ``shop`` and fills a report."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._device = DemoDevice(shop)
        self._root_sha256 = ""

    def run(self) -> Report:
        """The whole demo.

        Raises:
            SealiftError: a step failed; an attack that is not refused as it must be is in the report instead.
        """
        begun = time.monotonic()
        report = Report()
        self._say("keys", self._make_keys)
        made = make_models(self._shop)
        report.accuracy, report.size = made.packed["accuracy"], made.packed["size"]
        report.latency_ratio, report.golden = made.packed["latency_ratio"], made.packed["golden"]
        report.audit = {"verdicts": made.verdicts, "network": made.size, "power": made.audited["power"]}
        self._say("server", self._start_server)
        self._say(f"release {FIRST}", lambda: self._release(FIRST))
        self._say("device", self._install_first)
        self._say("inference", lambda: self._infer_all(report))
        web = WebRoot(self._shop.folder / "server", steal_keys(self._shop.folder))
        seen_timestamp = web.role_file("timestamp.json").read_bytes()
        self._say(f"release {SECOND}", lambda: self._release(SECOND))
        step("attacks        the attacker holds the web root and the online keys, and in addition what each line says")
        report.attacks = besiege(self._shop, self._device, web=web, seen_timestamp=seen_timestamp)
        report.seconds = time.monotonic() - begun
        return report

    def _say(self, name: str, work: Callable[[], str]) -> None:
        begun = time.monotonic()
        text = work()
        step(f"{name:<14} {text}  ({time.monotonic() - begun:.1f} s)")

    def _make_keys(self) -> str:
        count = make_keys(self._shop)
        keys = " ".join(f"--key file:keys/{name}.key" for name in ("root-a", "root-b", "targets"))
        done = self._shop.run(f"keys init --repo ceremony --roles keys/roles.toml {keys}", holder="ceremony")
        self._root_sha256 = done.answer["root_sha256"]
        return f"{count} encrypted keys made; root and targets signed; release and audit need 2 of 2 each"

    def _start_server(self) -> str:
        self._shop.run(
            "server init --data server --repo ceremony --snapshot-key file:keys/snapshot.key "
            "--timestamp-key file:keys/timestamp.key --tokens tokens --accept-loopback-devices",
            holder="online",
        )
        self._shop.serve(data=self._shop.folder / "server", holder="online")
        return f"serves metadata, blobs and the device API at {self._shop.url}"

    def _release(self, version: str) -> str:
        """The release team signs twice and publishes; the audit team attests, signs twice and publishes."""
        bundle, at = f"bundles/{version}", f"--repo {self._shop.url} --yes"
        root = f"--root-sha256 {self._root_sha256}"
        for holder in ("release-a", "release-b"):
            command = f"sign {bundle} {at} {root} --role {RELEASE} --key file:keys/{holder}.key --token-file tokens/{RELEASE}.token"
            self._shop.run(f"{command} --accept-unproven", holder=holder)
        self._shop.run(f"publish {bundle} {at} --role {RELEASE} --token-file tokens/{RELEASE}.token")
        attested = f"attestations/{version}"
        self._shop.run(
            f"audit attest audit/{version} --bundle {bundle} --key file:keys/audit-a.key --out {attested}", holder="audit-a"
        )
        files = sorted((self._shop.folder / attested).glob("*.dsse.json"))
        options = " ".join(f"--attestation {attested}/{path.name}" for path in files)
        for holder in ("audit-a", "audit-b"):
            command = f"sign {bundle} {at} {root} --role {AUDIT} --key file:keys/{holder}.key --token-file tokens/{AUDIT}.token"
            self._shop.run(f"{command} {options}", holder=holder)
        self._shop.run(f"publish {bundle} {at} --role {AUDIT} --token-file tokens/{AUDIT}.token")
        return "2 of 2 release and 2 of 2 audit signatures, by four calls; two publish transactions"

    def _install_first(self) -> str:
        # A device in the field watches a new bundle for some minutes before it commits; a demo has no minutes to spare.
        (self._shop.folder / "policy.toml").write_text("schema = 1\n\n[probation]\nminutes = 0\n", encoding="utf-8")
        self._shop.run(
            f"device init --dir device --root ceremony/metadata/1.root.json --root-sha256 {self._root_sha256} "
            f"--server {self._shop.url} --model {LINE}/{MODEL} --policy policy.toml"
        )
        self._shop.run("device enroll --dir device")
        polled = self._device.poll().answer
        if polled.get("result") != "installed":
            raise SealiftError("the device did not install the first release", code="demo_step", actual=polled)
        return f"enrolled, polled, verified, self-tested and activated {polled['version']}"

    def _infer_all(self, report: Report) -> str:
        """The held-out digits on the device, through the installed variant."""
        data = digits.samples()
        np.savez(self._shop.folder / "samples.npz", x=data["x"])
        np.savez(self._shop.folder / "labels.npz", y=data["y"])
        accuracy = self._device.accuracy()
        report.device = {"accuracy": accuracy, "rows": len(data["y"])}
        return f"{len(data['y'])} held-out digits on the device: accuracy {accuracy:.1%}"
