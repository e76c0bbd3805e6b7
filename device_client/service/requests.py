"""What the service answers: one function per request, from a message and its sender to a header and tensors.

    ping       is somebody there
    models     what there is, and what runs
    describe   inputs and outputs by the contract, with the version
    infer      one inference
    vote       what an allowed application thinks of a version

Decides nothing about models; ``slot.py`` does. Knows nothing about sockets; ``server.py`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from device_client import __version__
from device_client.bundle.contract import TensorSpec
from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import PolicyError, StateError, UsageError
from device_client.inference.by_name import full_name
from device_client.inference.model import find_installed, runnable
from device_client.install.folder import Device
from device_client.install.health import record_vote
from device_client.install.state import Deployment, open_state
from device_client.service.peers import Peer, Permissions
from device_client.service.pool import Pool
from device_client.service.protocol import Message, Tensor, read_tensors

PROTOCOL = 1
Reply = tuple[dict[str, object], Sequence[Tensor]]
Vote = Callable[..., None]


class Requests:
    """Answers for one device.

    Args:
        device: the device.
        pool: its models.
        permissions: who may do what.
        vote: hands a vote over; by default to ``install/health.py``.
    """

    def __init__(self, device: Device, pool: Pool, permissions: Permissions, *, vote: Vote | None = None) -> None:
        self._device, self._pool, self._permissions = device, pool, permissions
        self._vote = vote or record_vote
        self._answers: dict[str, Callable[[Message, Peer], Reply]] = {
            "ping": self._ping,
            "models": self._models,
            "describe": self._describe,
            "infer": self._infer,
            "vote": self._voted,
        }

    def answer(self, message: Message, peer: Peer) -> Reply:
        """The answer.

        Raises:
            SealiftError: the refusal to send instead.
        """
        operation = message.header.text("op", choices=self._answers, max_chars=32)
        header, tensors = self._answers[operation](message, peer)
        return {"ok": True, **header}, tensors

    def _ping(self, message: Message, peer: Peer) -> Reply:
        _closed(message, "op")
        return {"protocol": PROTOCOL, "client": f"sealift {__version__}", "user": peer.uid}, ()

    def _models(self, message: Message, peer: Peer) -> Reply:
        _closed(message, "op")
        found: list[dict[str, object]] = []
        with open_state(self._device.folder.state) as state:
            for model in self._device.config.models:
                running = self._pool.slot(model).running
                try:
                    entry: dict[str, object] = _named(runnable(state, model))
                    entry["state"] = "idle" if running is None else "running"
                except (PolicyError, StateError) as refusal:
                    entry = {"model": str(model), "state": refusal.code}
                found.append(entry)
        return {"models": found}, ()

    def _describe(self, message: Message, peer: Peer) -> Reply:
        _closed(message, "op", "model")
        found = find_installed(self._device.folder, self._model(message))
        contract, variant = found.contract, found.variant
        return {
            **_named(found.deployment),
            "digest": str(variant.model.digest),
            "precision": variant.precision,
            "task": contract.task,
            "inputs": [_described(spec) for spec in contract.inputs],
            "outputs": [_described(spec) for spec in contract.outputs],
        }, ()

    def _infer(self, message: Message, peer: Peer) -> Reply:
        _closed(message, "op", "model", "tensors")
        slot, settings = self._pool.slot(self._model(message)), self._device.config.service
        deployment, answer = slot.infer(read_tensors(message), timeout_s=settings.deadline_ms / 1000)
        return _named(deployment), answer.tensors

    def _voted(self, message: Message, peer: Peer) -> Reply:
        _closed(message, "op", "model", "version", "manifest", "good")
        self._permissions.check_voter(peer)
        model, fields = self._model(message), message.header
        with open_state(self._device.folder.state) as state:
            active = runnable(state, model)
        version = fields.text("version", max_chars=64)
        manifest = Digest.parse(fields.text("manifest", max_chars=80)) if "manifest" in fields else active.manifest
        if (version, manifest) != (active.version, active.manifest):
            raise UsageError(
                "this version does not run",
                code="vote_version",
                where=str(model),
                expected=f"{active.version} {active.manifest}",
                actual=f"{ascii(version)[1:-1]} {manifest}",
                hint="vote with the version that an inference named",
            )
        self._vote(self._device.folder, model, manifest, good=fields.boolean("good"))
        return _named(active), ()

    def _model(self, message: Message) -> ModelPath:
        return full_name(message.header.text("model", max_chars=160), self._device.config)


def _closed(message: Message, *known: str) -> None:
    """A request says only what it can say: what is not understood might have been meant."""
    unknown = sorted(set(message.header.keys()) - set(known))
    if unknown:
        raise UsageError(
            "unknown field in a request", code="request_field", actual=ascii(unknown[0])[:80], expected=", ".join(known)
        )


def _named(deployment: Deployment) -> dict[str, object]:
    return {
        "model": str(deployment.model),
        "version": deployment.version,
        "manifest": str(deployment.manifest),
        "variant": deployment.variant,
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    return spec.to_json()
