"""Cells of an image that hold data: never False where a pixel does."""

import numpy as np
import pytest

from utils.boxes import Box
from utils.inference import validity
from utils.inference.validity import ValidCells


@pytest.mark.parametrize("strip_px", [1, 1 << 22])
def test_a_rectangle_is_empty_only_if_no_pixel_of_it_holds_data(monkeypatch, strip_px):
    monkeypatch.setattr(validity, "_STRIP_PX", strip_px)
    rng = np.random.default_rng(0)
    mask = np.zeros((331, 205), bool)
    mask[rng.integers(0, 331, 6), rng.integers(0, 205, 6)] = True
    mask[330, 204] = True
    read = []

    def read_mask(rows, columns):
        read.append(rows)
        return mask[rows, columns]

    cells = ValidCells(read_mask, mask.shape, slice(40, 331))
    assert read[0].start == 32 and read[-1].stop == 331
    num_empty = 0
    for top, left in zip(rng.integers(40, 300, 500), rng.integers(0, 180, 500), strict=True):
        box = Box(int(top), int(left), 31, 25)
        assert cells.any_in(box) or not mask[box.slices].any()
        num_empty += not cells.any_in(box)
    assert num_empty > 200
    assert cells.any_in(Box(330, 204, 1, 1)) and not cells.any_in(Box(0, 0, 32, 205))
