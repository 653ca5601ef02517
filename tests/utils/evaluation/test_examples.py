from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.boxes import Box
from utils.evaluation.examples import (
    WINDOW_PX,
    SpreadRows,
    WorstRows,
    panel_row,
    reduced,
    tile_windows,
)
from utils.evaluation.metrics import confusion_matrix

SIDE_PX = 216


class Encoder:
    """Shows the ids as grey."""

    pictures = ((0, 0, 0),)

    def __call__(self, image, maps, structure_image=None):
        return maps["store"].unsqueeze(1).float() / 100


def one_rank():
    return SimpleNamespace(gather=lambda value: [value])


def tile(name, num_wrong, size=(8, 8), label=0):
    """A tile of class 0 whose first pixels are predicted as class 1."""
    target = torch.full((1, *size), label, dtype=torch.uint8)
    prediction = torch.zeros(size, dtype=torch.uint8)
    prediction.view(-1)[:num_wrong] = 1
    batch = SimpleNamespace(
        tile_ids=(name,),
        image=torch.full((1, 3, *size), 80, dtype=torch.uint8),
        target=target,
        maps={"store": torch.full((1, *size), 50)},
        structure_image=None,
    )
    return batch, prediction, confusion_matrix(target[0], prediction, 2)


def worst(*tiles, num_rows=4, left_out=()):
    kept = WorstRows(Encoder(), num_rows, SIDE_PX, left_out)
    for given in tiles:
        kept.add(*given)
    return kept


def titles(rows):
    return [row.title for row in rows]


def test_the_worst_tiles_are_kept_the_worst_first():
    wrong = {"a": 3, "b": 40, "c": 0, "d": 20, "e": 50, "f": 1, "g": 30, "h": 2}
    kept = worst(*(tile(name, count) for name, count in wrong.items()))
    assert len(kept._kept) == 4
    # Class 0: hits / 64; class 1: 0.
    expected = [f"{name}: mIoU {100 * (64 - wrong[name]) / 64 / 2:.2f}" for name in "ebgd"]
    assert titles(kept.gather(one_rank())) == expected


def test_a_tile_that_nobody_labelled_is_no_worst_one():
    kept = worst(tile("blank", 64, label=255), tile("right", 0))
    assert titles(kept.gather(one_rank())) == ["right: mIoU 100.00"]


def test_the_mean_may_leave_out_classes():
    """Tiles of class 1 alone say nothing of class 0, unless it is predicted."""
    tiles = [tile("all wrong", 64), tile("half", 32), tile("other", 64, label=1)]
    kept = worst(*tiles, left_out=[1])
    expected = ["all wrong: mIoU 0.00", "half: mIoU 50.00"]
    assert titles(kept.gather(one_rank())) == expected


def test_the_worst_of_all_ranks_are_chosen_and_only_they_travel():
    sent = []
    other = worst(*(tile(name, count) for name, count in {"x": 60, "y": 10, "z": 5}.items()))

    def gather(value):
        sent.append(value)
        if isinstance(value, list):
            return [value, [*other._kept]]
        return [value, {s: row for s, row in other._kept.items() if s.tile_id == "x"}]

    counts = zip("abcd", (40, 50, 1, 30), strict=True)
    rows = worst(*(tile(*given) for given in counts)).gather(SimpleNamespace(gather=gather))
    assert [title[0] for title in titles(rows)] == list("xbad")
    assert sorted(scored.tile_id for scored in sent[1]) == ["a", "b", "d"]


@pytest.mark.parametrize(("num_tiles", "kept"), [(1, [0]), (3, [0, 1, 2]), (8, [0, 2, 4, 6])])
def test_tiles_are_spread_evenly(num_tiles, kept):
    spread = SpreadRows(Encoder(), num_tiles, 4, SIDE_PX)
    for index in range(num_tiles):
        spread.add(*tile(f"t{index}", index)[:2])
    assert titles(spread.rows) == [f"t{index}" for index in kept]


def test_spread_rows_show_the_middle_window_of_a_large_tile():
    batch, prediction, _ = tile("large", 0, (WINDOW_PX, 3 * WINDOW_PX))
    prediction[:, WINDOW_PX : 2 * WINDOW_PX] = 1
    spread = SpreadRows(Encoder(), 1, 1, SIDE_PX)
    spread.add(batch, prediction)
    assert (spread.rows[0].prediction == 1).all()


def test_nothing_is_kept_of_a_rank_without_tiles_or_without_rows():
    for num_tiles, num_rows in ((0, 4), (3, 0)):
        spread = SpreadRows(Encoder(), num_tiles, num_rows, SIDE_PX)
        for index in range(num_tiles):
            spread.add(*tile(f"t{index}", index)[:2])
        assert spread.rows == []


def test_the_part_with_most_errors_is_shown_of_a_large_tile():
    size = (WINDOW_PX + 200, 2 * WINDOW_PX)
    batch, prediction, _ = tile("large", 0, size)
    prediction[-50:, -30:] = 1
    batch.image[:, 0, -1, -1] = 255
    kept = worst((batch, prediction, confusion_matrix(batch.target[0], prediction, 2)))
    (row,) = kept.gather(one_rank())
    assert row.image.shape == (SIDE_PX, SIDE_PX, 3)
    share = (row.prediction == 1).mean()
    assert share == pytest.approx(50 * 30 / WINDOW_PX**2, rel=0.3) and row.prediction[-1, -1] == 1
    assert row.image.nbytes + row.prediction.nbytes < 5 * SIDE_PX**2  # no view of the whole


@pytest.mark.parametrize("size", [(5, 7), (WINDOW_PX, 3000), (2500, 1025)])
def test_windows_cover_a_tile_and_are_never_larger(size):
    seen = np.zeros(size, dtype=bool)
    for window in tile_windows(size):
        part = seen[window.slices]
        assert 0 < part.shape[0] <= WINDOW_PX and 0 < part.shape[1] <= WINDOW_PX
        part[:] = True
    assert seen.all()


def test_a_row_shows_the_same_part_of_everything():
    batch, prediction, _ = tile("a", 0)
    for picture in (batch.image[0, 0], batch.target[0], prediction, batch.maps["store"][0]):
        picture[3:6, 2:4] = 1
    row = panel_row(batch, prediction, Encoder(), Box(3, 2, 3, 2))
    assert row.title == "a" and row.image.shape == (3, 2, 3)
    assert (row.image[..., 0] == 1).all() and (row.image[..., 1] == 80).all()
    assert (row.target == 1).all() and (row.prediction == 1).all()
    assert (row.structure.picture == 2).all()  # 1 / 100 of 255


def test_reducing_blends_photos_and_no_classes():
    batch, prediction, _ = tile("a", 0, (40, 20))
    prediction[:, ::2], batch.image[..., ::2] = 7, 160
    small = reduced(panel_row(batch, prediction, Encoder(), Box(0, 0, 40, 20)), 10)
    assert small.prediction.shape == (10, 5) and small.image.shape == (10, 5, 3)
    assert set(np.unique(small.prediction)) <= {0, 7}
    assert (abs(small.image[:, 1:-1].astype(int) - 120) < 15).all()
    assert small.target.shape == small.structure.picture.shape[:2] == (10, 5)
