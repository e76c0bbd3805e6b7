"""Every bound on input from outside, with its unit and the attack that it stops.

One frozen dataclass, passed in where it is used; tests make smaller ones. Nothing here is read from the network.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True)
class Limits:
    """Bounds of the reader; see ``docs/bundle-format.md`` for the reason of each."""

    max_manifest_bytes: int = 256 * KIB  # endless manifest
    max_contract_bytes: int = 64 * KIB  # endless contract
    max_config_bytes: int = 64 * KIB  # endless ModelPack config
    max_index_bytes: int = 64 * KIB  # endless index.json or oci-layout
    max_layers: int = 64  # a million tiny blobs
    max_blob_bytes: int = 2 * GIB  # endless artifact
    max_golden_bytes: int = 64 * MIB  # golden probes are read into memory
    max_model_bytes: int = 2 * GIB  # protobuf's own bound; the model is held in memory once
    max_model_depth: int = 64  # nested messages that exhaust a parser's stack
    max_model_fields: int = 4_000_000  # a model of millions of tiny fields that burns CPU in the walker
    max_model_varint_bytes: int = 2 * MIB  # packed integers, the only content read byte by byte, that burn CPU in the walker
    max_model_rank: int = 32  # a tensor of a million dimensions
    max_model_dim: int = 2**31 - 1  # one dimension; products are bounded by max_model_bytes
    max_total_bytes: int = 8 * GIB  # disk exhaustion by many large layers
    max_json_depth: int = 32  # nesting that exhausts the parser's stack
    max_json_integer: int = 2**53 - 1  # huge integers that other readers round
    max_name_chars: int = 64  # one path segment: line, model, version
    max_custom_bytes: int = 64 * KIB  # custom record inside a targets role
    max_channel_bytes: int = 4 * KIB  # channel document
    max_attestation_bytes: int = 256 * KIB  # DSSE envelope of an audit
    max_report_bytes: int = 64 * KIB  # DSSE envelope of a device
    max_root_bytes: int = 512_000  # TUF root
    max_timestamp_bytes: int = 65_536  # TUF timestamp; two ML-DSA-87 signatures are 18.5 kB in hex
    max_snapshot_bytes: int = 2_000_000  # TUF snapshot
    max_targets_bytes: int = 5_000_000  # TUF targets and delegated roles
    max_root_rotations: int = 256  # endless root chain
    max_offline_members: int = 4096  # an offline file of a million tiny members
    max_offline_metadata_bytes: int = 64 * MIB  # role files of an offline file are held in memory
    max_offline_bytes: int = 16 * GIB  # endless offline file


DEFAULT_LIMITS = Limits()
