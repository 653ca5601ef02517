"""Tables of the console to the letter, against hand-computed scores."""

import math

import pytest
import torch

from tests.utils.reports.findings import (
    CLASSES,
    CONFUSION,
    ERODED_ONLY,
    FINDINGS,
    NOTHING,
    find,
)
from utils.evaluation.metrics import scores
from utils.reports.tables import (
    boundary_table,
    class_details,
    class_table,
    console_summary,
    csv_text,
    mean_line,
    percent,
    points,
    span,
)


def test_numbers():
    assert [percent(x) for x in (0.72617, 1.0, math.nan)] == ["72.62", "100.00", "-"]
    numbers = (0.01234, -0.5, 0.0, -1e-9, math.nan)
    assert [points(x) for x in numbers] == ["+1.23", "-50.00", "0.00", "0.00", "-"]
    assert span((0.1, 0.25)) == "10.00 to 25.00"
    assert span((-0.1, 0.25), points) == "-10.00 to +25.00"
    assert span((math.nan, math.nan)) == "-"


def test_class_table_to_the_letter():
    found = scores(CONFUSION)
    assert str(class_table(found, CLASSES)).split("\n") == [
        "Scores in %; pixels: % of the 20 labelled pixels",
        "class                 IoU         F1  precision     recall     pixels",
        "---------------------------------------------------------------------",
        "building            66.67      80.00      85.71      75.00      40.00",
        "land (unpaved)      78.57      88.00      84.62      91.67      60.00",
        "car                     -          -          -          -          -",
        "---------------------------------------------------------------------",
        "mean                72.62      84.00      85.16      83.33",
    ]
    assert mean_line(found) == "mIoU 72.62   mF1 84.00   OA 85.00   kappa 68.09"


def test_class_table_names_what_the_mean_leaves_out():
    table = class_table(scores(CONFUSION, [1]), CLASSES, [CLASSES[1]])
    assert table.rows[3][:2] == ["mean without land (unpaved)", "66.67"]


def test_class_table_shows_each_interval_beside_its_iou():
    table = class_table(FINDINGS.scores, CLASSES, (), FINDINGS.intervals)
    assert table.head[:4] == ["class", "IoU", "95% interval", "F1"]
    # Drawing the first image twice gives 6 / 9 and 1 / 4; the second has one class, all correct.
    assert [row[2] for row in table.rows] == [
        "66.67 to 66.67",
        "25.00 to 100.00",
        "-",
        "45.83 to 100.00",
    ]


def test_class_table_of_a_class_without_target_pixels_and_of_nothing():
    table = class_table(scores(torch.tensor([[4, 1], [0, 0]])), ("a", "b"))
    assert table.rows[1] == ["b", "0.00", "0.00", "0.00", "0.00", "0.00"]
    empty = scores(torch.zeros(3, 3))
    assert {cell for row in class_table(empty, CLASSES).rows for cell in row[1:]} == {"-"}
    assert mean_line(empty) == "mIoU -   mF1 -   OA -   kappa -"


def test_console_summary_to_the_letter():
    text = console_summary(FINDINGS, CLASSES)
    table = str(class_table(FINDINGS.scores, CLASSES, (), FINDINGS.intervals))
    assert text[: len(table)] == table
    assert text[len(table) :].split("\n")[2:] == [
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
    assert "nan" not in text
    assert "No intervals: they need at least two source images." in text
    assert "calibration error - % (mean confidence - %, accuracy - %)" in text
    text = console_summary(find(plan=ERODED_ONLY), CLASSES)
    assert "No boundary scores: they need full labels, because eroded labels ignore" in text


def test_protocols_are_listed_with_their_labels_and_classes():
    classes = ("building", "land", "clutter")
    lines = console_summary(find(classes=classes), classes).split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("protocol "))
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in lines[start:]]
    assert [row[:3] for row in rows[2:6]] == [
        ["mmsegmentation", "eroded", "100.00"],
        ["GeoSeg, SSRS", "eroded", "100.00"],
        ["VSGNet config", "full", "72.62"],
        ["all classes", "full", "72.62"],
    ]
    text = " ".join(line.strip() for line in lines[start + 6 :])
    for sentence in (
        "GeoSeg, SSRS: labels eroded, computed from the full ones with a disc of 3 px; means over "
        "all classes but clutter, whose pixels stay in the confusion matrix",
        "VSGNet config: labels full; target pixels of clutter are ignored",
        "all classes: labels full; means over all classes that occur",
    ):
        assert sentence in text
    text = console_summary(find(classes=classes, plan=ERODED_ONLY), classes)
    missing = "not computed: needs full labels, which the data set does not have"
    assert f"\nVSGNet config: {missing}\nall classes: {missing}\n" in text


def test_details_of_each_class():
    tables = class_details(FINDINGS, CLASSES)
    assert [table.caption.split(",")[0] for table in tables] == [
        "Boundary IoU in %",
        "Boundary F1 in %",
        "Objects detected",
        "Pixel recall of objects",
    ]
    # At 1 px: one of six pixels of the two contours of the building, a quarter of the land.
    assert [row[:2] for row in tables[0].rows] == [
        ["building", "16.67"],
        ["land (unpaved)", "25.00"],
        ["car", "-"],
    ]
    assert [row[1] for row in tables[3].rows] == ["75.00", "91.67", "-"]


def test_boundary_means_leave_out_classes():
    table = boundary_table(find(left_out=[CLASSES[1]]), CLASSES)
    assert [row[1:] for row in table.rows] == [
        ["16.67", "22.22", "66.67", "66.67"],
        ["75.00", "100.00", "100.00", "100.00"],
    ]
    assert table.caption == "Boundary scores in %, mean of the classes without land (unpaved)"


def test_csv_has_empty_cells_for_unknown_values():
    text = csv_text(["a", "b"], [{"a": 'x, "y"', "b": math.nan}, {"a": 1 / 3}])
    assert text == 'a,b\n"x, ""y""",\n0.3333333333333333,\n'
    with pytest.raises(ValueError, match="not in fieldnames"):
        csv_text(["a"], [{"c": 1}])
