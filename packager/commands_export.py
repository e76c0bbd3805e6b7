"""``sealift export``: plan, write, show. Needs no token: all that it reads is what devices read."""

from __future__ import annotations

from pathlib import Path

import click

from device_client.bundle.digest import Digest
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.path import ModelPath
from device_client.console import json_option, progress, show, step
from device_client.errors import FormatError, UsageError
from device_client.trust.times import format_time, utc_now
from packager.commands_sign import load_bundle
from packager.offline_export import write_export
from packager.offline_plan import ExportPlan, Wish, plan_export
from packager.publication import open_publication


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--repo", required=True, help="The server's URL, or a copy of its data folder: with snapshot and timestamp.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="F.tar", help="File to write.")
@click.option("--variant", "variants", multiple=True, help="Carry only this variant; repeat for several [default: all].")
@click.option("--root-sha256", help="Digest of the newest root, as you know it: export only what hangs on that root.")
@json_option
def export(
    bundles: tuple[str, ...], *, repo: str, out: Path, variants: tuple[str, ...], root_sha256: str | None, as_json: bool
) -> None:
    """Write one file that `sealift device import` installs from, without any network.

    BUNDLE is a folder that `sealift pack` wrote, or LINE/NAME. Either way the newest published release of the model is exported,
    with the metadata that both teams and the server have signed; a folder must hold that very release.
    """
    wishes = [_wish(each) for each in bundles]
    publication = open_publication(repo)
    plan = plan_export(wishes, publication=publication, variants=variants, clock=utc_now)
    _check_root(plan, root_sha256)
    for release in plan.releases:
        audit = release.agreed.audit
        if audit.status != "active":
            step(f"warning: {release.agreed.path} is {audit.status}: devices that import this will not install it")
    total = sum(ref.length for ref in plan.blobs())
    with progress(f"write {out}", length=total) as advance:
        done = write_export(plan, out, publication=publication, clock=utc_now, advance=advance)
    ends = plan.expiries()
    first = min(ends, key=lambda role: ends[role])
    releases = [
        {
            "path": str(release.agreed.path),
            "counter": str(release.agreed.release.counter),
            "manifest": str(release.agreed.manifest.digest),
            "variants": list(release.variants),
            "status": release.agreed.audit.status,
        }
        for release in plan.releases
    ]
    result: dict[str, object] = {
        "out": str(out), "bytes": done.size_bytes, "sha256": done.sha256.hex, "root": plan.root.hex, "releases": releases,
        "expires": {role: format_time(time) for role, time in ends.items()}, "import_before": format_time(ends[first]),
    }  # fmt: skip
    lines = [f"{done.sha256.hex}  {out}", f"root      {plan.root.hex}"]
    lines += [f"release   {each['path']}, counter {each['counter']}, {', '.join(release.variants)}"
              for each, release in zip(releases, plan.releases, strict=True)]  # fmt: skip
    lines.append(
        f"import    before {format_time(ends[first])}, when {first} expires; offline_grace_days of a device may stretch it"
    )
    show(result, "\n".join(lines), as_json=as_json)


def _wish(text: str) -> Wish:
    """A folder if there is one of that name, else a model."""
    folder = Path(text)
    if folder.is_dir():
        bundle = load_bundle(folder)
        return Wish(bundle.path.of_model, bundle, LayoutDirectory(folder))
    try:
        return Wish(ModelPath.parse(text))
    except FormatError as e:
        raise UsageError(
            "neither a folder nor LINE/NAME", code="bundle_not_found", where=text, hint="give the folder that `sealift pack` wrote"
        ) from e


def _check_root(plan: ExportPlan, text: str | None) -> None:
    if text is None:
        return
    try:
        known = Digest(text.lower().removeprefix("sha256:"))
    except FormatError as e:
        raise UsageError(e.what, code=e.code, where="--root-sha256", expected=e.expected, actual=e.actual) from e
    if plan.root != known:
        raise UsageError(
            "the repository has another root than the one given",
            code="root_digest",
            expected=known,
            actual=plan.root,
            hint="do not hand the file out: ask the holders of the root keys whether root was renewed",
        )
