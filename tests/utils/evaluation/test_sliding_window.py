"""Sliding windows, stitched tiles and views, against whole-image sums and values by hand."""

import itertools
import random

import pytest
import torch

from benchmarks.bench import Bench
from utils.boxes import Box, window_starts
from utils.evaluation.sliding_window import (
    View,
    mean_logits,
    predict_strips,
    stitch,
    tile_weights,
    views,
    window_weights,
)

SIZES = [(64, 64), (10, 200), (65, 64), (1, 130), (130, 1), (1, 1), (100, 90), (300, 65)]


def join(forward, size, **settings):
    """Logits of the whole image, and the rows of the strips."""
    strips = [*predict_strips(forward, size=size, **settings)]
    return torch.cat([logits for _, logits in strips], 1), [rows for rows, _ in strips]


def pointwise(logits):
    """Return a network whose logits of a pixel do not depend on the window."""
    return lambda windows: torch.stack([logits[(..., *window.slices)] for window in windows])


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (100, 100, 20, [0]),
        (7, 100, 20, [0]),
        (101, 100, 20, [0, 1]),
        (180, 100, 20, [0, 80]),
        (181, 100, 20, [0, 40, 81]),
        (10, 4, 0, [0, 3, 6]),
        (12, 4, 0, [0, 4, 8]),
    ],
)
def test_starts_by_hand(length, window, overlap, expected):
    starts = window_starts(length, window, overlap)
    assert starts == pytest.approx(expected, abs=1)
    assert starts[0] == 0 and starts[-1] == max(0, length - window)


@pytest.mark.parametrize("length", [1, 5, 63, 64, 65, 200, 511])
@pytest.mark.parametrize("overlap", [0, 1, 17, 63])
def test_windows_cover_everything_with_the_overlap_asked_for(length, overlap):
    starts = window_starts(length, 64, overlap)
    covered = {p for start in starts for p in range(start, min(start + 64, length))}
    assert covered == set(range(length))
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= 64 - overlap for step in steps)


def test_window_weights_by_hand():
    # Windows of 6 px at 0 and 4; falling over 2 px, each weighs 1 2 3 3 2 1 thirds.
    weights = window_weights(10, 6, 2)
    assert weights[0].tolist() == pytest.approx([1, 1, 1, 1, 2 / 3, 1 / 3])
    assert weights[4].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])


@pytest.mark.parametrize("length", [1, 5, 63, 64, 65, 200, 511])
@pytest.mark.parametrize("overlap", [0, 1, 17, 63])
def test_window_weights_sum_to_one_and_are_one_where_a_window_is_alone(length, overlap):
    total, number = torch.zeros(length), torch.zeros(length)
    weights = window_weights(length, 64, overlap)
    for start, weight in weights.items():
        assert weight.min() > 0
        total[start : start + len(weight)] += weight
        number[start : start + len(weight)] += 1
    torch.testing.assert_close(total, torch.ones(length), atol=5e-7, rtol=0)
    for start, weight in weights.items():
        assert (weight[number[start : start + len(weight)] == 1] == 1).all()


def test_window_weights_fall_without_a_step():
    for weight in window_weights(500, 64, 16).values():
        assert weight.diff().abs().max() < 2 / 17


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_pointwise_network_gives_the_same_in_windows_as_at_once(size, batch_size):
    logits = torch.randn(3, *size)
    settings = {"window_px": 64, "overlap_px": 16, "batch_size": batch_size}
    out, rows = join(pointwise(logits), size, **settings)
    # The weights of four windows sum to one up to rounding.
    torch.testing.assert_close(out, logits, atol=1e-6, rtol=1e-6)
    assert [span.start for span in rows] == [0, *(span.stop for span in rows[:-1])]
    assert rows[-1].stop == size[0] and all(span.stop > span.start for span in rows)
    constant = torch.full((3, *size), 5.0)
    out, _ = join(pointwise(constant), size, **settings)
    torch.testing.assert_close(out, constant, atol=0, rtol=1e-6)


@pytest.mark.parametrize(("size", "overlap"), [((64, 64), 16), ((40, 7), 16), ((128, 192), 0)])
def test_windows_that_do_not_overlap_change_no_bit(size, overlap):
    logits = torch.randn(3, *size)
    out, _ = join(pointwise(logits), size, window_px=64, overlap_px=overlap, batch_size=2)
    assert torch.equal(out, logits)


def test_a_translation_invariant_network_sees_no_windows():
    """A convolution, given the margin it reads: windows equal the image at once.

    Integers, so that only the weights round, and the classes are the same.
    """
    torch.manual_seed(0)
    image = torch.randint(-8, 9, (1, 2, 150, 201)).float()
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    kernel = torch.randint(-4, 5, (4, 2, 5, 5)).float()
    whole = torch.nn.functional.conv2d(padded, kernel)[0]

    def forward(windows):
        parts = [
            padded[..., w.top_px : w.bottom_px + 4, w.left_px : w.right_px + 4] for w in windows
        ]
        return torch.nn.functional.conv2d(torch.cat(parts), kernel)

    out, _ = join(forward, (150, 201), window_px=64, overlap_px=16, batch_size=3)
    torch.testing.assert_close(out, whole, atol=1e-4, rtol=1e-6)
    assert torch.equal(out.round(), whole)


def test_batches_hold_windows_of_one_size_and_no_more_than_asked():
    seen = []

    def forward(windows):
        seen.append(len(windows))
        return torch.ones(len(windows), 1, 8, 8)

    join(forward, (20, 20), window_px=8, overlap_px=2, batch_size=4)
    assert seen == [4, 4, 1]


def test_the_mean_is_that_of_all_windows_weighed_by_hand():
    """Four windows that say 0, 1, 2 and 3 wherever they are, in a batch across rows."""

    def forward(windows):
        first = [2 * (window.top_px > 0) + (window.left_px > 0) for window in windows]
        return torch.tensor(first).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    out, _ = join(forward, (6, 6), window_px=4, overlap_px=1, batch_size=3)
    weight = torch.tensor([0.5, 1, 1, 0.5])
    total, sums = torch.zeros(6, 6), torch.zeros(6, 6)
    for number, (top, left) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        part = (slice(top, top + 4), slice(left, left + 4))
        total[part] += number * weight.outer(weight)
        sums[part] += weight.outer(weight)
    torch.testing.assert_close(out[0], total / sums)


def test_memory_is_that_of_strips_not_of_the_image():
    size, num_classes = (4096, 256), 6

    def predict():
        def forward(windows):
            return torch.ones(len(windows), num_classes, 64, 64)

        settings = {"window_px": 64, "overlap_px": 16, "batch_size": 4}
        for _, logits in predict_strips(forward, size=size, **settings):
            assert logits.shape[0] == num_classes

    whole_mib = num_classes * size[0] * size[1] * 4 / 2**20
    strip_mib = whole_mib * 64 / size[0]
    assert Bench("cpu", quick=True).peak_mib(predict) < 6 * strip_mib < whole_mib / 10


@pytest.mark.parametrize("size", [(300, 65), (130, 1), (64, 64), (1, 130)])
@pytest.mark.parametrize("overlap", [0, 16, 50])
def test_parts_of_the_rows_equal_the_whole_bit_for_bit(size, overlap):
    """Parts that windows straddle, computed apart: as ranks share one image."""
    weight, seen = torch.randn(3, 64, 65), []

    def forward(windows):
        seen.extend(windows)
        parts = []
        for window in windows:  # logits that depend on the window
            pixels = weight[:, : window.height_px, : window.width_px]
            parts.append(pixels * (window.top_px + window.left_px + 1))
        return torch.stack(parts)

    settings = {"window_px": 64, "overlap_px": overlap, "batch_size": 2}
    whole, _ = join(forward, size, **settings)
    num_windows = len(seen)
    bounds = sorted({0, size[0] // 3, size[0] // 2, size[0]})
    parts, covered = [], []
    for begin, end in itertools.pairwise(bounds):
        seen.clear()
        logits, rows = join(forward, size, part=slice(begin, end), **settings)
        assert len(seen) <= num_windows
        assert all(w.top_px < end and w.bottom_px > begin for w in seen)
        parts.append(logits)
        covered += [row for span in rows for row in range(span.start, span.stop)]
    assert covered == [*range(size[0])]
    assert torch.equal(torch.cat(parts, 1), whole)


def spans(length, side, overlap):
    starts = [*range(0, max(1, length - overlap), side - overlap)]
    return [(start, min(side, length - start)) for start in starts]


def grid(size, side, overlap):
    rows, columns = (spans(length, side, overlap) for length in size)
    return [Box(top, left, height, width) for top, height in rows for left, width in columns]


def strips_of(logits, num_rows=5):
    for top in range(0, logits.shape[1], num_rows):
        rows = slice(top, min(top + num_rows, logits.shape[1]))
        yield rows, logits[:, rows]


def joined(tiles, logits, delay_px=0):
    """Logits of the whole image from those of its tiles, and the rows of the strips."""
    strips = [*stitch(tiles, (strips_of(each) for each in logits), delay_px)]
    rows = [span for span, _ in strips]
    assert [span.start for span in rows] == [0, *(span.stop for span in rows[:-1])]
    assert [len(part[0]) for _, part in strips] == [span.stop - span.start for span in rows]
    return torch.cat([part for _, part in strips], 1), rows


def cut(logits, tiles):
    return [logits[(..., *tile.slices)] for tile in tiles]


def covered_by(tiles, size):
    covered = torch.zeros(size, dtype=torch.bool)
    for tile in tiles:
        covered[tile.slices] = True
    return covered


def test_tile_weights_by_hand():
    weights = tile_weights([(0, 6), (4, 10), (10, 13)])
    assert weights[0, 6].tolist() == pytest.approx([1, 1, 1, 1, 2 / 3, 1 / 3])
    assert weights[4, 10].tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    assert weights[10, 13].tolist() == [1, 1, 1]


def test_tile_weights_fall_over_the_actual_overlap():
    """The overlaps of tiles differ where their number does not divide the image."""
    weights = tile_weights([(0, 10), (3, 13), (9, 19)])
    assert weights[3, 13].tolist() == pytest.approx(
        [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 4 / 5, 3 / 5, 2 / 5, 1 / 5]
    )
    assert weights[9, 19].tolist() == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, *[1] * 6])


@pytest.mark.parametrize(
    "tiles",
    [
        grid((40, 55), 16, 5),
        grid((40, 55), 16, 0),
        grid((33, 17), 16, 15),
        grid((1, 70), 16, 7),
        grid((70, 1), 16, 3),
        [Box(0, 0, 9, 9), Box(0, 0, 9, 9), Box(2, 3, 5, 17)],
    ],
)
@pytest.mark.parametrize("delay_px", [0, 3])
def test_stitched_constants_stay_constant(tiles, delay_px):
    """So the weights of all tiles at a pixel sum to one."""
    logits = [torch.full((2, tile.height_px, tile.width_px), 7.0) for tile in tiles]
    out, _ = joined(tiles, logits, delay_px)
    covered = covered_by(tiles, out.shape[1:])
    assert covered.any()
    torch.testing.assert_close(
        out[:, covered], torch.full_like(out[:, covered], 7), rtol=1e-6, atol=0
    )
    assert not out[:, ~covered].any()


def test_stitching_is_the_mean_of_all_tiles_weighted_by_hand():
    tiles = [Box(top, left, 4, 4) for top in (0, 2) for left in (0, 2)]
    out, rows = joined(tiles, [torch.full((1, 4, 4), float(n)) for n in range(4)])
    weight = {0: torch.tensor([1, 1, 2 / 3, 1 / 3]), 2: torch.tensor([1 / 3, 2 / 3, 1, 1])}
    total, sums = torch.zeros(6, 6), torch.zeros(6, 6)
    for number, tile in enumerate(tiles):
        total[tile.slices] += number * weight[tile.top_px].outer(weight[tile.left_px])
        sums[tile.slices] += weight[tile.top_px].outer(weight[tile.left_px])
    torch.testing.assert_close(sums, torch.ones(6, 6))
    torch.testing.assert_close(out[0], total / sums)
    assert rows == [slice(0, 2), slice(2, 6)]


@pytest.mark.parametrize("tiles", [grid((30, 41), 16, 0), grid((30, 41), 50, 9)])
def test_tiles_without_overlap_keep_every_bit(tiles):
    logits = torch.randn(3, 30, 41)
    assert torch.equal(joined(tiles, cut(logits, tiles))[0], logits)


def test_removed_tiles_leave_logits_of_zero_and_change_nothing_else():
    tiles, rng = grid((60, 50), 16, 4), random.Random(0)
    logits = torch.randn(3, 60, 50)
    whole, _ = joined(tiles, cut(logits, tiles))
    for _ in range(20):
        kept = sorted(rng.sample(tiles, 6), key=lambda tile: (tile.top_px, tile.left_px))
        out, _ = joined(kept, cut(logits, kept), rng.randrange(4))
        height, width = out.shape[1:]
        covered, expected = covered_by(kept, (height, width)), whole[:, :height, :width]
        torch.testing.assert_close(out[:, covered], expected[:, covered], atol=1e-6, rtol=1e-5)
        assert not out[:, ~covered].any()


@pytest.mark.parametrize("delay_px", [0, 3, 100])
def test_rows_are_yielded_once_no_later_tile_can_change_them(delay_px):
    tiles, requested = grid((40, 30), 16, 4), []

    def logits():
        for tile in tiles:
            requested.append(tile)
            yield strips_of(torch.ones(1, tile.height_px, tile.width_px))

    for rows, _ in stitch(tiles, logits(), delay_px):
        remaining = [tile.top_px for tile in tiles if tile not in requested]
        assert rows.stop + delay_px <= min(remaining, default=1000)
        assert rows.stop == 40 or rows.stop + delay_px == min(remaining)


def test_memory_is_that_of_a_row_of_tiles():
    size, num_classes = (4096, 256), 6
    tiles = grid(size, 64, 16)

    def predict():
        parts = (strips_of(torch.ones(num_classes, t.height_px, t.width_px)) for t in tiles)
        for _, logits in stitch(tiles, parts, 0):
            assert logits.shape[0] == num_classes

    whole_mib = num_classes * size[0] * size[1] * 4 / 2**20
    row_mib = whole_mib * 64 / size[0]
    assert Bench("cpu", quick=True).peak_mib(predict) < 6 * row_mib < whole_mib / 10


def test_views_of_a_recipe():
    assert views((1.0,), 1) == [View(scale=1.0, turn=0)]
    assert [view.turn for view in views((1.0,), 2)] == [0, 4]
    both = views((0.5, 2.0), 8)
    assert [view.scale for view in both] == [0.5] * 8 + [2.0] * 8
    assert [view.turn for view in both] == [*range(8)] * 2


def test_turns_by_hand():
    ids = torch.tensor([[[1, 2], [3, 4]]])
    turned = [View(scale=1.0, turn=turn).ids(ids)[0].flatten().tolist() for turn in range(8)]
    assert turned[0] == [1, 2, 3, 4]
    assert turned[1] == [2, 4, 1, 3]  # a quarter to the left
    assert turned[2] == [4, 3, 2, 1]
    assert turned[3] == [3, 1, 4, 2]
    assert turned[4] == [2, 1, 4, 3]  # mirrored left-right
    assert len({*map(tuple, turned)}) == 8


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("size", [(5, 5), (4, 7), (1, 6)])
def test_every_turn_is_the_same_for_all_members_and_undone_exactly(turn, size):
    view = View(scale=1.0, turn=turn)
    members = torch.randint(1, 60000, (2, *size)).int()
    as_photo = members.unsqueeze(1).float()
    assert torch.equal(view.photo(as_photo)[:, 0], view.ids(members).float())
    assert torch.equal(view.levels(members), view.ids(members))
    assert torch.equal(view.undo(view.photo(as_photo), size), as_photo)


def test_zooms_by_hand():
    double, half = View(scale=2.0, turn=0), View(scale=0.5, turn=0)
    ids = torch.tensor([[[7, 9]]])
    assert double.ids(ids).tolist() == [[[7, 7, 9, 9], [7, 7, 9, 9]]]
    assert double.levels(torch.tensor([[[100, 200]]]))[0, 0].tolist() == [100, 125, 175, 200]
    assert half.ids(torch.tensor([[[1, 2, 3, 4]]])).tolist() == [[[2, 4]]]
    photo = torch.tensor([[[[0.25, 0.25, 0.75, 0.75]] * 4]])
    # Averaged when it gets smaller: two pixels on either side weigh, nearer ones more.
    row = half.photo(photo)[0, 0, 0]
    assert row.shape == (2,) and 0.25 < row[0] < 0.4 and row.sum() == pytest.approx(1)


def test_levels_are_averaged_where_there_is_data():
    half = View(scale=0.5, turn=0)
    levels = torch.zeros(1, 8, 8, dtype=torch.int32)
    levels[:, :, :4] = 50000
    assert half.levels(levels)[0].tolist() == [[50000, 50000, 0, 0]] * 4
    assert half.levels(levels).dtype == levels.dtype


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("turn", [0, 3, 5])
@pytest.mark.parametrize("size", [(1, 9), (32, 47), (2, 2)])
def test_members_keep_one_size_and_constants_come_back(scale, turn, size):
    view = View(scale=scale, turn=turn)
    photo, ids = torch.full((2, 3, *size), 0.5), torch.full((2, *size), 7)
    seen = view.photo(photo)
    assert seen.shape[-2:] == view.ids(ids).shape[-2:] == view.levels(ids).shape[-2:]
    assert (view.ids(ids) == 7).all() and (view.levels(ids) == 7).all()
    torch.testing.assert_close(view.undo(seen, size), photo, atol=1e-6, rtol=0)


def test_the_mean_is_that_of_the_softmax():
    first, second = torch.randn(2, 1, 5, 3, 4)
    mean = mean_logits(iter([first, second, second]), 3)
    by_hand = (first.softmax(1) + 2 * second.softmax(1)) / 3
    torch.testing.assert_close(mean.softmax(1), by_hand)
    torch.testing.assert_close(mean.exp(), by_hand)
    assert mean_logits(iter([first]), 1) is first


def test_certain_predictions_stay_finite():
    sure = torch.tensor([1e4, 0.0]).view(1, 2, 1, 1)
    mean = mean_logits(iter([sure, sure.flip(1)]), 2)
    assert mean.flatten().tolist() == pytest.approx([-0.6931, -0.6931], abs=1e-4)
