"""Tables of the console to the letter, against hand-computed scores."""

import math
import re

import torch

from tests.utils.reports.findings import CLASSES, ERODED_ONLY, FINDINGS, NOTHING, find
from utils.console import counted, percent, points
from utils.evaluation.metrics import scores
from utils.reports.tables import (
    boundary_table,
    class_details,
    class_table,
    console_summary,
    csv_text,
    span,
)


def test_numbers():
    assert [percent(x) for x in (0.72617, 1.0, math.nan)] == ["72.62", "100.00", "-"]
    numbers = (0.01234, -0.5, 0.0, -1e-9, 1e-9, math.nan)
    assert [points(x) for x in numbers] == ["+1.23", "-50.00", "0.00", "0.00", "0.00", "-"]
    assert [counted(n, "file") for n in (0, 1, 1000)] == ["0 files", "1 file", "1,000 files"]
    assert [counted(n, "it is", "they are") for n in (1, 2)] == ["1 it is", "2 they are"]
    assert span((0.1, 0.25)) == "10.00 to 25.00"
    assert span((-0.1, 0.25), points) == "-10.00 to +25.00"
    assert span((math.nan, math.nan)) == "-"


def test_class_table_of_a_class_without_target_pixels_and_without_intervals():
    table = class_table(scores(torch.tensor([[4, 1], [0, 0]])), ("a", "b"), (), None)
    assert table.head == ["class", "IoU", "F1", "precision", "recall", "pixels"]
    assert table.rows[1] == ["b", "0.00", "0.00", "0.00", "0.00", "0.00"]


def test_console_summary_to_the_letter():
    # Drawing the first image twice gives 6 / 9 and 1 / 4; the second has one class, all correct.
    assert console_summary(FINDINGS, CLASSES).split("\n") == [
        "Scores in %; pixels: % of the 20 labelled pixels",
        "class                 IoU     95% interval         F1  precision     recall     pixels",
        "--------------------------------------------------------------------------------------",
        "building            66.67   66.67 to 66.67      80.00      85.71      75.00      40.00",
        "land (unpaved)      78.57  25.00 to 100.00      88.00      84.62      91.67      60.00",
        "car                     -                -          -          -          -          -",
        "--------------------------------------------------------------------------------------",
        "mean                72.62  45.83 to 100.00      84.00      85.16      83.33",
        "",
        "mIoU 72.62   mF1 84.00   OA 85.00   kappa 68.09",
        "95% intervals: percentile bootstrap over 2 source images.",
        "",
        "Boundary scores in %, mean of the classes",
        "distance           1 px       2 px       4 px       8 px",
        "--------------------------------------------------------",
        "boundary IoU      20.83      23.61      45.83      45.83",
        "boundary F1       77.50     100.00     100.00     100.00",
        "",
        "Objects of all classes by area; detected: at least half of the pixels are correct",
        "area               <256 px  256-1023 px  1024-4095 px  4096-16383 px  >=16384 px",
        "--------------------------------------------------------------------------------",
        "number                   3            0             0              0           0",
        "detected, %         100.00            -             -              -           -",
        "pixel recall, %      85.00            -             -              -           -",
        "",
        "Expected calibration error 27.39 % (mean confidence 57.61 %, accuracy 85.00 %).",
        "",
        "The same predictions under the evaluation protocols of the field, in %",
        "protocol         labels       mIoU      95% interval        mF1         OA",
        "--------------------------------------------------------------------------",
        "mmsegmentation   full        72.62   45.83 to 100.00      84.00      85.00",
        "without borders  eroded     100.00  100.00 to 100.00     100.00     100.00",
        "mmsegmentation: labels full; means over all classes that occur; OA over all pixels that "
        "are not",
        "  ignored",
        "without borders: labels eroded, computed from the full ones with a disc of 3 px; means "
        "over all",
        "  classes that occur; OA over all pixels that are not ignored",
        "all protocols: two images; windows of 640 px",
    ]


def test_console_summary_without_pixels_or_full_labels():
    text = console_summary(NOTHING, CLASSES)
    assert "nan" not in text and "mIoU -   mF1 -   OA -   kappa -" in text
    assert "No intervals: they need at least two source images." in text
    assert "calibration error - % (mean confidence - %, accuracy - %)" in text
    classes = ("building", "land", "clutter")
    text = console_summary(find(classes=classes, plan=ERODED_ONLY), classes)
    assert "No boundary scores: they need full labels, because eroded labels ignore" in text
    missing = "not computed: needs full labels, which the data set does not have"
    assert f"\nVSGNet config: {missing}\nall classes: {missing}\n" in text


def test_protocols_are_listed_with_their_labels_and_classes():
    classes = ("building", "land", "clutter")
    text = console_summary(find(classes=classes), classes)
    rows = re.findall(r"^(.+?)  +(eroded|full)  +(\S+)  ", text, re.MULTILINE)
    names = ["mmsegmentation", "GeoSeg, SSRS", "VSGNet config", "all classes"]
    assert [name for name, *_ in rows] == names
    assert [row[1:] for row in rows] == [("eroded", "100.00")] * 2 + [("full", "72.62")] * 2
    sentences = " ".join(text.split())
    assert "all classes but clutter, whose pixels stay in the confusion matrix" in sentences
    assert "VSGNet config: labels full; target pixels of clutter are ignored" in sentences


def test_details_of_each_class_and_means_without_a_class():
    tables = class_details(FINDINGS, CLASSES)
    # At 1 px: one of six pixels of the two contours of the building, a quarter of the land.
    expected = {
        "Boundary IoU in %": ["16.67", "25.00", "-"],
        "Boundary F1 in %": ["75.00", "80.00", "-"],
        "Objects detected": ["100.00", "100.00", "-"],
        "Pixel recall of objects": ["75.00", "91.67", "-"],
    }
    found = {table.caption.split(",")[0]: [row[1] for row in table.rows] for table in tables}
    assert found == expected and [row[0] for row in tables[0].rows] == [*CLASSES]
    table = boundary_table(find(left_out=[CLASSES[1]]), CLASSES)
    assert table.rows[0] == ["boundary IoU", "16.67", "22.22", "66.67", "66.67"]
    assert table.rows[1] == ["boundary F1", "75.00", "100.00", "100.00", "100.00"]
    assert table.caption == "Boundary scores in %, mean of the classes without land (unpaved)"


def test_csv_has_empty_cells_for_unknown_values():
    text = csv_text(["a", "b"], [{"a": 'x, "y"', "b": math.nan}, {"a": 1 / 3}])
    assert text == 'a,b\n"x, ""y""",\n0.3333333333333333,\n'
