"""The report of an attribution: text for people, JSON and CSV for programs, a picture."""

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.evaluation.attribution import Attribution, Change, Effect
from utils.evaluation.bootstrap import LEVEL, NUM_DRAWS, SEED
from utils.evaluation.compare import Difference
from utils.files import known, write_json, write_png, write_text
from utils.reports.tables import GAP, listed, percent, points, table
from utils.visualization.difference_chart import Panel, difference_chart

_TEXT_WIDTH = 100
_RULE_OF_READING = (
    f"An effect is named where the {LEVEL:.0%} interval of the mIoU difference excludes zero; the "
    "verdict goes by 'shuffled', for zeros, a constant and other segments are unlike what the "
    "network was trained with. All of it tells whether this network uses its maps, not whether "
    "one trained without them would be worse: that takes the three controls, see "
    "docs/attribution.md."
)


def write_attribution(
    folder: Path, *, findings: Attribution, classes: Sequence[str], header: dict[str, Any]
) -> None:
    """Write ``attribution.txt``, ``.png``, ``.csv`` and ``.json``.

    Existing files are replaced, each atomically and ``attribution.json`` last. Figures in JSON and
    CSV are fractions; what is not known is null, or an empty cell.

    Args:
        folder: where to write; made if it is missing.
        findings: of C classes.
        classes: C class names.
        header: what was evaluated and how, plain values in display order.
    """
    text = attribution_text(findings, classes)
    write_text(folder / "attribution.txt", f"{listed(header)}\n\n{text}\n")
    write_png(folder / "attribution.png", _picture(findings, classes))
    write_text(folder / "attribution.csv", _csv(findings, classes))
    write_json(folder / "attribution.json", {"header": header, **_plain(findings, classes)})


def attribution_text(findings: Attribution, classes: Sequence[str]) -> str:
    """What the console shows: a block for every modality, what its numbers are, and a reading."""
    blocks = [
        _block(findings, subject, changes, classes)
        for subject, changes in _by_subject(findings).items()
    ]
    wrapped = [
        textwrap.fill(line, _TEXT_WIDTH, subsequent_indent=GAP)
        for line in (*reading(findings), _RULE_OF_READING)
    ]
    return "\n\n".join([*blocks, textwrap.fill(_legend(findings), _TEXT_WIDTH), "\n".join(wrapped)])


def reading(findings: Attribution) -> list[str]:
    """What the numbers say, a sentence for every modality and one for all together."""
    sentences = []
    for subject in _by_subject(findings):
        effects = [effect for effect in findings.effects if effect.change.subject == subject]
        parts = ", ".join(map(_effect_clause, effects))
        sentences.append(f"{subject}: {parts}: {_verdict(effects)}.")
    return sentences


def _effect_clause(effect: Effect) -> str:
    found, name = effect.differences.miou, effect.change.name
    if math.isnan(found.low):
        return f"{name} {points(found.value)} points of mIoU"
    if not found.excludes_zero:
        return f"{name} makes no clear difference ({_interval(found)})"
    verb, sign = ("costs", -1) if found.value < 0 else ("gains", 1)
    low, high = sorted((sign * found.low, sign * found.high))
    amount = percent(sign * found.value)
    return f"{name} {verb} {amount} points of mIoU ({percent(low)} to {percent(high)})"


def _verdict(effects: Sequence[Effect]) -> str:
    """What holds of a modality; ``shuffled`` decides, if it was tried."""
    if all(effect.moved == 0 for effect in effects):
        return "no pixel is predicted otherwise, so the network does not use it"
    if any(math.isnan(effect.differences.miou.low) for effect in effects):
        return "with fewer than two source images there is no interval, so nothing can be said"
    clear = {e.change.name: e.differences.miou.value for e in effects if _is_clear(e)}
    if "shuffled" in clear:
        if clear["shuffled"] < 0:
            return "the network uses what the encoded map says of the image"
        return (
            "the maps of other images do better, so what the encoded map says misleads the network"
        )
    if not clear:
        return "an effect on mIoU is not shown"
    if any(effect.change.name == "shuffled" for effect in effects):
        return (
            "the network minds that the map is of another kind, but that it uses what the encoded "
            "map says of the image is not shown"
        )
    return "the network does not do without them"


def _is_clear(effect: Effect) -> bool:
    return effect.differences.miou.excludes_zero


def _by_subject(findings: Attribution) -> dict[str, list[Change]]:
    """All changes of every modality, in order."""
    found: dict[str, list[Change]] = {}
    for change in findings.changes:
        found.setdefault(change.subject, []).append(change)
    return found


def _effect_of(findings: Attribution, change: Change) -> Effect | None:
    return next((effect for effect in findings.effects if effect.change == change), None)


def _block(
    findings: Attribution, subject: str, changes: Sequence[Change], classes: Sequence[str]
) -> str:
    """The table of a modality: a class and below it its intervals; mean; how many pixels change."""
    names, scores = [*classes, _mean_name(findings)], [*findings.scores.iou, findings.scores.miou]
    columns = [_column(_effect_of(findings, change), change, len(names)) for change in changes]
    height = 2 if findings.num_sources >= 2 else 1
    rows: list[list[str]] = []
    for number, (name, score) in enumerate(zip(names, scores, strict=True)):
        cells = [column[number] for column in columns]
        rows.append([name, percent(score), *(value for value, _ in cells)])
        rows += [["", "", *(ends for _, ends in cells)]] if height == 2 else []
    rows.append(["pixels that change", "", *(value for value, _ in (c[-1] for c in columns))])
    head = [subject, "as it is", *(change.name for change in changes)]
    return table(head, rows, (0, height * len(classes), height * len(names)))


def _column(effect: Effect | None, change: Change, num_rows: int) -> list[tuple[str, str]]:
    """A value and its interval for every class and their mean, and the share of pixels."""
    if effect is None:
        return [("", "")] * (num_rows - 1) + [(str(change.unmeasured), ""), ("", "")]
    differences = (*effect.differences.iou, effect.differences.miou)
    return [*((points(d.value), _interval(d)) for d in differences), (percent(effect.moved), "")]


def _mean_name(findings: Attribution) -> str:
    return f"mean without {', '.join(findings.left_out)}" if findings.left_out else "mean"


def _interval(found: Difference) -> str:
    return "-" if math.isnan(found.low) else f"{points(found.low)} to {points(found.high)}"


def _legend(findings: Attribution) -> str:
    ends = (
        f"their {LEVEL:.0%} intervals below them (paired bootstrap over {findings.num_sources} "
        "source images)"
        if findings.num_sources >= 2
        else "no interval, for which it takes two source images or more"
    )
    return (
        f"IoU as it is in %, then differences to it in points with {ends}; pixels that change: % "
        "of the labelled pixels that are predicted as another class than with the maps as they are"
    )


def _picture(findings: Attribution, classes: Sequence[str]) -> Any:
    panels = []
    for subject, changes in _by_subject(findings).items():
        effects = {change.name: _effect_of(findings, change) for change in changes}
        panels.append(
            Panel(
                title=subject,
                note="; ".join(f"{c.name}: {c.unmeasured}" for c in changes if c.unmeasured),
                series={
                    name: (effect.differences.miou, *effect.differences.iou)
                    for name, effect in effects.items()
                    if effect is not None
                },
            )
        )
    title = "IoU with changed structure maps, difference to the maps as they are"
    return difference_chart(panels, [_mean_name(findings), *classes], title)


def _csv(findings: Attribution, classes: Sequence[str]) -> str:
    """A line for every change and class; the mean is that of the row with ``class`` mean."""
    keys = ["modality", "change", "class", "iou_as_it_is", "difference", "low", "high"]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*keys, "moved", "unmeasured"], lineterminator="\n")
    writer.writeheader()
    as_it_is = [findings.scores.miou, *findings.scores.iou]
    for change in findings.changes:
        effect = _effect_of(findings, change)
        for index, name in enumerate(["mean", *classes]):
            row: dict[str, Any] = {"modality": change.subject, "change": change.name, "class": name}
            row |= {"iou_as_it_is": known(as_it_is[index]), "unmeasured": change.unmeasured}
            if effect is not None:
                found = (effect.differences.miou, *effect.differences.iou)[index]
                row |= _ends(found)
                row["moved"] = known((effect.moved, *effect.moved_by_class)[index])
            writer.writerow(row)
    return file.getvalue()


def _plain(findings: Attribution, classes: Sequence[str]) -> dict[str, Any]:
    ends = (math.nan, math.nan) if findings.intervals is None else findings.intervals.miou
    entries: list[dict[str, Any]] = []
    for change in findings.changes:
        entry: dict[str, Any] = {"modalities": list(change.modalities), "change": change.name}
        effect = _effect_of(findings, change)
        if effect is None:
            entries.append({**entry, "unmeasured": change.unmeasured})
            continue
        iou = zip(classes, effect.differences.iou, effect.moved_by_class, strict=True)
        entry |= {
            "miou": _ends(effect.differences.miou),
            "moved": known(effect.moved),
            "classes": [{"name": n, **_ends(d), "moved": known(share)} for n, d, share in iou],
            "confusion": effect.confusion.tolist(),
        }
        entries.append(entry)
    return {
        "interval": {
            "level": LEVEL,
            "draws": NUM_DRAWS,
            "seed": SEED,
            "num_sources": findings.num_sources,
        },
        "mean_without": list(findings.left_out),
        "as_it_is": {
            "miou": known(findings.scores.miou),
            "miou_interval": [known(end) for end in ends],
            "classes": [
                {"name": name, "iou": known(iou)}
                for name, iou in zip(classes, findings.scores.iou, strict=True)
            ],
            "confusion": findings.confusion.tolist(),
        },
        "changes": entries,
        "reading": [*reading(findings), _RULE_OF_READING],
    }


def _ends(found: Difference) -> dict[str, float | None]:
    return {
        "difference": known(found.value),
        "low": known(found.low),
        "high": known(found.high),
    }
