"""Install: state, store, download, self-test and the one transaction that activates a model."""
