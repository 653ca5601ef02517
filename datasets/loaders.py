"""Data loaders of training and evaluation, and the check of the structure stores they read.

Loaders have a generator of their own, though nothing is drawn from it: without one, every pass
draws a number from torch's global generator, and a run resumed within an epoch would drop other
paths than an uninterrupted one.
"""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from configs.schema import GENERATORS, Config, StructureConfig
from datasets.dataset import Batch, TileDataset
from datasets.encodings import StructureEncoder
from datasets.samplers import EvalOrder, SampleKey, TrainBatches
from datasets.structure_maps import SENSOR, MapRecipe, check_store, map_settings, store_folder
from datasets.tile_set import SourceImage, TileSet, source_images
from datasets.transforms import Geometry
from utils.distributed import DistContext
from utils.errors import ConfigError, MissingDataError


def check_structure(
    tile_set: TileSet,
    structure: StructureConfig,
    splits: list[str],
    trained_with: dict[str, dict[str, Any]] | None = None,
) -> dict[str, MapRecipe]:
    """Refuse stores that are missing, incomplete, stale or of other settings than the recipe's.

    Args:
        tile_set: the prepared data set.
        structure: the recipe's ``structure`` section.
        splits: splits whose tiles must all have their maps.
        trained_with: recipes of the stores in a checkpoint, by store: weights of generators and
            range of sensors must be the same.

    Returns:
        Recipes of the stores in use, by store; empty for ``control: off``.
    """
    if structure.control == "off":
        return {}
    images = {t: tile_set.image_path(t) for split in splits for t in tile_set.split(split)}
    recipes = {}
    for generator, config in structure.selected().items():
        wanted: dict[str, Any] = {"generator": generator, "settings": map_settings(config)}
        if trained_with is not None and config.store in trained_with:
            wanted["weights_sha256"] = trained_with[config.store]["weights_sha256"]
        recipes[config.store] = check_store(tile_set.root, config.store, wanted, images)
    for sensor in structure.sensors():
        if not (store_folder(tile_set.root, sensor) / "manifest.json").is_file():
            raise MissingDataError(
                f"structure.modalities names '{sensor}', which is neither a generator (these are "
                f"{', '.join(GENERATORS)}) nor a sensor in {tile_set.root}; import it with "
                f"prepare.py sensor --data {tile_set.root} --name {sensor} --rasters FOLDER"
            )
        wanted = {"generator": SENSOR}
        if trained_with is not None and sensor in trained_with:
            wanted["settings"] = trained_with[sensor]["settings"]
        recipes[sensor] = check_store(tile_set.root, sensor, wanted, images)
    return recipes


def absence_note(structure: StructureConfig, trained_with: dict[str, Any]) -> str | None:
    """Return a note for the console if modalities are absent that were never absent in training.

    Args:
        structure: section of the current recipe.
        trained_with: section of the checkpoint's recipe.
    """
    never_absent = [m for m in structure.absent if m not in trained_with.get("absent", ())]
    if structure.control == "off" or not never_absent or trained_with.get("dropout", 0.0) > 0:
        return None
    return (
        f"note: {', '.join(never_absent)} is absent, and the checkpoint was trained with "
        "structure.dropout=0, always with it"
    )


def build_train_loader(
    config: Config, tile_set: TileSet, dist: DistContext
) -> tuple[DataLoader[Batch], TrainBatches]:
    """Build the training loader of one rank, and the sampler that holds its position."""
    num_parts = dist.world_size * config.optim.accumulate
    if config.optim.batch_size % num_parts:
        raise ConfigError(
            f"optim.batch_size is {config.optim.batch_size}, which {dist.world_size} processes "
            f"with optim.accumulate={config.optim.accumulate} do not divide; change one of them"
        )
    data, encoder = config.data, StructureEncoder(config.structure)
    tile_set.require_labels(data.train_split, data.labels)
    dataset = TileDataset(
        tile_set=tile_set,
        tile_ids=tile_set.split(data.train_split),
        stores=encoder.stores,
        labels=[data.labels],
        shuffled=config.structure.control == "shuffled",
        geometry=Geometry(
            crop_size_px=data.crop_size_px,
            scale_range=data.scale_range,
            dihedral=data.dihedral,
            value_stores=encoder.value_stores,
        ),
        color_jitter=data.color_jitter,
        available=encoder.available,
        dropout=config.structure.dropout,
        shuffle_ids=config.structure.shuffle_ids,
        rare_class_share=data.rare_class_share,
    )
    batches = TrainBatches(
        num_samples=len(dataset),
        batch_size=config.optim.batch_size,
        seed=config.run.seed,
        num_batches=config.optim.steps_per_epoch,
        rank=dist.rank,
        world_size=dist.world_size,
    )
    return _build_loader(dataset, batches, data.num_workers, dist), batches


@dataclass(frozen=True, kw_only=True)
class EvalLoader:
    """Loader of the whole tiles that this rank scores, one at a time."""

    batches: DataLoader[Batch]
    source_images: tuple[SourceImage, ...]  # their tiles, one after the other, are the batches
    label_kinds: tuple[str, ...]  # of the target, then of the further targets

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def build_eval_loader(
    config: Config, tile_set: TileSet, split: str, dist: DistContext, labels: Sequence[str]
) -> EvalLoader:
    """Build the loader of this rank's part of a split; every source image is read by one rank.

    Args:
        config: the recipe.
        tile_set: the prepared data set.
        split: train, val or test.
        dist: this process.
        labels: kinds of label to read, ``full`` or ``eroded``; the first is the batches' target.

    Raises:
        MissingDataError: the labels of the split are hidden, or of another kind only.
    """
    tile_ids = tile_set.split(split)
    for kind in labels:
        tile_set.require_labels(split, kind)
    step = 1 if config.structure.control == "shuffled" else 0
    dataset = whole_tiles(config, tile_set, split, step, labels)
    images = source_images((tile_set.tiles[tile_id] for tile_id in tile_ids), config.eval.unit)
    images = images[dist.rank :: dist.world_size]
    place = {tile_id: number for number, tile_id in enumerate(tile_ids)}
    order = [place[tile.id] for image in images for tile in image.tiles]
    batches = build_ordered_loader(dataset, order, config, dist)
    return EvalLoader(batches=batches, source_images=images, label_kinds=tuple(labels))


def whole_tiles(
    config: Config,
    tile_set: TileSet,
    split: str,
    step: int,
    labels: Sequence[str],
    more_stores: Sequence[str] = (),
) -> TileDataset:
    """Return the tiles of a split, each with the maps of the tile ``step`` further on."""
    encoder = StructureEncoder(config.structure)
    return TileDataset(
        tile_set=tile_set,
        tile_ids=tile_set.split(split),
        stores=tuple(dict.fromkeys([*encoder.stores, *more_stores])),
        labels=labels,
        shuffled=step > 0,
        partner_step=step,
        available=encoder.available,
    )


def build_ordered_loader(
    dataset: Dataset[Any], indices: Sequence[int], config: Config, dist: DistContext
) -> DataLoader[Any]:
    """Build a loader of these samples, one at a time and in this order."""
    # A tile may be a whole survey image: few are in memory at a time.
    num_workers = min(config.data.num_workers, 2)
    return _build_loader(dataset, EvalOrder(indices), num_workers, dist, prefetch=1)


def _build_loader(
    dataset: Dataset[Any],
    batches: Sampler[list[SampleKey]],
    num_workers: int,
    dist: DistContext,
    prefetch: int = 2,  # batches that a worker reads ahead
) -> DataLoader[Any]:
    end_workers_at_exit()
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_unchanged,
        generator=torch.Generator(),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        prefetch_factor=prefetch if num_workers > 0 else None,
        pin_memory=dist.device.type == "cuda",
        worker_init_fn=leave_signals_to_the_main_process,
    )


def _unchanged(batch: Any) -> Any:
    """Return the batch, or pair of batches, of the data set unchanged."""
    return batch


def leave_signals_to_the_main_process(worker: int) -> None:
    """Ignore SIGINT and SIGTERM in a loader process (a ``worker_init_fn``).

    Ctrl-C, and Slurm's SIGTERM, reach every process, and the current training step still needs the
    samples of the workers. Use with ``end_workers_at_exit``.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def end_workers_at_exit() -> None:
    """Kill loader processes, which ignore SIGTERM, when this process exits.

    Without this, Python sends SIGTERM to the processes of a loader that an exception keeps alive,
    and waits for them for ever.
    """
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)  # after Python's own, which it registered before: it runs first


def _end_workers() -> None:
    for process in multiprocessing.active_children():
        process.kill()
