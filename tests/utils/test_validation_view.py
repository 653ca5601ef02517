from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.files import read_rgb
from utils.metrics import confusion_matrix
from utils.validation_view import (
    CELL_PX,
    NUM_FIXED,
    NUM_WORST,
    WINDOW_PX,
    ValidationView,
    _windows,
    panel_row,
    reduced,
)

PALETTE = [[255, 0, 0], [0, 255, 0]]


class Encoder:
    """Shows the ids as grey."""

    pictures = ((0, 0, 0),)

    def __call__(self, image, maps, structure_image=None):
        return maps["store"].unsqueeze(1).float() / 100


class Log:
    def __init__(self):
        self.shown = []

    def picture(self, name, picture, step):
        self.shown.append((name, picture, step))


def make_state(**dist):
    context = {"is_main": True, "gather": lambda value: [value], **dist}
    identity = SimpleNamespace(classes=["a", "b"], palette=PALETTE)
    return SimpleNamespace(dist=SimpleNamespace(**context), identity=identity, step=30)


def tile(name, num_wrong, size=(8, 8), ignored=False):
    """A tile of class 0 whose first pixels are predicted as class 1."""
    target = torch.zeros(1, *size, dtype=torch.uint8)
    prediction = torch.zeros(size, dtype=torch.uint8)
    prediction.view(-1)[:num_wrong] = 1
    if ignored:
        target.fill_(255)
    batch = SimpleNamespace(
        tile_ids=(name,),
        image=torch.full((1, 3, *size), 80, dtype=torch.uint8),
        target=target,
        maps={"store": torch.full((1, *size), 50)},
        structure_image=None,
    )
    return batch, prediction, confusion_matrix(target[0], prediction, 2)


def look_at(view, *tiles):
    for given in tiles:
        view.look(*given)


def titles(rows):
    return [row.title for row in rows]


def test_the_worst_tiles_are_kept_the_worst_first():
    view = ValidationView(Encoder(), make_state(), 9)
    wrong = {"a": 3, "b": 40, "c": 0, "d": 20, "e": 50, "f": 1, "g": 30, "h": 2}
    look_at(view, *(tile(name, count) for name, count in wrong.items()))
    assert len(view._worst) == NUM_WORST == 4
    # Class 0: hits / 64; class 1: 0.
    expected = [f"{name}: mIoU {100 * (64 - wrong[name]) / 64 / 2:.2f}" for name in "ebgd"]
    assert titles(view._gather_worst()) == expected


def test_a_tile_that_nobody_labelled_is_no_worst_one():
    view = ValidationView(Encoder(), make_state(), 2)
    look_at(view, tile("blank", 64, ignored=True), tile("right", 0))
    assert titles(view._gather_worst()) == ["right: mIoU 100.00"]


def test_the_worst_of_all_ranks_are_chosen_and_only_they_travel():
    sent = []
    other = ValidationView(Encoder(), make_state(is_main=False), 3)
    look_at(other, *(tile(name, count) for name, count in {"x": 60, "y": 10, "z": 5}.items()))
    chosen = {"x"}

    def gather(value):
        sent.append(value)
        if isinstance(value, list):
            return [value, [*other._worst]]
        return [value, {s: row for s, row in other._worst.items() if s.tile_id in chosen}]

    view = ValidationView(Encoder(), make_state(gather=gather), 4)
    look_at(view, *(tile(name, count) for name, count in zip("abcd", (40, 50, 1, 30), strict=True)))
    assert [title[0] for title in titles(view._gather_worst())] == list("xbad")
    assert sorted(scored.tile_id for scored in sent[1]) == ["a", "b", "d"]


@pytest.mark.parametrize(("num_tiles", "kept"), [(1, [0]), (3, [0, 1, 2]), (8, [0, 2, 4, 6])])
def test_fixed_tiles_are_spread_over_the_split_and_the_same_every_time(num_tiles, kept):
    view, log = ValidationView(Encoder(), make_state(), num_tiles), Log()
    for _ in range(2):
        look_at(view, *(tile(f"t{index}", index) for index in range(num_tiles)))
        assert titles(view._fixed) == [f"t{index}" for index in kept] and len(kept) <= NUM_FIXED
        view.publish(log, None, is_best=False)
    assert [(name, step) for name, _, step in log.shown] == [("val/predictions", 30)] * 2
    picture = log.shown[0][1]
    assert picture.dtype == np.uint8 and picture.shape[1] == 5 * CELL_PX + 4 * 10 + 2 * 20


def test_other_ranks_than_the_main_one_keep_no_fixed_tiles():
    view, log = ValidationView(Encoder(), make_state(is_main=False), 5), Log()
    look_at(view, tile("a", 3))
    view.publish(log, None, is_best=False)
    assert log.shown == []


def test_only_the_best_validation_leaves_its_worst_tiles(tmp_path):
    view = ValidationView(Encoder(), make_state(), 1)
    look_at(view, tile("a", 64))
    view.publish(Log(), tmp_path, is_best=False)
    assert not list(tmp_path.iterdir())
    look_at(view, tile("b", 64))
    view.publish(Log(), tmp_path, is_best=True)
    picture = read_rgb(tmp_path / "pictures" / "worst.png")
    assert (picture == PALETTE[1]).all(-1).sum() > 0.9 * CELL_PX**2  # the prediction: class 1
    assert titles(view._gather_worst()) == []  # the next validation begins anew


def test_the_part_with_most_errors_is_shown_of_a_large_tile():
    size = (WINDOW_PX + 200, 2 * WINDOW_PX)
    batch, prediction, _ = tile("large", 0, size)
    prediction[-50:, -30:] = 1
    batch.image[:, 0, -1, -1] = 255
    view = ValidationView(Encoder(), make_state(), 0)
    view.look(batch, prediction, confusion_matrix(batch.target[0], prediction, 2))
    (row,) = view._worst.values()
    assert row.image.shape == (CELL_PX, CELL_PX, 3)
    share = (row.prediction == 1).mean()
    assert share == pytest.approx(50 * 30 / WINDOW_PX**2, rel=0.3) and row.prediction[-1, -1] == 1
    assert row.image.nbytes + row.prediction.nbytes < 5 * CELL_PX**2  # no view of the whole


@pytest.mark.parametrize("size", [(5, 7), (WINDOW_PX, 3000), (2500, 1025)])
def test_windows_cover_a_tile_and_are_never_larger(size):
    seen = np.zeros(size, dtype=bool)
    for window in _windows(size):
        part = seen[window]
        assert 0 < part.shape[0] <= WINDOW_PX and 0 < part.shape[1] <= WINDOW_PX
        part[:] = True
    assert seen.all()


def test_a_row_shows_the_same_part_of_everything():
    batch, prediction, _ = tile("a", 0)
    for picture in (batch.image[0, 0], batch.target[0], prediction, batch.maps["store"][0]):
        picture[3:6, 2:4] = 1
    row = panel_row(batch, prediction, Encoder(), (slice(3, 6), slice(2, 4)))
    assert row.title == "a" and row.image.shape == (3, 2, 3)
    assert (row.image[..., 0] == 1).all() and (row.image[..., 1] == 80).all()
    assert (row.target == 1).all() and (row.prediction == 1).all()
    assert (row.structure.picture == 2).all()  # 1 / 100 of 255


def test_reducing_blends_photos_and_no_classes():
    batch, prediction, _ = tile("a", 0, (40, 20))
    prediction[:, ::2], batch.image[..., ::2] = 7, 160
    small = reduced(panel_row(batch, prediction, Encoder()), 10)
    assert small.prediction.shape == (10, 5) and small.image.shape == (10, 5, 3)
    assert set(np.unique(small.prediction)) <= {0, 7}
    assert (abs(small.image[:, 1:-1].astype(int) - 120) < 15).all()
    assert small.target.shape == small.structure.picture.shape[:2] == (10, 5)
