"""Policy: which verified bundles this device accepts. Pure decisions, no IO."""
