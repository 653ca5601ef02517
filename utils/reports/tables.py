"""The tables of a report as text, in percent. Only ASCII is added to names, for any console."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.evaluation.bootstrap import LEVEL, Intervals
from utils.evaluation.measurements import Findings
from utils.evaluation.metrics import Scores
from utils.evaluation.objects import size_names

GAP = "  "
_MIN_WIDTH = 9  # of a column of numbers, so that tables below each other line up


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], rule_before: Sequence[int] = ()
) -> str:
    """Lay out cells, the first column to the left, the others to the right.

    Args:
        head: the first line.
        rows: as many cells each, or fewer.
        rule_before: rows that a rule is drawn above.
    """
    widths = [max(len(row[i]) for row in (head, *rows) if i < len(row)) for i in range(len(head))]
    widths[1:] = [max(width, _MIN_WIDTH) for width in widths[1:]]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        padded = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=False))
        return GAP.join([first.ljust(widths[0]), *padded]).rstrip()

    rule = "-" * len(line(head))
    lines = [line(head)]
    for index, row in enumerate(rows):
        lines += [rule] * (index in rule_before) + [line(row)]
    return "\n".join(lines)


def listed(facts: Mapping[str, Any]) -> str:
    """A line for each name, the values below each other."""
    width = max(map(len, facts), default=0)
    return "\n".join(f"{name.ljust(width)}{GAP}{value}" for name, value in facts.items())


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table before it is laid out, for a console or for a page."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]  # names in the first column, numbers in the others
    rule_before: Sequence[int] = (0,)

    @property
    def text(self) -> str:
        """In columns."""
        return table(self.head, self.rows, self.rule_before)


NO_BORDERS = "boundary scores need full labels: eroded ones leave out the borders of objects"
_COLUMNS = ("IoU", "F1", "precision", "recall", "share")
_TEXT_WIDTH = 100
_NO_FULL_LABELS = "left out, for they need full labels and the data set has none"


def percent(fraction: float) -> str:
    """With two decimals; ``-`` for nan."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def points(difference: float) -> str:
    """Of a percentage, with sign and two decimals; ``-`` for nan."""
    if math.isnan(difference):
        return "-"
    text = f"{100 * difference:+.2f}"
    return "0.00" if float(text) == 0 else text


def score_table(scores: Scores, classes: Sequence[str], left_out: Sequence[str] = ()) -> str:
    """The scores of every class and their means, without a final newline; see ``class_table``."""
    return "\n".join(
        [
            class_table(scores, classes, left_out).text,
            "",
            f"mIoU {percent(scores.miou)}   mF1 {percent(scores.mf1)}   OA {percent(scores.oa)}   "
            f"kappa {percent(scores.kappa)}   (%, over {sum(scores.support):,} pixels)",
        ]
    )


def class_table(scores: Scores, classes: Sequence[str], left_out: Sequence[str] = ()) -> Table:
    """A line for every class, and one for the means.

    ``share`` is the class's part of the counted target pixels. ``-`` stands for a class that
    occurs neither in the target nor in the prediction; the means leave it out.

    Args:
        scores: of C classes.
        classes: C names.
        left_out: names of classes that the means do not count either.
    """
    num_pixels = sum(scores.support)
    shares = [
        math.nan if math.isnan(iou) else support / num_pixels
        for iou, support in zip(scores.iou, scores.support, strict=True)
    ]
    columns = (scores.iou, scores.f1, scores.precision, scores.recall, shares)
    rows = [[name, *map(percent, row)] for name, *row in zip(classes, *columns, strict=True)]
    means = (scores.miou, scores.mf1, scores.mprecision, scores.mrecall)
    mean_name = f"mean without {', '.join(left_out)}" if left_out else "mean"
    rows.append([mean_name, *map(percent, means)])
    return Table(head=["class", *_COLUMNS], rows=rows, rule_before=(0, len(classes)))


def summary(findings: Findings, classes: Sequence[str]) -> str:
    """What the console shows: classes, interval, means of borders and objects, protocols."""
    calibration = findings.calibration
    parts = [
        score_table(findings.scores, classes, findings.left_out)
        + f"\n{interval_sentence(findings.intervals)}",
        boundary_table(findings, classes).text if findings.boundaries else NO_BORDERS,
        object_table(findings).text,
        f"calibration error {percent(calibration.error)}: mean confidence "
        f"{percent(calibration.confidence)}, right {percent(calibration.accuracy)}",
    ]
    parts.append(protocol_table(findings))
    return "\n\n".join(parts)


def details(findings: Findings, classes: Sequence[str]) -> str:
    """What the text file holds besides: borders and objects of every class."""
    return "\n\n".join(part.text for part in class_details(findings, classes))


def class_details(findings: Findings, classes: Sequence[str]) -> list[Table]:
    """Borders by width and objects by size, of every class."""
    tables = []
    if findings.boundaries is not None:
        for name, values in (("IoU", findings.boundaries.iou), ("F1", findings.boundaries.f1)):
            head = [f"boundary {name}", *(f"{width} px" for width in findings.boundaries.widths_px)]
            rows = [[n, *map(percent, row)] for n, row in zip(classes, values.T, strict=True)]
            tables.append(Table(head=head, rows=rows))
    objects = findings.objects
    for name, values in (("objects found", objects.found), ("pixel recall", objects.recall)):
        head = [f"{name}, by px", *size_names(objects.areas_px)]
        rows = [[n, *map(percent, row)] for n, row in zip(classes, values, strict=True)]
        tables.append(Table(head=head, rows=rows))
    return tables


def interval_sentence(intervals: Intervals | None) -> str:
    """The interval of the mIoU, or why there is none."""
    if intervals is None:
        return "no interval of the mIoU: it takes two source images or more"
    return (
        f"mIoU {LEVEL:.0%} interval {_interval(intervals)} "
        f"(bootstrap over {intervals.num_sources} source images)"
    )


def boundary_means(findings: Findings, classes: Sequence[str]) -> dict[str, list[float]]:
    """Boundary scores by width, over the classes that occur and are in the mean."""
    assert findings.boundaries is not None
    kept = [index for index, name in enumerate(classes) if name not in findings.left_out]
    means = {}
    for key, values in (("iou", findings.boundaries.iou), ("f1", findings.boundaries.f1)):
        known = [row[~np.isnan(row)] for row in values[:, kept]]
        means[key] = [float(row.mean()) if row.size else math.nan for row in known]
    return means


def protocol_table(findings: Findings) -> str:
    """The protocols side by side, the sentence of each, and what is the same for all."""
    sentences = (
        textwrap.fill(f"{name}: {sentence}", _TEXT_WIDTH, subsequent_indent=GAP)
        for name, sentence in protocol_sentences(findings).items()
    )
    return "\n".join([protocol_scores_table(findings).text, *sentences])


def protocol_scores_table(findings: Findings) -> Table:
    """A line for every protocol."""
    head = ["protocol", "labels", "mIoU", "mF1", "OA", f"{LEVEL:.0%} of mIoU"]
    rows = []
    for found in findings.protocols:
        protocol, scores = found.protocol, found.scores
        values = map(percent, (scores.miou, scores.mf1, scores.oa))
        interval = "-" if found.intervals is None else _interval(found.intervals)
        rows.append([protocol.name, protocol.labels, *values, interval])
    return Table(head=head, rows=rows)


def protocol_sentences(findings: Findings) -> dict[str, str]:
    """What makes each protocol's numbers reproducible, by its name, and what holds for all."""
    sentences = {found.protocol.name: found.sentence for found in findings.protocols}
    if findings.conditions:
        sentences["all of them"] = findings.conditions
    if findings.impossible:
        sentences[_NO_FULL_LABELS] = _impossible(findings)
    return sentences


def no_full_labels(findings: Findings) -> str:
    """Why protocols are left out."""
    return f"{_NO_FULL_LABELS}: {_impossible(findings)}"


def _impossible(findings: Findings) -> str:
    return "; ".join(protocol.name for protocol in findings.impossible)


def _interval(intervals: Intervals) -> str:
    return " to ".join(map(percent, intervals.miou))


def boundary_table(findings: Findings, classes: Sequence[str]) -> Table:
    """Means of the boundary scores by width; only where there are borders."""
    assert findings.boundaries is not None
    means = boundary_means(findings, classes)
    head = ["borders, mean of classes", *(f"{w} px" for w in findings.boundaries.widths_px)]
    names = {"iou": "boundary IoU", "f1": "boundary F1"}
    rows = [[names[key], *map(percent, values)] for key, values in means.items()]
    return Table(head=head, rows=rows)


def object_table(findings: Findings) -> Table:
    """Objects of all classes together by their size."""
    objects = findings.all_objects
    rows = [
        ["number", *(f"{number:,}" for number in objects.num_objects[0].tolist())],
        ["found (half of it right)", *map(percent, objects.found[0])],
        ["pixels right", *map(percent, objects.recall[0])],
    ]
    return Table(head=["objects, by area in px", *size_names(objects.areas_px)], rows=rows)
