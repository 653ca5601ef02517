import itertools
from time import process_time
from timeit import repeat

import numpy as np
import pytest

from utils.boxes import Box
from utils.mosaic import (
    align,
    blend,
    join_segments,
    lay_out,
    match_segments,
    overlap_moments,
    overlap_of,
    paste,
)

SEEDS = range(3)


def ends(box: Box) -> list[range]:
    """Rows and columns."""
    return [range(box.top_px, box.bottom_px), range(box.left_px, box.right_px)]


def pixels(box: Box) -> set[tuple[int, int]]:
    return set(itertools.product(*ends(box)))


def cut(whole: np.ndarray, box: Box) -> np.ndarray:
    return whole[np.ix_(*ends(box))]


def some_layout(seed: int):
    """Random boxes, and a random map of small integers for each of them."""
    rng = np.random.default_rng(seed)
    places = np.hstack([rng.integers(0, 40, (9, 2)).clip(9), rng.integers(1, 25, (9, 2))])
    boxes = [Box(*place) for place in places.tolist()]
    return lay_out(boxes), [rng.integers(0, 5, (b.height_px, b.width_px)) for b in boxes]


def grid(rows: int, columns: int, size: int = 24, step: int = 16) -> list[Box]:
    places = itertools.product(range(rows), range(columns))
    return [Box(row * step, column * step, size, size) for row, column in places]


def overlaps(layout, maps):
    for i, j in layout.pairs:
        one, other = overlap_of(layout.boxes[i], layout.boxes[j])
        yield i, j, maps[i][one], maps[j][other]


def aligned(layout, maps):
    moments = {(i, j): overlap_moments(a, b) for i, j, a, b in overlaps(layout, maps)}
    alignment = align(moments, len(maps))
    again = align(dict(reversed(moments.items())), len(maps))
    assert np.array_equal(alignment.scale, again.scale)  # the order of pairs does not matter
    assert np.array_equal(alignment.shift, again.shift) and alignment.residual == again.residual
    assert np.isfinite(alignment.shift).all() and (alignment.scale > 0).all()
    return alignment


def disturbed(boxes, seed: int, noise: float = 0.0):
    """Pieces of one surface with a scale and shift each, and the scales that undo that."""
    rng = np.random.default_rng(seed)
    height, width = (max(ends(box)[axis].stop for box in boxes) for axis in (0, 1))
    surface = rng.normal(size=height).cumsum()[:, None] + rng.normal(size=width).cumsum()
    scales, maps = np.exp(rng.uniform(np.log(0.5), np.log(2), len(boxes))), []
    for box, scale in zip(boxes, scales, strict=True):
        own = cut(surface, box) + noise * rng.normal(size=(box.height_px, box.width_px))
        maps.append((own - rng.normal()) / scale)
    return maps, scales / scales.mean()


def least_squares(layout, maps, scale) -> tuple[np.ndarray, float]:
    """Of all pixels of all overlaps, given the scales: shifts of mean 0, and the RMS."""
    rows, right = [], []
    for i, j, a, b in overlaps(layout, maps):
        rows.append(np.tile(np.eye(len(maps))[i] - np.eye(len(maps))[j], (a.size, 1)))
        right.append((scale[j] * b - scale[i] * a).ravel())
    system, wanted = np.concatenate(rows), np.concatenate(right)
    shift = np.linalg.lstsq(system, wanted, rcond=None)[0]  # the shortest one, of mean 0
    return shift, np.sqrt(np.square(system @ shift - wanted).mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_and_overlaps_are_those_of_the_pixels(seed):
    layout, _ = some_layout(seed)
    boxes, all_pairs = layout.boxes, itertools.combinations(range(9), 2)
    expected = [(i, j) for i, j in all_pairs if pixels(boxes[i]) & pixels(boxes[j])]
    assert list(layout.pairs) == expected and expected
    for i, each in enumerate(layout.neighbours):
        assert list(each) == sorted({*sum((p for p in expected if i in p), ())} - {i})
    numbers = np.arange(100 * 100).reshape(100, 100)
    for i, j, a, b in overlaps(layout, [cut(numbers, box) for box in boxes]):
        shared = pixels(boxes[i]) & pixels(boxes[j])
        assert np.array_equal(a, b) and set(a.ravel()) == {numbers[pixel] for pixel in shared}


def test_boxes_that_touch_do_not_overlap():
    layout = lay_out([Box(3, 2, 8, 8), Box(3, 8, 8, 8), Box(3, 16, 8, 8), Box(11, 2, 8, 8)])
    assert layout.pairs == ((0, 1),) and layout.frame == Box(3, 2, 16, 22)


def test_the_time_to_lay_out_tiles_grows_with_their_number_not_its_square():
    def seconds(boxes) -> float:
        """Processor time, in which other programs do not count; the least of three."""
        return min(repeat(lambda: lay_out(boxes), timer=process_time, repeat=3, number=1))

    assert seconds(grid(100, 100)) < 10 * seconds(grid(50, 50))  # its square: 16 times


@pytest.mark.parametrize("seed", SEEDS)
def test_pasted_pixels_one_by_one(seed):
    layout, ids = some_layout(seed)
    tables = [np.r_[0, np.random.default_rng(i).permutation(900)[:4] + 1] for i in range(9)]

    def distance(box: Box, pixel: tuple[int, int]) -> float:
        sides = []
        for own, whole, place in zip(ends(box), ends(layout.frame), pixel, strict=True):
            sides += [place - own.start] * (own.start > whole.start)
            sides += [own.stop - 1 - place] * (own.stop < whole.stop)
        return min(sides, default=np.inf)

    for index, box in enumerate(layout.boxes):
        near = {i: ids[i] for i in (index, *layout.neighbours[index])}
        joint = paste(layout, index, near, tables)
        assert joint.dtype == np.int32
        for y, x in pixels(box):
            over = [i for i in near if (y, x) in pixels(layout.boxes[i])]
            best = max(over, key=lambda i: (distance(layout.boxes[i], (y, x)), -i))
            of = layout.boxes[best]
            expected = tables[best][ids[best][y - of.top_px, x - of.left_px]]
            assert joint[y - box.top_px, x - box.left_px] == expected


def test_matches_have_more_than_half_of_their_union_and_no_segment_matches_nothing():
    a = np.array([[1, 1, 2], [1, 3, 3]], np.uint16)
    b = np.array([[4, 4, 1], [4, 4, 1]], np.int64)
    assert match_segments(a, b).tolist() == [[1, 4]]  # 3 of 4 pixels; 2 and 1 share 1 of 2
    assert match_segments(b, a).tolist() == [[4, 1]]
    assert match_segments(b, b[::-1]).tolist() == [[1, 1], [4, 4]]
    a, b = np.array([[1, 1, 0, 3, 3, 3]]), np.array([[2, 0, 9, 0, 0, 0]])
    assert match_segments(a, b).shape == match_segments(b, a).shape == (0, 2)


def test_objects_are_numbered_by_their_first_piece_and_id():
    # 1 of piece 0 is 2 of piece 1 is 1 of piece 3; 3 of piece 0 is 3 of piece 3.
    pairs = {(1, 3): np.array([[2, 1]]), (0, 1): np.array([[1, 2]]), (0, 3): np.array([[3, 3]])}
    for given in (pairs, dict(reversed(pairs.items()))):
        tables = join_segments([np.uint16(count) for count in (3, 2, 0, 3)], given)
        assert [table.tolist() for table in tables] == [[0, 1, 2, 3], [0, 4, 1], [0], [0, 1, 5, 3]]
        assert {table.dtype for table in tables} == {np.dtype(np.int32)}
    apart = join_segments([2, 1], {(0, 1): np.zeros((0, 2), np.int64)})
    assert [table.tolist() for table in apart] == [[0, 1, 2], [0, 3]]


def test_moments_by_hand():
    a, b = np.array([[1, 3], [5, 7]], np.uint16), np.array([[2, 2], [2, 6]], np.float32)
    assert overlap_moments(a, b).tolist() == [4, 4, 3, 5, 3, 3]
    gaps = [np.pad(a, 1).astype(float), np.pad(b, 1)]
    gaps[0][[0, -1]], gaps[1][:, [0, -1]] = np.nan, np.nan
    assert overlap_moments(*gaps).tolist() == [4, 4, 3, 5, 3, 3]  # of pixels finite in both
    assert overlap_moments(np.full((2, 2), np.nan), b).tolist() == [0] * 6
    for value in (0.1, 1e6 + 0.3, -7.7):
        constant = np.full((7, 13), value, np.float32)
        count, mean, _, aa, ab, _ = overlap_moments(constant, np.arange(91.0).reshape(7, 13))
        assert (count, aa, ab) == (91, 0, 0) and mean == pytest.approx(np.float32(value))


@pytest.mark.parametrize("boxes", [grid(3, 4), grid(1, 6), grid(5, 1), grid(2, 2, step=5)])
@pytest.mark.parametrize("seed", SEEDS)
def test_exact_copies_are_aligned_exactly(boxes, seed):
    layout, (maps, scales) = lay_out(boxes), disturbed(boxes, seed)
    alignment = aligned(layout, maps)
    np.testing.assert_allclose(alignment.scale, scales, rtol=1e-6)
    shift, _ = least_squares(layout, maps, scales)
    np.testing.assert_allclose(alignment.shift, shift, atol=1e-6)
    assert alignment.scale.mean() == pytest.approx(1) and abs(alignment.shift.mean()) < 1e-12
    assert alignment.residual < 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_shifts_of_noisy_copies_are_least_squares_in_any_order_of_the_pieces(seed):
    layout = lay_out(grid(6, 6))
    maps, _ = disturbed(layout.boxes, seed, noise=0.5)
    alignment = aligned(layout, maps)
    shift, residual = least_squares(layout, maps, alignment.scale)
    np.testing.assert_allclose(alignment.shift, shift, atol=1e-9)
    assert alignment.residual == pytest.approx(residual) and residual > 0.01
    order = np.random.default_rng(seed).permutation(36)
    mixed = aligned(lay_out([layout.boxes[i] for i in order]), [maps[i] for i in order])
    np.testing.assert_allclose(mixed.scale, alignment.scale[order])
    np.testing.assert_allclose(mixed.shift, alignment.shift[order], atol=1e-9)


@pytest.mark.parametrize(
    ("r", "ratio"), [(1, 10), (0.5**0.5, 9.943), (0.05, 3.168), (0.01, 1.0926), (0, 1), (-1, 1)]
)
def test_the_less_an_overlap_is_correlated_the_less_it_says_of_scales(r, ratio):
    scale = align({(0, 1): np.array([1000, 0, 0, 1, 10 * r, 100])}, 2).scale
    assert (scale[0] / scale[1], scale.sum()) == pytest.approx((ratio, 2), rel=1e-3)


def test_an_absurd_scale_is_not_used():
    boxes = grid(1, 5)
    maps, scales = disturbed(boxes, 3)
    maps[2] *= 1e7
    alignment = aligned(lay_out(boxes), maps)
    assert alignment.scale.mean() == pytest.approx(1) and alignment.scale.min() > 0.1
    assert alignment.scale[2] == pytest.approx(np.median(alignment.scale), rel=1e-6)
    outer = (alignment.scale / scales)[[0, 1, 3, 4]]
    np.testing.assert_allclose(outer, outer[0], rtol=1e-3)


def test_groups_are_aligned_each_on_its_own_and_lone_pieces_stay_as_they_are():
    far = [Box(box.top_px, box.left_px + 500, box.height_px, box.width_px) for box in grid(2, 2)]
    layout = lay_out([*grid(2, 2), Box(200, 200, 5, 5), *far])
    maps, _ = disturbed(layout.boxes, 1)
    alignment = aligned(layout, maps)
    for members in (slice(0, 4), slice(5, 9)):
        alone = aligned(lay_out(layout.boxes[members]), maps[members])
        np.testing.assert_allclose(alignment.scale[members], alone.scale, rtol=1e-6)
        np.testing.assert_allclose(alignment.shift[members], alone.shift, atol=1e-6)
    assert alignment.scale[4] == 1 and alignment.shift[4] == 0
    single = maps[4].astype(np.float32)
    assert np.array_equal(blend(layout, 4, {4: alignment.apply(4, single)}), single)
    none = align({}, 2)
    assert (*none.scale, *none.shift, none.residual) == (1, 1, 0, 0, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_blend_pixel_by_pixel_and_the_same_from_every_piece(seed):
    layout, numbers = some_layout(seed)
    maps = [(values / 7 + 0.1).astype(np.float32) for values in numbers]

    total, weights, seen = np.zeros((3, 70, 70)) + np.array([0, 0, np.nan])[:, None, None]
    for piece, box in enumerate(layout.boxes):
        lines = []
        for axis, own in enumerate(ends(box)):
            spans = [ends(layout.boxes[near])[axis] for near in layout.neighbours[piece]]
            before = [len({*own} & {*span}) for span in spans if span.start < own.start]
            after = [len({*own} & {*span}) for span in spans if span.stop > own.stop]
            place = np.array(own)
            falls = [(place - own.start + 1) / (max(before) + 1)] if before else []
            falls += [(own.stop - place) / (max(after) + 1)] if after else []
            lines.append(np.min([np.ones(len(own)), *falls], axis=0))
        total[np.ix_(*ends(box))] += np.outer(*lines) * maps[piece]
        weights[np.ix_(*ends(box))] += np.outer(*lines)
    for index, box in enumerate(layout.boxes):
        joint = blend(layout, index, {i: maps[i] for i in (index, *layout.neighbours[index])})
        assert joint.dtype == np.float32
        np.testing.assert_allclose(joint, cut(total, box) / cut(weights, box), rtol=1e-6)
        assert (np.isnan(cut(seen, box)) | (cut(seen, box) == joint)).all()  # bit for bit
        seen[np.ix_(*ends(box))] = joint
