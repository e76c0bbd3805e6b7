"""``[agent]`` of ``device.toml``: the few things about the agent that an owner decides."""

from __future__ import annotations

from dataclasses import dataclass

from device_client.bundle.fields import Fields

DEFAULT_DEADLINE_S = 6 * 3600
MIN_DEADLINE_S = 60
MAX_DEADLINE_S = 7 * 24 * 3600


@dataclass(frozen=True)
class AgentSettings:
    """How ``sealift device run`` behaves.

    Attributes:
        serve: keep the inference service running; None: if this client has one.
        poll_deadline_s: a poll that takes longer is ended and counts as failed.
    """

    serve: bool | None = None
    poll_deadline_s: int = DEFAULT_DEADLINE_S


def read_agent_settings(table: object, *, where: str) -> AgentSettings:
    """Reads the table.

    Raises:
        FormatError: an unknown key, or a value out of bounds.
    """
    fields = Fields(table, where=where, known=("serve", "poll_deadline_s"))
    given = fields.keys()
    return AgentSettings(
        serve=fields.boolean("serve") if "serve" in given else None,
        poll_deadline_s=fields.integer("poll_deadline_s", minimum=MIN_DEADLINE_S, maximum=MAX_DEADLINE_S)
        if "poll_deadline_s" in given
        else DEFAULT_DEADLINE_S,
    )
