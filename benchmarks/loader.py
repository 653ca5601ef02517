"""Training crops per second beside the classic pipeline, disk space, and waits of training.

::

    python benchmarks/loader.py [--quick] [--part core|training]

One JSON line per result; a ``ratio`` above 1 means that ours is better. Crops of 512 px from drawn
scenes of 1024 px, zoom 0.5 to 1.75, with a segment map and a sensor.

- ``core``: batches of 8 on one core, the work of a loader process: read, cut, resize, turn,
  collate. Beside the classic pipeline with OpenCV (``benchmarks/classic_loader.py``) on PNG files,
  and beside the same with all files decoded in advance, alternating in one process. ``floor``: rate
  of copying the same windows out of the mapped files. ``disk``: size of the tiles.
- ``training``: the real loader before a ``tiny`` network on the CPU; the fraction of the time that
  ``next()`` waits, with 2 loader processes and with none.

OpenCV is a benchmark-only extra; without it, only our side is measured.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import Bench
from configs.schema import Config
from datasets.dataset import TileDataset, prepare_inputs
from datasets.encodings import StructureEncoder
from datasets.loaders import build_train_loader
from datasets.preparation.synthetic import CLASSES, PALETTE, draw_scene
from datasets.preparation.writer import TileSetWriter
from datasets.rasters import open_raster
from datasets.samplers import SampleKey
from datasets.structure_maps import MapRecipe, map_path, store_folder, to_levels, write_map
from datasets.tile_set import Tile, TileSet, open_tile_set
from datasets.transforms import Geometry
from models.build import build_network
from models.losses import SegmentationLoss
from utils.config import config_from_dict
from utils.distributed import DistContext
from utils.files import write_png
from utils.malloc import keep_freed_memory

TILE_PX, CROP_PX, SCALE_RANGE, BATCH_SIZE = 1024, 512, (0.5, 1.75), 8
STORES = ("segments", "height")
RECIPE = MapRecipe(generator="", settings={}, weights_sha256=None)
Step = Callable[[range], object]  # makes the batch of these places


def write_tiles(folder: Path, num_scenes: int, num_steps: int) -> TileSet:
    """Write drawn scenes as a prepared data set with two stores, and as PNG files for the peer.

    The split "train" has each scene once, "val" enough copies for ``num_steps`` batches.
    """
    num_tiles = num_steps * BATCH_SIZE
    writer = TileSetWriter(
        folder / "set",
        name="drawn",
        classes=CLASSES,
        palette=PALETTE,
        origin="",
        prepared_with={},
    )
    size = {"height_px": TILE_PX, "width_px": TILE_PX}
    with writer:
        for number in tqdm(range(num_scenes), desc="drawing", leave=False):
            scene = draw_scene(number, TILE_PX)
            maps = {"segments": scene.segments, "height": to_levels(scene.height_m, 0, 20)}
            copies = [f"t{number}", *(f"v{n}" for n in range(number, num_tiles, num_scenes))]
            for tile_id in copies:
                tile = Tile(id=tile_id, source=tile_id, top_px=0, left_px=0, **size)
                split = "train" if tile_id[0] == "t" else "val"
                writer.add(split, tile, scene.image, scene.target)
                for store, levels in maps.items():
                    write_map(store_folder(writer.folder, store), tile_id, levels, "", RECIPE)
            for name, array in {"image": scene.image, "target": scene.target, **maps}.items():
                write_png(folder / "png" / name / f"t{number}.png", array)
    return open_tile_set(folder / "set")


def core(bench: Bench, folder: Path, tile_set: TileSet) -> None:
    """Measure batches on one core, and the size of the tiles on disk."""
    torch.set_num_threads(1)
    tile_ids = tile_set.split("train")
    steps = {**_our_steps(tile_set, tile_ids), **_peers(folder / "png", tile_ids)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(6 if bench.quick else 40):
        places = range(number * BATCH_SIZE, (number + 1) * BATCH_SIZE)
        for name, step in steps.items():
            start = time.perf_counter()
            step(places)
            times[name].append(time.perf_counter() - start)
    times = {name: each[1:] for name, each in times.items()}  # the first round warms up
    rates = {name: BATCH_SIZE / statistics.median(each) for name, each in times.items()}
    what = "crops on one core"
    for peer in [name for name in steps if name not in ("ours", "floor")]:
        pairs = zip(times["ours"], times[peer], strict=True)
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        name = f"{what}, beside OpenCV on {peer}"
        bench.report(name, rates["ours"], rates[peer], "samples/s", ratio=ratio)
    share = rates["ours"] / rates["floor"]
    floor = {"floor": rates["floor"], "floor_share": share}
    bench.report(f"{what}, beside copying the windows", rates["ours"], None, "samples/s", **floor)
    tif, png = (
        sum(path.stat().st_size for path in root.rglob(f"t*.{suffix}")) / len(tile_ids) / 2**20
        for root, suffix in ((tile_set.root, "tif"), (folder / "png", "png"))
    )
    bench.report("disk: a tile and its two maps", tif, png, "MiB", ratio=png / tif)


def _our_steps(tile_set: TileSet, tile_ids: Sequence[str]) -> dict[str, Step]:
    """Return our batches, and copies of the same windows without any processing."""
    geometry = Geometry(
        crop_size_px=CROP_PX, scale_range=SCALE_RANGE, dihedral=True, value_stores=("height",)
    )
    dataset = TileDataset(
        tile_set=tile_set,
        tile_ids=tile_ids,
        stores=STORES,
        geometry=geometry,
        color_jitter=0.2,
        available=(True, True),
    )

    def keys_at(places: range) -> list[SampleKey]:
        return [SampleKey(index=p % len(tile_ids), seed=(0, 0, p)) for p in places]

    def copy_windows(places: range) -> None:
        for key in keys_at(places):
            tile_id, rng = tile_ids[key.index], np.random.default_rng(key.seed)
            window = geometry.draw((TILE_PX, TILE_PX), rng).box.slices
            folders = [store_folder(tile_set.root, store) for store in STORES]
            parts = [open_raster(map_path(each, tile_id), "16-bit") for each in folders]
            parts.append(open_raster(tile_set.image_path(tile_id), "RGB"))
            parts.append(open_raster(tile_set.target_path(tile_id), "8-bit"))
            for part in parts:
                np.array(part[window])

    return {"ours": lambda places: dataset.__getitems__(keys_at(places)), "floor": copy_windows}


def _peers(folder: Path, tile_ids: Sequence[str]) -> dict[str, Step]:
    """Return the classic pipelines, none without OpenCV."""
    try:
        from benchmarks.classic_loader import ClassicLoader
    except ImportError:
        print("OpenCV is not installed: only our side is measured", file=sys.stderr)
        return {}
    return {
        name: ClassicLoader(folder, tile_ids, CROP_PX, SCALE_RANGE, keep).batch
        for name, keep in (("PNG files", False), ("decoded files", True))
    }


def training(bench: Bench, tile_set: TileSet) -> None:
    """Measure the waits of a tiny network for its batches."""
    torch.set_num_threads(NUM_THREADS)
    dist = DistContext(rank=0, local_rank=0, world_size=1, device=bench.device)
    for num_workers in (2, 0):
        config = config_from_dict(_recipe(tile_set.root, num_workers), "benchmark", [])
        waits, steps = _train(bench, config, tile_set, dist)
        bench.report(
            f"training: share of the time that waits for data, {num_workers} loader processes",
            sum(waits) / (sum(waits) + sum(steps)),
            None,
            "share",
            wait_s=statistics.median(waits),
            step_s=statistics.median(steps),
        )


def _recipe(root: Path, num_workers: int) -> dict[str, object]:
    return {
        "name": "benchmark",
        "data": {
            "root": str(root),
            "crop_size_px": CROP_PX,
            "scale_range": list(SCALE_RANGE),
            "num_workers": num_workers,
            "train_split": "val",  # the longer one
        },
        "structure": {
            "modalities": ["superpixels", "height"],
            "superpixels": {"store": "segments"},
        },
        "model": {
            "size": "tiny",
            "rgb_vit": {"weights": "random"},
            "structure_vit": {"weights": "random"},
        },
        "optim": {"batch_size": BATCH_SIZE, "num_epochs": 1, "warmup_epochs": 0},
    }


def _train(
    bench: Bench, config: Config, tile_set: TileSet, dist: DistContext
) -> tuple[list[float], list[float]]:
    """Return the seconds of every ``next()`` and of every step, without the first ones."""
    loader, batches = build_train_loader(config, tile_set, dist)
    encoder = StructureEncoder(config.structure)
    network = build_network(
        config.model,
        num_classes=len(CLASSES),
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
    ).train()
    loss = SegmentationLoss(config.optim, len(CLASSES))
    waits, steps = [], []
    iterator = iter(loader)
    for _ in range(len(batches)):
        start = time.perf_counter()
        batch = next(iterator).to(bench.device)
        waits.append(time.perf_counter() - start)
        start = time.perf_counter()
        inputs, target = prepare_inputs(batch, encoder)
        counts = loss.counts(target)
        loss(network(*inputs), target, counts)["loss"].backward()
        network.zero_grad(set_to_none=True)
        steps.append(time.perf_counter() - start)
    return waits[1:], steps[1:]


NUM_THREADS = torch.get_num_threads()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer tiles and batches")
    parser.add_argument("--part", choices=("core", "training"), help="measure this part only")
    args = parser.parse_args()
    keep_freed_memory()
    bench = Bench("cpu", args.quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tile_set = write_tiles(folder, *((4, 4) if args.quick else (16, 12)))
        if args.part != "training":
            core(bench, folder, tile_set)
        if args.part != "core":
            training(bench, tile_set)


if __name__ == "__main__":
    main()
