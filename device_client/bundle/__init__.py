"""The bundle format: an OCI artifact that is verified, never unpacked. Standard library only."""
