"""The overview of segmented images: ``index.html`` and ``areas.csv`` beside the results."""

import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from utils.console import Table, percent
from utils.files import write_text
from utils.inference.progress import DoneMarker
from utils.reports.pages import Picture, render
from utils.reports.tables import csv_text
from utils.visualization.colors import Color

NUM_PICTURES = 200  # with more, the page would be slow to open
_M2_PER_HA = 10_000


def write_inference_report(
    output: Path,
    markers: Sequence[DoneMarker],
    classes: Sequence[str],
    palette: Sequence[Color],
    failures: Sequence[str],
) -> None:
    """Write ``index.html``, which opens offline, and ``areas.csv``.

    Args:
        output: folder of all results.
        markers: of the images, in display order.
        classes: C names.
        palette: C colours, RGB in 0..255.
        failures: a sentence for each image that could not be segmented.
    """
    write_text(output / "areas.csv", _areas_csv(markers, classes))
    pixels = [sum(marker.pixels[index] for marker in markers) for index in range(len(classes))]
    fractions = [count / max(1, sum(pixels)) for count in pixels]
    hectares = [_hectares(markers, index) for index in range(len(classes))]
    rows = [
        [name, percent(fraction), _number(area)]
        for name, fraction, area in zip(classes, fractions, hectares, strict=True)
    ]
    unknown = any(map(math.isnan, hectares))
    page = render(
        "inference.html",
        title=f"{len(markers)} image{'s' * (len(markers) != 1)} segmented",
        failures=failures,
        class_table=Table(head=["class", "pixels, %", "area, ha"], rows=rows),
        bars=[(*pair, (math.nan, math.nan)) for pair in zip(fractions, palette, strict=True)],
        palette=palette,
        area_note="No total area: some image has no known pixel size." if unknown else "",
        pictures=[_picture(marker) for marker in markers[:NUM_PICTURES]],
        num_left=max(0, len(markers) - NUM_PICTURES),
        areas=_image_table(markers, classes),
    )
    write_text(output / "index.html", page)


def _picture(marker: DoneMarker) -> Picture:
    """Return the thumbnail of an image, which links to the result that shows most."""
    height, width = marker.size
    kind = next((kind for kind in ("overlay", "color", "index") if kind in marker.kinds), None)
    return Picture(
        source=f"data:image/jpeg;base64,{marker.thumbnail}",
        alt=f"predicted classes over {marker.result}",
        caption=f"{marker.result}: {width:,} x {height:,} px",
        link="" if kind is None else quote(f"{kind}/{marker.result}"),
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.4g}"


def _hectares(markers: Sequence[DoneMarker], index: int) -> float:
    """Return the area of a class in all images; nan if the pixel size of one is unknown."""
    total = 0.0
    for marker in markers:
        if marker.pixel_area_m2 is None:
            return math.nan
        total += marker.pixels[index] * marker.pixel_area_m2 / _M2_PER_HA
    return total


def _image_table(markers: Sequence[DoneMarker], classes: Sequence[str]) -> Table:
    """Return a table with the area of each image and its fraction of each class."""
    rows = []
    for marker in markers:
        total = max(1, sum(marker.pixels))
        area = math.nan if marker.pixel_area_m2 is None else marker.pixel_area_m2 / _M2_PER_HA
        fractions = [percent(count / total) for count in marker.pixels]
        rows.append([marker.result, _number(total * area), *fractions])
    return Table(head=["image", "area, ha", *(f"{name}, %" for name in classes)], rows=rows)


def _areas_csv(markers: Sequence[DoneMarker], classes: Sequence[str]) -> str:
    rows = []
    for marker in markers:
        total = max(1, sum(marker.pixels))
        for name, count in zip(classes, marker.pixels, strict=True):
            row = {"image": marker.result, "class": name, "pixels": count, "share": count / total}
            if marker.pixel_area_m2 is not None:
                row["area_m2"] = count * marker.pixel_area_m2
            rows.append(row)
    return csv_text(["image", "class", "pixels", "share", "area_m2"], rows)
