"""Pages: complete, escaped, self-contained, and with the numbers of the report."""

import base64
import io
import re

import jinja2
import numpy as np
import pytest
from PIL import Image

from tests.utils.reports.findings import CLASSES, ERODED_ONLY, NOTHING, evaluation, find
from tests.utils.reports.readers import Reader
from utils.console import Table
from utils.reports.pages import jpeg_base64, picture, render
from utils.reports.report import report_page
from utils.visualization.panels import Cell, PanelRow

EVIL = """<script>alert('x')</script> & "quoted" """.strip()
EMBEDDED = re.compile(r"data:image/(png|jpeg);base64,")
BLANK = np.zeros((4, 4, 3), dtype=np.uint8)


def tile(title, target=True):
    rng = np.random.default_rng(0)
    return PanelRow(
        image=rng.integers(0, 256, (6, 5, 3), dtype=np.uint8),
        prediction=rng.integers(0, 3, (6, 5)),
        target=rng.integers(0, 3, (6, 5)) if target else None,
        structure=Cell(picture=rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)),
        title=title,
    )


def page(title="Confusion matrix", **changes):
    return report_page(evaluation(**changes), {title: BLANK})


def compared(name):
    table = Table(head=[name, "b"], rows=[[name, "1"], ["mean", "2"]], rules=(0, 1), caption=name)
    return render(
        "comparison.html",
        title=name,
        scores=table,
        chart=picture(BLANK, name),
        differences=[table],
        reading=name,
        header_differences={name: {name: name}},
        method=name,
    )


def test_report_page_holds_the_numbers_of_the_report():
    read = Reader(page())
    text = "|".join(read.texts)
    assert "|Evaluation of runs/<a>/best.pth on val|" in text
    assert "|mIoU, %|72.62|45.83 to 100.00|" in text
    assert "|OA, %|85.00|of 20 pixels|" in text
    assert "95% intervals: percentile bootstrap over 2 source images." in text
    head = ["class", "IoU", "0 to 100", "95% interval", "F1", "precision", "recall", "pixels"]
    assert head in read.rows
    row = ["building", "66.67", "", "66.67 to 66.67", "80.00", "85.71", "75.00", "40.00"]
    assert row in read.rows
    assert ["mean", "72.62", "", "45.83 to 100.00", "84.00", "85.16", "83.33", ""] in read.rows
    assert ["mmsegmentation", "full", "72.62", "45.83 to 100.00", "84.00", "85.00"] in read.rows
    assert "|mmsegmentation|labels full; means over all classes that occur; " in text
    assert "|all protocols|two images; windows of 640 px|" in text
    assert ["boundary IoU", "20.83", "23.61", "45.83", "45.83"] in read.rows
    assert ["detected, %", "100.00", "-", "-", "-", "-"] in read.rows
    assert "|parameters|2.35 M trainable, 0.00 M frozen|operations|3.9 GFLOPs per" in text
    assert "window of 64x48 px" in text


def test_every_text_of_a_user_is_escaped_and_nothing_is_loaded_from_elsewhere():
    classes = (EVIL, "a & b", "car")
    pages = [
        page(
            findings=find(classes=classes, left_out=[EVIL]),
            classes=classes,
            header={EVIL: EVIL, "checkpoint": EVIL, "split": EVIL},
            title=EVIL,
            worst=[tile(EVIL)],
        ),
        compared(EVIL),
    ]
    for text in pages:
        read = Reader(text)  # which refuses script elements
        assert "<script" not in text and "&amp;lt;" not in text
        assert sum(EVIL in found for found in read.texts) >= 12
        assert any(EVIL in alt for alt in read.values("alt"))
        assert read.loaded and all(EMBEDDED.match(source) for source in read.loaded)
        assert "http" not in text
    assert "a & b" in Reader(pages[0]).texts


def test_links_lead_to_the_sections():
    read = Reader(page(worst=[tile("a")], spread=[tile("b")]))
    targets = [f"#{name}" for name in read.values("id")]
    assert [link for link in read.values("href") if link[0] == "#"] == targets
    assert targets[-2:] == ["#Worst-tiles", "#Tiles-of-the-split"] and len(targets) == 7


def test_bars_are_as_long_as_the_iou_and_show_the_interval():
    text = page()
    bars = re.findall(r'<i style="width:([\d.]+)%;background:rgb\((\d+, \d+, \d+)\)', text)
    assert bars == [  # the car occurs nowhere
        ("66.67", "60, 16, 152"),
        ("78.57", "132, 41, 246"),
        ("72.62", "110, 116, 128"),
    ]
    swatches = re.findall(r'class="swatch" style="background:rgb\((\d+, \d+, \d+)\)"', text)
    assert swatches == ["60, 16, 152", "132, 41, 246", "255, 255, 0"]
    lines = re.findall(r'class="interval" style="left:([\d.]+)%;width:([\d.]+)%', text)
    assert lines == [("66.67", "0.00"), ("25.00", "75.00"), ("45.83", "54.17")]
    for rule in (".swatch", ".bar i"):  # a white class shows on a white page
        assert "outline: 1px solid" in re.search(rf"\n{re.escape(rule)} {{(.*?)}}", text, re.S)[1]


def test_numbers_are_aligned_right_and_names_left():
    text = compared("a")
    assert "<th class=text>a</th>\n<th>b</th>" in re.sub(r"\n\s*\n", "\n", text)
    assert re.search(r"<tr>\s*<td class=text>a</td>\s*<td>1</td>\s*</tr>", text)
    assert re.search(r"<tr class=rule>\s*<td class=text>mean</td>\s*<td>2</td>\s*</tr>", text)


def test_a_variable_that_a_template_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'title' is undefined"):
        render("base.html", sections=[])


def test_what_was_not_measured_is_stated():
    read = Reader(page(findings=NOTHING))
    assert any("No intervals: they need at least two" in text for text in read.texts)
    assert ["building", "-", "", "-", "-", "-", "-"] in read.rows
    read = Reader(page(findings=find(left_out=["car"], plan=ERODED_ONLY)))
    text = "|".join(read.texts)
    assert "No boundary scores: they need full labels" in text
    assert not any(row[0] == "boundary IoU" for row in read.rows)
    assert "|without car|" in text and any(row[0] == "mean without car" for row in read.rows)


def test_tiles_are_shown_with_all_their_pictures():
    read = Reader(page(worst=[tile("bad & worse")], spread=[tile("any", target=False)]))
    columns = ["image", "structure", "target", "prediction", "errors"]
    assert read.values("alt")[1:] == [
        *(f"{column} of bad & worse" for column in columns),
        *(f"{column} of any" for column in ("image", "structure", "prediction")),
    ]
    assert {"wrong", "ignored", *CLASSES} <= set(read.texts)
    assert "Worst tiles" in read.texts and "Worst tiles" not in Reader(page()).texts


def test_pictures_are_embedded_pixel_by_pixel_and_photos_are_smaller():
    slope = np.add.outer(np.arange(120), np.arange(160))[..., np.newaxis]
    noise = np.random.default_rng(0).integers(0, 32, (120, 160, 3))
    array = np.clip(slope + noise, 0, 255).astype(np.uint8)
    sources = [picture(array, "", photo=flag).source for flag in (True, False)]
    (photo_head, photo), (exact_head, exact) = (source.split(",") for source in sources)
    assert (photo_head, exact_head) == ("data:image/jpeg;base64", "data:image/png;base64")
    lossy, back = (Image.open(io.BytesIO(base64.b64decode(data))) for data in (photo, exact))
    assert np.array_equal(back, array) and abs(np.array(lossy, int) - array).mean() < 6
    assert photo == jpeg_base64(array) and len(photo) < len(exact) / 2
