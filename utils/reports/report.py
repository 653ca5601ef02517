"""The report of an evaluation: a page for people, JSON and CSV for programs, pictures."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.evaluation.bootstrap import LEVEL, NUM_DRAWS, SEED, Intervals
from utils.evaluation.boundary import WIDTHS_PX
from utils.evaluation.measurements import Findings
from utils.evaluation.metrics import Scores
from utils.evaluation.objects import SIZE_NAMES
from utils.evaluation.protocols import plan_labels
from utils.evaluation.setup import EvaluationSetup
from utils.files import to_json, write_json, write_png, write_text
from utils.reports.cost import Cost, cost_facts, cost_of
from utils.reports.pages import Picture, picture, render
from utils.reports.tables import (
    NO_BOUNDARIES,
    NO_FULL_LABELS,
    boundary_means,
    boundary_table,
    calibration_sentence,
    class_details,
    class_table,
    csv_text,
    interval_sentence,
    object_table,
    protocol_sentences,
    protocol_table,
    span,
)
from utils.visualization.charts import confusion_chart, reliability_diagram
from utils.visualization.colors import ERROR_COLORS, Color
from utils.visualization.panels import PanelRow, panel_cells, prediction_panel

_MEANS = ("miou", "mf1", "mprecision", "mrecall", "oa", "kappa")
_MEAN_COLOR: Color = (110, 116, 128)  # of the bar of the mean
_PHOTOS = ("image", "structure", "errors")  # no class depends on their exact colours


def header_of(setup: EvaluationSetup, split: str) -> dict[str, Any]:
    """Return what is evaluated and how, in display order."""
    checkpoint, config, tile_set = setup.checkpoint, setup.config, setup.tile_set
    absent = set(config.structure.modalities) - set(config.structure.present())
    stores = setup.predictor.encoder.stores
    modalities = ", ".join(stores) or "the RGB image"
    if stores and absent:
        modalities += f"; absent: {', '.join(sorted(absent))}"
    scales = ", ".join(f"{scale:g}" for scale in config.eval.scales)
    sources, kinds = setup.sources(split), tile_set.kinds_of(split)
    identity = checkpoint.identity
    trained, lists = identity.recipe["data"]["train_split"], identity.split
    header = {
        "checkpoint": str(checkpoint.path),
        "epoch": checkpoint.progress["epoch"],
        "selected on": identity.selected_on,
        "trained on": _split_of(identity.dataset, trained, lists["name"], lists["sha256"]),
        "scored on": _split_of(tile_set.name, split, tile_set.split_name, tile_set.split_sha256),
        "data": str(tile_set.root),
        "split": split,
        "lists": f"{tile_set.split_name}, SHA-256 {tile_set.split_sha256}",
        "labels": plan_labels(kinds, config.eval.labels).phrase(config.eval.labels),
        "images": len({*sources.values()}),
        "tiles": len(sources),
        "unit": config.eval.unit,
        "structure": f"{config.structure.control}: {modalities}",
        "window": f"{config.eval.window_px} px, overlap {config.eval.overlap_px} px",
        "views": f"scales {scales}; turns {config.eval.turns}",
        "precision": setup.predictor.precision.name,
    }
    return header | ({"warning": "; ".join(setup.notes)} if setup.notes else {})


def _split_of(data_set: str, split: str, lists: str, sha256: str) -> str:
    return f"{data_set}, split {split} of {lists}, SHA-256 {sha256}"


def cost_of_split(setup: EvaluationSetup, split: str) -> Cost:
    """Count the cost of the largest window of a split."""
    tile_set, most_px = setup.tile_set, setup.config.eval.window_px
    tiles = (tile_set.tiles[tile_id] for tile_id in tile_set.split(split))
    windows_px = ((min(most_px, t.height_px), min(most_px, t.width_px)) for t in tiles)
    size, predictor = max(windows_px, key=math.prod), setup.predictor
    shapes = predictor.encoder.shapes(size)
    return cost_of(predictor.network, shapes, size, predictor.precision)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Everything that a report states and shows."""

    findings: Findings
    classes: Sequence[str]
    palette: Sequence[Color]
    header: dict[str, Any]  # what was evaluated and how, in display order; plain values, paths
    cost: Cost
    worst: Sequence[PanelRow] = ()  # tiles with the lowest mIoU, the worst first
    spread: Sequence[PanelRow] = ()  # tiles spread evenly over the split


def write_report(folder: Path, found: Evaluation) -> None:
    """Write ``report.html``, ``report.json``, ``per_class.csv`` and pictures.

    The pictures are ``confusion.png``, ``confidence.png`` and, if there are tiles to show,
    ``predictions.png``. Existing reports are replaced, each file atomically and ``report.json``
    last; the same arguments give the same bytes. Scores in JSON and CSV are fractions in 0..1; a
    number that is not finite becomes null, or an empty cell.
    """
    findings, classes, palette = found.findings, found.classes, found.palette
    confusion = confusion_chart(findings.confusion.cpu().numpy(), classes, palette).pixels()
    confidence = reliability_diagram(**vars(findings.calibration)).pixels()
    page = report_page(found, {"Confusion matrix": confusion, "Reliability diagram": confidence})
    rows = [_class_row(findings, index, name) for index, name in enumerate(classes)]
    write_text(folder / "report.html", page)
    write_png(folder / "confusion.png", confusion)
    write_png(folder / "confidence.png", confidence)
    if found.spread:
        write_png(folder / "predictions.png", prediction_panel(found.spread, classes, palette))
    write_text(folder / "per_class.csv", csv_text(list(rows[0]), rows))
    write_json(folder / "report.json", to_json(_content(found, rows)))


def report_page(found: Evaluation, pictures: dict[str, np.ndarray]) -> str:
    """Return the page of an evaluation with charts, ``(H, W, 3)`` uint8 by title."""
    findings, classes, palette = found.findings, found.classes, found.palette
    scores, intervals = findings.scores, findings.intervals
    ends = [(math.nan, math.nan)] * (len(classes) + 1)
    if intervals is not None:
        ends = [*intervals.iou, intervals.miou]
    names, colors = [*classes, *ERROR_COLORS], [*palette, *ERROR_COLORS.values()]
    tables = [object_table(findings), *class_details(findings, classes)]
    if findings.boundaries is not None:
        tables.insert(0, boundary_table(findings, classes))
    return render(
        "report.html",
        title=f"Evaluation of {found.header['checkpoint']} on {found.header['split']}",
        scores=scores,
        left_out=findings.left_out,
        miou_interval="" if intervals is None else span(intervals.miou),
        calibration=findings.calibration,
        notes=[interval_sentence(intervals), calibration_sentence(findings)],
        header=found.header,
        class_table=class_table(scores, classes, findings.left_out, intervals),
        bars=[*zip([*scores.iou, scores.miou], [*palette, _MEAN_COLOR], ends, strict=True)],
        palette=palette,
        protocols=protocol_table(findings),
        sentences=protocol_sentences(findings),
        charts=[picture(array, title, title) for title, array in pictures.items()],
        tables=tables,
        no_boundaries=NO_BOUNDARIES if findings.boundaries is None else "",
        cost=cost_facts(found.cost),
        classes_and_errors=[*zip(names, colors, strict=True)],
        worst=[*_tiles(found.worst, palette)],
        spread=[*_tiles(found.spread, palette)],
    )


def _tiles(
    rows: Sequence[PanelRow], palette: Sequence[Color]
) -> Iterator[tuple[str, list[Picture]]]:
    """Yield the title and the pictures of each tile."""
    for row in rows:
        pictures = [
            picture(cell.picture, f"{name} of {row.title}", name, photo=name in _PHOTOS)
            for name, cell in panel_cells(row, palette).items()
            if cell is not None
        ]
        yield row.title, pictures


def _content(found: Evaluation, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of ``report.json``; ``rows`` are those of the CSV file."""
    findings, objects = found.findings, found.findings.all_objects
    entries = [
        {"name": row["class"], "color": color, **{k: v for k, v in row.items() if k != "class"}}
        for row, color in zip(rows, found.palette, strict=True)
    ]
    return {
        "header": found.header,
        **_means(findings.scores),
        "num_pixels": sum(findings.scores.support),
        "mean_without": findings.left_out,
        "interval": _interval(findings.intervals),
        "classes": entries,
        "boundaries": _boundaries(findings, found.classes),
        "objects": {
            "sizes_px": SIZE_NAMES,
            "num_objects": objects.num_objects[0].tolist(),
            "detected": objects.detected[0].tolist(),
            "pixel_recall": objects.recall[0].tolist(),
        },
        "calibration": asdict(findings.calibration),
        "protocols": _protocols(findings),
        "impossible_protocols": [
            {"name": protocol.name, "why": NO_FULL_LABELS} for protocol in findings.impossible
        ],
        "confusion_axes": ["target", "prediction"],
        "confusion": findings.confusion.long().tolist(),
        "sources": [  # from which reports are compared
            {"name": name, "confusion": matrix.long().tolist()}
            for name, matrix in zip(findings.sources, findings.source_confusions, strict=True)
        ],
        "cost": asdict(found.cost),
    }


def _means(scores: Scores) -> dict[str, float]:
    return {key: getattr(scores, key) for key in _MEANS}


def _interval(intervals: Intervals | None) -> dict[str, Any]:
    """Return the interval of the mIoU, or null with the reason."""
    settings = {"level": LEVEL, "draws": NUM_DRAWS, "seed": SEED}
    if intervals is None:
        return {**settings, "miou": None, "why": interval_sentence(None)}
    return {**settings, "num_sources": intervals.num_sources, "miou": intervals.miou}


def _class_row(findings: Findings, index: int, name: str) -> dict[str, Any]:
    """Return the scores of a class by column name: a row of the CSV file."""
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
        for number, width in enumerate(WIDTHS_PX):
            row[f"boundary_iou_{width}px"] = float(borders.iou[number, index])
            row[f"boundary_f1_{width}px"] = float(borders.f1[number, index])
    for number, size in enumerate(SIZE_NAMES):
        row[f"objects {size}px"] = int(objects.num_objects[index, number])
        row[f"objects_detected {size}px"] = float(objects.detected[index, number])
        row[f"pixel_recall {size}px"] = float(objects.recall[index, number])
    return row


def _boundaries(findings: Findings, classes: Sequence[str]) -> dict[str, Any]:
    """Return the mean scores by distance, or null with the reason."""
    if findings.boundaries is None:
        return {"iou": None, "f1": None, "why": NO_BOUNDARIES}
    return {"widths_px": WIDTHS_PX, **boundary_means(findings, classes)}


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
