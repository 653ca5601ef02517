import re

import numpy as np
import pytest

from tests.utils.reports.test_html import Reader
from tests.utils.reports.test_report import CLASSES, FINDINGS, NOTHING, PALETTE, find
from utils.evaluation.protocols import plan_labels
from utils.reports.report_page import report_page
from utils.reports.tables import percent
from utils.visualization.colors import PanelRow
from utils.visualization.panels import Cell

ERODED = plan_labels(["eroded"], "eroded")


def row(title, target=True):
    rng = np.random.default_rng(0)
    return PanelRow(
        image=rng.integers(0, 256, (6, 5, 3), dtype=np.uint8),
        prediction=rng.integers(0, 3, (6, 5)),
        target=rng.integers(0, 3, (6, 5)) if target else None,
        structure=Cell(picture=rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)),
        title=title,
    )


def make(**changes):
    return report_page(
        **{
            "findings": FINDINGS,
            "classes": CLASSES,
            "palette": PALETTE,
            "header": {"checkpoint": "runs/<a>/best.pth", "split": "val"},
            "pictures": {"confusion matrix": np.zeros((4, 4, 3), dtype=np.uint8)},
            **changes,
        }
    )


def test_the_page_holds_the_numbers_of_the_report():
    read = Reader(make())
    text = "|".join(read.texts)
    assert "|Evaluation of runs/<a>/best.pth on val|" in text
    assert "|mIoU|72.62|45.83 to 100.00|" in text
    assert "mIoU 95% interval 45.83 to 100.00 (bootstrap over 2 source images)" in text
    low, high = map(percent, FINDINGS.intervals.iou[0])
    assert f"|building|66.67|{low} to {high}|80.00|85.71|75.00|40.00|" in text
    assert "|mean|72.62|45.83 to 100.00|" in text
    assert "|mmsegmentation|full|72.62|" in text and "|without borders|eroded|100.00|" in text
    assert "|labels full; means over all classes that occur; " in text
    assert "|all of them|two images; windows of 640 px|" in text
    assert "|boundary IoU|20.83|23.61|45.83|45.83|" in text
    assert "|found (half of it right)|100.00|-|-|-|-|" in text
    assert "nan" not in text


def test_bars_are_as_long_as_the_iou():
    page = make()
    widths = [float(x) for x in re.findall(r'<i style="width:([\d.]+)%', page)]
    assert widths == [66.67, 78.57, 72.62]  # the car occurs nowhere


def test_nothing_measured_is_a_page_all_the_same():
    text = "|".join(Reader(make(findings=NOTHING, header={})).texts)
    assert "|Evaluation|" in text and "nan" not in text
    assert "no interval of the mIoU: it takes two source images or more" in text


def test_eroded_labels_and_classes_outside_the_mean_are_said():
    text = "|".join(Reader(make(findings=find(left_out=["car"], plan=ERODED))).texts)
    assert "Boundary scores need full labels" in text and "|boundary IoU" not in text
    assert "|without car|" in text and "|mean without car|" in text


@pytest.mark.parametrize("target", [True, False])
def test_tiles_are_shown_with_all_there_is_of_them(target):
    page = make(worst=[row("bad & worse", target)], spread=[row("any", target), row("other")])
    read = Reader(page)
    columns = ["image", "structure", "target", "prediction", "errors"]
    seen = [value for name, value in read.attributes if name == "alt"][1:]
    expected = [
        f"{column} of {title}"
        for title, has_target in (("bad & worse", target), ("any", target), ("other", True))
        for column in columns
        if has_target or column not in ("target", "errors")
    ]
    assert seen == expected
    assert {"wrong", "ignored", *CLASSES} <= set(read.texts)
    titles = [text for text in read.texts if text in ("Worst tiles", "Tiles spread over the split")]
    assert len(titles) == 4  # links and headings
    assert "Worst tiles" not in Reader(make()).texts
