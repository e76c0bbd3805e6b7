"""The table ``[download]`` of device.toml: what is not understood is an error that names it."""

from __future__ import annotations

import pytest

from device_client.errors import UsageError
from device_client.install.config import parse_config
from device_client.install.download_config import DEFAULT_DOWNLOAD, DownloadConfig, origin_of

HEAD = f"""
schema = 1
server = "https://updates.example"
models = ["clinic/digits"]
root_sha256 = "{"0" * 64}"
"""


def parse(table: str) -> DownloadConfig:
    return parse_config(f"{HEAD}[download]\n{table}".encode(), where="device.toml").download


def test_without_the_table_the_defaults_hold() -> None:
    config = parse_config(HEAD.encode(), where="device.toml")
    assert config.download == DEFAULT_DOWNLOAD == parse("")
    assert parse_config(config.to_toml().encode(), where="device.toml") == config


def test_every_key_is_read() -> None:
    found = parse(
        """
        parallel = 2
        max_bytes_per_s = 250_000
        max_bytes_per_poll = 50_000_000
        reserve_bytes = 0
        metered = "refuse"
        metered_command = ["/usr/local/bin/is-metered", "--wifi"]
        redirect_origins = ["https://cdn.example", "https://CDN.example:8443/"]
        """
    )
    assert found == DownloadConfig(
        parallel=2,
        max_bytes_per_s=250_000,
        max_bytes_per_poll=50_000_000,
        reserve_bytes=0,
        may_use_metered=False,
        metered_command=("/usr/local/bin/is-metered", "--wifi"),
        redirect_origins=("https://cdn.example:443", "https://cdn.example:8443"),
    )


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ("paralel = 2", "paralel"),
        ("parallel = 0", "parallel"),
        ("parallel = 17", "parallel"),
        ("parallel = true", "parallel"),
        ("max_bytes_per_s = 100", "max_bytes_per_s"),
        ("max_bytes_per_poll = 0", "max_bytes_per_poll"),
        ("reserve_bytes = -1", "reserve_bytes"),
        ('metered = "ask"', "metered"),
        ('metered = "refuse"', "metered_command"),
        ('metered_command = ["/bin/true"]', "metered_command"),
        ('metered = "refuse"\nmetered_command = ["is-metered"]', "metered_command"),
        ('metered = "refuse"\nmetered_command = "/bin/true"', "metered_command"),
        ('redirect_origins = ["http://cdn.example"]', "redirect_origins"),
        ('redirect_origins = ["https://cdn.example/models"]', "redirect_origins"),
        ('redirect_origins = ["https://me:secret@cdn.example"]', "redirect_origins"),
        ('redirect_origins = ["https://cdn.example?x"]', "redirect_origins"),
        ('redirect_origins = ["cdn.example"]', "redirect_origins"),
        ('redirect_origins = ["https://"]', "redirect_origins"),
        ("redirect_origins = [" + '"https://cdn.example",' * 9 + "]", "redirect_origins"),
    ],
)
def test_a_wrong_or_unknown_key_is_named(table: str, where: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(table)
    assert caught.value.code == "device_config"
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://cdn.example/x?y=1", "https://cdn.example:443"),
        ("HTTPS://CDN.EXAMPLE:443/x", "https://cdn.example:443"),
        ("https://[::1]:8443/", "https://::1:8443"),
        ("http://cdn.example/x", None),
        ("https://cdn.example@evil.example/x", None),
        ("https://@cdn.example/x", None),
        ("https://cdn.example:99999/x", None),
        ("https://cdn.example\\@evil.example/", None),
        ("https://cdn.example/\r\nX: y", None),
        ("https://cdn.example/ x", None),
        ("https://cdn.example/#x", None),
        ("//cdn.example/x", None),
        ("/x", None),
        ("", None),
        ("https://cdn.example/" + "x" * 2048, None),
    ],
)
def test_origins_are_compared_in_one_form_and_odd_urls_have_none(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin
