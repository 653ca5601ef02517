"""Drawn aerial scenes: a data set without download, with exact labels, segments and heights.

Objects are painted from the ground upwards, each at a random place that suits it, and then lit by
``synthetic_canvas``. Colour alone does not give the class: flat roofs share their colours with
roads and lawns, shrubs with trees, cars with asphalt, and shadows darken all of them.
"""

import argparse
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.preparation.classes import ISPRS_CLASSES
from datasets.preparation.synthetic_canvas import Canvas, Spot
from datasets.preparation.writer import TileSetWriter
from datasets.structure_maps import (
    SENSOR,
    MapRecipe,
    store_folder,
    to_levels,
    write_manifest,
    write_map,
)
from datasets.tile_set import SPLITS, Tile, is_prepared
from utils.arguments import non_negative_int
from utils.errors import ConfigError
from utils.files import sha256_of, write_png

CLASSES, PALETTE = ISPRS_CLASSES["full"].names, ISPRS_CLASSES["full"].colors
PAVED, BUILDING, GRASS, TREE, CAR, CLUTTER = range(6)  # indices of CLASSES
MIN_SIZE_PX = 64
MAX_HEIGHT_M = 20.0  # of the sensor's range, the same for all sets; nothing drawn is as high
HELD_BACK = len(SPLITS)  # random stream of write_images; the splits have those before it
EVERYWHERE = (slice(None), slice(None))

_ASPHALT = ((98, 98, 102), (121, 120, 119), (79, 80, 85), (146, 142, 135), (134, 119, 109))
_GREENS = ((94, 118, 62), (116, 130, 72), (78, 102, 56), (148, 141, 94), (129, 114, 88))
_CROWNS = ((60, 84, 46), (74, 98, 52), (50, 71, 47), (95, 103, 54), (116, 97, 58))
_TILES = ((150, 86, 64), (122, 77, 62), (94, 86, 83), (74, 76, 82), (134, 98, 80))
_FLAT_ROOFS = (*_ASPHALT[:4], (178, 176, 170), (196, 198, 200), *_GREENS[:3])
_SOILS = ((157, 134, 105), (141, 126, 108), (174, 158, 130), (118, 111, 104))
_WATERS = ((46, 66, 68), (60, 80, 70), (84, 160, 178))
_CRATES = ((160, 72, 52), (52, 92, 142), (72, 122, 84), (198, 199, 195), (188, 150, 64))
_LACQUERS = (*_ASPHALT[:2], (206, 208, 211), (32, 33, 36), (146, 40, 40), (44, 66, 120))


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py synthetic``."""
    add("--output", type=Path, required=True, help="data/NAME")
    add("--seed", type=non_negative_int, default=0, help="seed of all scenes")
    for split, number in (("train", 24), ("val", 8), ("test", 8)):
        add(f"--{split}", type=non_negative_int, default=number, help=f"number of {split} scenes")
    add("--size", type=non_negative_int, default=512, help="side of the scenes in pixels")
    add("--images", type=Path, help="also write images of no split to this folder")
    add("--num-images", type=non_negative_int, default=4, help="number of these images")


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py synthetic``."""
    counts = {f"num_{split}": getattr(args, split) for split in SPLITS}
    settings = {"seed": args.seed, **counts, "size_px": args.size}
    if not is_prepared(args.output, {"command": "synthetic", **settings}):
        prepare_synthetic(args.output, **settings)
    if args.images is not None:
        write_images(args.images, seed=args.seed, num_images=args.num_images, size_px=args.size)


def prepare_synthetic(root: Path, **settings: int) -> None:
    """Write a tile set of drawn scenes, each of them one source image and one tile.

    Their heights are stored as the sensor ``height``, like an elevation model.

    Args:
        root: the set.
        settings: seed, num_train, num_val and num_test (scenes), size_px (side of the scenes).

    Raises:
        ConfigError: ``size_px`` is too small.
        DataError: ``root`` exists already.
    """
    writer = TileSetWriter(
        root,
        name="synthetic",
        classes=CLASSES,
        palette=PALETTE,
        origin="drawn by datasets/preparation/synthetic.py",
        prepared_with={"command": "synthetic", **settings},
        split_name="synthetic",
    )
    seed, size_px = settings["seed"], settings["size_px"]
    counts = [settings[f"num_{split}"] for split in SPLITS]
    limits = {"minimum": 0.0, "maximum": MAX_HEIGHT_M}
    recipe = MapRecipe(generator=SENSOR, settings=limits, weights_sha256=None)
    sources: dict[str, str] = {}
    with writer, tqdm(total=sum(counts), desc="drawing", unit="scene") as bar:
        store = store_folder(writer.folder, "height")
        for stream, split in enumerate(SPLITS):
            for scene in _scenes(seed, stream, counts[stream], size_px):
                name = f"scene_{bar.n:05d}"
                tile = Tile(0, 0, size_px, size_px, id=name, source=name)
                sources[name] = sha256_of(writer.add(split, tile, scene.image, scene.target))
                levels = to_levels(scene.height_m, 0.0, MAX_HEIGHT_M)
                write_map(store, name, levels, sources[name], recipe)
                bar.update()
        write_manifest(store, recipe, sources)


def write_images(folder: Path, *, seed: int, num_images: int, size_px: int) -> None:
    """Write held-back images, RGB only: scenes that are in no split of the same seed.

    A folder that exists is left unchanged.

    Raises:
        ConfigError: ``size_px`` is too small.
    """
    if folder.exists():
        print(f"{folder} exists and is left unchanged")
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    scenes = _scenes(seed, HELD_BACK, num_images, size_px)
    for index, scene in enumerate(tqdm(scenes, total=num_images, desc="drawing", unit="scene")):
        write_png(partial / f"held_back_{index:05d}.png", scene.image)
    partial.rename(folder)


class Scene(NamedTuple):
    """A drawn scene; the four maps agree in every pixel."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    target: np.ndarray  # (H, W) uint8 class index
    segments: np.ndarray  # (H, W) uint16 object ids, 1.. in raster order of their first pixels
    height_m: np.ndarray  # (H, W) float32 metres above the ground


def _scenes(seed: int, stream: int, num: int, size_px: int) -> Iterator[Scene]:
    """Draw the scenes of a stream; streams share no scene and do not affect each other."""
    for index in range(num):
        state = np.random.SeedSequence((seed, stream, index)).generate_state(1, np.uint64)
        yield draw_scene(int(state[0]), size_px)


def draw_scene(seed: int, size_px: int = 512) -> Scene:
    """Draw a town from above at 0.2 m per pixel (coarser below 256 px).

    Args:
        seed: 0 or more; the same seed and size give the same scene, byte for byte.
        size_px: height and width, 64 or more.
    """
    if size_px < MIN_SIZE_PX:
        raise ConfigError(f"size_px is {size_px}; a drawn scene needs {MIN_SIZE_PX} or more")
    town = _Town(np.random.default_rng(seed), size_px)
    _draw_town(town)
    return Scene(town.expose(), town.target, town.segments(), town.height_m)


class _Town(Canvas):
    """A canvas with parcels, pavements and roads.

    The street grid is turned by ``angle``; its u axis is shifted by ``bend_m * sin(v / wave_m)``.
    """

    def __init__(self, rng: np.random.Generator, size_px: int) -> None:
        super().__init__(rng, size_px)
        self.angle, self.bend_m, self.wave_m = rng.uniform((0, 0, 18), (math.pi, 5, 30)).tolist()
        c, s = math.cos(self.angle), math.sin(self.angle)
        v = c * self.y_m - s * self.x_m
        u = c * self.x_m + s * self.y_m + self.bend_m * np.sin(v / self.wave_m)
        self._draw_parcels(u, v)
        self.roads: list[tuple[float, float, bool]] = []  # position, half width, along v?
        for bends in (True, False):
            first, step = rng.uniform(-0.2, 0.2) * self.view_m, rng.uniform(38, 64)
            for index in range(-int(self.view_m / step), int(self.view_m / step) + 1):
                self.roads.append((first + index * step, rng.uniform(2.6, 4.6), bends))
        for pavement_m in (1.6, 0.0):  # all pavements first: roads interrupt them
            for position, half_width, bends in self.roads:
                off, along = (np.abs(u - position), v) if bends else (np.abs(v - position), u)
                mask = off < half_width + pavement_m
                if pavement_m:
                    self.paint(EVERYWHERE, mask, PAVED, _ASPHALT[3:])
                else:
                    dashes = (off < 0.12) & (along % 5 < 2.5)
                    shade = 1 + np.float32(0.6) * dashes
                    self.paint(EVERYWHERE, mask, PAVED, _ASPHALT[:3], shade=shade)

    def _draw_parcels(self, u_m: np.ndarray, v_m: np.ndarray) -> None:
        """Draw strips along u, each cut into parcels of one width; some show furrows."""
        rng = self.rng
        strip = np.floor((v_m + rng.uniform(0, 20)) / rng.uniform(16, 24)).astype(np.int32)
        width_m, shift_m = rng.uniform((13, 0), 26, (997, 2)).astype(np.float32).T
        column = np.floor((u_m + shift_m[strip % 997]) / width_m[strip % 997]).astype(np.int32)
        parcel = strip * 101 + column
        parcel -= rng.random(997)[parcel % 997] < 0.3  # these are joined to their neighbour
        names, ids = np.unique(parcel, return_inverse=True)
        self.ids[:] = ids.reshape(parcel.shape)
        self.target[:] = GRASS
        for _ in names:
            self.new_object(_GREENS, rng.uniform(0.04, 0.14, 3))
        lines = rng.choice((0, 0, 0, 0.05, 0.09), len(names)).astype(np.float32)
        self.shade += lines[self.ids] * np.sin(u_m * rng.uniform(3, 6))

    def beside_road(self, gap_m: float) -> tuple[float, float, float]:
        """Return a random place ``gap_m`` from the edge of a road: x, y and the direction."""
        rng = self.rng
        position, half_width, bends = self.roads[rng.integers(len(self.roads))]
        along = rng.uniform(-0.6, 0.6) * self.view_m
        off = position + rng.choice((-1, 1)) * (half_width + gap_m)
        u, v, turn = along, off, 0.0
        if bends:
            u, v = off - self.bend_m * math.sin(along / self.wave_m), along
            turn = math.atan2(1, -self.bend_m / self.wave_m * math.cos(along / self.wave_m))
        c, s = math.cos(self.angle), math.sin(self.angle)
        return c * u - s * v, s * u + c * v, self.angle + turn

    def find_spot(
        self,
        half_u_m: float,
        half_v_m: float,
        *,
        on: tuple[int, ...] = (GRASS,),
        gap_m: float | None = None,
        margin_m: float = 1.0,
        num_tries: int = 1,
    ) -> Spot | None:
        """Try random places for a rectangle, which shrinks to half its size with the tries.

        Args:
            half_u_m: half its length.
            half_v_m: half its width.
            on: classes it may cover.
            gap_m: distance of its middle line from the edge of a road; None: anywhere.
            margin_m: width of the margin that must be of these classes too; negative: only the
                core must.
            num_tries: number of places to try; None is returned if all fail.
        """
        for shrink in np.linspace(1, 0.5, num_tries).tolist():
            x, y, angle = *(self.rng.uniform(-0.5, 0.5, 2) * self.view_m), self.angle
            if gap_m is not None:
                x, y, angle = self.beside_road(gap_m)
            spot = self.spot(x, y, angle, half_u_m * shrink, half_v_m * shrink)
            if spot and self.lies_on(spot, spot.outline() > -margin_m, *on):
                return spot
        return None


def _draw_town(town: _Town) -> None:
    """Draw all objects; their numbers follow from the area."""
    rng, area_m2 = town.rng, town.view_m**2
    _draw_site(town)
    for _ in range(math.ceil(area_m2 / 8000)):
        _draw_lot(town)
    for index in range(math.ceil(area_m2 / 250)):
        _draw_building(town, tall=index < area_m2 / 5000)
    for _ in range(math.ceil(area_m2 / 2500)):
        _draw_pond(town)
    for _ in range(math.ceil(area_m2 / 300)):
        spot = town.find_spot(2.5, 1, on=(PAVED,), gap_m=-rng.uniform(1.2, 2), margin_m=0)
        if spot:
            _draw_car(town, spot, 0, 0, across=False)
    for _ in range(math.ceil(area_m2 / 300)):
        _draw_shrub(town)
        _draw_tree(town, None)
        _draw_tree(town, rng.uniform(2.5, 4))
        for _ in range(3):
            _draw_tree(town, None, in_groups=True)


def _draw_site(town: _Town) -> None:
    """Draw a construction site: bare soil with heaps and containers."""
    rng = town.rng
    spot = town.find_spot(rng.uniform(7, 12), rng.uniform(5, 8), num_tries=80)
    if spot is None:
        return
    middle, fine = (noise[spot.where] for noise in town.noise[1:])
    soil = spot.outline() + 0.5 * np.minimum(middle, 0) > 0
    town.paint(spot.where, soil, CLUTTER, _SOILS, texture=(0.1, 0.12, 0.06))
    for u, v in rng.uniform(-0.7, 0.7, (rng.integers(2, 6), 2)) * (spot.half_u_m, spot.half_v_m):
        if rng.random() < 0.6:
            half_u, half_v = rng.permutation((1.2, rng.choice((3, 6)))).tolist()
            mask = spot.inside(half_u, half_v, u, v) > 0
            ribs = 1 + 0.12 * (spot.u_m % 0.9 < 0.45)
            town.paint(spot.where, mask & soil, CLUTTER, _CRATES, height_m=2.6, shade=ribs)
        else:
            dome = 1 - ((spot.u_m - u) ** 2 + (spot.v_m - v) ** 2) / rng.uniform(5, 20)
            heap = np.maximum(2 * dome + 0.15 * fine, 0.1)
            town.paint(spot.where, soil & (dome > 0), CLUTTER, _SOILS, height_m=heap)


def _draw_lot(town: _Town) -> None:
    """Draw a car park beside a road, with bays along both long sides."""
    rng = town.rng
    spot = town.find_spot(
        rng.uniform(9, 16), rng.uniform(7, 9), on=(GRASS, PAVED), gap_m=8, margin_m=0, num_tries=40
    )
    if spot is None:
        return
    half_u, half_v = spot.half_u_m, spot.half_v_m
    lines = (np.abs(spot.v_m) > half_v - 5) & (spot.u_m % 2.7 < 0.15)
    shade = 1 + np.float32(0.5) * lines
    town.paint(spot.where, spot.outline() > 0, PAVED, _ASPHALT, shade=shade)
    for u in np.arange(2.7 * math.ceil(-half_u / 2.7) + 1.42, half_u - 1.3, 2.7):
        for v in (2.6 - half_v, half_v - 2.6):
            if rng.random() < 0.6:
                _draw_car(town, spot, u, v + rng.uniform(-0.3, 0.3), across=True)


def _draw_car(town: _Town, spot: Spot, u_m: float, v_m: float, *, across: bool) -> None:
    """Draw a car with dark windows, if the place is paved and free."""
    half_u, half_v = town.rng.uniform((2.0, 0.85), (2.5, 1.0)).tolist()
    if across:
        half_u, half_v = half_v, half_u
    edge = spot.inside(half_u, half_v, u_m, v_m)
    if town.lies_on(spot, edge > -0.3, PAVED):
        ahead = spot.v_m - v_m if across else spot.u_m - u_m
        glass = (np.abs(np.abs(ahead + 0.2) - 1.1) < 0.35) & (edge > 0.12)
        shade, height = np.where(glass, 0.45, 1.08), town.rng.uniform(1.3, 1.8)
        town.paint(spot.where, edge > 0, CAR, _LACQUERS, height_m=height, shade=shade)


def _draw_building(town: _Town, *, tall: bool) -> None:
    """Draw a house or a block, some of them L-shaped, half of them with a paved yard."""
    rng = town.rng
    half_u = rng.uniform(9, 16) if tall else rng.uniform(3.5, 7.5)
    half_v = rng.uniform(0.55, 0.9) * half_u
    gap_m = half_v + rng.uniform(3, 7) if rng.random() < 0.7 else None
    spot = town.find_spot(half_u, half_v, gap_m=gap_m, num_tries=12)
    if spot is None:
        return
    half_u, half_v = spot.half_u_m, spot.half_v_m
    if rng.random() < 0.5:
        yard = spot.inside(half_u + rng.uniform(0, 3), half_v, 0, rng.uniform(-4, 4)) > 0
        free = town.target[spot.where] == GRASS
        town.paint(spot.where, yard & free, PAVED, _ASPHALT)
    edge = spot.outline()
    if rng.random() < 0.4:
        missing = spot.inside(rng.uniform(0.7, 1.2) * half_u, 1.1 * half_v, half_u, half_v)
        edge = np.minimum(edge, -missing)
    if tall or rng.random() < 0.3:
        _draw_flat_roof(town, spot, edge, rng.uniform(6, 16) if tall else rng.uniform(3, 6))
    else:  # hipped or gabled
        rise = spot.half_v_m - np.abs(spot.v_m) if rng.random() < 0.5 else edge
        height = rng.uniform(3, 6) + rng.uniform(0.5, 1) * rise
        courses = 1 + 0.05 * (rise % 0.8 < 0.4)
        town.paint(spot.where, edge > 0, BUILDING, _TILES, height_m=height, shade=courses)


def _draw_flat_roof(town: _Town, spot: Spot, edge: np.ndarray, height_m: float) -> None:
    """Draw a roof with a bright rim and a superstructure; ``edge`` is above 0 inside."""
    rng = town.rng
    at_u, at_v = rng.uniform(-0.4, 0.4, 2) * (spot.half_u_m, spot.half_v_m)
    unit = (spot.inside(rng.uniform(0.8, 2), rng.uniform(0.8, 2), at_u, at_v) > 0) & (edge > 1)
    texture = rng.uniform(0.02, 0.1, 3)
    town.paint(
        spot.where,
        edge > 0,
        BUILDING,
        _FLAT_ROOFS,
        height_m=np.where(unit, height_m + 1.5, height_m).astype(np.float32),
        shade=np.where(unit, 1.25, 1 + 0.18 * (edge < 0.5)),
        texture=texture,
    )


def _draw_pond(town: _Town) -> None:
    """Draw a smooth, slightly irregular pond."""
    half = town.rng.uniform(2, 7)
    spot = town.find_spot(half, half * town.rng.uniform(0.5, 1), num_tries=5)
    if spot:
        mask = spot.radius() + 0.1 * np.abs(town.noise[0][spot.where]) < 1
        town.paint(spot.where, mask, CLUTTER, _WATERS, texture=(0.06, 0.02, 0.0))


def _draw_shrub(town: _Town) -> None:
    """Draw low vegetation in the colours of trees, without height or shadow."""
    half = town.rng.uniform(0.8, 2.6)
    spot = town.find_spot(half, half * town.rng.uniform(0.4, 1), margin_m=0)
    if spot:
        town.paint(spot.where, spot.radius() < 1, GRASS, _CROWNS, texture=(0.1, 0.14, 0.14))


def _draw_tree(town: _Town, gap_m: float | None, *, in_groups: bool = False) -> None:
    """Draw a tree on low vegetation; its crown may cover anything lower."""
    rng = town.rng
    radius = rng.uniform(1.3, 4.5)
    spot = town.find_spot(radius, radius, on=(GRASS, TREE), gap_m=gap_m, margin_m=0.5 - radius)
    if spot is None or (in_groups and town.noise[0][spot.where].mean() < 0.5):
        return
    fine = town.noise[2][spot.where]
    lobes = 0.08 * np.sin(rng.integers(4, 8) * np.arctan2(spot.v_m, spot.u_m) + rng.uniform(0, 6))
    off = np.hypot(spot.u_m, spot.v_m) / radius + lobes + 0.08 * fine
    dome = np.sqrt(np.clip(1 - off**2, 0.02, 1)) if rng.random() < 0.75 else 1.2 - off
    height = np.maximum(radius * rng.uniform(1.6, 2.6) * (0.5 + 0.5 * dome) + 0.3 * fine, 0.5)
    town.paint(spot.where, off < 1, TREE, _CROWNS, height_m=height, texture=(0.1, 0.12, 0.14))
