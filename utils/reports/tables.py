"""Tables of an evaluation, shown by the console and by the page.

Only ASCII is added to names, for any console.
"""

import csv
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from utils.console import GAP, WIDTH, Table, percent
from utils.evaluation.bootstrap import LEVEL, Intervals, nan_mean
from utils.evaluation.boundary import WIDTHS_PX
from utils.evaluation.measurements import Findings
from utils.evaluation.metrics import Scores
from utils.evaluation.objects import SIZE_NAMES

INTERVAL = f"{LEVEL:.0%} interval"
_WIDTHS, _SIZES = ([f"{x} px" for x in columns] for columns in (WIDTHS_PX, SIZE_NAMES))
NO_BOUNDARIES = (
    "No boundary scores: they need full labels, because eroded labels ignore the class borders."
)
NO_FULL_LABELS = "not computed: needs full labels, which the data set does not have"


def span(ends: Sequence[float], number: Callable[[float], str] = percent) -> str:
    """Format the two ends of an interval; ``-`` for nan."""
    return "-" if math.isnan(sum(ends)) else " to ".join(map(number, ends))


def mean_name(left_out: Sequence[str], name: str = "mean") -> str:
    """Name a mean over classes together with those it leaves out."""
    return f"{name} without {', '.join(left_out)}" if left_out else name


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a CSV file with a header line; missing and non-finite values are empty cells."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        unknown = {k: "" for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
        writer.writerow({**row, **unknown})
    return file.getvalue()


def class_table(
    scores: Scores,
    classes: Sequence[str],
    left_out: Sequence[str],
    intervals: Intervals | None,
) -> Table:
    """Return a table with a row per class and one for the means.

    ``-`` marks a class that occurs neither in the target nor in the prediction; the means leave it
    out.

    Args:
        scores: of C classes.
        classes: C names.
        left_out: names of further classes that the means leave out.
        intervals: of the IoU; None: no column for them.
    """
    num_pixels = sum(scores.support)
    fractions = [
        math.nan if math.isnan(iou) else support / num_pixels
        for iou, support in zip(scores.iou, scores.support, strict=True)
    ]
    columns = (scores.iou, scores.f1, scores.precision, scores.recall, fractions)
    rows = [[name, *map(percent, row)] for name, *row in zip(classes, *columns, strict=True)]
    means = (scores.miou, scores.mf1, scores.mprecision, scores.mrecall)
    rows.append([mean_name(left_out), *map(percent, means)])
    head = ["class", "IoU", "F1", "precision", "recall", "pixels"]
    caption = f"Scores in %; pixels: % of the {num_pixels:,} labelled pixels"
    if intervals is not None:
        head.insert(2, INTERVAL)
        for row, ends in zip(rows, [*intervals.iou, intervals.miou], strict=True):
            row.insert(2, span(ends))
    return Table(head=head, rows=rows, rules=(0, len(classes)), caption=caption)


def interval_sentence(intervals: Intervals | None) -> str:
    """State how the intervals were computed, or why there are none."""
    if intervals is None:
        return "No intervals: they need at least two source images."
    return f"{INTERVAL}s: percentile bootstrap over {intervals.num_sources} source images."


def calibration_sentence(findings: Findings) -> str:
    """State the calibration error and the two numbers it compares."""
    found = findings.calibration
    return (
        f"Expected calibration error {percent(found.error)} % (mean confidence "
        f"{percent(found.confidence)} %, accuracy {percent(found.accuracy)} %)."
    )


def boundary_means(findings: Findings, classes: Sequence[str]) -> dict[str, list[float]]:
    """Return boundary scores by distance, averaged over the classes of the mean that occur."""
    assert findings.boundaries is not None
    kept = [index for index, name in enumerate(classes) if name not in findings.left_out]
    scores = {"iou": findings.boundaries.iou, "f1": findings.boundaries.f1}
    return {key: nan_mean(values[:, kept], 1).tolist() for key, values in scores.items()}


def boundary_table(findings: Findings, classes: Sequence[str]) -> Table:
    """Return the mean boundary scores by distance."""
    means = boundary_means(findings, classes)
    rows = [[f"boundary {name}", *map(percent, means[name.lower()])] for name in ("IoU", "F1")]
    caption = f"Boundary scores in %, {mean_name(findings.left_out, 'mean of the classes')}"
    return Table(head=["distance", *_WIDTHS], rows=rows, caption=caption)


def object_table(findings: Findings) -> Table:
    """Return the number of objects of all classes and the fraction that is detected, by size."""
    objects = findings.all_objects
    rows = [
        ["number", *(f"{number:,}" for number in objects.num_objects[0].tolist())],
        ["detected, %", *map(percent, objects.detected[0])],
        ["pixel recall, %", *map(percent, objects.recall[0])],
    ]
    caption = "Objects of all classes by area; detected: at least half of the pixels are correct"
    return Table(head=["area", *_SIZES], rows=rows, caption=caption)


def class_details(findings: Findings, classes: Sequence[str]) -> list[Table]:
    """Return tables of boundary scores by distance and of objects by size for each class."""
    objects = findings.objects
    head = ["class", *_SIZES]
    tables = [
        ("Objects detected, % of each class, by area", head, objects.detected),
        ("Pixel recall of objects, % of each class, by area", head, objects.recall),
    ]
    if (boundaries := findings.boundaries) is not None:
        head = ["class", *_WIDTHS]
        tables = [
            ("Boundary IoU in %, by distance", head, boundaries.iou.T),
            ("Boundary F1 in %, by distance", head, boundaries.f1.T),
            *tables,
        ]
    return [
        Table(
            head=head,
            rows=[[name, *map(percent, row)] for name, row in zip(classes, values, strict=True)],
            caption=caption,
        )
        for caption, head, values in tables
    ]


def protocol_table(findings: Findings) -> Table:
    """Return a table with a row per evaluation protocol."""
    rows = []
    for found in findings.protocols:
        scores = found.scores
        ends = (math.nan, math.nan) if found.intervals is None else found.intervals.miou
        values = (percent(scores.miou), span(ends), percent(scores.mf1), percent(scores.oa))
        rows.append([found.protocol.name, found.protocol.labels, *values])
    return Table(
        head=["protocol", "labels", "mIoU", INTERVAL, "mF1", "OA"],
        rows=rows,
        text_columns=(0, 1),
        caption="The same predictions under the evaluation protocols of the field, in %",
    )


def protocol_sentences(findings: Findings) -> dict[str, str]:
    """Return what makes each protocol's scores reproducible, by protocol."""
    sentences = {found.protocol.name: found.sentence for found in findings.protocols}
    sentences |= {protocol.name: NO_FULL_LABELS for protocol in findings.impossible}
    if findings.conditions:
        sentences["all protocols"] = findings.conditions
    return sentences


def console_summary(findings: Findings, classes: Sequence[str]) -> str:
    """Return what the console shows: classes, intervals, boundaries, objects, protocols."""
    scores = findings.scores
    means = {"mIoU": scores.miou, "mF1": scores.mf1, "OA": scores.oa, "kappa": scores.kappa}
    mean_line = "   ".join(f"{name} {percent(value)}" for name, value in means.items())
    sentences = (
        textwrap.fill(f"{name}: {sentence}", WIDTH, subsequent_indent=GAP)
        for name, sentence in protocol_sentences(findings).items()
    )
    parts = [
        str(class_table(scores, classes, findings.left_out, findings.intervals)),
        "\n".join([mean_line, interval_sentence(findings.intervals)]),
        str(boundary_table(findings, classes)) if findings.boundaries else NO_BOUNDARIES,
        str(object_table(findings)),
        calibration_sentence(findings),
        "\n".join([str(protocol_table(findings)), *sentences]),
    ]
    return "\n\n".join(parts)
