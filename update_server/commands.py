"""`sealift server`: make a server from a ceremony, and run it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from device_client.console import json_option, show, step
from device_client.errors import UsageError
from device_client.trust.keys import load_signer
from device_client.trust.passphrase import ask_passphrase
from device_client.trust.times import utc_now
from update_server.audience import check_public_url
from update_server.data_folder import init_server
from update_server.serve import serve as run_server
from update_server.settings import DEFAULT_BLOBS, DEFAULT_DATABASE, Settings


@click.group()
def server() -> None:
    """Distribute models to devices, and take in what publishers sign."""


@server.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder to make; absent or empty.")
@click.option(
    "--repo", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Folder of the ceremony."
)
@click.option("--snapshot-key", required=True, metavar="URI", help="Key of the snapshot role, for example file:PATH.")
@click.option("--timestamp-key", required=True, metavar="URI", help="Key of the timestamp role.")
@click.option("--tokens", type=click.Path(path_type=Path), help="Folder for the token files; default: DATA-tokens.")
@click.option("--db", default=DEFAULT_DATABASE, show_default=True, metavar="URL", help="sqlite:PATH, relative to DATA.")
@click.option("--blobs", default=DEFAULT_BLOBS, show_default=True, metavar="URL", help="file:PATH, relative to DATA.")
@click.option(
    "--public-url", "public_urls", multiple=True, metavar="URL", help="URL under which devices know the server; repeatable."
)
@click.option("--accept-loopback-devices", is_flag=True, help="Devices on this machine need no operator. Not behind a proxy.")
@json_option
def init(
    data: Path,
    repo: Path,
    snapshot_key: str,
    timestamp_key: str,
    tokens: Path | None,
    db: str,
    blobs: str,
    public_urls: tuple[str, ...],
    *,
    accept_loopback_devices: bool,
    as_json: bool,
) -> None:
    """Make a server's data folder: import root and targets, sign the first snapshot and timestamp, write token files.

    Passphrases of the keys come from SEALIFT_PASSPHRASE, the file that SEALIFT_PASSPHRASE_FILE names, or a prompt.
    """
    settings = Settings(
        snapshot_key=_absolute(snapshot_key),
        timestamp_key=_absolute(timestamp_key),
        database=db,
        blobs=blobs,
        accept_loopback_devices=accept_loopback_devices,
        public_urls=tuple(check_public_url(url) for url in public_urls),
    )
    done = init_server(
        data,
        repo=repo,
        settings=settings,
        snapshot_signer=load_signer(settings.snapshot_key, passphrase=ask_passphrase),
        timestamp_signer=load_signer(settings.timestamp_key, passphrase=ask_passphrase),
        tokens=tokens or _tokens_beside(data),
        now=utc_now(),
    )
    files = {role: str(path) for role, path in done.token_files.items()}
    result: dict[str, object] = {
        "ok": True,
        "data": str(data),
        "root_version": done.root_version,
        "root_sha256": done.root_digest.hex,
        "roles": list(done.roles),
        "tokens": files,
    }
    lines = [f"made {data} with root {done.root_version}, {done.root_digest}", "tokens:"]
    lines += [f"  {role}: {path}" for role, path in files.items()]
    show(result, "\n".join(lines), as_json=as_json)


@server.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder made by `server init`.")
@click.option("--host", metavar="HOST", help="Loopback address to listen on; default: 127.0.0.1.")
@click.option("--port", default=8470, show_default=True, type=click.IntRange(0, 65535), help="0 lets the system choose.")
@click.option("--port-file", type=click.Path(path_type=Path), help="Write the port there once the server answers.")
@click.option("--unsafe-plain-http-on", metavar="HOST", help="Listen on an address that others reach, without TLS. For tests only.")
@json_option
def serve(
    data: Path, host: str | None, port: int, port_file: Path | None, unsafe_plain_http_on: str | None, *, as_json: bool
) -> None:
    """Serve metadata, blobs and the API until SIGTERM or Ctrl-C. Prints its URL once it answers.

    It speaks plain HTTP on a loopback address; put a proxy that speaks TLS in front of it.
    """
    if host is not None and unsafe_plain_http_on is not None:
        raise UsageError("--host and --unsafe-plain-http-on exclude each other", code="usage", hint="give one of them")
    _log_to_stderr()
    run_server(
        data,
        host=unsafe_plain_http_on or host or "127.0.0.1",
        port=port,
        port_file=port_file,
        unsafe_plain_http=unsafe_plain_http_on is not None,
        passphrase=ask_passphrase,
        on_ready=lambda url: show({"ok": True, "url": url}, f"listening on {url}", as_json=as_json),
    )
    step("stopped")


def _tokens_beside(data: Path) -> Path:
    folder = data.absolute()
    return data.parent / f"{folder.name}-tokens" if data.name else folder.with_name(f"{folder.name}-tokens")


def _absolute(uri: str) -> str:
    """A key file named relative to here must be found again wherever the server is started."""
    scheme, separator, rest = uri.partition(":")
    return f"file:{Path(rest).resolve()}" if scheme == "file" and separator and rest else uri


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name, level in (("update_server", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
