"""The local inference service: a Unix socket in front, models in worker processes that may be killed behind it."""
