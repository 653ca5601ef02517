"""Drawn aerial scenes: a data set that needs no download and whose truth is exact.

What a scene shows is in ``datasets.preparation.synthetic_town``, how it is lit and photographed in
``datasets.preparation.synthetic_canvas``. Colour alone does not give the class: flat roofs share
their colours with roads and lawns, shrubs with trees, cars with asphalt, and shadows darken all of
them.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.preparation import isprs
from datasets.preparation.sensor import to_levels
from datasets.preparation.synthetic_canvas import Canvas
from datasets.preparation.synthetic_town import draw_town
from datasets.preparation.writer import TileSetWriter
from datasets.structure_maps import SENSOR, MapRecipe, store_folder, write_manifest, write_map
from datasets.tile_set import SPLITS, Tile, is_prepared
from utils.arguments import non_negative_int
from utils.errors import ConfigError, DataError
from utils.files import sha256_of, write_png

CLASSES, PALETTE = isprs.CLASSES["full"].names, isprs.CLASSES["full"].colors
MIN_SIZE_PX = 64
MAX_HEIGHT_M = 20.0  # of the sensor's range, the same for all sets; nothing drawn is as high
HELD_BACK = len(SPLITS)  # random stream of write_images; the splits have those before it


def add_arguments(add: Callable[..., Any]) -> None:
    """Arguments of ``prepare.py synthetic``."""
    add("--output", type=Path, required=True, help="data/NAME")
    add("--seed", type=non_negative_int, default=0, help="decides every scene")
    for split, number in (("train", 24), ("val", 8), ("test", 8)):
        add(f"--{split}", type=non_negative_int, default=number, help=f"number of {split} scenes")
    add("--size", type=non_negative_int, default=512, help="side of the scenes in pixels")
    add("--images", type=Path, help="also write images that are in no split to this folder")
    add("--num-images", type=non_negative_int, default=4, help="how many of these")


def run(args: argparse.Namespace) -> None:
    """``prepare.py synthetic``."""
    counts = {"num_train": args.train, "num_val": args.val, "num_test": args.test}
    if not is_prepared(args.output, _settings(args.seed, counts, args.size)):
        prepare_synthetic(args.output, seed=args.seed, size_px=args.size, **counts)
    if args.images is not None and args.images.exists():
        print(f"{args.images} exists and is left as it is")
    elif args.images is not None:
        write_images(args.images, seed=args.seed, num_images=args.num_images, size_px=args.size)


def _settings(seed: int, counts: dict[str, int], size_px: int) -> dict[str, Any]:
    return {"command": "synthetic", "seed": seed, **counts, "size_px": size_px}


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One drawn scene; the four maps agree in every pixel."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    target: np.ndarray  # (H, W) uint8 class index
    segments: np.ndarray  # (H, W) uint16 object ids, 1.. in raster order of their first pixels
    height_m: np.ndarray  # (H, W) float32 metres above the ground


def draw_scene(seed: int, size_px: int = 512) -> Scene:
    """Draw a town seen from above, 0.2 m a pixel (coarser below 256 px).

    Args:
        seed: 0 or more; the same seed and size give the same scene, byte for byte.
        size_px: height and width, 64 or more.
    """
    if size_px < MIN_SIZE_PX:
        raise ConfigError(f"size_px is {size_px}; a drawn scene needs {MIN_SIZE_PX} or more")
    canvas = Canvas(np.random.default_rng(seed), size_px)
    draw_town(canvas)
    return Scene(
        image=canvas.expose(),
        target=canvas.target,
        segments=canvas.segments(),
        height_m=canvas.height_m,
    )


def _scenes(seed: int, stream: int, num: int, size_px: int) -> Iterator[Scene]:
    """The scenes of one stream. No two streams share a scene, or depend on each other's length."""
    for index in range(num):
        state = np.random.SeedSequence((seed, stream, index)).generate_state(1, np.uint64)
        yield draw_scene(int(state[0]), size_px)


def prepare_synthetic(
    root: Path, *, seed: int, num_train: int, num_val: int, num_test: int, size_px: int
) -> None:
    """Write a tile set of drawn scenes, each of them one source image and one tile.

    Their heights are written beside them as the sensor ``height``, like an elevation model.

    Raises:
        ConfigError: ``size_px`` is too small.
        DataError: ``root`` exists already.
    """
    counts = {"num_train": num_train, "num_val": num_val, "num_test": num_test}
    writer = TileSetWriter(
        root,
        name="synthetic",
        classes=CLASSES,
        palette=PALETTE,
        origin="drawn by datasets/synthetic.py",
        prepared_with=_settings(seed, counts, size_px),
        split_name="synthetic",
    )
    box = {"top_px": 0, "left_px": 0, "height_px": size_px, "width_px": size_px}
    heights = MapRecipe(
        generator=SENSOR,
        settings={"minimum": 0.0, "maximum": MAX_HEIGHT_M},
        weights_sha256=None,
    )
    sources: dict[str, str] = {}
    with writer, tqdm(total=sum(counts.values()), desc="drawing", unit="scene") as bar:
        store = store_folder(writer.folder, "height")
        for stream, split in enumerate(SPLITS):
            for scene in _scenes(seed, stream, counts[f"num_{split}"], size_px):
                name = f"scene_{bar.n:05d}"
                tile = Tile(id=name, source=name, **box)
                sources[name] = sha256_of(writer.add(split, tile, scene.image, scene.target))
                levels = to_levels(scene.height_m, 0.0, MAX_HEIGHT_M)
                write_map(store, name, levels, sources[name], heights)
                bar.update()
        write_manifest(store, heights, sources)


def write_images(folder: Path, *, seed: int, num_images: int, size_px: int) -> None:
    """Write held-back images, RGB only: scenes that no split of the same seed contains.

    Raises:
        ConfigError: ``size_px`` is too small.
        DataError: ``folder`` exists already.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already; delete it or choose another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    scenes = _scenes(seed, HELD_BACK, num_images, size_px)
    for index, scene in enumerate(tqdm(scenes, total=num_images, desc="drawing", unit="scene")):
        write_png(partial / f"held_back_{index:05d}.png", scene.image)
    partial.rename(folder)
