"""What was found in all images, to look at: ``index.html`` and ``areas.csv`` beside the results."""

import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from utils.files import write_text
from utils.inference.progress import Record
from utils.reports.html import (
    Html,
    Section,
    bar_html,
    jpeg_html,
    legend_html,
    name_html,
    page,
    row_html,
    table_html,
    text_html,
    together,
)
from utils.visualization.colors import Color

NUM_PICTURES = 200  # of more images the page would be slow to open
_M2_PER_HA = 10_000


def write_inference_page(
    output: Path,
    records: Sequence[Record],
    classes: Sequence[str],
    palette: Sequence[Color],
    failures: Sequence[str],
) -> None:
    """Write ``index.html``, which opens offline, and ``areas.csv``.

    Args:
        output: folder of all results.
        records: of the images, in the order they are shown in.
        classes: C names.
        palette: C colours, RGB in 0..255.
        failures: what is wrong with the images that could not be segmented.
    """
    write_text(output / "areas.csv", _csv(records, classes))
    sections = [
        Section(title="Classes", body=_totals(records, classes, palette)),
        Section(title="Images", body=_pictures(records, classes, palette)),
        Section(title="Areas", body=_areas(records, classes)),
    ]
    if failures:
        body = together(*(text_html(failure) for failure in failures))
        sections.insert(0, Section(title=f"{len(failures)} not segmented", body=body))
    head = legend_html(classes, palette)
    title = f"{len(records)} images segmented"
    write_text(output / "index.html", page(title, sections, head))


def _totals(records: Sequence[Record], classes: Sequence[str], palette: Sequence[Color]) -> Html:
    """A row for every class, over all images."""
    pixels = [sum(record.pixels[index] for record in records) for index in range(len(classes))]
    shares = [count / max(1, sum(pixels)) for count in pixels]
    areas = [_hectares(records, index) for index in range(len(classes))]
    rows: list[list[str | Html]] = [
        [
            name_html(name, color),
            bar_html(share, color),
            f"{100 * share:.2f}",
            "-" if area is None else f"{area:,.4g}",
        ]
        for name, color, share, area in zip(classes, palette, shares, areas, strict=True)
    ]
    note = "" if None not in areas else "No area is given where an image lacks a known ground unit."
    return together(table_html(["class", "", "share, %", "area, ha"], rows), text_html(note))


def _hectares(records: Sequence[Record], index: int) -> float | None:
    """The area of a class over all images; None if one of them has no known scale."""
    total = 0.0
    for record in records:
        if record.pixel_area_m2 is None:
            return None
        total += record.pixels[index] * record.pixel_area_m2 / _M2_PER_HA
    return total


def _pictures(records: Sequence[Record], classes: Sequence[str], palette: Sequence[Color]) -> Html:
    """The overlays in small, each a link to the large one."""
    figures = []
    for record in records[:NUM_PICTURES]:
        height, width = record.size
        caption = f"{record.result}: {width:,} x {height:,} px"
        figure = jpeg_html(record.thumbnail, caption, f"classes over {record.result}")
        kind = next((k for k in ("overlay", "color", "index") if k in record.kinds), None)
        link = "" if kind is None else f' href="{escape(quote(f"{kind}/{record.result}"))}"'
        figures.append(Html(f"<a{link}>{figure}</a>"))
    left = len(records) - len(figures)
    note = "Each picture leads to its file in full size."
    if left:
        note = f"The first {NUM_PICTURES} images; {left:,} more are in the table. {note}"
    return row_html(note, figures)


def _areas(records: Sequence[Record], classes: Sequence[str]) -> Html:
    """A row for every image: the share of each class, and the area of the image."""
    rows: list[list[str | Html]] = []
    for record in records:
        total = max(1, sum(record.pixels))
        area = record.pixel_area_m2
        hectares = "-" if area is None else f"{total * area / _M2_PER_HA:,.4g}"
        shares = [f"{100 * count / total:.2f}" for count in record.pixels]
        rows.append([record.result, hectares, *shares])
    head = ["image", "ha", *(f"{name}, %" for name in classes)]
    return together(table_html(head, rows), text_html("areas.csv has pixels and square metres."))


def _csv(records: Sequence[Record], classes: Sequence[str]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", "class", "pixels", "share", "area_m2"])
    for record in records:
        total = max(1, sum(record.pixels))
        for name, count in zip(classes, record.pixels, strict=True):
            area = "" if record.pixel_area_m2 is None else repr(count * record.pixel_area_m2)
            writer.writerow([record.result, name, count, count / total, area])
    return file.getvalue()
