"""The records that membership attacks recognise best, by salted id: an average can be harmless where a few records are exposed."""

from __future__ import annotations

from audits.report import words
from audits.report.images import ReportImages
from audits.report.membership import Attack, Worst, attacks, strongest
from audits.report.parts import Column, code, note, section, table
from audits.report.pictures import picture
from audits.report.view import PageView

_MAX_OF_A_MODEL = 20
_MAX_RECORDS = 40
_SHOWN_ID = 16


def worst_records(view: PageView, images: ReportImages) -> str:
    """Records down, models across: the score by each model's strongest attack; absent where no attack names records."""
    used = {subject.id: attack for subject, told in attacks(view) if (attack := strongest(told)) is not None and attack.worst}
    if not used:
        return ""
    scores = {name: {record.id: record.score for record in _top(attack)} for name, attack in used.items()}
    places = {name: list(found) for name, found in scores.items()}
    union = {record for found in scores.values() for record in found}
    ordered = sorted(union, key=lambda record: (min(_place(places[name], record) for name in places), record))
    rows = [
        [_record(record, images, view), *("" if record not in found else f"{found[record]:.4g}" for found in scores.values())]
        for record in ordered[:_MAX_RECORDS]
    ]
    told = (
        f"The {_MAX_OF_A_MODEL} records with the highest scores of each model, at most {_MAX_RECORDS} in all; the number is the "
        "score by the model's attack with the largest AUC, and compares within one column only. Ids are hashes with a salt that is "
        "not stored: who has the salt and the records can find them, nobody else."
    )
    heads = [Column("Record"), *(Column(f"{name}, {words.attack(attack.name)}", numeric=True) for name, attack in used.items())]
    return section("Worst records", note(told), table("Worst records by model", heads, rows))


def _top(attack: Attack) -> list[Worst]:
    return sorted(attack.worst, key=lambda record: (-record.score, record.id))[:_MAX_OF_A_MODEL]


def _place(ids: list[str], record: str) -> int:
    return ids.index(record) if record in ids else len(ids)


def _record(record: str, images: ReportImages, view: PageView) -> str:
    if not images.private or record not in images.records:
        return code(record[:_SHOWN_ID])
    label = f"record {record[:_SHOWN_ID]}"
    return code(record[:_SHOWN_ID]) + picture(
        images.records[record][0], images, low=view.data.low, high=view.data.high, label=label
    )
