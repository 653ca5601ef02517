from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from utils.boxes import Box
from utils.evaluation.examples import WINDOW_PX, ExampleTiles, panel_row
from utils.evaluation.metrics import confusion_matrix

SIDE_PX = 216


class Encoder:
    """Shows the ids as grey."""

    shown = (0, 0, 0)
    cell_px: ClassVar = {}

    def __call__(self, image, maps, structure_image=None):
        return (maps["store"].unsqueeze(1).float() / 100,)


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


def examples_of(*tiles, num_tiles=0, is_main=True, gather=lambda x: [x], left_out=()):
    dist = SimpleNamespace(is_main=is_main, gather=gather)
    examples = ExampleTiles(Encoder(), dist, num_tiles, 4, SIDE_PX, left_out)
    for given in tiles:
        examples.add(*given)
    return examples


def titles(rows):
    return [row.title for row in rows]


def test_the_worst_tiles_are_kept_the_worst_first():
    wrong = {"a": 3, "b": 40, "c": 0, "d": 20, "e": 50, "f": 1, "g": 30, "h": 2}
    examples = examples_of(*(tile(name, count) for name, count in wrong.items()))
    assert len(examples._worst) == 4
    # Class 0: hits / 64; class 1: 0.
    expected = [f"{name}: mIoU {100 * (64 - wrong[name]) / 64 / 2:.2f}" for name in "ebgd"]
    assert titles(examples.worst()) == expected


def test_tiles_without_a_pixel_of_a_scored_class_are_skipped():
    """Unlabelled ones, and those of a class that is left out, unless another is predicted."""
    examples = examples_of(tile("blank", 64, label=255), tile("right", 0))
    assert titles(examples.worst()) == ["right: mIoU 100.00"]
    tiles = [tile("all wrong", 64), tile("half", 32), tile("other", 64, label=1)]
    examples = examples_of(*tiles, left_out=[1])
    assert titles(examples.worst()) == ["all wrong: mIoU 0.00", "half: mIoU 50.00"]


def test_the_worst_of_all_ranks_are_chosen_and_only_they_travel():
    sent = []
    other = examples_of(tile("x", 60), tile("y", 10), tile("z", 5))

    def gather(value):
        sent.append(value)
        if isinstance(value, list):
            return [value, [*other._worst]]
        return [value, {key: row for key, row in other._worst.items() if key[1] == "x"}]

    counts = zip("abcd", (40, 50, 1, 30), strict=True)
    rows = examples_of(*(tile(*given) for given in counts), gather=gather).worst()
    assert [title[0] for title in titles(rows)] == list("xbad")
    assert sorted(tile_id for _, tile_id in sent[1]) == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("num_tiles", "is_main", "kept"),
    [(1, True, [0]), (3, True, [0, 1, 2]), (8, True, [0, 2, 4, 6]), (0, True, []), (3, False, [])],
)
def test_tiles_are_spread_evenly(num_tiles, is_main, kept):
    tiles = [tile(f"t{index}", index) for index in range(num_tiles)]
    examples = examples_of(*tiles, num_tiles=num_tiles, is_main=is_main)
    assert titles(examples.spread) == [f"t{index}" for index in kept]


def test_the_middle_of_a_large_tile_or_the_part_with_most_errors_is_shown():
    batch, prediction, counts = tile("large", 0, (WINDOW_PX, 3 * WINDOW_PX))
    prediction[:, WINDOW_PX : 2 * WINDOW_PX] = 1
    (row,) = examples_of((batch, prediction, counts), num_tiles=1).spread
    assert (row.prediction == 1).all()
    batch, prediction, _ = tile("large", 0, (WINDOW_PX + 200, 2 * WINDOW_PX))
    prediction[-50:, -30:] = 1
    batch.target[:, :100, :100], prediction[:100, :100] = 255, 1  # ignored: no errors
    counts = confusion_matrix(batch.target[0], prediction, 2)
    (row,) = examples_of((batch, prediction, counts)).worst()
    assert row.image.shape == (SIDE_PX, SIDE_PX, 3)
    wrong = (row.prediction == 1).mean()
    assert wrong == pytest.approx(50 * 30 / WINDOW_PX**2, rel=0.3) and row.prediction[-1, -1] == 1


def test_a_row_shows_the_same_part_of_everything():
    batch, prediction, _ = tile("a", 0)
    for picture in (batch.image[0, 0], batch.target[0], prediction, batch.maps["store"][0]):
        picture[3:6, 2:4] = 1
    row = panel_row(batch, prediction, Encoder(), Box(3, 2, 3, 2), SIDE_PX)
    assert row.title == "a" and row.image.shape == (3, 2, 3)
    assert (row.image[..., 0] == 1).all() and (row.image[..., 1] == 80).all()
    assert (row.target == 1).all() and (row.prediction == 1).all()
    assert (row.structure.picture == 2).all()  # 1 / 100 of 255
    prediction[:] = 0
    assert row.prediction.all()  # no view of the tile


def test_reducing_blends_photos_and_no_classes():
    batch, prediction, _ = tile("a", 0, (40, 20))
    prediction[:, ::2], batch.image[..., ::2] = 7, 160
    small = panel_row(batch, prediction, Encoder(), Box(0, 0, 40, 20), 10)
    assert small.prediction.shape == (10, 5) and small.image.shape == (10, 5, 3)
    assert set(np.unique(small.prediction)) <= {0, 7}
    assert (abs(small.image[:, 1:-1].astype(int) - 120) < 15).all()
    assert small.target.shape == small.structure.picture.shape[:2] == (10, 5)
