import math
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import make_config
from tests.utils.training.test_checkpoint import IDENTITY
from utils.config import config_to_dict
from utils.training.run_page import curve, run_page

PALETTE = [[250, 5, 5], [5, 250, 5], [5, 5, 250]]
CLASSES = ["road", "roof", "tree"]


@pytest.fixture
def identity(tmp_path):
    recipe = config_to_dict(make_config(tmp_path, tmp_path))
    return replace(IDENTITY, recipe=recipe, classes=CLASSES, palette=PALETTE)


def train_row(step, loss, **losses):
    measures = {"lr": 1.0, "images_per_s": 2.0, "data_wait_share": 0.5, "memory_gib": 1.0}
    return {"kind": "train", "step": step, "loss": loss, **losses, **measures}


def val_row(step, *iou, miou=None):
    names = (f"iou/{name}" for name in CLASSES)
    scores = {"miou": miou, "mf1": 0.2, "oa": 0.3}
    return {"kind": "val", "step": step, **scores, **dict(zip(names, iou, strict=True))}


def progress(best_epoch):
    return {"epoch": 9, "step": 90, "best_epoch": best_epoch, "best_score": 0.75}


def test_the_page_shows_losses_scores_and_the_classes_of_the_best_validation(identity):
    rows = [train_row(10, 2.0, dice=1.0), val_row(45, 1.0, 0.5, None, miou=0.75)]
    rows += [train_row(50, 1.0, dice=0.5), val_row(90, 0.1, 0.1, 0.1, miou=0.1)]
    rows += [val_row(91, None, None, None), val_row(92, 0.2, 0.2, 0.2, miou=0.75)]  # not first
    worst = np.full((300, 1100, 3), (7, 77, 177), dtype=np.uint8)
    chart = run_page(rows, identity, progress=progress(4), worst=worst)
    losses, scores, bars, tiles = chart.figure.axes
    legends = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in (losses, scores)]
    assert legends == [["loss", "dice"], ["mIoU", "mF1", "OA"]]
    assert losses.lines[0].get_xydata().tolist() == [[10, 2], [50, 1]]
    assert scores.lines[0].get_xydata().tolist() == [[45, 75], [90, 10], [92, 75]]
    assert scores.lines[2].get_ydata().tolist() == [30] * 4
    assert [text.get_text() for text in bars.texts] == ["100.00", "50.00", "-", "75.00"]
    assert [name.get_text() for name in bars.get_yticklabels()] == [*CLASSES, "mean"]
    shown = bars.patches[-4:]  # the last patches are the bars of the classes and of the mean
    assert [round(255 * x) for x in shown[1].get_facecolor()[:3]] == PALETTE[1]
    assert np.array_equal(tiles.images[0].get_array(), worst)
    texts = [text.get_text() for text in chart.figure.texts]
    assert texts[1] == "90 steps, 9 epochs; best mIoU 75.00 on val in epoch 4"
    assert "worst tiles of val, epoch 4" in texts and "IoU on val, epoch 4" in texts
    assert "RGB: v" in texts  # the frozen ViT by name


@pytest.mark.parametrize("rows", [[], [train_row(10, None)], [val_row(45, None, None, None)]])
def test_a_run_without_numbers_has_a_page(identity, rows):
    chart = run_page(rows, identity, progress=progress(0))
    assert len(chart.figure.axes) == 2  # no bars
    assert chart.pixels().dtype == np.uint8


def test_a_long_curve_is_averaged_in_equal_parts():
    rows = [{"step": step, "loss": step % 2} for step in range(1, 1201)]
    points = curve(rows, "loss", 10)
    assert [x for x, _ in points] == list(range(3, 1201, 3))
    assert math.isclose(points[0][1], 20 / 3) and math.isclose(points[1][1], 10 / 3)
    assert curve(rows[:400], "loss") == [(row["step"], row["loss"]) for row in rows[:400]]
    assert curve([{"step": 1, "loss": None}, {"step": 2, "loss": 3}], "loss") == [(2, 3)]
