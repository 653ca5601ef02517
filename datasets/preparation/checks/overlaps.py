"""Overlaps between splits: tiles that hold the same pixels, or show the same ground."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from datasets.preparation.checks.fingerprints import Pair, Size, shared_pixels
from datasets.preparation.checks.tile_files import PREPARE, Finding, TileFacts
from datasets.rasters import open_raster
from datasets.tile_set import TileSet
from utils.boxes import Box
from utils.mosaic import overlap_of, overlapping_pairs
from utils.rasters.placement import transform_points

Point = tuple[float, float]
Points = Sequence[Point]

_MIN_OVERLAP_PX = 0.01  # of ground; less is rounding of the transforms
_MIN_OVERLAP_OTHER_CRS_PX = 1.0  # there, edges between the transformed corners are not straight
_GEOGRAPHIC = "EPSG:4326"
_PAD = 0.01  # of an extent, for the same reason


@dataclass(frozen=True)
class Footprint:
    """Place of a tile in an image, and of that image on the earth."""

    image: str  # id of the image
    box: Box  # the tile in it
    crs: str | None = None  # of the image, as WKT
    transform: tuple[float, ...] | None = None  # of the image: (a, b, c, d, e, f) of Affine

    def corners(self) -> Points:
        """Return the x and y of the four corners in turn."""
        assert self.transform is not None
        a, b, c, d, e, f = self.transform
        box = self.box
        upper = (box.left_px, box.top_px), (box.right_px, box.top_px)
        lower = (box.right_px, box.bottom_px), (box.left_px, box.bottom_px)
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in (*upper, *lower)]

    def pixels_of(self, points: Points) -> Points:
        """Return the column and row in the image of each x and y."""
        assert self.transform is not None
        a, b, c, d, e, f = self.transform
        moved = [(x - c, y - f) for x, y in points]
        size = a * e - b * d
        return [((e * x - b * y) / size, (a * y - d * x) / size) for x, y in moved]


def shared_boxes(
    places: Mapping[str, Footprint], split_of: Mapping[str, str]
) -> Iterator[tuple[Pair, Size]]:
    """Find tiles of different splits that overlap in one image.

    Args:
        places: of each tile, by id; sets the order of ids.
        split_of: the split of each of them.

    Yields:
        Two ids, and height and width of their overlap in pixels.
    """
    images: defaultdict[str, list[str]] = defaultdict(list)
    for tile_id, place in places.items():
        images[place.image].append(tile_id)
    for tile_ids in images.values():
        if len({split_of[tile_id] for tile_id in tile_ids}) == 1:
            continue
        boxes = [places[tile_id].box for tile_id in tile_ids]
        for i, j in overlapping_pairs(boxes):
            one, other = tile_ids[i], tile_ids[j]
            if split_of[one] != split_of[other]:
                rows, columns = overlap_of(boxes[i], boxes[j])[0]
                yield (one, other), (rows.stop - rows.start, columns.stop - columns.start)


def shared_ground(
    places: Mapping[str, Footprint], split_of: Mapping[str, str]
) -> Iterator[tuple[Pair, tuple[float, float]]]:
    """Find tiles of different splits and images that show the same ground, by their georeference.

    Tiles without a coordinate reference system are left out.

    Args:
        places: of each tile, by id; sets the order of ids.
        split_of: the split of each of them.

    Yields:
        Two ids, and height and width of their overlap, more than a hundredth of a pixel (a pixel
        between coordinate reference systems), in pixels of the first one.
    """
    placed = {t: place for t, place in places.items() if place.crs and place.transform}

    @cache  # a tile may meet hundreds of others, of other dates
    def corners_in(tile_id: str, crs: str) -> Points | None:
        corners, own = placed[tile_id].corners(), str(placed[tile_id].crs)
        return corners if own == crs else transform_points(corners, own, crs)

    systems = {str(place.crs) for place in placed.values()}
    shared = _GEOGRAPHIC if len(systems) > 1 else "".join(systems)
    outlines = {t: found for t in placed if (found := corners_in(t, shared)) is not None}
    tile_ids = list(outlines)
    for i, j in _meeting([*outlines.values()]):
        pair = tile_ids[i], tile_ids[j]
        one, other = (placed[tile_id] for tile_id in pair)
        if split_of[pair[0]] == split_of[pair[1]] or one.image == other.image:
            continue
        corners = corners_in(pair[1], str(one.crs))
        least = _MIN_OVERLAP_PX if one.crs == other.crs else _MIN_OVERLAP_OTHER_CRS_PX
        size = None if corners is None else _common_ground(one, corners)
        if size is not None and min(size) > least:
            yield pair, size


def _meeting(outlines: Sequence[Points]) -> list[tuple[int, int]]:
    """Return the pairs of outlines whose bounding rectangles, a little enlarged, overlap."""
    if not outlines:
        return []
    points = np.array(outlines)
    low, high = points.min(axis=1), points.max(axis=1)
    pad = _PAD * (high - low)
    unit = pad.min()  # overlapping_pairs takes whole numbers
    first = np.floor((low - pad) / unit).astype(np.int64)
    length = np.ceil((high + pad) / unit).astype(np.int64) - first
    rectangles = np.hstack([first[:, ::-1], length[:, ::-1]]).tolist()  # rows first
    return overlapping_pairs([Box(*rectangle) for rectangle in rectangles])


def _common_ground(one: Footprint, corners: Points) -> tuple[float, float] | None:
    """Return height and width of the overlap of a tile with an outline, in pixels of the tile."""
    outline, box = one.pixels_of(corners), one.box
    for axis, limit, sign in (
        (0, box.left_px, 1),
        (0, box.right_px, -1),
        (1, box.top_px, 1),
        (1, box.bottom_px, -1),
    ):
        outline = _cut(outline, [sign * (point[axis] - limit) for point in outline])
    if not outline:
        return None
    width, height = (max(numbers) - min(numbers) for numbers in zip(*outline, strict=True))
    return height, width


def _cut(outline: Points, inside: Sequence[float]) -> Points:
    """Return the part of a convex polygon where a linear function is not negative.

    ``inside`` holds the values of the function at the corners.
    """
    parts = []
    corners = [*zip(outline, inside, strict=True)]
    for (start, here), (end, there) in zip(corners, [*corners[1:], *corners[:1]], strict=True):
        if here >= 0:
            parts.append(start)
        if here * there < 0:
            share = here / (here - there)
            (x, y), (x_end, y_end) = start, end
            parts.append((x + (x_end - x) * share, y + (y_end - y) * share))
    return parts


class OverlapFinder:
    """Finder of pixels that a data set holds twice, and of ground that two splits show.

    Args:
        tile_set: the data set.
        split_of: the split of each tile that is in one; sets the order in which tiles are named.
        tiles: findings in the files of every tile.
    """

    def __init__(
        self, tile_set: TileSet, split_of: Mapping[str, str], tiles: Mapping[str, TileFacts]
    ) -> None:
        self._tile_set, self._split_of, self._tiles = tile_set, split_of, tiles

    def find_copies(self) -> Iterator[Finding]:
        """Find tiles with equal pixels; those of one colour do not count."""
        groups: dict[str, list[str]] = defaultdict(list)
        for tile_id in self._split_of:
            if (sha256 := self._tiles[tile_id].image_sha256) is not None:
                groups[sha256].append(tile_id)
        for members in groups.values():
            named = ", ".join(map(self._named, members))
            if len({self._split_of[tile_id] for tile_id in members}) > 1:
                if len({self._content_of(tile_id) for tile_id in members}) > 1:  # else reported
                    text = f"{named} have the same pixels; remove the image from all splits but one"
                    yield Finding("same pixels in two splits", text)
            elif len(members) > 1:
                text = f"{named} have the same pixels and count more than other tiles"
                yield Finding("same pixels twice in a split", text, is_fault=False)

    def find_shared_parts(self) -> Iterator[Finding]:
        """Find tiles of different splits that share a part: by place, by pixels, by ground."""
        kind, tiles = "same pixels in two splits", self._tiles
        places = {}
        for tile_id in self._split_of:
            tile = self._tile_set.tiles[tile_id]
            facts = self._tile_set.sources[tile.source]
            places[tile_id] = Footprint(facts.image, tile, facts.crs, facts.transform)
        known = set()
        for pair, size in shared_boxes(places, self._split_of):
            known.add(pair)
            text = f"{self._pair(pair)} share {size[0]} x {size[1]} pixels of the image "
            yield Finding(kind, f"{text}'{places[pair[0]].image}'; {PREPARE}")
        prints = {t: found for t in self._split_of if (found := tiles[t].prints) is not None}
        for pair, size in shared_pixels(prints, self._split_of, self._open_image):
            one, other = pair
            is_known = pair in known or self._content_of(one) == self._content_of(other)
            known.add(pair)
            if not is_known and tiles[one].image_sha256 != tiles[other].image_sha256:
                text = f"{self._pair(pair)} share {size[0]} x {size[1]} pixels; keep the crops of "
                yield Finding(kind, f"{text}a picture in one split (--group-by) and {PREPARE}")
        for pair, extent in shared_ground(places, self._split_of):
            if pair not in known:
                height, width = (f"{round(length, 2):g}" for length in extent)
                text = f"{self._pair(pair)} show the same ground, {height} x {width} pixels of "
                text += f"'{pair[0]}'; scores are of a place that was trained on, even if the "
                text += "images are of different dates"
                yield Finding("same ground in two splits", text, is_fault=False)

    def _named(self, tile_id: str) -> str:
        return f"'{tile_id}' ({self._split_of[tile_id]})"

    def _pair(self, pair: tuple[str, str]) -> str:
        return " and ".join(map(self._named, pair))

    def _content_of(self, tile_id: str) -> str:
        """Return the hash of the source of a tile."""
        return self._tile_set.sources[self._tile_set.tiles[tile_id].source].sha256

    def _open_image(self, tile_id: str) -> np.ndarray:
        return open_raster(self._tile_set.image_path(tile_id), "RGB")
