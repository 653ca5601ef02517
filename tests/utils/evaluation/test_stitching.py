"""Tiles joined: against sums over all tiles of the whole image, held at once."""

import random

import pytest
import torch

from benchmarks.bench import Bench
from utils.evaluation.sliding_window import side_weights, stitch


def spans(length, side, overlap):
    starts = [*range(0, max(1, length - overlap), side - overlap)]
    return [slice(start, min(start + side, length)) for start in starts]


def grid(size, side, overlap):
    rows, columns = (spans(length, side, overlap) for length in size)
    return [(r, c) for r in rows for c in columns]


def strips_of(logits, num_rows=5):
    for top in range(0, logits.shape[1], num_rows):
        rows = slice(top, min(top + num_rows, logits.shape[1]))
        yield rows, logits[:, rows]


def join(windows, tiles, late_px=0):
    """Logits of the whole image, and the rows of the strips."""
    strips = [*stitch(windows, (strips_of(tile) for tile in tiles), late_px)]
    rows = [span for span, _ in strips]
    assert [span.start for span in rows] == [0, *(span.stop for span in rows[:-1])]
    assert [len(logits[0]) for _, logits in strips] == [span.stop - span.start for span in rows]
    return torch.cat([logits for _, logits in strips], 1), rows


def test_weights_by_hand():
    weights = side_weights([slice(0, 6), slice(4, 10), slice(10, 13)])
    assert weights[0, 6].tolist() == pytest.approx([1, 1, 1, 1, 2 / 3, 1 / 3])
    assert weights[4, 10].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    assert weights[10, 13].tolist() == [1, 1, 1]


def test_the_fall_is_as_long_as_the_overlap_is():
    """Tiles of nearly equal size share more than was asked for, and not all the same."""
    weights = side_weights([slice(0, 10), slice(3, 13), slice(9, 19)])
    assert weights[3, 13].tolist() == pytest.approx(
        [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 4 / 5, 3 / 5, 2 / 5, 1 / 5]
    )
    assert weights[9, 19].tolist() == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, *[1] * 6])


@pytest.mark.parametrize(
    "windows",
    [
        grid((40, 55), 16, 5),
        grid((40, 55), 16, 0),
        grid((33, 17), 16, 15),
        grid((1, 70), 16, 7),
        grid((70, 1), 16, 3),
        [(slice(0, 9), slice(0, 9)), (slice(0, 9), slice(0, 9)), (slice(2, 7), slice(3, 20))],
    ],
)
@pytest.mark.parametrize("late_px", [0, 3])
def test_constant_logits_come_back_constant(windows, late_px):
    """So the shares of all tiles at a pixel sum to one."""
    tiles = [torch.full((2, r.stop - r.start, c.stop - c.start), 7.0) for r, c in windows]
    out, _ = join(windows, tiles, late_px)
    covered = torch.zeros(out.shape[1:], dtype=torch.bool)
    for window in windows:
        covered[window] = True
    assert covered.any()
    torch.testing.assert_close(
        out[:, covered], torch.full_like(out[:, covered], 7), rtol=1e-6, atol=0
    )
    assert not out[:, ~covered].any()


def test_the_mean_is_that_of_all_tiles_weighed_by_hand():
    windows = [(r, c) for r in (slice(0, 4), slice(2, 6)) for c in (slice(0, 4), slice(2, 6))]
    out, rows = join(windows, [torch.full((1, 4, 4), float(n)) for n in range(4)])
    weight = {0: torch.tensor([1, 1, 2 / 3, 1 / 3]), 2: torch.tensor([1 / 3, 2 / 3, 1, 1])}
    total, sums = torch.zeros(6, 6), torch.zeros(6, 6)
    for number, (r, c) in enumerate(windows):
        total[r, c] += number * weight[r.start].outer(weight[c.start])
        sums[r, c] += weight[r.start].outer(weight[c.start])
    torch.testing.assert_close(sums, torch.ones(6, 6))
    torch.testing.assert_close(out[0], total / sums)
    assert rows == [slice(0, 2), slice(2, 6)]


@pytest.mark.parametrize("windows", [grid((30, 41), 16, 0), grid((30, 41), 50, 9)])
def test_tiles_that_are_alone_change_no_bit(windows):
    logits = torch.randn(3, 30, 41)
    out, _ = join(windows, [logits[:, r, c] for r, c in windows])
    assert torch.equal(out, logits)


def test_tiles_that_were_taken_out_leave_logits_of_zero_and_change_nothing_else():
    windows, rng = grid((60, 50), 16, 4), random.Random(0)
    logits = torch.randn(3, 60, 50)
    whole, _ = join(windows, [logits[:, r, c] for r, c in windows])
    for _ in range(20):
        kept = sorted(rng.sample(windows, 6), key=lambda window: (window[0].start, window[1].start))
        out, _ = join(kept, [logits[:, r, c] for r, c in kept], rng.randrange(4))
        covered = torch.zeros(60, 50, dtype=torch.bool)
        for window in kept:
            covered[window] = True
        height, width = out.shape[1:]
        covered, expected = covered[:height, :width], whole[:, :height, :width]
        torch.testing.assert_close(out[:, covered], expected[:, covered], atol=1e-6, rtol=1e-5)
        assert not out[:, ~covered].any()


@pytest.mark.parametrize("late_px", [0, 3, 100])
def test_rows_come_when_nothing_below_can_change_them(late_px):
    windows, asked = grid((40, 30), 16, 4), []

    def tiles():
        for window in windows:
            asked.append(window)
            yield strips_of(
                torch.ones(1, window[0].stop - window[0].start, window[1].stop - window[1].start)
            )

    for rows, _ in stitch(windows, tiles(), late_px):
        remaining = [window[0].start for window in windows if window not in asked]
        assert rows.stop + late_px <= min(remaining, default=1000)
        assert rows.stop == 40 or rows.stop + late_px == min(remaining)


def test_memory_is_that_of_a_row_of_tiles():
    size, num_classes = (4096, 256), 6
    windows = grid(size, 64, 16)

    def predict():
        tiles = (
            strips_of(torch.ones(num_classes, r.stop - r.start, c.stop - c.start))
            for r, c in windows
        )
        for _, logits in stitch(windows, tiles, 0):
            assert logits.shape[0] == num_classes

    whole_mib = num_classes * size[0] * size[1] * 4 / 2**20
    row_mib = whole_mib * 64 / size[0]
    assert Bench("cpu", quick=True).peak_mib(predict) < 6 * row_mib < whole_mib / 10
