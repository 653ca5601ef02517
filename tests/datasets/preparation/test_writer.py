"""Cutting of images into tiles; the writer is tested with the set it writes."""

import numpy as np
import pytest

from datasets.preparation.writer import Tiling
from utils.boxes import Box
from utils.errors import ConfigError

TILING = Tiling(tile_size_px=64, overlap_px=16)


def test_training_windows_overlap_and_end_flush():
    assert TILING.windows("train", 64, 160) == [Box(0, left, 64, 64) for left in (0, 48, 96)]
    assert TILING.windows("train", 50, 65) == [Box(0, 0, 50, 64), Box(0, 1, 50, 64)]
    assert TILING.windows("train", 50, 20) == [Box(0, 0, 50, 20)]


def test_evaluation_windows_are_nearly_equal_parts():
    assert TILING.windows("val", 65, 30) == [Box(0, 0, 32, 30), Box(32, 0, 33, 30)]
    assert TILING.windows("test", 64, 128) == [Box(0, 0, 64, 64), Box(0, 64, 64, 64)]
    count = np.zeros((100, 129), int)
    for box in TILING.windows("val", 100, 129):
        assert 0 < box.height_px <= 64 and 0 < box.width_px <= 64
        count[box.slices] += 1
    assert (count == 1).all()  # every pixel is in one of them


@pytest.mark.parametrize(
    ("size_px", "overlap_px", "sentence"),
    [
        (None, 3, "--overlap needs --tile-size"),
        (8, 0, "--tile-size is 8; it must be 32 or more"),
        (64, 64, r"--overlap is 64; .* below --tile-size \(64\)"),
    ],
)
def test_tilings_that_cannot_work(size_px, overlap_px, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Tiling(tile_size_px=size_px, overlap_px=overlap_px)
