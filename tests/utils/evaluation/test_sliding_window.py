"""Sliding windows, stitched tiles and views, against whole-image sums and values by hand."""

import itertools
import math

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
)
from utils.geometry import cut_cells, dihedral


def joined(strips):
    """Logits of the whole image, and the rows of the strips, which follow each other."""
    strips = [*strips]
    rows = [span for span, _ in strips]
    assert [span.start for span in rows] == [0, *(span.stop for span in rows[:-1])]
    assert [part.shape[1] for _, part in strips] == [span.stop - span.start for span in rows]
    assert all(span.stop > span.start for span in rows)
    return torch.cat([part for _, part in strips], 1), rows


@pytest.mark.parametrize("overlap", [0, 17, 63])
def test_as_few_windows_as_possible_cover_everything_with_the_overlap_asked_for(overlap):
    for length in (1, 63, 64, 65, 200, 511):
        starts = window_starts(length, 64, overlap)
        steps = [b - a for a, b in itertools.pairwise(starts)]
        assert starts[0] == 0 and starts[-1] == max(0, length - 64)
        assert len(steps) == math.ceil(max(0, length - 64) / (64 - overlap))
        assert all(0 < step <= 64 - overlap for step in steps)
        assert max(steps, default=0) - min(steps, default=0) <= 1  # evenly spaced


@pytest.mark.parametrize(
    ("size", "overlap"),
    [((10, 200), 16), ((130, 1), 16), ((300, 65), 16), ((40, 7), 16), ((128, 192), 0)],
)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_pointwise_network_gives_the_same_in_windows_as_at_once(size, overlap, batch_size):
    """Bit for bit where windows do not overlap; otherwise weights sum to one up to rounding."""
    logits = torch.randn(3, *size)
    settings = {"window_px": 64, "overlap_px": overlap, "batch_size": batch_size}

    def forward(windows):
        return torch.stack([logits[(..., *window.slices)] for window in windows])

    out, _ = joined(predict_strips(forward, size=size, **settings))
    torch.testing.assert_close(out, logits, atol=1e-6, rtol=1e-6)
    assert torch.equal(out, logits) or (overlap and max(size) > 64)


def test_the_mean_is_that_of_all_windows_weighed_by_hand():
    """Four windows of one value each, wherever they are, in a batch across rows."""
    batches = []

    def forward(windows):
        batches.append(len(windows))
        first = [2 * (window.top_px > 0) + (window.left_px > 0) for window in windows]
        return torch.tensor(first).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    settings = {"window_px": 4, "overlap_px": 1, "batch_size": 3}
    out, _ = joined(predict_strips(forward, size=(6, 6), **settings))
    assert batches == [3, 1]
    weight = torch.tensor([0.5, 1, 1, 0.5])
    total, sums = torch.zeros(6, 6), torch.zeros(6, 6)
    for number, (top, left) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        part = (slice(top, top + 4), slice(left, left + 4))
        total[part] += number * weight.outer(weight)
        sums[part] += weight.outer(weight)
    torch.testing.assert_close(out[0], total / sums)


@pytest.mark.parametrize("size", [(300, 65), (130, 1)])
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

    settings = {"size": size, "window_px": 64, "overlap_px": overlap, "batch_size": 2}
    whole, _ = joined(predict_strips(forward, **settings))
    parts, covered = [], []
    for begin, end in itertools.pairwise([0, size[0] // 3, 122, size[0]]):
        seen.clear()
        for rows, logits in predict_strips(forward, **settings, part=slice(begin, end)):
            parts.append(logits)
            covered += [*range(rows.start, rows.stop)]
        assert all(w.top_px < end and w.bottom_px > begin for w in seen)
    assert covered == [*range(size[0])]
    assert torch.equal(torch.cat(parts, 1), whole)


def grid(size, side, overlap):
    """Tiles of a regular grid; the last ones are cut by the edge of the image."""
    starts = [range(0, max(1, length - overlap), side - overlap) for length in size]
    return [
        Box(top, left, min(side, size[0] - top), min(side, size[1] - left))
        for top in starts[0]
        for left in starts[1]
    ]


def stitched(tiles, logits, delay_px=0, num_rows=5):
    def strips_of(parts):
        for top in range(0, parts.shape[1], num_rows):
            rows = slice(top, min(top + num_rows, parts.shape[1]))
            yield rows, parts[:, rows]

    return stitch(tiles, map(strips_of, logits), delay_px)


def test_overlaps_of_a_tile_differ_where_the_number_of_tiles_does_not_divide_the_image():
    weights = tile_weights([(0, 10), (3, 13), (9, 19)])
    assert weights[3, 13].tolist() == pytest.approx(
        [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 4 / 5, 3 / 5, 2 / 5, 1 / 5]
    )
    assert weights[9, 19].tolist() == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, *[1] * 6])


@pytest.mark.parametrize(
    "tiles",
    [
        grid((40, 55), 16, 5),
        grid((33, 17), 16, 15),
        grid((1, 70), 16, 7),
        grid((70, 1), 16, 3),
        grid((60, 50), 16, 4)[1::3],  # with gaps
        grid((30, 41), 16, 0),
        grid((30, 41), 50, 9),
        [Box(0, 0, 9, 9), Box(0, 0, 9, 9), Box(2, 3, 5, 17)],
    ],
)
@pytest.mark.parametrize("delay_px", [0, 3])
def test_tiles_of_one_image_are_stitched_to_it(tiles, delay_px):
    """So the weights of all tiles at a pixel sum to one; what no tile covers is zero.

    Tiles that do not overlap keep every bit.
    """
    image = torch.randn(2, 80, 80)
    out, _ = joined(stitched(tiles, [image[(..., *t.slices)] for t in tiles], delay_px))
    num_tiles = torch.zeros(out.shape[1:])
    for tile in tiles:
        num_tiles[tile.slices] += 1
    expected = image[:, : out.shape[1], : out.shape[2]] * (num_tiles > 0)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(out[:, num_tiles == 0], expected[:, num_tiles == 0])
    if num_tiles.max() == 1:
        assert torch.equal(out, expected)


def test_stitching_is_the_mean_of_all_tiles_weighted_by_hand():
    tiles = grid((6, 6), 4, 2)
    logits = [torch.full((1, 4, 4), float(n)) for n in range(4)]
    out, rows = joined(stitched(tiles, logits, num_rows=3))
    weight = {0: torch.tensor([1, 1, 2 / 3, 1 / 3]), 2: torch.tensor([1 / 3, 2 / 3, 1, 1])}
    total = torch.zeros(6, 6)
    for number, tile in enumerate(tiles):
        total[tile.slices] += number * weight[tile.top_px].outer(weight[tile.left_px])
    torch.testing.assert_close(out[0], total)
    assert rows == [slice(0, 2), slice(2, 6)]


@pytest.mark.parametrize("name", ["windows", "tiles"])
def test_memory_is_that_of_strips_not_of_the_image(name):
    size, num_classes, side = (4096, 256), 6, 64
    tiles = grid(size, side, 16)

    def forward(windows):
        return torch.ones(len(windows), num_classes, side, side)

    def predict():
        if name == "windows":
            settings = {"window_px": side, "overlap_px": 16, "batch_size": 4}
            strips = predict_strips(forward, size=size, **settings)
        else:
            parts = (torch.ones(num_classes, t.height_px, t.width_px) for t in tiles)
            strips = stitched(tiles, parts, num_rows=side)
        assert all(len(logits) == num_classes for _, logits in strips)

    whole_mib = num_classes * size[0] * size[1] * 4 / 2**20
    strip_mib = whole_mib * side / size[0]
    assert Bench("cpu", quick=True).peak_mib(predict) < 6 * strip_mib < whole_mib / 10


def test_views_of_a_recipe():
    assert views((1.0,), 1) == [View(scale=1.0, turn=0)]
    assert [view.turn for view in views((1.0,), 2)] == [0, 4]
    both = [(view.scale, view.turn) for view in views((0.5, 2.0), 8)]
    assert both == [(scale, turn) for scale in (0.5, 2.0) for turn in range(8)]


def test_turns_by_hand():
    ids = torch.tensor([[[1, 2], [3, 4]]])
    turned = [tuple(View(scale=1.0, turn=turn).ids(ids).flatten().tolist()) for turn in range(8)]
    assert turned[0] == (1, 2, 3, 4)
    assert turned[1] == (2, 4, 1, 3)  # a quarter to the left
    assert turned[4] == (2, 1, 4, 3)  # mirrored left-right
    assert len({*turned}) == 8


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
@pytest.mark.parametrize(("turn", "size"), [*((turn, (4, 7)) for turn in range(8)), (3, (1, 9))])
def test_every_view_is_the_same_for_all_members_and_undone(scale, turn, size):
    """Exactly without a zoom; of a zoom, constants come back."""
    view = View(scale=scale, turn=turn)
    members = torch.randint(1, 60000, (2, *size)).int()
    as_photo = members.unsqueeze(1).float()
    seen = view.photo(as_photo)[:, 0]
    assert seen.shape == view.ids(members).shape == view.levels(members).shape
    if scale == 1:
        assert torch.equal(seen, view.ids(members).float())
        assert torch.equal(view.levels(members), view.ids(members))
        assert torch.equal(view.undo(seen.unsqueeze(1), size), as_photo)
    photo, ids = torch.full((2, 3, *size), 0.5), torch.full((2, *size), 7)
    assert (view.ids(ids) == 7).all() and (view.levels(ids) == 7).all()
    torch.testing.assert_close(view.undo(view.photo(photo), size), photo, atol=1e-6, rtol=0)


def test_zooms_by_hand():
    double, half = View(scale=2.0, turn=0), View(scale=0.5, turn=0)
    ids = torch.tensor([[[7, 9]]])
    assert double.ids(ids).tolist() == [[[7, 7, 9, 9], [7, 7, 9, 9]]]
    assert double.levels(torch.tensor([[[100, 200]]]))[0, 0].tolist() == [100, 125, 175, 200]
    assert half.ids(torch.tensor([[[1, 2, 3, 4]]])).tolist() == [[[2, 4]]]
    photo = torch.tensor([[[[0.25, 0.25, 0.75, 0.75]] * 4]])
    # Averaged when it gets smaller: two pixels on either side weigh, nearer ones more.
    zoomed = half.photo(photo)[0, 0, 0]
    assert zoomed.shape == (2,) and 0.25 < zoomed[0] < 0.4 and zoomed.sum() == pytest.approx(1)
    # Levels are averaged where there is data.
    levels = torch.zeros(1, 8, 8, dtype=torch.int32)
    levels[:, :, :4] = 50000
    assert half.levels(levels)[0].tolist() == [[50000, 50000, 0, 0]] * 4
    assert half.levels(levels).dtype == levels.dtype


def test_the_mean_is_that_of_the_softmax():
    first, second = torch.randn(2, 1, 5, 3, 4)
    by_hand = (first.softmax(1) + 2 * second.softmax(1)) / 3
    torch.testing.assert_close(mean_logits(iter([first, second, second]), 3).exp(), by_hand)
    assert mean_logits(iter([first]), 1) is first
    sure = torch.tensor([1e4, 0.0]).view(1, 2, 1, 1)
    mean = mean_logits(iter([sure, sure.flip(1)]), 2)  # certain predictions stay finite
    assert mean.flatten().tolist() == pytest.approx([-math.log(2)] * 2, abs=1e-4)


def test_a_view_of_cells_has_those_of_its_own_pixels_turned_like_them():
    cells = torch.randint(1, 256, (2, 3, 5, 8), dtype=torch.uint8)
    for turn in range(8):
        same = View(scale=1.0, turn=turn).cells(cells, (40, 64), 8)
        assert torch.equal(same, dihedral(cells, turn))
    zoomed = View(scale=1.5, turn=1).cells(cells, (40, 64), 8)
    expected = cut_cells(cells, (40, 64), Box(0, 0, 40, 64), (8, 12))  # of 60 x 96 px
    assert torch.equal(zoomed, dihedral(expected, 1))
