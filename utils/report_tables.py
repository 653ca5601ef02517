"""The tables of a report as text, in percent. Only ASCII is added to names, for any console."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from utils.bootstrap import LEVEL, Intervals
from utils.measurements import Findings
from utils.metrics import Scores
from utils.objects import size_names
from utils.tables import GAP, table

NO_BORDERS = "boundary scores need full labels: eroded ones leave out the borders of objects"
_COLUMNS = ("IoU", "F1", "precision", "recall", "share")
_TEXT_WIDTH = 100


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
    """The scores of every class and their means, without a final newline.

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
    return "\n".join(
        [
            table(["class", *_COLUMNS], rows, (0, len(classes))),
            "",
            f"mIoU {percent(scores.miou)}   mF1 {percent(scores.mf1)}   OA {percent(scores.oa)}   "
            f"kappa {percent(scores.kappa)}   (%, over {num_pixels:,} pixels)",
        ]
    )


def summary(findings: Findings, classes: Sequence[str]) -> str:
    """What the console shows: classes, interval, means of borders and objects, protocols."""
    calibration = findings.calibration
    parts = [
        score_table(findings.scores, classes, findings.left_out)
        + f"\n{interval_sentence(findings.intervals)}",
        _boundary_means(findings, classes),
        _object_table(findings),
        f"calibration error {percent(calibration.error)}: mean confidence "
        f"{percent(calibration.confidence)}, right {percent(calibration.accuracy)}",
    ]
    parts.append(protocol_table(findings))
    return "\n\n".join(parts)


def details(findings: Findings, classes: Sequence[str]) -> str:
    """What the text file holds besides: borders and objects of every class."""
    parts = []
    if findings.boundaries is not None:
        for name, values in (("IoU", findings.boundaries.iou), ("F1", findings.boundaries.f1)):
            head = [f"boundary {name}", *(f"{width} px" for width in findings.boundaries.widths_px)]
            rows = [[n, *map(percent, row)] for n, row in zip(classes, values.T, strict=True)]
            parts.append(table(head, rows, (0,)))
    objects = findings.objects
    for name, values in (("objects found", objects.found), ("pixel recall", objects.recall)):
        head = [f"{name}, by px", *size_names(objects.areas_px)]
        rows = [[n, *map(percent, row)] for n, row in zip(classes, values, strict=True)]
        parts.append(table(head, rows, (0,)))
    return "\n\n".join(parts)


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
    head = ["protocol", "labels", "mIoU", "mF1", "OA", f"{LEVEL:.0%} of mIoU"]
    rows, sentences = [], []
    for found in findings.protocols:
        protocol, scores = found.protocol, found.scores
        values = map(percent, (scores.miou, scores.mf1, scores.oa))
        interval = "-" if found.intervals is None else _interval(found.intervals)
        rows.append([protocol.name, protocol.labels, *values, interval])
        sentences.append(f"{protocol.name}: {found.sentence}")
    if findings.conditions:
        sentences.append(f"all of them: {findings.conditions}")
    if findings.impossible:
        sentences.append(no_full_labels(findings))
    lines = [textwrap.fill(text, _TEXT_WIDTH, subsequent_indent=GAP) for text in sentences]
    return "\n".join([table(head, rows, (0,)), *lines])


def no_full_labels(findings: Findings) -> str:
    """Why protocols are left out."""
    names = "; ".join(protocol.name for protocol in findings.impossible)
    return f"left out, for they need full labels and the data set has none: {names}"


def _interval(intervals: Intervals) -> str:
    return " to ".join(map(percent, intervals.miou))


def _boundary_means(findings: Findings, classes: Sequence[str]) -> str:
    if findings.boundaries is None:
        return NO_BORDERS
    means = boundary_means(findings, classes)
    head = ["borders, mean of classes", *(f"{w} px" for w in findings.boundaries.widths_px)]
    names = {"iou": "boundary IoU", "f1": "boundary F1"}
    rows = [[names[key], *map(percent, values)] for key, values in means.items()]
    return table(head, rows, (0,))


def _object_table(findings: Findings) -> str:
    objects = findings.all_objects
    rows = [
        ["number", *(f"{number:,}" for number in objects.num_objects[0].tolist())],
        ["found (half of it right)", *map(percent, objects.found[0])],
        ["pixels right", *map(percent, objects.recall[0])],
    ]
    return table(["objects, by area in px", *size_names(objects.areas_px)], rows, (0,))
