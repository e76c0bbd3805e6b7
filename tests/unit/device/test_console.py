"""What a person or a program sees of every kind of failure: one form, a code, a remedy, one JSON object."""

from __future__ import annotations

import json
from collections.abc import Callable

import click
import pytest

from device_client.console import json_option, run_main, show
from device_client.entrypoint import load_entry_point
from device_client.errors import IntegrityError, SealiftError, UsageError


def _command(body: Callable[[], None]) -> click.Command:
    @click.command()
    @click.option("--size", type=int, required=True)
    @json_option
    def command(size: int, as_json: bool) -> None:
        body()
        show({"size": size}, f"size {size}", as_json=as_json)

    return command


def _raise(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def _run(body: Callable[[], None], *args: str) -> int:
    return run_main(_command(body), prog_name="sealift size", args=list(args))


def test_a_result_says_that_it_is_ok(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(lambda: None, "--size", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "size": 3}


@pytest.mark.parametrize("arguments", [[], ["--size", "three"], ["--size", "3", "--weight", "4"], ["--size", "3", "left"]])
def test_wrong_use_has_the_form_of_every_other_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(lambda: None, *arguments, "--json") == 2
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert json.loads(line) | {"error": ""} == {
        "ok": False,
        "code": "usage",
        "error": "",
        "where": None,
        "expected": None,
        "actual": None,
        "hint": "sealift size --help",
    }
    assert printed.err.startswith("error: ")
    assert printed.err.endswith(" [usage]\nhint: sealift size --help\n")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (IntegrityError("digest differs", code="blob_digest_mismatch"), 1, "blob_digest_mismatch"),
        (UsageError("no", code="usage", hint="do this"), 2, "usage"),
        (PermissionError(13, "Permission denied", "/somewhere"), 1, "system_error"),
        (OSError(28, "No space left on device"), 1, "system_error"),
        (click.Abort(), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_failure_has_a_code_a_hint_and_one_json_object(
    error: BaseException, status: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(_raise(error), "--size", "3", "--json") == status
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    found = json.loads(line)
    assert (found["ok"], found["code"], bool(found["hint"])) == (False, code, True)
    head, hint = printed.err.strip().splitlines()
    assert head.startswith("error: ")
    assert head.endswith(f" [{code}]")
    assert hint == f"hint: {found['hint']}"


def test_a_fault_of_this_software_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        _run(_raise(ZeroDivisionError()), "--size", "3")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def make(:\n", "SyntaxError"),
        ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
        ("def make():\n    return 1 / 0\n", "ZeroDivisionError: division by zero .*, line 2 of "),
    ],
)
def test_a_function_of_the_user_that_fails_is_wrong_use(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    folder = tmp_path_factory.mktemp("modules")
    name = f"made_for_{folder.name}"
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(UsageError, match=says) as caught:
        load_entry_point(f"{name}:make")()
    assert caught.value.code == "entry_point"
    assert caught.value.hint


def test_an_expected_error_of_a_function_passes_unchanged(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "made_to_refuse.py").write_text(
        "from device_client.errors import SealiftError\ndef make():\n    raise SealiftError('refused', code='usage')\n"
    )
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(SealiftError, match=r"^refused$"):
        load_entry_point("made_to_refuse:make")()
