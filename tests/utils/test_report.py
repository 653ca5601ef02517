import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from utils.metrics import scores
from utils.report import score_table, write_report

CLASSES = ("building", "land (unpaved)", "car")
PALETTE = ((60, 16, 152), (132, 41, 246), (255, 255, 0))
CONFUSION = torch.tensor([[6, 2, 0], [1, 11, 0], [0, 0, 0]])


def write(folder, **changes):
    arguments = {
        "confusion": CONFUSION,
        "classes": CLASSES,
        "palette": PALETTE,
        "header": {"checkpoint": Path("runs/a/best.pth"), "split": "val", "window": (640, 640)},
    }
    return write_report(folder, **{**arguments, **changes})


def test_table_to_the_letter():
    assert score_table(scores(CONFUSION), CLASSES).split("\n") == [
        "class                 IoU         F1  precision     recall      share",
        "---------------------------------------------------------------------",
        "building            66.67      80.00      85.71      75.00      40.00",
        "land (unpaved)      78.57      88.00      84.62      91.67      60.00",
        "car                     -          -          -          -          -",
        "---------------------------------------------------------------------",
        "mean                72.62      84.00      85.16      83.33",
        "",
        "mIoU 72.62   mF1 84.00   OA 85.00   (%, over 20 pixels)",
    ]


def test_table_of_nothing_has_only_dashes():
    lines = score_table(scores(torch.zeros(3, 3)), CLASSES).split("\n")
    assert "nan" not in "".join(lines)
    assert lines[-1] == "mIoU -   mF1 -   OA -   (%, over 0 pixels)"


def test_predicted_class_without_target_pixels_has_share_zero():
    table = score_table(scores(torch.tensor([[4, 1], [0, 0]])), ("a", "b"))
    assert table.split("\n")[3].split() == ["b", "0.00", "0.00", "0.00", "0.00", "0.00"]


def test_table_refuses_too_few_names():
    with pytest.raises(ValueError, match="2 class names for 3 classes; they must agree"):
        score_table(scores(CONFUSION), CLASSES[:2])


def test_report_json_holds_fractions_counts_and_header(tmp_path):
    result = write(tmp_path / "new" / "folder")
    report = json.loads((tmp_path / "new/folder/report.json").read_text())
    assert report["header"] == {
        "checkpoint": "runs/a/best.pth",
        "split": "val",
        "window": [640, 640],
    }
    assert report["confusion"] == CONFUSION.tolist()
    assert report["miou"] == result.miou == pytest.approx((6 / 9 + 11 / 14) / 2)
    assert report["num_pixels"] == 20
    assert report["classes"][0] == {
        "name": "building",
        "color": [60, 16, 152],
        "iou": result.iou[0],
        "f1": result.f1[0],
        "precision": result.precision[0],
        "recall": result.recall[0],
        "num_pixels": 8,
    }


def test_report_json_has_null_for_what_is_not_finite(tmp_path):
    write(tmp_path, header={"best": float("inf"), "nested": {"losses": [1.5, float("nan")]}})
    text = (tmp_path / "report.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert report["header"] == {"best": None, "nested": {"losses": [1.5, None]}}
    assert report["classes"][2]["iou"] is None


def test_report_of_nothing_is_written(tmp_path):
    write(tmp_path, confusion=torch.zeros(3, 3, dtype=torch.int64))
    assert json.loads((tmp_path / "report.json").read_text())["miou"] is None


def test_report_text_is_header_and_table(tmp_path):
    result = write(tmp_path)
    text = (tmp_path / "report.txt").read_text()
    assert text.startswith("checkpoint  runs/a/best.pth\nsplit       val\nwindow      (640, 640)\n")
    assert text.endswith("\n\n" + score_table(result, CLASSES) + "\n")


def test_report_without_header_starts_with_the_table(tmp_path):
    write(tmp_path, header={})
    assert (tmp_path / "report.txt").read_text().startswith("class ")


def test_report_leaves_three_files_and_nothing_else(tmp_path):
    write(tmp_path)
    write(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["confusion.png", "report.json", "report.txt"]
    assert Image.open(tmp_path / "confusion.png").mode == "RGB"


def test_report_refuses_too_few_colors_before_it_writes(tmp_path):
    with pytest.raises(ValueError, match="2 palette colours for 3 classes; they must agree"):
        write(tmp_path, palette=PALETTE[:2])
    assert not list(tmp_path.iterdir())
