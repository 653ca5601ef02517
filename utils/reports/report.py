"""The report of an evaluation: text for people, JSON and CSV for programs, a picture."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils.evaluation.bootstrap import LEVEL, NUM_DRAWS, SEED, Intervals
from utils.evaluation.measurements import Findings
from utils.evaluation.metrics import Scores
from utils.evaluation.objects import size_names
from utils.files import known, write_json, write_png, write_text
from utils.reports.cost import Cost, cost_facts
from utils.reports.report_page import report_page
from utils.reports.tables import (
    NO_BORDERS,
    boundary_means,
    details,
    interval_sentence,
    listed,
    no_full_labels,
    summary,
)
from utils.visualization.charts import confusion_picture
from utils.visualization.colors import PanelRow, prediction_panel
from utils.visualization.confidence_picture import confidence_picture

_MEANS = ("miou", "mf1", "mprecision", "mrecall", "oa", "kappa")


def write_report(
    folder: Path,
    *,
    findings: Findings,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    header: dict[str, Any],
    cost: Cost | None = None,
    worst: Sequence[PanelRow] = (),
    spread: Sequence[PanelRow] = (),
) -> None:
    """Write ``report`` as .txt, .html and .json, ``per_class.csv``, and pictures.

    These are ``confusion.png``, ``confidence.png`` and, where tiles are given, ``predictions.png``.
    Existing reports are replaced, each file atomically and ``report.json`` last. Scores in JSON
    and CSV are fractions in 0..1; a number that is not finite becomes null, or an empty cell.

    Args:
        folder: where to write; made if it is missing.
        findings: of C classes.
        classes: C class names.
        palette: C colours, RGB in 0..255.
        header: what was evaluated and how (checkpoint, split, window ...), in display order;
            plain values, lists and dicts of them, paths.
        cost: of the network; the one part that differs from run to run.
        worst: tiles with the lowest mIoU, for the page.
        spread: tiles spread evenly over the split, for the page and ``predictions.png``.

    Raises:
        ValueError: the number of names or colours is not that of the matrix.
    """
    num_classes = len(findings.scores.iou)
    _check_count("class names", classes, num_classes)
    _check_count("palette colours", palette, num_classes)
    counts = findings.confusion.detach().cpu()
    rows = [_class_row(findings, index, name) for index, name in enumerate(classes)]
    confusion = confusion_picture(counts.numpy(), classes, palette)
    confidence = confidence_picture(findings.calibration)
    write_text(folder / "report.txt", _text(findings, classes, header, cost))
    write_png(folder / "confusion.png", confusion)
    write_png(folder / "confidence.png", confidence)
    if spread:
        write_png(folder / "predictions.png", prediction_panel(spread, classes, palette))
    html = report_page(
        findings=findings,
        classes=classes,
        palette=palette,
        header=header,
        pictures={"confusion matrix": confusion, "reliability of the confidence": confidence},
        cost=cost,
        worst=worst,
        spread=spread,
    )
    write_text(folder / "report.html", html)
    write_text(folder / "per_class.csv", _csv(rows))
    entries = [
        {"name": name, "color": list(color), **{k: v for k, v in row.items() if k != "class"}}
        for name, color, row in zip(classes, palette, rows, strict=True)
    ]
    write_json(
        folder / "report.json",
        _plain(
            {
                "header": header,
                **_means(findings.scores),
                "num_pixels": sum(findings.scores.support),
                "mean_without": findings.left_out,
                "interval": _interval(findings.intervals),
                "classes": entries,
                "boundaries": _boundaries(findings, classes),
                "objects": _objects(findings),
                "calibration": asdict(findings.calibration),
                "protocols": _protocols(findings),
                "impossible_protocols": _impossible(findings),
                "confusion_axes": ["target", "prediction"],
                "confusion": counts.long().tolist(),
                "sources": _sources(findings),
                **({} if cost is None else {"cost": asdict(cost)}),
            }
        ),
    )


def _means(scores: Scores) -> dict[str, float]:
    return {key: getattr(scores, key) for key in _MEANS}


def _sources(findings: Findings) -> list[dict[str, Any]]:
    """The confusion matrix of every source image: what two reports are compared by."""
    matrices = findings.source_confusions.long().tolist()
    return [
        {"name": name, "confusion": matrix}
        for name, matrix in zip(findings.sources, matrices, strict=True)
    ]


def _interval(intervals: Intervals | None) -> dict[str, Any]:
    """Of the mIoU; null with the reason where there is none."""
    settings = {"level": LEVEL, "draws": NUM_DRAWS, "seed": SEED}
    if intervals is None:
        return {**settings, "miou": None, "why": interval_sentence(None)}
    return {**settings, "num_sources": intervals.num_sources, "miou": intervals.miou}


def _class_row(findings: Findings, index: int, name: str) -> dict[str, Any]:
    """One number under each name: a line of the CSV file."""
    scores, objects = findings.scores, findings.objects
    low, high = (math.nan, math.nan)
    if findings.intervals is not None:
        low, high = findings.intervals.iou[index]
    row: dict[str, Any] = {
        "class": name,
        "num_pixels": scores.support[index],
        "in_mean": name not in findings.left_out,
        "iou": scores.iou[index],
        "iou_low": low,
        "iou_high": high,
        "f1": scores.f1[index],
        "precision": scores.precision[index],
        "recall": scores.recall[index],
    }
    if (borders := findings.boundaries) is not None:
        for number, width in enumerate(borders.widths_px):
            row[f"boundary_iou_{width}px"] = float(borders.iou[number, index])
            row[f"boundary_f1_{width}px"] = float(borders.f1[number, index])
    for number, size in enumerate(size_names(objects.areas_px)):
        row[f"objects {size}px"] = int(objects.num_objects[index, number])
        row[f"objects_found {size}px"] = float(objects.found[index, number])
        row[f"pixel_recall {size}px"] = float(objects.recall[index, number])
    return row


def _boundaries(findings: Findings, classes: Sequence[str]) -> dict[str, Any]:
    """Means of the classes by width; null with the reason where there are none."""
    if findings.boundaries is None:
        return {"iou": None, "f1": None, "why": NO_BORDERS}
    return {"widths_px": findings.boundaries.widths_px, **boundary_means(findings, classes)}


def _objects(findings: Findings) -> dict[str, Any]:
    objects = findings.all_objects
    return {
        "sizes_px": size_names(objects.areas_px),
        "num_objects": objects.num_objects[0].tolist(),
        "found": objects.found[0].tolist(),
        "pixel_recall": objects.recall[0].tolist(),
    }


def _protocols(findings: Findings) -> list[dict[str, Any]]:
    return [
        {
            "name": found.protocol.name,
            "labels": found.protocol.labels,
            "sentence": "; ".join(filter(None, (found.sentence, findings.conditions))),
            "left_out": found.protocol.left_out,
            "removed": found.protocol.removed,
            **_means(found.scores),
            "num_pixels": sum(found.scores.support),
            "interval": _interval(found.intervals),
        }
        for found in findings.protocols
    ]


def _impossible(findings: Findings) -> list[dict[str, str]]:
    why = no_full_labels(findings)
    return [{"name": protocol.name, "why": why} for protocol in findings.impossible]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain(row) for row in rows)  # null is an empty cell
    return file.getvalue()


def _text(
    findings: Findings, classes: Sequence[str], header: dict[str, Any], cost: Cost | None
) -> str:
    parts = [listed(header)] if header else []
    parts += [summary(findings, classes), details(findings, classes)]
    if cost is not None:
        parts.append(f"cost of the network alone\n{listed(cost_facts(cost))}")
    return "\n\n".join(parts) + "\n"


def _plain(value: Any) -> Any:
    """Make a value fit for JSON: no nan or infinity, no tuples, unknown objects as text."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return known(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(value)


def _check_count(what: str, entries: Sequence[Any], num_classes: int) -> None:
    if len(entries) != num_classes:
        raise ValueError(f"{len(entries)} {what} for {num_classes} classes; they must agree")
