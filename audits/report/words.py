"""Plain words for the names in the evidence. A name that is not listed is shown as it is."""

from __future__ import annotations

import re

_FAMILIES = {
    "inversion": "Inversion by gradients",
    "instance": "Inversion by gradients",
    "retrieval": "Inversion by queries and identity retrieval",
    "membership": "Membership inference",
    "attribute": "Attribute inference",
}
_QUESTIONS = {
    "inversion.instance": "Do images drawn by the model's gradients look more like training records than like others of the class?",
    "inversion.identity": "Do reconstructions of a class lead to that class among all?",
    "inversion.black_box": "Do images found by queries alone leak the same?",
    "inversion.label_only": "Do images found from the predicted class alone leak the same?",
    "inversion.swap_split": "Does a model draw the half of a class that trained it rather than the other half?",
    "membership.threshold": "Does the confidence of a record tell whether it was a training record?",
    "membership.rmia": "Does its likelihood against reference models and population tell it?",
    "membership.lira": "Does its likelihood under models trained with and without it tell it?",
    "membership.joint": "Do original and compressed model together tell it?",
    "attribute.inference": "Does the model tell a sensitive value beyond what the other values tell?",
}
_STATISTICS = {
    "mean_gap": "mean gap, correlation",
    "auc": "area under the ROC",
    "retrieval_rate": "share of classes retrieved",
    "swap_split_gap": "gap between halves, correlation",
    "advantage": "advantage over the baseline",
}
_ATTACKS = {
    "class_confidence": "confidence by class",
    "label_rank": "rank of the label",
    "rmia": "RMIA",
    "lira_online": "LiRA",
    "lira_offline": "LiRA offline",
    "lira_shrunk": "LiRA, shrunk variances",
    "art.black_box_rf": "ART, black box",
    "art.shadow_rf": "ART, shadow models",
    "art.rule": "ART, rule",
}
_THREATS = {
    "white_box": "the attacker holds the file, and so its weights and gradients",
    "sealed_api": "the model is sealed, the attacker gets its scores; who holds the file was not considered",
    "label_only": "the model is sealed, the attacker gets the predicted class alone; who holds the file was not considered",
}
_GRADIENTS = {"none": "none", "exact": "exact", "straight_through": "straight through rounding"}
_WAYS = {"white_box": "white box", "black_box": "black box", "label_only": "label only", "transfer": "transfer"}


def family(name: str) -> str:
    """Title of a family."""
    return _FAMILIES.get(name, name)


def question(test: str) -> str:
    """What a test asks, or nothing."""
    return _QUESTIONS.get(test, "")


def statistic(name: str) -> str:
    """What an estimate is of."""
    tpr = re.fullmatch(r"tpr_at_fpr_([0-9.eE+-]+)", name)
    return f"TPR at FPR {tpr[1]}" if tpr else _STATISTICS.get(name, name)


def attack(name: str) -> str:
    """Name of a membership attack."""
    return _ATTACKS.get(name, name)


def way(name: str) -> str:
    """How an image was made."""
    return _WAYS.get(name, name)


def threat(name: str) -> str:
    """What the attacker has."""
    return _THREATS.get(name, name)


def gradient(name: str) -> str:
    """How an attack had a gradient."""
    return _GRADIENTS.get(name, name)
