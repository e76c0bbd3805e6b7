"""The packager: load, compress, evaluate, contract, bundle, sign, publish."""
