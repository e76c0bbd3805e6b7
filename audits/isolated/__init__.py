"""Code that somebody else wrote, run in a child process that has no keys, no network and hard limits."""
