from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from device_client.inference.session import open_session
from device_client.inference.walker import check_model
from examples.shelf import Shelf
from examples.training import Net, Plan, Rows, train

PLAN = Plan(epochs=8, learning_rate=2e-2, batch_rows=16, aid_weight=1.0)


def _net(width: int = 6) -> Net:
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(8, width), nn.ReLU()), width=width, classes=2, with_aid=True)


def _wide() -> Net:
    return _net(16)


def _rows(count: int = 96) -> Rows:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, count)
    x = rng.standard_normal((count, 2, 4)) + 2 * y[:, None, None]
    return Rows(x.astype(np.float32), y.astype(np.int64), y.astype(np.float32))


def _weights(net: Net) -> list[Any]:
    return [value.clone() for value in net.state_dict().values()]


def _accuracy(net: Net, rows: Rows) -> float:
    with torch.no_grad():
        return float((net(torch.from_numpy(rows.x)).argmax(1).numpy() == rows.y).mean())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (_weights(train(_net, _rows(), PLAN, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_student_learns_from_soft_labels_where_its_own_labels_are_wrong() -> None:
    rows = _rows()
    teacher = train(_wide, rows, PLAN, seed=0)
    wrong = Rows(rows.x, 1 - rows.y, rows.aid)
    taught = train(_net, wrong, Plan(40, 2e-2, 16, soft_share=1.0), seed=0, kind="soft-label", teacher=teacher)
    assert _accuracy(taught, rows) > 0.9
    assert _accuracy(train(_net, wrong, PLAN, seed=0), rows) < 0.5


def test_the_teachers_representation_changes_what_a_student_learns_and_the_teacher_stays() -> None:
    rows = _rows()
    teacher = train(_wide, rows, PLAN, seed=0)
    before = _weights(teacher)
    hinted = train(_net, rows, PLAN, seed=0, kind="representation", teacher=teacher)
    plain = train(_net, rows, PLAN, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, _weights(teacher), strict=True))
    assert not torch.equal(hinted.head.weight, plain.head.weight)


@pytest.mark.parametrize(("kind", "has_teacher"), [("plain", True), ("soft-label", False), ("representation", False)])
def test_a_kind_without_its_teacher_is_refused(kind: Any, has_teacher: bool) -> None:
    with pytest.raises(ValueError, match="go together"):
        train(_net, _rows(), PLAN, seed=0, kind=kind, teacher=_wide() if has_teacher else None)


def test_a_second_run_takes_the_network_from_the_shelf_and_another_plan_does_not(tmp_path: Path) -> None:
    shelf, rows = Shelf(tmp_path), _rows()
    first = shelf.trained("net", _net, rows, PLAN, seed=0)
    kept = list((tmp_path / "nets").iterdir())
    kept[0].touch()
    stamp = kept[0].stat().st_mtime_ns
    again = shelf.trained("net", _net, rows, PLAN, seed=0)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "nets").iterdir()] == [stamp]
    assert all(torch.equal(a, b) for a, b in zip(_weights(first), _weights(again), strict=True))
    shelf.trained("net", _net, rows, Plan(2, 2e-2, 16), seed=0)
    assert len(list((tmp_path / "nets").iterdir())) == 2


def test_what_is_exported_has_no_second_target_and_computes_the_same(tmp_path: Path) -> None:
    rows = _rows()
    net = train(_net, rows, PLAN, seed=0)
    file = Shelf(tmp_path).exported("net", net, rows.x).read_bytes()
    with open_session(check_model(file)) as session, torch.no_grad():
        assert len(session.outputs) == 1
        found = session.run({"x": rows.x})["y"]
        np.testing.assert_allclose(found, net(torch.from_numpy(rows.x)).numpy(), atol=1e-5)
    assert net.parameters_shipped == sum(p.numel() for p in net.parameters()) - 7
