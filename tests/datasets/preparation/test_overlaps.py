"""Overlaps between splits in one image, and on the ground."""

from functools import partial

import pytest
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from datasets.preparation.checks.overlaps import Footprint, shared_boxes, shared_ground
from utils.boxes import Box

UTM33, UTM34, LOCAL = (
    CRS.from_epsg(32633).to_wkt(),
    CRS.from_epsg(32634).to_wkt(),
    'LOCAL_CS["of a drawing",UNIT["metre",1]]',
)
NORTH_UP = (0.5, 0, 400_000, 0, -0.5, 5_700_000)


def test_tiles_of_an_image_that_overlap():
    boxes = {"a": (0, 0, 64, 64), "b": (0, 64, 64, 64), "c": (32, 100, 64, 64), "d": (0, 0, 9, 9)}
    places = {name: Footprint("i", Box(*box)) for name, box in boxes.items()}
    places["e"] = Footprint("j", Box(0, 0, 64, 64))
    split_of = {"a": "train", "b": "train", "c": "val", "d": "train", "e": "val"}
    assert dict(shared_boxes(places, split_of)) == {("b", "c"): (32, 28)}


def placed(image: str, crs: str = UTM33, transform=NORTH_UP, box=(0, 0, 100, 100)) -> Footprint:
    return Footprint(image, Box(*box), crs, transform)


def moved(down_px: float, right_px: float) -> tuple[float, ...]:
    return (0.5, 0, 400_000 + right_px / 2, 0, -0.5, 5_700_000 - down_px / 2)


ground = partial(shared_ground, split_of={"a": "train", "b": "val"})


@pytest.mark.parametrize(
    ("transform", "box", "size"),
    [
        (NORTH_UP, (0, 0, 100, 100), (100, 100)),
        (moved(20, -60), (0, 0, 100, 100), (80, 40)),
        (moved(20, 900), (0, 0, 100, 100), None),
        (moved(0, -900), (30, 960, 200, 300), (70, 40)),  # the tile is a part of its image
        (moved(0, 100), (0, 0, 100, 100), None),  # neighbours
        (moved(0, 99.995), (0, 0, 100, 100), None),
        (moved(0, 99.5), (0, 0, 100, 100), (100, 0.5)),
        ((1, 0, 400_010, 0, 1, 5_699_960), (0, 0, 10, 10), (20, 20)),  # 1 m a pixel, south up
        # A square on its tip, 60 px wide and high, from 30 px to the left of the first tile.
        ((0.5, 0.5, 399_985, -0.5, 0.5, 5_699_975), (0, 0, 30, 30), (60, 30)),
    ],
)
def test_tiles_that_show_the_same_ground(transform, box, size):
    places = {"a": placed("i"), "b": placed("j", transform=transform, box=box)}
    ((_, found),) = list(ground(places)) or [(None, None)]
    assert found == (size if size is None else pytest.approx(size, abs=1e-6))


def test_the_first_tile_may_be_turned():
    """Its right half, a triangle with the corner where its rows and columns end."""
    turned = (0.5, 0.5, 399_985, -0.5, 0.5, 5_699_975)
    places = {"a": placed("i", transform=turned, box=(0, 0, 30, 30)), "b": placed("j")}
    assert dict(ground(places)) == {("a", "b"): pytest.approx((30, 30))}


@pytest.mark.parametrize("far", [False, True])
def test_the_same_ground_in_another_coordinate_reference_system(far):
    left, bottom, right, top = transform_bounds(
        UTM33, UTM34, 400_000, 5_699_950, 400_050, 5_700_000
    )
    middle = (left + right) / 2 - 5 + 3000 * far, (bottom + top) / 2 + 5
    other = placed("j", UTM34, (0.5, 0, middle[0], 0, -0.5, middle[1]), (0, 0, 20, 20))
    found = dict(ground({"a": placed("i"), "b": other}))
    # UTM north differs by some 5 degrees here: a square of 20 px, turned by that, is 21.6 px wide.
    assert found == ({} if far else {("a", "b"): pytest.approx((21.6, 21.6), abs=0.3)})


def test_ground_is_compared_only_where_both_are_placed():
    unplaced = Footprint("j", Box(0, 0, 100, 100), UTM33, None)
    no_system = Footprint("j", Box(0, 0, 100, 100), None, NORTH_UP)
    of_a_drawing = placed("j", LOCAL)
    for other in (unplaced, no_system, of_a_drawing, placed("i")):
        assert list(ground({"a": placed("i"), "b": other})) == []
    another = Footprint("k", Box(0, 0, 100, 100), None, NORTH_UP)
    assert list(ground({"a": no_system, "b": another})) == []
