"""Overview of segmented images: areas by hand, and a page that opens anywhere."""

import base64
import csv
import io

import numpy as np
import pytest
from PIL import Image

from tests.utils.reports.readers import Reader
from utils.inference.progress import DoneMarker
from utils.reports import inference_report
from utils.reports.inference_report import write_inference_report

CLASSES, PALETTE = ("road", "<water>"), ((200, 100, 0), (0, 0, 255))


def marker(result, pixels, area):
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (10, 200, 30)).save(file, format="JPEG")
    return DoneMarker(
        image=f"photos/{result}",
        file=(1, 2),
        digest="",
        result=result,
        kinds=("index", "overlay"),
        size=(2, 3),
        pixels=pixels,
        pixel_area_m2=area,
        thumbnail=base64.b64encode(file.getvalue()).decode(),
    )


def write(folder, markers, failures=()):
    write_inference_report(folder, markers, CLASSES, PALETTE, failures)
    with (folder / "areas.csv").open(newline="") as file:
        return [*csv.DictReader(file)], Reader((folder / "index.html").read_text())


def test_areas_by_hand_and_a_page_that_needs_nothing(tmp_path):
    markers = [marker("a & b.tif", (4, 2), 0.25), marker("far/<c>.tif", (0, 6), 25.0)]
    rows, page = write(tmp_path, markers, ["<d>.png is broken"])
    assert list(rows[0]) == ["image", "class", "pixels", "share", "area_m2"]
    assert [row["image"] for row in rows] == ["a & b.tif"] * 2 + ["far/<c>.tif"] * 2
    assert [(row["class"], row["pixels"]) for row in rows[:2]] == [("road", "4"), ("<water>", "2")]
    assert float(rows[0]["share"]) == pytest.approx(4 / 6)
    assert [float(row["area_m2"]) for row in rows] == [1.0, 0.5, 0.0, 150.0]
    links = [link for link in page.values("href") if not link.startswith("#")]
    assert links == ["overlay/a%20%26%20b.tif", "overlay/far/%3Cc%3E.tif"]
    sources = page.values("src")
    assert len(sources) == 2 and all(s.startswith("data:image/jpeg;base64,") for s in sources)
    with Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2]))) as picture:
        assert np.abs(np.array(picture, int).mean((0, 1)) - (10, 200, 30)).max() < 4
    assert "<d>.png is broken" in page.texts and "Not segmented" in page.texts
    assert ["road", "33.33", "", "0.0001"] in page.rows  # 4 of 12 pixels, hectares
    assert ["<water>", "66.67", "", "0.01505"] in page.rows
    assert ["image", "area, ha", "road, %", "<water>, %"] in page.rows
    assert ["a & b.tif", "0.00015", "66.67", "33.33"] in page.rows
    assert "far/<c>.tif: 3 x 2 px" in page.texts  # width x height


def test_one_image_without_a_scale_leaves_the_sum_unknown(tmp_path):
    rows, page = write(tmp_path, [marker("a.png", (4, 2), None), marker("c.tif", (0, 6), 25.0)])
    assert "No total area: some image has no known pixel size." in page.texts
    assert [row["area_m2"] for row in rows] == ["", "", "0.0", "150.0"]
    assert [row[-1] for row in page.rows[1:3]] == ["-", "-"]
    assert ["a.png", "-", "66.67", "33.33"] in page.rows


def test_a_page_of_many_images_shows_the_first_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(inference_report, "NUM_PICTURES", 2)
    _, page = write(tmp_path, [marker(f"{i}.png", (1, 1), None) for i in range(5)])
    assert len(page.values("src")) == 2 and len(page.rows) == 3 + 6
    text = " ".join(" ".join(page.texts).split())
    assert "The first 2 images; 3 more are in the table. Each picture links to its file" in text
    _, empty = write(tmp_path, [], ["d.png is broken"])
    assert "0 images segmented" in empty.texts and "d.png is broken" in empty.texts
