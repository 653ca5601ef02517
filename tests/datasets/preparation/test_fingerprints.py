"""Fingerprints: crops of one picture are found at any offset, and nothing else is."""

from itertools import combinations

import numpy as np
import pytest

from datasets.preparation.checks.fingerprints import fingerprints, shared_pixels
from utils.boxes import Box


def textured(height: int, width: int, seed: int) -> np.ndarray:
    """Patches of 8 px of one colour each, with a little noise, as roofs and fields have."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(20, 230, (-(-height // 8), -(-width // 8), 3))
    image = np.kron(patches, np.ones((8, 8, 1), int))[:height, :width]
    return (image + rng.integers(-9, 10, image.shape)).astype(np.uint8)


def found_in(images: dict[str, np.ndarray], split_of: dict[str, str]) -> dict:
    prints = {name: fingerprints(image) for name, image in images.items()}
    return dict(shared_pixels(prints, split_of, images.__getitem__))


def overlap(one: Box, other: Box) -> tuple[int, int]:
    """Height and width of what two boxes share, 0 or less if nothing: by the rows and columns."""
    rows = {*range(one.top_px, one.bottom_px)} & {*range(other.top_px, other.bottom_px)}
    columns = {*range(one.left_px, one.right_px)} & {*range(other.left_px, other.right_px)}
    return len(rows), len(columns)


@pytest.mark.parametrize("seed", range(3))
def test_crops_of_one_picture_are_paired_at_any_offset(seed):
    """Every overlap of 64 px or more a side is found, and none is reported that is not there."""
    rng = np.random.default_rng(seed)
    pictures = [textured(500, 700, 10 + seed), textured(500, 700, 20 + seed)]
    boxes, images, split_of = {}, {}, {}
    for name in map(str, range(30)):
        height, width = rng.integers(70, 200, 2).tolist()
        top, left = int(rng.integers(500 - height)), int(rng.integers(700 - width))
        number = int(rng.integers(2))
        boxes[name] = number, Box(top, left, height, width)
        images[name] = pictures[number][boxes[name][1].slices]
        split_of[name] = ("train", "val", "test")[int(rng.integers(3))]
    found = found_in(images, split_of)
    truth = {
        (one, other): size
        for one, other in combinations(boxes, 2)
        if split_of[one] != split_of[other]
        and boxes[one][0] == boxes[other][0]
        and min(size := overlap(boxes[one][1], boxes[other][1])) > 0
    }
    assert found.items() <= truth.items()
    assert {pair for pair, size in truth.items() if min(size) >= 64} <= found.keys()
    assert len(found) > 20


@pytest.mark.parametrize("size", [(512, 300), (40, 700)])
def test_blocks_in_which_windows_are_hashed_leave_no_seam(size):
    """The fingerprints of a part are those of the whole, each at its place."""
    image = textured(*size, 1)
    whole, part = fingerprints(image), fingerprints(image[5:, 11:])
    by_place = dict(zip(map(tuple, whole.places.tolist()), whole.keys.tolist(), strict=True))
    for (row, column), key in zip(part.places.tolist(), part.keys.tolist(), strict=True):
        assert by_place[row + 5, column + 11] == key
    inside = (whole.places >= [5, 11]).all(axis=1)
    assert len(part.keys) == inside.sum() > 0


def test_one_pixel_that_differs_is_not_the_same_picture():
    image = textured(128, 128, 3)
    images, split_of = {"a": image[:, :100], "b": image[:, 30:].copy()}, {"a": "train", "b": "val"}
    assert found_in(images, split_of) == {("a", "b"): (128, 70)}
    images["b"][120, 60] ^= 1
    assert found_in(images, split_of) == {}


def plain() -> np.ndarray:
    return np.full((300, 300, 3), 255, np.uint8)


def drawn(row: int, column: int) -> np.ndarray:
    """A sheet with a few flat shapes and a stamp of 12 px with many colours."""
    image = plain()
    image[row : row + 90, column : column + 60] = (200, 30, 30)
    image[250:262, 250:262] = textured(12, 12, 1)
    return image


@pytest.mark.parametrize(
    "pair",
    [
        (plain(), plain()[:200]),
        (drawn(10, 10), drawn(100, 90)),
        (np.tile(textured(32, 32, 1), (8, 8, 1)), np.tile(textured(32, 32, 1), (5, 9, 1))),
        (textured(300, 300, 1), textured(300, 300, 2)),
        (textured(15, 90, 1), textured(15, 90, 1)),
    ],
    ids=["flat", "drawn", "pattern", "unrelated", "too small"],
)
def test_flat_and_repeated_areas_do_not_match(pair):
    assert found_in(dict(zip("ab", pair, strict=True)), {"a": "train", "b": "val"}) == {}


@pytest.mark.parametrize(("num_colors", "is_kept"), [(23, False), (256, True)])
def test_drawings_with_few_colors_have_no_fingerprints(num_colors, is_kept):
    """Lines and flat areas of two maps may be equal where they meet, without a common source."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (num_colors, 3), dtype=np.uint8)
    image = colors[rng.integers(0, num_colors, (200, 200))]
    assert (len(fingerprints(image).keys) > 0) == is_kept


def test_tiles_of_one_split_are_not_compared():
    image = textured(128, 128, 3)
    images = {"a": image, "b": image[:90], "c": image[40:]}
    assert found_in(images, dict.fromkeys("abc", "train")) == {}
