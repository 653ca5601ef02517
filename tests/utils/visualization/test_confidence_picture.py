import numpy as np
import pytest

from utils.evaluation.calibration import NUM_BINS, calibration
from utils.visualization.confidence_picture import (
    _RIGHT,
    _SHARES_PX,
    _SIDE_PX,
    _TOO_SURE,
    _UNSURE,
    confidence_picture,
)
from utils.visualization.typesetting import FAINT_INK

HALF = 2**23  # a confidence of 0.5 in the units of the counts


def picture_of(*bins):
    """Bins as (index, pixels, right pixels, confidence)."""
    counts = np.zeros((NUM_BINS, 3), dtype=np.int64)
    for index, pixels, right, confidence in bins:
        counts[index] = pixels, right, round(pixels * confidence * 2 * HALF)
    return confidence_picture(calibration(counts))


def heights(picture, color, x_px=None):
    """Height in pixels of what has a colour, below the legend."""
    part = picture[120:] if x_px is None else picture[120:, x_px : x_px + 1]
    return int((part == color).all(axis=2).any(axis=1).sum())


def test_bars_are_as_high_as_the_share_of_right_pixels_and_gaps_as_what_is_missing():
    picture = picture_of((10, 1000, 500, 0.7))
    assert abs(heights(picture, _RIGHT) - _SIDE_PX * 0.5) <= 3
    assert abs(heights(picture, _TOO_SURE) - _SIDE_PX * 0.2) <= 3
    assert heights(picture, _UNSURE) == 0


def test_a_network_that_claims_too_little_has_a_gap_of_another_colour():
    picture = picture_of((7, 1000, 900, 0.5))
    assert abs(heights(picture, _RIGHT) - _SIDE_PX * 0.5) <= 3
    assert abs(heights(picture, _UNSURE) - _SIDE_PX * 0.4) <= 3
    assert heights(picture, _TOO_SURE) == 0


def test_bins_stand_at_their_confidence():
    for index in (0, 7, 14):
        picture = picture_of((index, 10, 8, (index + 0.5) / NUM_BINS))
        columns = np.flatnonzero((picture[120:] == _RIGHT).all(axis=2).any(axis=0))
        left_px = picture.shape[1] - 40 - _SIDE_PX  # where the axis begins
        assert columns.min() == pytest.approx(left_px + index / NUM_BINS * _SIDE_PX, abs=2)
        assert len(columns) == pytest.approx(_SIDE_PX / NUM_BINS, abs=4)


def test_the_share_of_pixels_of_a_bin_is_shown_below_it():
    """Columns without letters and ticks: the left edge of the bars."""
    picture = picture_of((4, 1000, 500, 0.3), (14, 4000, 4000, 0.98))
    left_px = picture.shape[1] - 40 - _SIDE_PX
    below = picture[-60 - _SHARES_PX :]
    few, many = (
        int((below[:, left_px + round(index / NUM_BINS * _SIDE_PX) + 1] == FAINT_INK).all(1).sum())
        for index in (4, 14)
    )
    assert few == pytest.approx(many / 4, abs=2) and many > 80


def test_nothing_to_show_is_a_picture_all_the_same():
    picture = picture_of()
    assert picture.shape == picture_of((3, 9, 4, 0.2)).shape and picture.dtype == np.uint8
    assert not any(heights(picture, color) for color in (_RIGHT, _TOO_SURE, _UNSURE))


def test_nothing_touches_the_border():
    picture = picture_of(*((index, 10**9, 10**8, 0.99) for index in range(NUM_BINS)))
    for edge in (picture[:12], picture[-12:], picture[:, :12], picture[:, -12:]):
        assert (edge == 255).all()
