"""Self-contained HTML pages of results, rendered from ``templates/``.

A page opens offline: its pictures are embedded, and it loads nothing. Every text is escaped. The
same input gives the same bytes.
"""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image

from utils.console import Table
from utils.evaluation.measurements import Findings
from utils.inference.progress import DoneMarker
from utils.reports.cost import Cost, cost_facts
from utils.reports.tables import (
    NO_BOUNDARIES,
    boundary_table,
    calibration_sentence,
    class_details,
    class_table,
    interval_sentence,
    object_table,
    percent,
    protocol_sentences,
    protocol_table,
    span,
)
from utils.visualization.colors import ERROR_COLORS, Color
from utils.visualization.panels import PanelRow, panel_cells

_JPEG_QUALITY = 88
_MEAN_COLOR: Color = (110, 116, 128)  # of the bar of the mean
_PHOTOS = ("image", "structure", "errors")  # no class depends on their exact colours


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An embedded picture."""

    source: str  # data URI
    alt: str  # text that replaces the picture
    caption: str = ""
    link: str = ""  # URL the picture leads to


def picture(array: np.ndarray, alt: str, caption: str = "", *, photo: bool = False) -> Picture:
    """Embed ``(H, W, 3)`` or ``(H, W)`` uint8: as PNG, or as the smaller JPEG for a photo."""
    kind, data = ("jpeg", jpeg_base64(array)) if photo else ("png", _base64(array, "PNG"))
    return Picture(source=f"data:image/{kind};base64,{data}", alt=alt, caption=caption)


def jpeg_base64(array: np.ndarray) -> str:
    """Encode ``(H, W, 3)`` or ``(H, W)`` uint8 as JPEG in base64."""
    return _base64(array, "JPEG", quality=_JPEG_QUALITY, subsampling=0)


def _base64(array: np.ndarray, kind: str, **settings: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, optimize=kind == "PNG", **settings)
    return base64.b64encode(file.getvalue()).decode("ascii")


def render(template: str, **context: Any) -> str:
    """Render a template; a variable that it lacks is an error.

    Args:
        template: file name in ``templates/``.
        context: what the template shows; all text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["finite"] = math.isfinite
    environment.filters["css"] = "rgb({0[0]}, {0[1]}, {0[2]})".format  # of a colour
    environment.filters["percent"] = percent
    return environment.get_template(template).render(context)


def report_page(
    *,
    findings: Findings,
    classes: Sequence[str],
    palette: Sequence[Color],
    header: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
    cost: Cost | None = None,
    worst: Sequence[PanelRow] = (),
    spread: Sequence[PanelRow] = (),
) -> str:
    """Return the page of an evaluation.

    Args:
        findings: of C classes.
        classes: C class names.
        palette: C colours, RGB in 0..255.
        header: what was evaluated and how, in display order.
        pictures: ``(H, W, 3)`` uint8 by title.
        cost: of the network.
        worst: tiles with the lowest mIoU, the worst first.
        spread: tiles spread evenly over the split.
    """
    scores, intervals = findings.scores, findings.intervals
    ends = [(math.nan, math.nan)] * (len(classes) + 1)
    if intervals is not None:
        ends = [*intervals.iou, intervals.miou]
    subject = [str(header[key]) for key in ("checkpoint", "split") if key in header]
    names, colors = [*classes, *ERROR_COLORS], [*palette, *ERROR_COLORS.values()]
    tables = [object_table(findings), *class_details(findings, classes)]
    if findings.boundaries is not None:
        tables.insert(0, boundary_table(findings, classes))
    return render(
        "report.html",
        title=f"Evaluation of {' on '.join(subject)}" if subject else "Evaluation",
        scores=scores,
        left_out=findings.left_out,
        miou_interval="" if intervals is None else span(intervals.miou),
        calibration=findings.calibration,
        notes=[interval_sentence(intervals), calibration_sentence(findings)],
        header={name: str(value) for name, value in header.items()},
        class_table=class_table(scores, classes, findings.left_out, intervals),
        bars=[*zip([*scores.iou, scores.miou], [*palette, _MEAN_COLOR], ends, strict=True)],
        palette=palette,
        protocols=protocol_table(findings),
        sentences=protocol_sentences(findings),
        charts=[picture(array, title, title) for title, array in pictures.items()],
        tables=tables,
        no_boundaries=NO_BOUNDARIES if findings.boundaries is None else "",
        cost={} if cost is None else cost_facts(cost),
        classes_and_errors=[*zip(names, colors, strict=True)],
        worst=[*_tiles(worst, palette)],
        spread=[*_tiles(spread, palette)],
    )


def _tiles(
    rows: Sequence[PanelRow], palette: Sequence[Color]
) -> Iterator[tuple[str, list[Picture]]]:
    """Yield the title and the pictures of each tile."""
    for row in rows:
        cells = {name: cell for name, cell in panel_cells(row, palette).items() if cell is not None}
        yield (
            row.title,
            [
                picture(cell.picture, f"{name} of {row.title}", name, photo=name in _PHOTOS)
                for name, cell in cells.items()
            ],
        )


def comparison_page(
    *,
    title: str,
    scores: Table,
    reference: str,
    chart: np.ndarray,
    differences: Sequence[Table],
    reading: str,
    header_differences: Mapping[str, Mapping[str, str]],
    method: str,
) -> str:
    """Return the page of a comparison.

    Args:
        title: heading.
        scores: a row per setting.
        reference: name of the setting that all others are compared with.
        chart: of the differences, ``(H, W, 3)`` uint8.
        differences: a table for each setting but the reference.
        reading: what their marks mean.
        header_differences: value of each setting, by setting, for each header entry that differs.
        method: how the intervals were computed.
    """
    return render(
        "comparison.html",
        title=title,
        scores=scores,
        reference=reference,
        chart=picture(chart, f"differences to {reference}"),
        differences=differences,
        reading=reading,
        header_differences=header_differences,
        method=method,
    )


def inference_page(
    *,
    markers: Sequence[DoneMarker],
    num_pictures: int,
    classes: Table,
    fractions: Sequence[float],
    palette: Sequence[Color],
    areas: Table,
    area_note: str,
    failures: Sequence[str],
) -> str:
    """Return the overview of segmented images.

    Args:
        markers: of all images, in display order.
        num_pictures: how many of them are shown as pictures.
        classes: a row per class, over all images.
        fractions: of the pixels of all images, by class.
        palette: RGB in 0..255 of each class.
        areas: a row per image.
        area_note: why areas are missing; empty if none is.
        failures: a sentence for each image that could not be segmented.
    """
    pictures = []
    for marker in markers[:num_pictures]:
        height, width = marker.size
        kind = next((k for k in ("overlay", "color", "index") if k in marker.kinds), None)
        pictures.append(
            Picture(
                source=f"data:image/jpeg;base64,{marker.thumbnail}",
                alt=f"predicted classes over {marker.result}",
                caption=f"{marker.result}: {width:,} x {height:,} px",
                link="" if kind is None else quote(f"{kind}/{marker.result}"),
            )
        )
    return render(
        "inference.html",
        title=f"{len(markers)} image{'s' * (len(markers) != 1)} segmented",
        failures=failures,
        class_table=classes,
        bars=[(*pair, (math.nan, math.nan)) for pair in zip(fractions, palette, strict=True)],
        palette=palette,
        area_note=area_note,
        pictures=pictures,
        num_left=len(markers) - len(pictures),
        areas=areas,
    )
