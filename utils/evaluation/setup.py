"""A checkpoint set up for evaluation on a data set, and the measurement of one split."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.schema import Config
from datasets.dataset import Batch
from datasets.encodings import StructureEncoder
from datasets.loaders import build_eval_loader, check_structure
from datasets.tile_set import SourceImage, TileSet, open_tile_set, source_images
from utils.distributed import DistContext
from utils.errors import DataError
from utils.evaluation.evaluate import Predictor, evaluate
from utils.evaluation.measurements import Findings, Measurements
from utils.evaluation.protocols import (
    conditions_of,
    indices_left_out,
    plan_split_labels,
    protocols_of,
)
from utils.precision import Precision
from utils.rasters.rendering import Rendering, stretch_text
from utils.training.checkpoint import Checkpoint, load_network


@dataclass(frozen=True, kw_only=True)
class EvaluationSetup:
    """A network with the data set it is evaluated on, on one device."""

    checkpoint: Checkpoint
    config: Config
    tile_set: TileSet
    left_out: tuple[int, ...]  # indices of the classes that the means leave out
    notes: tuple[str, ...]  # reasons to distrust the scores, a sentence each
    predictor: Predictor

    def sources(self, split: str) -> dict[str, str]:
        """Return the name of the source image of each tile of a split."""
        tiles = self.tile_set.tiles
        return {tile_id: tiles[tile_id].source for tile_id in self.tile_set.split(split)}


def load_setup(
    checkpoint: Checkpoint, config: Config, split: str, dist: DistContext
) -> EvaluationSetup:
    """Build the network, once the data set is known to fit the checkpoint.

    Raises:
        DataError: other classes (or their order) or structure maps than in training, or images
            that were trained on; see ``check_unseen``.
        ConfigError: ``eval.mean_without`` names a class that the data set does not have.
    """
    tile_set = open_tile_set(Path(config.data.root))
    if list(tile_set.classes) != checkpoint.identity.classes:
        raise DataError(
            f"{checkpoint.path} was trained on the classes "
            f"{', '.join(checkpoint.identity.classes)}; {tile_set.root} has "
            f"{', '.join(tile_set.classes)}"
        )
    notes = [*check_unseen(checkpoint, tile_set, split), *_rendering_notes(checkpoint, tile_set)]
    left_out = indices_left_out(config.eval.mean_without, tile_set.classes)
    check_structure(tile_set, config.structure, [split], checkpoint.identity.maps)
    return EvaluationSetup(
        checkpoint=checkpoint,
        config=config,
        tile_set=tile_set,
        left_out=tuple(left_out),
        notes=tuple(notes),
        predictor=load_predictor(checkpoint, config, dist.device),
    )


def check_unseen(checkpoint: Checkpoint, tile_set: TileSet, split: str) -> list[str]:
    """Refuse a split with images that the checkpoint was trained on, in whatever data set.

    An image is known by its pixels. One of a single colour teaches nothing, and is not counted.

    Returns:
        A note if the split is the training split itself, which may be scored as a diagnosis.

    Raises:
        DataError: an image was trained on.
    """
    identity = checkpoint.identity
    if (tile_set.name, split) == (identity.dataset, identity.recipe["data"]["train_split"]):
        if tile_set.split_sha256 == identity.split["sha256"]:
            return [f"the split {split} was trained on; its scores say nothing about other images"]
    trained_on = {*identity.trained_on}
    images = source_images((tile_set.tiles[each] for each in tile_set.split(split)), "source")
    seen = [
        image.source
        for image in images
        if tile_set.sources[image.source].sha256 in trained_on and not _is_blank(tile_set, image)
    ]
    if seen:
        raise DataError(
            f"{len(seen)} of {len(images)} images of the split {split} of {tile_set.root} were "
            f"trained on (first: '{seen[0]}'); score others, or make a split without them"
        )
    return []


def _is_blank(tile_set: TileSet, image: SourceImage) -> bool:
    tiles = (tile_set.read_image(tile.id) for tile in image.tiles)
    return all((pixels == pixels[0, 0]).all() for pixels in tiles)


def _rendering_notes(checkpoint: Checkpoint, tile_set: TileSet) -> list[str]:
    """Return a sentence if stored values have other colours here than they had in training."""
    identity = checkpoint.identity
    then = _phrase(identity.channels, identity.rendering)
    now = _phrase(tile_set.channels, tile_set.rendering)
    if then == now:
        return []
    return [f"{checkpoint.path} was trained on {then}, {tile_set.root} has {now}"]


def _phrase(channels: str, plain: dict[str, Any]) -> str:
    rendering = Rendering.from_plain(plain)
    bands = ",".join(map(str, rendering.bands)) or "as in the files"
    return f"{channels} images (bands {bands}; stretch {stretch_text(rendering.stretch) or 'none'})"


def load_predictor(checkpoint: Checkpoint, config: Config, device: torch.device) -> Predictor:
    """Build the network of a checkpoint with everything that a prediction takes."""
    encoder = StructureEncoder(config.structure)
    precision = Precision(config.run.precision, device)
    network = load_network(
        checkpoint,
        config.model,
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
        num_components=encoder.num_components,
        frozen_dtype=precision.frozen_dtype,
    )
    return Predictor(network.to(device), encoder, precision, config.eval, device)


def measure(
    setup: EvaluationSetup,
    split: str,
    dist: DistContext,
    on_tile: Callable[[Batch, Tensor, Tensor], None] | None = None,
) -> Findings:
    """Predict and score a split; ``on_tile`` is that of ``evaluate``. Call on all ranks."""
    tile_set, config = setup.tile_set, setup.config
    classes, kinds = tile_set.classes, {p.labels for p in protocols_of(tile_set.classes)}
    labels = plan_split_labels(tile_set, split, config.eval.labels, kinds)
    loader = build_eval_loader(config, tile_set, split, dist, labels.read)
    measurements = Measurements(classes, setup.sources(split).values(), labels)
    evaluate(
        setup.predictor,
        loader,
        labels,
        len(classes),
        dist,
        on_tile,
        on_image=measurements.add,
        on_strip=measurements.add_strip,
    )
    lists = f"{tile_set.split_name}, SHA-256 {tile_set.split_sha256[:8]}"
    conditions = conditions_of(config.eval, f"{tile_set.name}, split {split} of {lists}")
    return measurements.findings(dist, config.eval.mean_without, conditions)
