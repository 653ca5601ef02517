import json

import pytest
import torch
from PIL import Image

from utils.metrics import scores
from utils.report import score_table, write_report

CONFUSION = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
CLASSES = ("sea", "dry land", "ice")
PALETTE = ((0, 0, 255), (0, 255, 0), (255, 255, 255))


def test_the_table_is_aligned_and_in_percent():
    lines = score_table(scores(CONFUSION), CLASSES).splitlines()
    assert lines[0].split() == ["class", "IoU", "F1", "precision", "recall", "share"]
    assert lines[2].split() == ["sea", "50.00", "66.67", "60.00", "75.00", "40.00"]
    assert lines[4].split() == ["ice", "-", "-", "-", "-", "-"]
    assert lines[6].split() == ["mean", "53.57", "69.70", "70.00", "70.83"]
    assert lines[8] == "mIoU 53.57   mF1 69.70   OA 70.00   (%, over 10 pixels)"
    assert len({len(line) for line in lines[:5]}) == 1


def test_a_report_is_four_kinds_of_the_same_numbers(tmp_path):
    header = {"checkpoint": tmp_path / "best.pth", "window": (1, 2), "loss": float("nan")}
    result = write_report(
        tmp_path, confusion=CONFUSION, classes=CLASSES, palette=PALETTE, header=header
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["miou"] == result.miou and report["confusion"] == CONFUSION.tolist()
    assert report["header"]["loss"] is None and report["classes"][2]["iou"] is None
    assert report["classes"][1]["name"] == "dry land" and report["num_pixels"] == 10
    text = (tmp_path / "report.txt").read_text()
    assert text.startswith("checkpoint  ") and score_table(result, CLASSES) in text
    assert Image.open(tmp_path / "confusion.png").mode == "RGB"


def test_names_that_are_too_few_are_refused():
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        score_table(scores(CONFUSION), CLASSES[:2])
