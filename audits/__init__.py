"""The audits: attacks on the exact bytes, controls, statistics, verdict, attestation."""
