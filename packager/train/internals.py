"""Losses on inner representations: a student learns what its teacher computes on the way, not only what it answers.

Three kinds. ``features``: the student's channels, mapped by a learnt linear projection, reproduce the teacher's (Romero et
al. 2015, "FitNets"). ``attention``: where the energy is, not what it is (Zagoruyko and Komodakis 2017). ``relational``: how
far rows are from each other (Park et al. 2019). The projections are thrown away afterwards.
"""

from __future__ import annotations

from typing import Any

from device_client.errors import UsageError
from packager.train.rows import Batch
from packager.train.taps import Listener, Tap

KINDS = ("features", "attention", "relational")
_TINY = 1e-8


class Internals:
    """The loss at some taps, as an extra of the training loop. Use as a context: it listens while it is open.

    Args:
        teacher: in eval mode; run once more on every batch.
        student: the module that trains.
        taps: where to listen.
        kind: one of ``KINDS``.
        weight: of this loss.
        example: inputs of a few rows.
        where: for errors.
    """

    def __init__(
        self, teacher: Any, student: Any, taps: tuple[Tap, ...], *, kind: str, weight: float, example: tuple[Any, ...], where: str
    ) -> None:
        self._teacher, self._student, self._taps, self._kind, self._weight = teacher, student, taps, kind, weight
        self._example, self._where = example, where
        self._projections: list[Any] = []

    def __enter__(self) -> Internals:
        self._theirs = Listener(self._teacher, tuple(tap.teacher for tap in self._taps))
        self._ours = Listener(self._student, tuple(tap.student for tap in self._taps))
        try:
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._theirs.close()
        self._ours.close()

    @property
    def parameters(self) -> tuple[Any, ...]:
        """What this loss trains besides the student."""
        return tuple(parameter for projection in self._projections for parameter in projection.parameters())

    def loss(self, outputs: tuple[Any, ...], batch: Batch) -> Any:
        """The weighted mean over the taps, for the batch that the student has just seen."""
        import torch

        del outputs  # the answers are other losses' matter
        with torch.no_grad():
            self._teacher(*batch.inputs)
        total: Any = 0.0
        for index, tap in enumerate(self._taps):
            theirs = _channels_last(self._theirs.heard[tap.teacher], tap.teacher_axis)
            ours = _channels_last(self._ours.heard[tap.student], tap.student_axis)
            total = total + self._distance(index, ours, theirs.detach())
        return self._weight * total / len(self._taps)

    def _prepare(self) -> None:
        """Projections of the right sizes, and a check that the kind of loss makes sense here."""
        import torch

        with torch.no_grad():
            self._teacher(*self._example)
            self._student(*self._example)
        for tap in self._taps:
            theirs = _channels_last(self._theirs.heard[tap.teacher], tap.teacher_axis)
            ours = _channels_last(self._ours.heard[tap.student], tap.student_axis)
            places = min(theirs[0, ..., 0].numel(), ours[0, ..., 0].numel())
            if self._kind == "attention" and places < 2:
                raise UsageError(
                    "attention transfer needs a layer with places",
                    code="distil_taps",
                    where=f"{self._where}: {tap}",
                    expected="an output with another axis than rows and channels",
                    hint='set internal = "features", or name other layers in taps',
                )
            if self._kind == "features":
                self._projections.append(torch.nn.Linear(ours.shape[-1], theirs.shape[-1]))

    def _distance(self, index: int, ours: Any, theirs: Any) -> Any:
        import torch

        functional = torch.nn.functional
        if self._kind == "relational":
            mine, wanted = (_distances(values.reshape(len(values), -1)) for values in (ours, theirs))
            return functional.smooth_l1_loss(mine, wanted)
        ours, theirs = _same_places(ours, theirs)
        if self._kind == "attention":
            mine, wanted = (
                functional.normalize(values.pow(2).sum(dim=-1).reshape(len(values), -1), dim=1) for values in (ours, theirs)
            )
            return (mine - wanted).pow(2).sum(dim=1).mean()
        mapped = self._projections[index](ours)
        return functional.mse_loss(mapped, theirs) / theirs.pow(2).mean().clamp_min(_TINY)


def _channels_last(values: Any, axis: int) -> Any:
    """(rows, places..., channels)."""
    return values.movedim(axis, -1) if values.ndim > 2 else values


def _same_places(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """Both with the smaller number of places on each axis, by averaging neighbours."""
    import torch

    if ours.ndim != theirs.ndim:  # one of them has no places: compare the means over places
        return tuple(values.mean(dim=tuple(range(1, values.ndim - 1))) if values.ndim > 2 else values for values in (ours, theirs))
    sizes = tuple(min(mine, other) for mine, other in zip(ours.shape[1:-1], theirs.shape[1:-1], strict=True))
    pools = {1: torch.nn.functional.adaptive_avg_pool1d, 2: torch.nn.functional.adaptive_avg_pool2d}

    def pooled(values: Any) -> Any:
        if tuple(values.shape[1:-1]) == sizes or len(sizes) not in pools:
            return values
        return pools[len(sizes)](values.movedim(-1, 1), sizes).movedim(1, -1)

    return pooled(ours), pooled(theirs)


def _distances(rows: Any) -> Any:
    """Distances between rows, over their mean: how rows lie to each other, whatever the scale and number of channels."""
    squares = rows.pow(2).sum(dim=1)
    distances = (squares[:, None] + squares[None, :] - 2 * rows @ rows.T).clamp_min(_TINY).sqrt()
    return distances / distances.detach().mean().clamp_min(_TINY)
