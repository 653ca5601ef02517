"""A checkpoint set up for evaluation on a data set, and the measurement of one split."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from configs.schema import Config
from datasets.dataset import Batch
from datasets.encodings import StructureEncoder
from datasets.loaders import build_eval_loader, check_structure
from datasets.tile_set import TileSet, open_tile_set
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
from utils.training.checkpoint import Checkpoint, check_split, load_network


@dataclass(frozen=True, kw_only=True)
class EvaluationSetup:
    """A network with the data set it is evaluated on, on one device."""

    checkpoint: Checkpoint
    config: Config
    tile_set: TileSet
    left_out: tuple[int, ...]  # indices of the classes that the means leave out
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
        DataError: other classes (or their order), split lists or structure maps than in training.
        ConfigError: ``eval.mean_without`` names a class that the data set does not have.
    """
    tile_set = open_tile_set(Path(config.data.root))
    if list(tile_set.classes) != checkpoint.identity.classes:
        raise DataError(
            f"{checkpoint.path} was trained on the classes "
            f"{', '.join(checkpoint.identity.classes)}; {tile_set.root} has "
            f"{', '.join(tile_set.classes)}"
        )
    check_split(checkpoint, tile_set.identity(), str(tile_set.root))
    left_out = indices_left_out(config.eval.mean_without, tile_set.classes)
    check_structure(tile_set, config.structure, [split], checkpoint.identity.maps)
    return EvaluationSetup(
        checkpoint=checkpoint,
        config=config,
        tile_set=tile_set,
        left_out=tuple(left_out),
        predictor=load_predictor(checkpoint, config, dist.device),
    )


def load_predictor(checkpoint: Checkpoint, config: Config, device: torch.device) -> Predictor:
    """Build the network of a checkpoint with everything that a prediction takes."""
    encoder = StructureEncoder(config.structure)
    precision = Precision(config.run.precision, device)
    network = load_network(
        checkpoint,
        config.model,
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
        frozen_dtype=precision.dtype,
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
