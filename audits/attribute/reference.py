"""ART's black-box attribute inference beside ours, as a reference that never decides.

It learns on held-outs from all other columns, the label, and the class that the model gives to the *real* record, which our
attackers do not have; it never asks the model for other values, which ours do. Its figure is the share of members guessed right.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from audits.attribute.columns import Column
from audits.attribute.queries import probabilities
from audits.data import AuditData
from device_client.inference.walker import CheckedModel


def art_black_box(model: CheckedModel, data: AuditData, column: Column, *, seed: int) -> dict[str, Any]:
    """JSON values: the share of members that ART's attack with a random forest guesses right, or why there is none."""
    try:
        from art.attacks.inference.attribute_inference import AttributeInferenceBlackBox
        from art.estimators.classification import BlackBoxClassifier
    except ImportError as e:
        return {"tool": "ART AttributeInferenceBlackBox", "not_run": f"module {e.name} is not installed"}
    x = data.x.copy()
    x[:, column.index] = column.values[column.codes]
    outside, inside = ~data.member, data.member
    classes = int(probabilities(model, x[:1]).shape[1])
    estimator = BlackBoxClassifier(lambda rows: probabilities(model, rows.astype(np.float32)), (x.shape[1],), classes)
    state = np.random.get_state()
    try:
        np.random.seed(seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attack = AttributeInferenceBlackBox(estimator, attack_feature=column.index, attack_model_type="rf")
            attack.fit(x[outside], y=data.y[outside])
            rest = np.delete(x[inside], column.index, axis=1)
            predicted = estimator.predict(x[inside]).argmax(axis=1)[:, None]
            guessed = attack.infer(rest, y=data.y[inside], pred=predicted, values=[float(value) for value in column.values])
    except (ValueError, TypeError, IndexError, RuntimeError) as e:
        return {"tool": "ART AttributeInferenceBlackBox", "not_run": f"{type(e).__name__}: {e}"[:200]}
    finally:
        np.random.set_state(state)
    right = np.isclose(np.asarray(guessed, dtype=np.float64).reshape(-1), x[inside][:, column.index])
    return {"tool": "ART AttributeInferenceBlackBox", "model": "rf", "accuracy_members": float(right.mean())}
