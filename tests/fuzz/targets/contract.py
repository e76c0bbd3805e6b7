"""``parse_contract`` and ``parse_config``: what is accepted is written back and read again as the same."""

from __future__ import annotations

import random
from collections.abc import Iterator

from device_client.bundle.config import parse_config
from device_client.bundle.contract import parse_contract
from device_client.bundle.features import KNOWN_FEATURES
from device_client.limits import DEFAULT_LIMITS
from tests.fuzz.json_mutator import mutate_json
from tests.fuzz.target import accepted, check_strict, promise
from tests.fuzz.vectors import bodies

MAX_BYTES = 16_384
WORDS = (
    b'"schema"', b'"1.0"', b'"features"', b'"line"', b'"model"', b'"version"', b'"counter"', b'"task"', b'"inputs"', b'"outputs"',
    b'"preprocessing"', b'"variants"', b'"golden"', b'"budget"', b'"lineage"', b'"dtype"', b'"float32"', b'"shape"', b'"meaning"',
    b'"range"', b'"op"', b'"scale"', b'"normalise"', b'"clip"', b'"requires"', b'"expected"', b'"interval"', b'"tolerances"',
    b'"exact"', b'"one_lsb"', b'"absolute"', b'"latency_ms"', b'"latency_ratio"', b'"modelfs"', b'"diffIds"', b"sha256:",
)  # fmt: skip


def fuzz_one(data: bytes) -> None:
    """See the module."""
    check_strict(data, max_bytes=DEFAULT_LIMITS.max_contract_bytes)
    accepted(lambda: parse_config(data))
    contract = accepted(lambda: parse_contract(data))
    if contract is None:
        return
    promise(parse_contract(contract.to_bytes()) == contract, "written back, it is another contract")
    promise(set(contract.features) <= KNOWN_FEATURES, "an unknown feature")
    ids = {variant.id for variant in contract.variants}
    promise(len(ids) == len(contract.variants), "a variant twice")
    promise(len({variant.model.digest for variant in contract.variants}) == len(ids), "one model for two variants")
    promise(dict(contract.golden.tolerances).keys() == ids, "tolerances of other variants")
    promise(contract.path.version != "channel", "a reserved version")


def seeds() -> Iterator[bytes]:
    """The vectors."""
    yield from bodies("contract")
    yield from bodies("config")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """JSON changes."""
    return mutate_json(data, rng)
