"""Export of a checkpoint's network, with metadata that tells how to use it."""

from dataclasses import asdict
from pathlib import Path

import torch

from configs.schema import Config
from datasets.encodings import StructureEncoder
from models.export import export_network
from utils.files import sha256_of
from utils.training.checkpoint import Checkpoint, load_network


def export_checkpoint(checkpoint: Checkpoint, config: Config, path: Path) -> None:
    """Write the network as .pt2 or .onnx, see ``models.export``, and report its inputs.

    Raises:
        ConfigError, DataError: as ``models.export.export_network``.
    """
    encoder, identity = StructureEncoder(config.structure), checkpoint.identity
    network = load_network(
        checkpoint,
        config.model,
        structure_channels=encoder.num_channels,
        pictures=encoder.pictures,
        frozen_dtype=torch.float32,
    )
    metadata = {
        "classes": identity.classes,
        "palette": identity.palette,
        "structure": asdict(config.structure),
        "maps": identity.maps,
        "checkpoint_sha256": sha256_of(checkpoint.path),
    }
    side, channels = config.eval.window_px, encoder.num_channels
    difference = export_network(network.eval(), channels, path, metadata, (side, side))
    print(
        f"{path}: logits of image (N, 3, {side}, {side}) and structure (N, {channels}, {side}, "
        f"{side}), the size of eval.window_px; at most {difference:.1g} from those of the network"
    )
