import base64
import csv
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from utils.inference.progress import Record
from utils.reports import inference_page
from utils.reports.inference_page import write_inference_page

CLASSES, PALETTE = ("road", "<water>"), ((200, 100, 0), (0, 0, 255))


def record(result, pixels, area):
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (10, 200, 30)).save(file, format="JPEG")
    return Record(
        image=f"photos/{result}",
        file=(1, 2),
        made_by="",
        result=result,
        kinds=("index", "overlay"),
        size=(2, 3),
        pixels=pixels,
        pixel_area_m2=area,
        thumbnail=base64.b64encode(file.getvalue()).decode(),
    )


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.sources, self.cells = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []

    def handle_data(self, data):
        self.cells.append(data)


def test_areas_by_hand_and_a_page_that_needs_nothing(tmp_path):
    records = [record("a & b.tif", (4, 2), 0.25), record("far/c.tif", (0, 6), 25.0)]
    write_inference_page(tmp_path, records, CLASSES, PALETTE, ["d.png is broken"])
    rows = [*csv.reader((tmp_path / "areas.csv").open())]
    assert rows[0] == ["image", "class", "pixels", "share", "area_m2"]
    assert rows[1][:3] == ["a & b.tif", "road", "4"] and float(rows[1][3]) == pytest.approx(4 / 6)
    assert [float(row[4]) for row in rows[1:]] == [1.0, 0.5, 0.0, 150.0]
    page = Reader((tmp_path / "index.html").read_text())
    links = [link for link in page.links if not link.startswith("#")]
    assert links == ["overlay/a%20%26%20b.tif", "overlay/far/c.tif"]
    assert len(page.sources) == 2 and all(s.startswith("data:image/jpeg") for s in page.sources)
    assert "<water>" in page.cells and "d.png is broken" in page.cells
    assert "0.0001" in page.cells and "0.01505" in page.cells  # hectares of road, of water
    with Image.open(io.BytesIO(base64.b64decode(page.sources[0].partition(",")[2]))) as picture:
        assert np.abs(np.array(picture, int).mean((0, 1)) - (10, 200, 30)).max() < 4


def test_one_image_without_a_scale_leaves_the_sum_unknown(tmp_path):
    records = [record("a.png", (4, 2), None), record("c.tif", (0, 6), 25.0)]
    write_inference_page(tmp_path, records, CLASSES, PALETTE, [])
    text = (tmp_path / "index.html").read_text()
    assert "No area is given where an image lacks a known ground unit." in text
    assert [row[4] for row in csv.reader((tmp_path / "areas.csv").open())][1:3] == ["", ""]


def test_a_page_of_many_images_shows_the_first_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(inference_page, "NUM_PICTURES", 2)
    records = [record(f"{i}.png", (1, 1), None) for i in range(5)]
    write_inference_page(tmp_path, records, CLASSES, PALETTE, [])
    page = Reader((tmp_path / "index.html").read_text())
    assert len(page.sources) == 2
    leads = "Each picture leads to its file in full size."
    assert f"The first 2 images; 3 more are in the table. {leads}" in page.cells


def test_nothing_segmented_is_a_page_too(tmp_path):
    write_inference_page(tmp_path, [], CLASSES, PALETTE, ["d.png is broken"])
    assert "0 images segmented" in (tmp_path / "index.html").read_text()
