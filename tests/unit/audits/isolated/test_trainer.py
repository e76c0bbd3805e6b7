"""The auditor's training runs in a child; the models that come back are checked like any others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audits.isolated.limits import IsolationLimits
from audits.mitigate.child_trainer import ChildFixTrainer
from audits.trainer import ChildTrainer, Training, isolation_of, train_all
from device_client.bundle.digest import Digest
from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel, check_model
from tests.unit.audits import models

RNG = np.random.default_rng(0)
Y = np.arange(30, dtype=np.int64) % 3
X = (np.eye(3, 4, dtype=np.float32)[Y] + 0.1 * RNG.normal(size=(30, 4))).astype(np.float32)


@pytest.fixture(scope="module")
def like() -> CheckedModel:
    from onnx import numpy_helper
    from onnx.helper import make_node

    weights = numpy_helper.from_array(np.zeros((4, 3), dtype=np.float32), "w")
    return check_model(
        models.build(
            [make_node("MatMul", ["pixels", "w"], ["scores"])],
            [weights],
            inputs=("pixels", [None, 4]),
            outputs=("scores", [None, 3]),
        )
    )


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).with_name("user_code.py").read_text(encoding="utf-8")
    (tmp_path / "user_code.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_folder")
def test_several_trainings_share_a_child_and_depend_on_their_seeds_and_rows_alone(like: CheckedModel) -> None:
    trainer = ChildTrainer("user_code:train", like=like)
    lines: list[str] = []
    tasks = [Training(np.arange(15), 1), Training(np.arange(15, 30), 1), Training(np.arange(15), 2), Training(np.arange(15), 1)]
    first, other_rows, other_seed, again = train_all(trainer, X, Y, tasks, report=lines.append)
    assert first == again
    assert len({first, other_rows, other_seed}) == 3
    assert lines == [f"trained {index} of 4" for index in range(1, 5)]
    model = check_model(first)
    assert (model.inputs[0].name, model.outputs[0].name) == ("pixels", "scores")
    assert isolation_of(trainer).startswith("network: ")


BAD = {
    "a model with other classes": "train_a_wrong_model",
    "bytes that are no model": "train_garbage",
    "a training that says it cannot": "train_nothing",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("_folder")
def test_what_is_not_like_the_audited_model_is_refused(like: CheckedModel, name: str) -> None:
    with pytest.raises(UsageError) as refused:
        ChildTrainer(f"user_code:{BAD[name]}", like=like).train(X, Y, seed=0)
    assert refused.value.code == "trainer_model"


def test_a_file_name_is_no_training(like: CheckedModel) -> None:
    with pytest.raises(UsageError) as refused:
        ChildTrainer("train.py", like=like)
    assert refused.value.code == "entry_point"


@pytest.mark.usefixtures("_folder")
def test_a_training_with_a_fix_runs_in_a_child_too_and_says_what_it_cannot_do(like: CheckedModel) -> None:
    fixing = ChildFixTrainer("user_code:train_with_fix", like=like, limits=IsolationLimits())
    plain = ChildFixTrainer("user_code:train", like=like, limits=IsolationLimits())
    assert (fixing.takes_fix, plain.takes_fix) == (True, False)
    source = Path("user_code.py").read_bytes()
    assert fixing.identity == f"user_code:train_with_fix@{Digest.of(source)}"
    usual = fixing.train(X, Y, seed=1, fix={})
    assert usual == fixing.train(X, Y, seed=1, fix={})
    assert usual != fixing.train(X, Y, seed=1, fix={"weight_decay": 0.5})
    with pytest.raises(UsageError) as caught:
        fixing.train(X, Y, seed=1, fix={"dropout": 0.5})
    assert caught.value.code == "fix_unavailable"
