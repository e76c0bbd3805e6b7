"""Runs chains of techniques: each step once, kept in memory and in the cache, a failing technique as a recorded reason.

Used by the search only. A chain's beginning is shared: two chains that prune alike and quantise differently prune once.
"""

from __future__ import annotations

import logging

from device_client.bundle.digest import Digest
from device_client.errors import MissingExtraError, SealiftError
from packager.auto.cache import Made, TrialCache, trial_key
from packager.auto.trial import Chain
from packager.technique import TECHNIQUES, Compressed, TechniqueContext, apply_technique

logger = logging.getLogger(__name__)


class Workshop:
    """Makes variants of one original.

    Args:
        original: the FP32 normal form, with its torch module where there is one.
        context: what techniques may look at.
        cache: of finished chains.
    """

    def __init__(self, original: Compressed, context: TechniqueContext, cache: TrialCache) -> None:
        self._original = original
        self._context = context
        self._cache = cache if not context.training.loss else TrialCache(None)  # a loss function of the user can change unseen
        self._digest = Digest.of(original.data)
        parts = (("calibration", context.calibration), ("validation", context.validation), ("train", context.train))
        self._data = {name: str(part.digest()) for name, part in parts if part is not None}
        self._made: dict[Chain, Made] = {(): Made(original)}

    def make(self, chain: Chain, *, with_module: bool = False) -> Made:
        """The result of a chain.

        Args:
            chain: the techniques, in order.
            with_module: a cached result will not do, since it has no torch module.
        """
        made = self._made.get(chain)
        if made is not None and not (with_module and made.model is not None and made.model.module is None):
            return made
        key = trial_key(self._digest, chain, self._context, data=self._data)
        if not with_module and (cached := self._cache.load(key)) is not None:
            self._made[chain] = cached
            return cached
        made = self._apply(chain)
        self._made[chain] = made
        if made.is_repeatable:
            self._cache.store(key, made)
        return made

    def _apply(self, chain: Chain) -> Made:
        step = chain[-1]
        before = self.make(chain[:-1], with_module=TECHNIQUES[step.name].trains and len(chain) > 1)
        if before.model is None:
            return before
        try:
            return Made(apply_technique(step, before.model, self._context))
        except SealiftError as e:
            logger.info("%s: %s", step.name, e)
            return Made(None, f"{step.name}: {e}"[:300], is_repeatable=not isinstance(e, MissingExtraError))
        except Exception as e:  # onnxruntime's errors have no common class; a technique's failure is a result here
            logger.info("%s failed", step.name, exc_info=True)
            reason = f"{step.name}: {type(e).__name__}: {' '.join(str(e).split())[:200]}"
            return Made(None, reason, is_repeatable=not isinstance(e, (MemoryError, OSError)))
