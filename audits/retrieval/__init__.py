"""What reconstructions retrieve: identities, and records by black box, by labels alone, and between twins of two halves."""
