from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import sealift
from device_client.bundle import media_types
from device_client.bundle.counter import Counter
from device_client.bundle.layout import LayoutDirectory, read_blob
from device_client.bundle.verified import VerifiedBundle, verify_bundle
from device_client.console import run_main
from device_client.errors import FormatError, IntegrityError, StateError, UsageError
from packager import measurements, writer
from packager.pack import PackRequest, PackResult, pack
from packager.recipe import LatencyPlan, Recipe, load_recipe
from packager.reissue import reissue_bundle
from packager.writer import write_layout

from .models import PATH, graph, mlp, pack_request, rows, save_npz, write
from .networks import branching

ROOT = Path(sealift.__file__).parent


def open_bundle(folder: Path) -> tuple[LayoutDirectory, VerifiedBundle]:
    layout = LayoutDirectory(folder)
    named = layout.manifest_descriptor()
    return layout, verify_bundle(layout, named.digest, manifest_size=named.size, closed=True)


def layer(folder: Path, media_type: str) -> bytes:
    layout, bundle = open_bundle(folder)
    found = bundle.manifest.layers_of(media_type)[0]
    return read_blob(layout, found.digest, found.size)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_cli(*arguments: object, cwd: Path, hash_seed: str = "0", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "sealift.py"), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_trained_model_becomes_a_small_verified_bundle(packed: PackResult) -> None:
    bundle = open_bundle(packed.out)[1]
    assert bundle.digest == packed.bundle.digest
    assert [variant.id for variant in bundle.contract.variants] == ["int8-static"]
    facts = packed.facts
    assert facts.metric == "accuracy"
    assert facts.original_bytes / facts.shipped[0].size_bytes > 2.5
    judged = facts.shipped[0].evaluation
    assert judged.estimate.value > 0.9
    assert judged.estimate.low < judged.estimate.value < judged.estimate.high
    assert judged.drop.value <= 0.01


def test_the_contract_says_what_was_declared_and_measured(packed: PackResult) -> None:
    contract = open_bundle(packed.out)[1].contract
    variant = contract.variant("int8-static")
    assert contract.path == PATH
    assert contract.task == "classification"
    assert contract.features == ("encoding:codebook",)
    assert (contract.inputs[0].meaning, contract.inputs[0].range) == ("8 by 8 pixels, row by row", (0.0, 1.0))
    assert contract.inputs[0].shape == ("batch", 64)
    assert (variant.requires.arch, variant.requires.cpu_features) == ((), ())
    assert variant.expected.metric == "accuracy"
    assert variant.model.digest == packed.facts.shipped[0].model.digest
    assert variant.layer == packed.facts.stored(packed.facts.shipped[0]).digest
    assert [name for name, _ in contract.lineage.datasets] == ["calibration", "test", "validation"]
    assert {"numpy", "onnx", "onnxruntime", "sealift"} <= {name for name, _ in contract.lineage.tools}


def test_clock_readings_are_beside_the_bundle_and_never_in_it(packed: PackResult) -> None:
    beside = json.loads(packed.measurements.read_bytes())
    assert packed.measurements == packed.out.with_name("bundle.measurements.json")
    assert beside["manifest"] == str(packed.bundle.digest)
    assert beside["latency"]["int8-static"]["ratio"] > 0
    report = layer(packed.out, media_types.REPORT)
    for word in (b'_ms"', b"duration", b"original_ms", b"timestamp"):
        assert word not in report.replace(b'"latency_ms"', b"")
    assert json.loads(report)["latency"]["how"] == "unavailable"


def test_the_report_binds_figures_to_bytes_and_says_how_they_were_obtained(packed: PackResult) -> None:
    report = json.loads(layer(packed.out, media_types.REPORT))
    contract = packed.bundle.contract
    assert report["budget"]["verdict"] in ("met", "unproven")
    assert report["variants"][0]["digest"] == str(contract.variants[0].model.digest)
    (stored,) = packed.bundle.manifest.layers_of(media_types.WEIGHT)
    assert report["variants"][0]["bytes"] == contract.variants[0].model.size
    assert report["variants"][0]["stored"]["bytes"] == stored.size < contract.variants[0].model.size
    assert report["variants"][0]["stored"]["encoding"] == stored.annotation(media_types.ANNOTATION_ENCODING) == "codebook"
    assert report["variants"][0]["evaluation"]["how"] == "measured"
    assert report["variants"][0]["ram_bytes"]["how"] == "modelled"
    assert report["recipe"]["digest"] == str(contract.lineage.recipe)
    assert report["data"]["digests"] == {name: str(digest) for name, digest in contract.lineage.datasets}
    assert report["golden"]["probes"] == contract.golden.count
    assert 0 < report["golden"]["mutation"]["int8-static"]["score"] <= 1


def test_documents_name_no_version_so_that_a_reissue_keeps_them(packed: PackResult) -> None:
    for media_type in (media_types.REPORT, media_types.DOC, media_types.SBOM):
        assert b"1.0.0" not in layer(packed.out, media_type)


def test_no_document_names_this_machine(packed: PackResult, trained: Path) -> None:
    for content in files(packed.out).values():
        assert str(trained).encode() not in content
        assert str(packed.out).encode() not in content


def test_the_card_takes_no_line_break_or_markup_from_the_recipe(trained: Path, tmp_path: Path) -> None:
    recipe = load_recipe(trained / "recipe.toml")
    recipe = replace(recipe, card=replace(recipe.card, description="Digits\n\n# Licence: anything"))
    result = pack(pack_request(trained, tmp_path / "b", recipe=recipe))
    card = layer(result.out, media_types.DOC).decode()
    assert "\n# Licence" not in card
    assert "| int8-static | int8 |" in card


def test_two_runs_in_two_folders_under_two_hash_seeds_give_the_same_digest(trained: Path, tmp_path: Path) -> None:
    """From training to manifest, with nothing shared but the sources."""
    digests, contents = [], []
    for seed, name in (("1", "one"), ("4242", "another-folder")):
        folder = tmp_path / name
        (folder / "tmp").mkdir(parents=True)
        for file in ("trainer.py", "recipe.toml"):
            shutil.copy(trained / file, folder / file)
        done = run_cli(
            *("pack", "trainer:model", "--data", "trainer:data", "--recipe", "recipe.toml", "--line", "wearable"),
            *("--name", "digits", "--version", "1.0.0", "--out", "bundle", "--json"),
            cwd=folder,
            hash_seed=seed,
            HOME=str(folder),
            TMPDIR=str(folder / "tmp"),
            XDG_CACHE_HOME=str(folder / "cache"),
        )
        assert done.returncode == 0, done.stderr
        digests.append(json.loads(done.stdout)["manifest"])
        contents.append(files(folder / "bundle"))
        assert list((folder / "tmp").glob("sealift-*")) == []  # torch keeps a folder of its own there
    assert digests[0] == digests[1]
    assert contents[0] == contents[1]


def test_another_seed_gives_another_manifest(packed: PackResult, trained: Path, tmp_path: Path) -> None:
    other = pack(pack_request(trained, tmp_path / "b", recipe=replace(load_recipe(trained / "recipe.toml"), seed=1)))
    assert other.bundle.digest != packed.bundle.digest


def test_the_original_ships_too_when_asked(trained: Path, tmp_path: Path) -> None:
    recipe = replace(load_recipe(trained / "recipe.toml"), include_original=True)
    result = pack(pack_request(trained, tmp_path / "b", recipe=recipe))
    contract = open_bundle(result.out)[1].contract
    assert [variant.id for variant in contract.variants] == ["int8-static", "fp32"]
    assert {name for name, _ in contract.golden.tolerances} == {"int8-static", "fp32"}


def test_a_variant_that_misses_the_budget_does_not_ship_and_the_report_says_why(tmp_path: Path) -> None:
    """Two classes whose weights differ by less than a quantisation step: only full precision tells them apart."""
    rng = np.random.default_rng(0)
    weight = np.tile(rng.standard_normal((1, 64)), (10, 1)) + 1e-3 * rng.standard_normal((10, 64))
    model = graph([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": weight}, x=["N", 64], y=["N", 10])
    x = rows(400, (64,))
    y = (x @ weight.T).argmax(axis=1)
    result = pack(PackRequest(write(tmp_path, model), save_npz(tmp_path, x=x, y=y), PATH, Counter(0, 1), tmp_path / "b"))
    assert [candidate.id for candidate in result.facts.shipped] == ["fp32"]
    report = json.loads(layer(result.out, media_types.REPORT))
    assert report["variants"][0]["shipped"] is False
    assert "misses the accuracy budget" in report["variants"][0]["refused"]
    assert report["budget"]["verdict"] == "met"


def test_a_variant_that_is_larger_than_the_original_does_not_ship(tmp_path: Path) -> None:
    model = mlp(features=6, hidden=2, classes=3)
    result = pack(PackRequest(write(tmp_path, model), save_npz(tmp_path, x=rows(60)), PATH, Counter(0, 1), tmp_path / "b"))
    assert [candidate.id for candidate in result.facts.shipped] == ["fp32"]
    assert "larger than what was given" in str(result.facts.candidates[0].refused)


def test_an_unproven_budget_ships_with_its_label(tmp_path: Path) -> None:
    data = save_npz(tmp_path, x=rows(80, (64,)), y=np.arange(80) % 10)
    recipe = replace(Recipe(), budget=replace(Recipe().budget, accuracy_drop=0.001))
    model = write(tmp_path, mlp(features=64, hidden=64, classes=10))
    result = pack(PackRequest(model, data, PATH, Counter(0, 1), tmp_path / "b", recipe))
    assert result.facts.shipped[0].id == "int8-static"
    report = json.loads(layer(result.out, media_types.REPORT))
    assert report["budget"]["verdict"] == "unproven"


@pytest.mark.parametrize("taken", ["bundle", "bundle.measurements.json"])
def test_an_existing_target_is_refused_before_any_work_and_left_alone(trained: Path, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UsageError) as caught:
        pack(pack_request(trained, tmp_path / "bundle", model="does-not-matter.onnx"))
    assert caught.value.code == "target_exists"
    assert files(tmp_path) == {taken: b"mine"}


def test_a_dangling_link_counts_as_existing(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        pack(pack_request(trained, tmp_path / "bundle"))


def test_a_failure_while_writing_leaves_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_write_file", full)
    with pytest.raises(StateError, match="No space left"):
        pack(pack_request(trained, tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_measurements_takes_the_bundle_back(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measurements, "write_new", refuse)
    with pytest.raises(OSError, match="No space"):
        pack(pack_request(trained, tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []


def test_the_writer_refuses_blobs_that_the_manifest_does_not_list(packed: PackResult, tmp_path: Path) -> None:
    from device_client.bundle.digest import Digest

    layout, bundle = open_bundle(packed.out)
    blobs = {blob.digest: read_blob(layout, blob.digest, blob.size) for blob in bundle.manifest.blobs}
    with pytest.raises(IntegrityError) as caught:
        write_layout(tmp_path / "b", blobs={**blobs, Digest.of(b"stray"): b"stray"}, manifest=bundle.manifest)
    assert caught.value.code == "blob_unlisted"
    with pytest.raises(IntegrityError):
        write_layout(tmp_path / "b", blobs=dict(list(blobs.items())[1:]), manifest=bundle.manifest)
    assert list(tmp_path.iterdir()) == []


def test_a_reissue_keeps_every_layer_but_the_contract(packed: PackResult, tmp_path: Path) -> None:
    out = tmp_path / "again"
    issued = reissue_bundle(packed.out, version="1.0.1", counter=Counter(0, 7), out=out)
    assert (issued.contract.version, issued.contract.counter) == ("1.0.1", Counter(0, 7))
    assert issued.manifest.layers[1:] == packed.bundle.manifest.layers[1:]
    assert issued.digest != packed.bundle.digest
    assert replace(issued.contract, version="1.0.0", counter=Counter(0, 1)) == packed.bundle.contract
    beside = json.loads((tmp_path / "again.measurements.json").read_bytes())
    assert beside["manifest"] == str(issued.digest)
    assert beside["reissued_from"] == str(packed.bundle.digest)


def test_a_reissue_back_gives_the_first_manifest(packed: PackResult, tmp_path: Path) -> None:
    reissue_bundle(packed.out, version="2", counter=Counter(0, 9), out=tmp_path / "two")
    back = reissue_bundle(tmp_path / "two", version="1.0.0", counter=Counter(0, 1), out=tmp_path / "one")
    assert back.digest == packed.bundle.digest
    assert files(tmp_path / "one") == files(packed.out)


def test_a_damaged_bundle_is_not_reissued(packed: PackResult, tmp_path: Path) -> None:
    shutil.copytree(packed.out, tmp_path / "bad")
    blob = max((tmp_path / "bad/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(bytes(data))
    with pytest.raises(IntegrityError):
        reissue_bundle(tmp_path / "bad", version="2", counter=Counter(0, 2), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_reissue_under_an_illegal_version_is_refused(packed: PackResult, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        reissue_bundle(packed.out, version="../up", counter=Counter(0, 2), out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_digest_and_figures(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("pack", str(trained / "model.onnx"), "--data", str(trained / "data.npz"), "--recipe", str(trained / "recipe.toml")),
        *("--line", "wearable", "--name", "digits", "--version", "1.0.0", "--out", str(tmp_path / "b")),
    ]
    assert run_main(sealift.cli, prog_name="sealift", args=[*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["manifest"] == str(open_bundle(tmp_path / "b")[1].digest)
    assert printed["size"]["stored"] < printed["size"]["after"]
    assert printed["size"]["stored_ratio"] > printed["size"]["ratio"] > 2.5
    assert printed["accuracy"]["after"]["interval"][0] < printed["accuracy"]["after"]["value"]
    assert printed["latency_ratio"]["ratio"] > 0
    assert run_main(sealift.cli, prog_name="sealift", args=arguments) == 2  # the target exists now
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"--version": "Über"}, "not a legal version", id="illegal version"),
        pytest.param({"--counter": "7"}, "not a counter", id="illegal counter"),
        pytest.param({"--recipe": "none.toml"}, "recipe file not found", id="no recipe file"),
        pytest.param({"--data": "none.npz"}, "data file not found", id="no data file"),
        pytest.param({"MODEL": "none.onnx"}, "model file not found", id="no model file"),
        pytest.param({"MODEL": "nowhere:model"}, "cannot import the module", id="no such module"),
    ],
)
def test_wrong_input_is_one_error_with_a_hint_and_changes_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, str], says: str
) -> None:
    values = {
        "MODEL": str(trained / "model.onnx"),
        "--data": str(trained / "data.npz"),
        "--line": "wearable",
        "--name": "digits",
        "--version": "1",
        "--out": str(tmp_path / "b"),
        **options,
    }
    arguments = ["pack", values.pop("MODEL"), *(item for pair in values.items() for item in pair)]
    assert run_main(sealift.cli, prog_name="sealift", args=arguments) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_extra_and_a_missing_one_prints_the_install_line(tmp_path: Path) -> None:
    """The base install has neither numpy nor onnx."""
    script = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('numpy', 'onnx', 'onnxruntime', 'torch', 'safetensors'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import sealift\n"
        "sealift.main()\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, "pack"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run([*command, "--help"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "module:function" in shown.stdout
    arguments = ["m.onnx", "--data", "d.npz", "--line", "l", "--name", "n", "--version", "1", "--out", "b"]
    missing = subprocess.run([*command, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "pip install 'sealift[packager]'" in missing.stderr


def test_without_data_inputs_are_made_up_and_the_report_and_the_command_say_so(tmp_path: Path) -> None:
    write(tmp_path, mlp(features=64, hidden=64))
    (tmp_path / "r.toml").write_text("[data]\nsynthetic_rows = 100\n[latency]\nrounds = 0\n")
    where = ["--line", "wearable", "--name", "digits", "--version", "1", "--out", "b", "--recipe", "r.toml"]
    done = run_cli("pack", "model.onnx", *where, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "made-up inputs" in done.stderr
    told = json.loads(done.stdout)
    assert (told["task"], told["metric"], told["data"]) == ("none", "agreement", "synthetic")
    report = json.loads(layer(tmp_path / "b", media_types.REPORT))
    assert report["data"]["split"] == "synthetic"
    assert "made up" in report["data"]["note"]
    assert report["data"]["rows"]["test"] == 60


def test_rows_to_train_on_stand_in_the_lineage_and_anomaly_scores_are_judged_by_their_ranking(tmp_path: Path) -> None:
    x = rows(300, (64,))
    scores = x @ np.linspace(-1, 1, 64)
    split = np.array(["calibration", "train", "test"])[np.arange(300) % 3]
    data = save_npz(tmp_path, x=x, y=(scores > np.median(scores)).astype(np.int64), split=split)
    weights = {"w": np.linspace(-1, 1, 64)[:, np.newaxis].repeat(40, axis=1), "v": np.ones((40, 1)) / 40}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    model = write(tmp_path, graph(nodes, weights, x=["N", 64], y=["N", 1]))
    recipe = replace(Recipe(), task="anomaly", metric="average-precision", latency=LatencyPlan(0))
    result = pack(PackRequest(model, data, PATH, Counter(0, 1), tmp_path / "b", recipe))
    contract = open_bundle(result.out)[1].contract
    assert contract.task == "anomaly"
    assert contract.variants[0].expected.metric == "average-precision"
    assert [name for name, _ in contract.lineage.datasets] == ["calibration", "test", "train"]
    report = json.loads(layer(result.out, media_types.REPORT))
    assert report["data"]["rows"] == {"calibration": 100, "validation": 0, "test": 100, "train": 100}
    assert report["variants"][0]["evaluation"]["drop"]["unit"] == "points"


def test_the_contract_names_the_control_flow_of_what_ships_and_a_device_reads_it(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((80, 6)).astype(np.float32)
    request = PackRequest(
        write(tmp_path, branching()), save_npz(tmp_path, x=x), PATH, Counter(0, 1), tmp_path / "b", Recipe(techniques=())
    )
    contract = open_bundle(pack(request).out)[1].contract
    assert "control-flow:If" in contract.features


def test_a_model_with_infinite_outputs_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices go back to the old model when they see infinity: such a bundle could never be committed."""
    w = np.random.default_rng(0).standard_normal((6, 4))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Log", ["zeros"], ["ruled_out"]),
        helper.make_node("Add", ["scores", "ruled_out"], ["y"]),
    ]
    data = graph(nodes, {"w": w, "zeros": np.array([1.0, 1.0, 0.0, 1.0])}, x=["N", 6], y=["N", 4])
    (tmp_path / "masked.onnx").write_bytes(data)
    np.savez(tmp_path / "d.npz", x=rows(60), y=np.arange(60) % 2)
    monkeypatch.setattr("packager.pack.make_variants", lambda *_, **__: pytest.fail("worked before it looked"))
    request = PackRequest(str(tmp_path / "masked.onnx"), str(tmp_path / "d.npz"), PATH, Counter(0, 1), tmp_path / "out")
    with pytest.raises(UsageError) as caught:
        pack(request)
    assert caught.value.code == "model_output_value"
    assert not (tmp_path / "out").exists()
