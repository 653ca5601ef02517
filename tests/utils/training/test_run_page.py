from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import RECIPE, make_config
from utils.config import config_to_dict
from utils.training.run_page import _best, _line, run_page

PALETTE = [[250, 5, 5], [5, 250, 5], [5, 5, 250]]
CLASSES = ["road", "roof", "tree"]


@pytest.fixture
def identity(tmp_path):
    return SimpleNamespace(
        recipe=config_to_dict(make_config(tmp_path, tmp_path)),
        dataset="scenes",
        classes=CLASSES,
        palette=PALETTE,
        split={"name": "own", "sha256": "0" * 64},
        selected_on="val",
        selected_by="miou",
    )


def train_row(step, loss):
    measures = {"lr": 1.0, "images_per_s": 2.0, "data_wait_share": 0.5, "memory_gib": 1.0}
    return {"kind": "train", "step": step, "loss": loss, "dice": loss, **measures}


def val_row(step, *iou, miou=None):
    scores = {"miou": miou, "mf1": miou, "oa": miou}
    names = (f"iou/{name}" for name in CLASSES)
    return {"kind": "val", "step": step, **scores, **dict(zip(names, iou, strict=True))}


def progress(best_epoch):
    return {"epoch": 9, "step": 90, "best_epoch": best_epoch, "best_score": 0.5}


def width_of(page, color):
    """The longest run of a colour in a row of pixels."""
    return max(
        (np.diff(np.flatnonzero(np.diff([0, *row, 0]))).max() if row.any() else 0)
        for row in (page == color).all(-1).astype(int)
    )


def test_the_bars_are_those_of_the_best_validation(identity):
    rows = [train_row(10, 2.0), val_row(45, 1.0, 0.5, None, miou=0.75)]
    rows += [train_row(50, 1.0), val_row(90, 0.1, 0.1, 0.1, miou=0.1)]
    page = run_page(rows, identity, progress=progress(4))
    full, half = (width_of(page, PALETTE[index]) for index in (0, 1))
    assert half == pytest.approx(full / 2, abs=3) and full > 100
    assert not (page == PALETTE[2]).all(-1).any()  # no score, no bar


def test_the_worst_tiles_stand_on_the_page(identity):
    worst = np.full((300, 1100, 3), (7, 77, 177), dtype=np.uint8)
    rows = [train_row(10, 2.0), val_row(45, 1.0, 0.5, 0.5, miou=0.75)]
    with_them = run_page(rows, identity, progress=progress(4), worst=worst)
    assert (with_them == (7, 77, 177)).all(-1).sum() == 300 * 1100
    without = run_page(rows, identity, progress=progress(4))
    assert without.shape[1] == 1600 and not (without == (7, 77, 177)).all(-1).any()


@pytest.mark.parametrize("rows", [[], [train_row(10, None)], [val_row(45, None, None, None)]])
def test_a_run_without_numbers_has_a_page(identity, rows):
    page = run_page(rows, identity, progress=progress(0))
    assert page.shape[1] == 1600 and page.dtype == np.uint8


def test_the_best_row_is_the_first_with_the_highest_score():
    rows = [val_row(step, 0, 0, 0, miou=miou) for step, miou in ((1, None), (2, 0.5), (3, 0.5))]
    assert _best(rows, "miou")["step"] == 2
    assert _best([*rows, val_row(4, 0, 0, 0, miou=0.6)], "miou")["step"] == 4


def test_a_long_line_is_averaged_in_equal_parts():
    rows = [{"step": step, "loss": step % 2} for step in range(1, 1201)]
    line = _line(rows, "loss", 10)
    assert [x for x, _ in line] == list(range(3, 1201, 3))
    assert line[0][1] == pytest.approx(20 / 3) and line[1][1] == pytest.approx(10 / 3)
    assert _line(rows[:400], "loss") == [(row["step"], row["loss"]) for row in rows[:400]]
    assert _line([{"step": 1, "loss": None}, {"step": 2, "loss": 3}], "loss") == [(2, 3)]


def test_every_loss_has_a_line(identity):
    assert "object_weight" not in RECIPE["optim"]
    plain = run_page([train_row(1, 1.0)], identity, progress=progress(0))
    more = run_page([{**train_row(1, 1.0), "object": 0.2}], identity, progress=progress(0))
    third = (43, 138, 62)  # the colour of the third line
    upper = slice(0, 560), slice(0, 800)
    assert not (plain[upper] == third).all(-1).any() and (more[upper] == third).all(-1).any()
