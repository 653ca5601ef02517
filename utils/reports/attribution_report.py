"""The report of an attribution: text for the console, JSON and CSV for programs, a chart."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from utils.console import GAP, WIDTH, Table, percent, points
from utils.evaluation.attribution import SHUFFLED, Ablation, Attribution, Effect
from utils.evaluation.bootstrap import LEVEL, NUM_DRAWS, SEED, Difference
from utils.files import to_json, write_json, write_png, write_text
from utils.reports.tables import INTERVAL, csv_text, mean_name, span
from utils.visualization.charts import DifferencePanel, difference_chart

_HOW_TO_READ = (
    f"An effect counts as shown where the {INTERVAL} of the mIoU difference excludes zero. The "
    f"verdict rests on '{SHUFFLED}', because zeros, a constant and other segments are unlike the "
    "input in training. It tells whether this network uses its maps, not whether a network trained "
    "without them would be worse; that takes the three controls, see docs/attribution.md."
)


def write_attribution(
    folder: Path, *, findings: Attribution, classes: Sequence[str], header: dict[str, Any]
) -> None:
    """Write ``attribution.png``, ``attribution.csv`` and ``attribution.json``.

    Existing files are replaced, each atomically and ``attribution.json`` last. Scores in JSON and
    CSV are fractions; unknown ones are null, or an empty cell.

    Args:
        folder: created if it is missing.
        findings: of C classes.
        classes: C class names.
        header: what was evaluated and how, plain values in display order.
    """
    write_png(folder / "attribution.png", _chart(findings, classes))
    write_text(folder / "attribution.csv", _csv(findings, classes))
    content = {"header": header, **_content(findings, classes)}
    write_json(folder / "attribution.json", to_json(content))


def attribution_text(findings: Attribution, classes: Sequence[str]) -> str:
    """Return what the console shows: a table per modality, their units, and the verdicts."""
    tables = [
        str(_table(findings, subject, effects, classes))
        for subject, effects in _by_subject(findings).items()
    ]
    sentences = (*verdicts(findings), _HOW_TO_READ)
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent=GAP) for line in sentences]
    return "\n\n".join([*tables, textwrap.fill(_legend(findings), WIDTH), "\n".join(wrapped)])


def verdicts(findings: Attribution) -> list[str]:
    """Return a sentence per modality, and one for all of them together, on what the scores show."""
    sentences = []
    for subject, by_ablation in _by_subject(findings).items():
        if effects := [effect for _, effect in by_ablation if effect is not None]:
            clauses = ", ".join(map(_effect_clause, effects))
            sentences.append(f"{subject}: {clauses}: {_verdict(effects)}.")
    return sentences


def _effect_clause(effect: Effect) -> str:
    found, name = effect.differences[0], effect.ablation.name
    if math.isnan(found.low):
        return f"{name} {points(found.value)} points of mIoU"
    if not found.excludes_zero:
        return f"{name} shows no effect ({_interval(found)})"
    verb, sign = ("loses", -1) if found.value < 0 else ("gains", 1)
    ends = sorted((sign * found.low, sign * found.high))
    return f"{name} {verb} {percent(sign * found.value)} points of mIoU ({span(ends)})"


def _verdict(effects: Sequence[Effect]) -> str:
    """Return the conclusion on a modality; ``shuffled`` decides, if it was measured."""
    if all(effect.moved == 0 for effect in effects):
        return "no prediction changes, so the network does not use it"
    if any(math.isnan(effect.differences[0].low) for effect in effects):
        return "fewer than two source images give no interval, so nothing can be concluded"
    clear = {
        effect.ablation.name: effect.differences[0].value
        for effect in effects
        if effect.differences[0].excludes_zero
    }
    if SHUFFLED in clear:
        if clear[SHUFFLED] < 0:
            return "the network uses what the encoded map says about the image"
        return "maps of other images score higher, so the encoded map misleads the network"
    if not clear:
        return "no effect on the mIoU is shown"
    if any(effect.ablation.name == SHUFFLED for effect in effects):
        return (
            "the network depends on the kind of map; that it uses what the encoded map says about "
            "the image is not shown"
        )
    return "the network depends on them"


def _effects(findings: Attribution) -> list[tuple[Ablation, Effect | None]]:
    """Return all ablations in order, each with its effect; None where it was not measured."""
    effects = {effect.ablation: effect for effect in findings.effects}
    return [(ablation, effects.get(ablation)) for ablation in findings.ablations]


def _by_subject(findings: Attribution) -> dict[str, list[tuple[Ablation, Effect | None]]]:
    """Return the same for each modality."""
    found: dict[str, list[tuple[Ablation, Effect | None]]] = {}
    for ablation, effect in _effects(findings):
        found.setdefault(ablation.subject, []).append((ablation, effect))
    return found


def _table(
    findings: Attribution,
    subject: str,
    effects: Sequence[tuple[Ablation, Effect | None]],
    classes: Sequence[str],
) -> Table:
    """Return the table of a modality: differences with their intervals in the line below."""
    names = [*classes, mean_name(findings.left_out)]
    scores = [*findings.scores.iou, findings.scores.miou]
    columns = [_column(effect, ablation, len(names)) for ablation, effect in effects]
    height = 2 if findings.num_sources >= 2 else 1  # lines of a class
    rows: list[list[str]] = []
    for number, (name, score) in enumerate(zip(names, scores, strict=True)):
        cells = [column[number] for column in columns]
        rows.append([name, percent(score), *(value for value, _ in cells)])
        rows += [["", "", *(ends for _, ends in cells)]] if height == 2 else []
    rows.append(["changed pixels", "", *(column[-1][0] for column in columns)])
    return Table(
        head=[subject, "unchanged", *(ablation.name for ablation, _ in effects)],
        rows=rows,
        rules=(0, height * len(classes), height * len(names)),
    )


def _column(effect: Effect | None, ablation: Ablation, num_rows: int) -> list[tuple[str, str]]:
    """Return value and interval of each class and the mean, then the fraction of changed pixels."""
    if effect is None:
        return [("", "")] * (num_rows - 1) + [(str(ablation.unmeasured), ""), ("", "")]
    differences = (*effect.differences[1:], effect.differences[0])
    return [*((points(d.value), _interval(d)) for d in differences), (percent(effect.moved), "")]


def _interval(found: Difference) -> str:
    return span((found.low, found.high), points)


def _legend(findings: Attribution) -> str:
    intervals = "no intervals, which need at least two source images"
    if findings.num_sources >= 2:
        intervals = (
            f"below them their {INTERVAL}s (paired bootstrap over {findings.num_sources} source "
            "images)"
        )
    return (
        f"IoU with unchanged maps in %, then differences to it in percentage points; {intervals}. "
        "Changed pixels: % of the labelled pixels whose predicted class changes."
    )


def _chart(findings: Attribution, classes: Sequence[str]) -> np.ndarray:
    panels = [
        DifferencePanel(
            title=subject,
            note="; ".join(f"{a.name}: {a.unmeasured}" for a, _ in effects if a.unmeasured),
            series={
                ablation.name: [astuple(difference) for difference in effect.differences]
                for ablation, effect in effects
                if effect is not None
            },
        )
        for subject, effects in _by_subject(findings).items()
    ]
    title = "IoU with changed structure maps, difference to unchanged ones"
    rows = [mean_name(findings.left_out, "mIoU"), *classes]
    return difference_chart(panels, rows, title, level=LEVEL).pixels()


def _csv(findings: Attribution, classes: Sequence[str]) -> str:
    """Return a row per ablation and class, and one for the mean, whose ``class`` is ``mean``."""
    keys = ["modality", "ablation", "class", "iou_unchanged", "difference", "low", "high"]
    scores = [findings.scores.miou, *findings.scores.iou]
    rows = []
    for ablation, effect in _effects(findings):
        for index, (name, iou) in enumerate(zip(["mean", *classes], scores, strict=True)):
            row: dict[str, Any] = {
                "modality": ablation.subject,
                "ablation": ablation.name,
                "class": name,
                "iou_unchanged": iou,
                "unmeasured": ablation.unmeasured or "",
            }
            if effect is not None:
                row |= _ends(effect.differences[index])
                row["changed_pixels"] = (effect.moved, *effect.moved_by_class)[index]
            rows.append(row)
    return csv_text([*keys, "changed_pixels", "unmeasured"], rows)


def _content(findings: Attribution, classes: Sequence[str]) -> dict[str, Any]:
    """Return everything in ``attribution.json`` below the header."""
    ends = (math.nan, math.nan) if findings.intervals is None else findings.intervals.miou
    settings = {"level": LEVEL, "draws": NUM_DRAWS, "seed": SEED}
    iou = zip(classes, findings.scores.iou, strict=True)
    return {
        "interval": {**settings, "num_sources": findings.num_sources},
        "mean_without": findings.left_out,
        "unchanged": {
            "miou": findings.scores.miou,
            "miou_interval": ends,
            "classes": [{"name": name, "iou": value} for name, value in iou],
            "confusion": findings.confusion.tolist(),
        },
        "ablations": [_entry(*each, classes) for each in _effects(findings)],
        "verdicts": [*verdicts(findings), _HOW_TO_READ],
    }


def _entry(ablation: Ablation, effect: Effect | None, classes: Sequence[str]) -> dict[str, Any]:
    """Return the scores of an ablation, or why it was not measured."""
    entry: dict[str, Any] = {"modalities": ablation.modalities, "ablation": ablation.name}
    if effect is None:
        return {**entry, "unmeasured": ablation.unmeasured}
    by_class = zip(classes, effect.differences[1:], effect.moved_by_class, strict=True)
    return {
        **entry,
        "miou": _ends(effect.differences[0]),
        "changed_pixels": effect.moved,
        "classes": [{"name": n, **_ends(d), "changed_pixels": f} for n, d, f in by_class],
        "confusion": effect.confusion.tolist(),
    }


def _ends(found: Difference) -> dict[str, float]:
    return dict(zip(("difference", "low", "high"), astuple(found), strict=True))
