"""Data loaders of training and evaluation, and the check of the structure stores they read.

Loaders have a generator of their own, though nothing is drawn from it: without one, every pass
draws a number from torch's global generator, and a run resumed within an epoch would drop other
paths than an uninterrupted one.
"""

import atexit
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from configs.schema import GENERATORS, Config, StructureConfig
from datasets.dataset import Batch, TileDataset
from datasets.encodings import StructureEncoder
from datasets.samplers import SampleKey, TrainBatches
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
    wanted: dict[str, dict[str, Any]] = {
        config.store: {"generator": generator, "settings": map_settings(config)}
        for generator, config in structure.selected().items()
    }
    for sensor in structure.sensors():
        if not (store_folder(tile_set.root, sensor) / "manifest.json").is_file():
            raise MissingDataError(
                f"structure.modalities names '{sensor}', which is neither a generator (these are "
                f"{', '.join(GENERATORS)}) nor a sensor in {tile_set.root}; import it with "
                f"prepare.py sensor --data {tile_set.root} --name {sensor} --rasters FOLDER"
            )
        wanted[sensor] = {"generator": SENSOR}
    trained = trained_with or {}
    for store in wanted.keys() & trained.keys():
        key = "settings" if wanted[store]["generator"] == SENSOR else "weights_sha256"
        wanted[store][key] = trained[store][key]
    images = {t: tile_set.image_path(t) for split in splits for t in tile_set.split(split)}
    return {s: check_store(tile_set.root, s, entries, images) for s, entries in wanted.items()}


def absence_note(structure: StructureConfig, trained_with: dict[str, Any]) -> str | None:
    """Return a note if modalities are absent that were never absent in training, or None.

    ``trained_with`` is the ``structure`` section of the checkpoint's recipe.
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
            cell_px=encoder.cell_px,
        ),
        cell_px=encoder.cell_px,
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
        num_batches=config.optim.steps_per_epoch or 0,
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

    The first of the kinds of ``labels`` is the batches' target.

    Raises:
        MissingDataError: the labels of the split are hidden, or of another kind only.
    """
    for kind in labels:
        tile_set.require_labels(split, kind)
    step = 1 if config.structure.control == "shuffled" else 0
    dataset = whole_tiles(config, tile_set, split, step, labels)
    tiles = [tile_set.tiles[tile_id] for tile_id in dataset.tile_ids]
    images = source_images(tiles, config.eval.unit)[dist.rank :: dist.world_size]
    place = {tile.id: index for index, tile in enumerate(tiles)}
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
        cell_px=encoder.cell_px,
        available=encoder.available,
    )


def build_ordered_loader(
    dataset: Dataset[Any], indices: Sequence[int], config: Config, dist: DistContext
) -> DataLoader[Any]:
    """Build a loader of these samples, one at a time and in this order."""
    # A tile may be a whole survey image: few are in memory at a time.
    num_workers = min(config.data.num_workers, 2)
    order = [[SampleKey(index=index, seed=(0, 0, index))] for index in indices]
    return _build_loader(dataset, order, num_workers, dist, prefetch=1)


def _build_loader(
    dataset: Dataset[Any],
    batches: Iterable[list[SampleKey]],
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
    # PyTorch's handler raises an error for a killed worker, which would leave the others alive.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        process.kill()
