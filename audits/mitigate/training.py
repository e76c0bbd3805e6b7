"""Training with a fix: the protocol, and what a training entry point may use for it.

The auditor's entry point is ``train(x, y, *, seed)`` or, to let the search change the training, ``train(x, y, *, seed, fix)``.
``fix`` is a mapping; a key that is absent changes nothing:

| key | value | meaning |
|---|---|---|
| ``epochs_factor`` | (0, 1] | share of the usual epochs: early stop |
| ``width_factor`` | (0, 1] | share of the usual width of hidden layers: smaller student |
| ``label_smoothing`` | below 0 | negative smoothing; ``smoothed_cross_entropy`` computes it |
| ``dp`` | ``{"noise", "clip"}`` | DP-SGD with this noise multiplier and gradient bound; ``make_private`` sets it up with Opacus |
| ``weight_decay`` | at least 0 | L2 penalty of the optimiser |
| ``dropout`` | [0, 1) | on hidden layers |

An entry point that cannot do what a key asks raises ``NotImplementedError``: the fix is then shown as not tried. One that
ignores a key is found out, because the same seed without a fix gives the same bytes (``workshop``).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from audits.data import Floats, Integers
from device_client.errors import MissingExtraError


class FixTrainer(Protocol):
    """Trains a model the way the audited one was, with changes."""

    @property
    def takes_fix(self) -> bool:
        """Whether ``fix`` may be anything but empty."""

    @property
    def identity(self) -> str:
        """Changes when the training would: part of the digest under which finished trials are kept."""

    def train(self, x: Floats, y: Integers, *, seed: int, fix: Mapping[str, Any]) -> bytes:
        """ONNX bytes of a model with the audited one's input and output.

        Args:
            x: records, (N, ...).
            y: class indices, (N,).
            seed: of everything random in the training.
            fix: see the module; empty for the usual training.
        """


def smoothed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy with label smoothing of either sign; torch's own refuses negative values.

    (1 - a) * CE(label) + a / C * sum over classes of CE(class). A negative a has no lower bound: train with it for the
    last epochs, or with few of them.

    Source: Struppek et al. 2024, "Be Careful What You Smooth For".

    Args:
        logits: (N, C).
        labels: class indices, (N,).
        smoothing: a, below 1.
    """
    logs = torch.log_softmax(logits, dim=1)
    own = -logs.gather(1, labels[:, None])[:, 0]
    result: torch.Tensor = ((1.0 - smoothing) * own - smoothing * logs.mean(dim=1)).mean()
    return result


def make_private(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    loader: Any,
    *,
    noise: float,
    clip: float,
    seed: int,
) -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    """DP-SGD through Opacus: per-record gradients of bounded length, plus noise; batches by Poisson sampling.

    The guarantee is Opacus's; its accountant knows epsilon. The noise comes from a seeded generator, so that a trial can be
    repeated: train what is shipped with a fresh secret seed if the guarantee itself is to be claimed.

    Args:
        model: without batch normalisation.
        optimiser: over its parameters.
        loader: a torch ``DataLoader``.
        noise: standard deviation of the noise in units of ``clip``.
        clip: bound on the length of one record's gradient.
        seed: of the noise; the sampling follows the loader's own generator, or torch's.

    Returns:
        the wrapped model (its own layers are in ``_module``), optimiser and loader.

    Raises:
        MissingExtraError: Opacus is not installed.
    """
    try:
        from opacus import PrivacyEngine
    except ModuleNotFoundError as e:
        raise MissingExtraError("dp", missing=str(e.name)) from e
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Secure RNG turned off")  # said in the docstring
        made: tuple[torch.nn.Module, torch.optim.Optimizer, Any] = PrivacyEngine().make_private(
            module=model,
            optimizer=optimiser,
            data_loader=loader,
            noise_multiplier=noise,
            max_grad_norm=clip,
            noise_generator=generator,
            poisson_sampling=True,
        )
    return made
