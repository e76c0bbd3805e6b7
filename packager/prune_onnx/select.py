"""Chooses the channels to remove: those without which the next layers can best be fitted to what they computed.

For each layer that reads the channels, ``H = X'X`` over calibration rows says what removing a set of columns costs when
the remaining weights are refitted in the least-squares sense: ``tr(W_s' inv(inv(H)_ss) W_s)`` (Hassibi and Stork 1993,
for sets of weights; used for whole channels in ZipLM, Kurtic et al. 2023). Channels are removed greedily, with ``W`` and
``inv(H)`` updated after each step, so that of two channels that say the same only one goes. We differ in the cost being
relative to the layer's output variance, summed over all layers that read a channel.

Cost: memory of one K by K matrix per reading layer, K up to ``MAX_COLUMNS``; above it, and for layers that are no plain
linear map, the share of the output's energy stands in, or of the squared weights. Deterministic given the seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.data import Dataset
from packager.prune_onnx.graph import run_batches
from packager.prune_onnx.layer import Floats, LinearLayer, linear_layer, matrix, read_columns
from packager.prune_onnx.trace import Mixer, Trace

MAX_COLUMNS = 2048
SAMPLES = 8192  # rows of columns per layer that are enough for its matrix, by layers of up to MAX_COLUMNS columns
BATCH_ROWS = 32
_RIDGE = 1e-6  # of the mean diagonal; keeps dead channels from making H singular
_STEPS = 32  # a group is emptied in at most this many steps


@dataclass(frozen=True)
class Ranking:
    """One group's removable sets, cheapest first. ``costs``: of each step, relative to the readers' output variance."""

    owners: tuple[int, ...]
    order: tuple[int, ...]
    costs: tuple[float, ...]
    count: int  # of removable sets, ranked or not
    readers: tuple[int, ...] = ()


def rank_groups(trace: Trace, data: bytes, rows: Dataset, *, most: float, min_channels: int, seed: int) -> list[Ranking]:
    """Ranks every group of the trace, down to ``min_channels`` and by at most the share ``most``.

    One pass over ``rows``.
    """
    groups = trace.units.groups()
    wanted = {root for _, roots in groups for root in roots}
    readers = [mixer for mixer in trace.mixers if _mixes(mixer) and wanted & set(trace.units.roots(mixer.columns).tolist())]
    costs = _measure(trace, data, rows, readers, seed=seed)
    rankings = []
    for owners, roots in groups:
        limit = max(0, min(int(most * len(roots)), len(roots) - min_channels))
        found = {mixer.node: costs[mixer.node].restrict(trace, mixer, roots) for mixer in readers}
        steps = {node: cost for node, cost in found.items() if cost is not None}
        order, values = _empty(list(steps.values()), roots, limit)
        rankings.append(Ranking(owners, order, values, len(roots), tuple(steps)))
    return rankings


@dataclass(frozen=True)
class _Energy:
    """What is known of one reading layer: H and the weights' own products, or per-column energies alone."""

    inverse: Floats | None  # of H, (K + 1, K + 1), the last row for the constant
    products: Floats | None  # W W', (K, K)
    energies: Floats  # (K,), of each column's contribution
    total: float

    def restrict(self, trace: Trace, mixer: Mixer, roots: Sequence[int]) -> _Cost | None:
        """The same for the columns of one group; ``None`` where the layer does not read it."""
        units = np.repeat(trace.units.roots(mixer.columns), len(self.energies) // len(mixer.columns))
        mine = {root: np.flatnonzero(units == root) for root in roots}
        mine = {root: columns for root, columns in mine.items() if len(columns)}
        if not mine:
            return None
        if self.inverse is None or self.products is None:
            return _Cost(mine, None, None, self.energies, self.total)
        return _Cost(mine, self.inverse[:-1, :-1].copy(), self.products.copy(), self.energies, self.total)


class _Cost:
    """The cost of removing sets of columns of one layer, kept up to date as they go."""

    def __init__(
        self, sets: dict[int, NDArray[np.int64]], inverse: Floats | None, products: Floats | None, energies: Floats, total: float
    ) -> None:
        self._sets, self._inverse, self._products, self._energies, self._total = sets, inverse, products, energies, total

    def of(self, roots: Sequence[int]) -> Floats:
        """(len(roots),): relative cost of each set by itself."""
        found = np.zeros(len(roots))
        by_size: dict[int, list[int]] = {}
        for at, root in enumerate(roots):
            by_size.setdefault(len(self._sets.get(root, ())), []).append(at)
        for size, places in by_size.items():
            if size:
                found[places] = self._of_equal(np.stack([self._sets[roots[at]] for at in places]))
        return found / self._total

    def _of_equal(self, columns: NDArray[np.int64]) -> Floats:
        if self._inverse is None or self._products is None:
            return np.asarray(self._energies[columns].sum(axis=1))
        block = (columns[:, :, None], columns[:, None, :])
        solved = np.linalg.solve(self._inverse[block], self._products[block])
        return np.asarray(np.trace(solved, axis1=1, axis2=2))

    def remove(self, roots: Iterable[int]) -> None:
        """These sets are gone, and the remaining weights are fitted anew."""
        gone = [self._sets.pop(root) for root in roots if root in self._sets]
        if not gone or self._inverse is None or self._products is None:
            return
        columns = np.concatenate(gone)
        inverse, products = self._inverse, self._products
        block = inverse[np.ix_(columns, columns)]
        spread = np.linalg.solve(block, inverse[columns]).T  # W loses spread @ W_s, H's inverse spread @ inverse_s
        moved = spread @ products[columns]
        products += spread @ products[np.ix_(columns, columns)] @ spread.T - moved - moved.T
        inverse -= spread @ inverse[columns]
        inverse[columns, :] = inverse[:, columns] = products[columns, :] = products[:, columns] = 0.0
        inverse[columns, columns] = 1.0


def _empty(costs: Sequence[_Cost], roots: Sequence[int], limit: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The order in which a group's sets go, with the cost of each."""
    left = list(roots)
    order: list[int] = []
    values: list[float] = []
    chunk = max(1, limit // _STEPS)
    while len(order) < limit:
        total = np.sum([cost.of(left) for cost in costs], axis=0) if costs else np.zeros(len(left))
        cheapest = np.argsort(total, kind="stable")[: min(chunk, limit - len(order))]
        taken = [left[at] for at in cheapest.tolist()]
        order += taken
        values += [float(total[at]) for at in cheapest.tolist()]
        for cost in costs:
            cost.remove(taken)
        left = [root for root in left if root not in set(taken)]
    return tuple(order), tuple(values)


def _measure(trace: Trace, data: bytes, rows: Dataset, readers: Sequence[Mixer], *, seed: int) -> dict[int, _Energy]:
    view = trace.view
    found: dict[int, _Energy] = {}
    sums: dict[int, Floats] = {}
    positions = max(1, -(-SAMPLES // len(rows)))
    layers: dict[int, LinearLayer] = {}
    energies: dict[int, list[Floats]] = {}
    for mixer in readers:
        layer = linear_layer(view, mixer.node, positions=positions)
        if layer is None or layer.groups != 1:
            energies[mixer.node] = []
        else:
            layers[mixer.node] = layer
            whole = layer.columns <= MAX_COLUMNS
            sums[mixer.node] = np.zeros((layer.columns + 1, layer.columns + 1) if whole else layer.columns + 1)
    names = [view.nodes[mixer.node].input[0] for mixer in readers]
    for number, values in enumerate(run_batches(data, names, rows, batch=BATCH_ROWS) if names else ()):
        for at, layer in layers.items():
            columns = read_columns(layer, values[layer.node.input[0]], np.random.default_rng([seed, at, number]))[0]
            columns = np.concatenate([columns, np.ones((len(columns), 1))], axis=1)
            sums[at] += columns.T @ columns if sums[at].ndim == 2 else np.square(columns).sum(axis=0)
        for at, found_by_batch in energies.items():
            name = view.nodes[at].input[0]
            array = np.moveaxis(values[name].astype(np.float64), trace.channels[name].axis, 0)
            found_by_batch.append(np.square(array).reshape(len(array), -1).mean(axis=1))
    for at, layer in layers.items():
        weight = matrix(layer, view.constants[layer.node.input[1]])[0]
        found[at] = _by_data(sums[at], weight)
    for mixer in readers:
        if mixer.node in energies:
            found[mixer.node] = _by_energy(trace, mixer, np.mean(energies[mixer.node], axis=0))
    return found


def _mixes(mixer: Mixer) -> bool:
    """A depthwise convolution does not read its channels for others: they are its own."""
    return mixer.groups == 1 or mixer.groups < len(mixer.columns)


def _by_data(sums: Floats, weight: Floats) -> _Energy:
    """``sums``: H with the constant's row last, or its diagonal."""
    samples = float(sums[-1, -1] if sums.ndim == 2 else sums[-1])
    squares = np.square(weight).sum(axis=1)
    if sums.ndim == 1:
        energies = sums[:-1] / samples * squares
        return _Energy(None, None, energies, float(energies.sum()) or 1.0)
    h = sums / samples
    mean = h[-1, :-1]
    variance = float(np.einsum("ij,jk,ik->", weight.T, h[:-1, :-1] - np.outer(mean, mean), weight.T, optimize=True))
    # With fewer samples than columns any column seems to follow from the others: what is between columns counts by how many
    # samples speak for it.
    diagonal = np.diag(h).copy()
    h *= samples**2 / (samples**2 + len(weight) ** 2)
    h[-1] = h[:, -1] = [*mean, 1.0]
    np.fill_diagonal(h, diagonal + _RIDGE * float(diagonal[:-1].mean()) + 1e-12)
    energies = np.diag(h)[:-1] * squares
    return _Energy(np.linalg.inv(h).astype(np.float64), weight @ weight.T, energies, max(variance, 1e-12))


def _by_energy(trace: Trace, mixer: Mixer, energies: Floats) -> _Energy:
    """Of a layer that is no plain linear map: the input's mean squares times the squared weights of each channel."""
    weight: Any = trace.view.constants[trace.view.nodes[mixer.node].input[1]]
    axis = next(item.axis for item in trace.slices if item.node == mixer.node and item.index == 1)
    squares = np.square(weight.astype(np.float64))
    if mixer.groups > 1:  # of a grouped convolution: (groups, outputs, inputs, kernel)
        squares = squares.reshape(mixer.groups, -1, weight.shape[1], int(np.prod(weight.shape[2:]))).sum(axis=(1, 3)).reshape(-1)
    else:
        squares = squares.sum(axis=tuple(other for other in range(weight.ndim) if other != axis))
    contributions = squares * energies
    return _Energy(None, None, contributions, float(contributions.sum()) or 1.0)
