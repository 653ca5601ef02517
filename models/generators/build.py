"""Config -> structure generator: the one place in ``models/generators`` that reads settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from configs.schema import SamConfig, StructureConfig, SuperpixelsConfig
from models.generators.sam import Sam, load_sam
from models.generators.superpixels import Superpixels
from utils.errors import ConfigError


class StructureGenerator(Protocol):
    """What makes a segment map of an RGB image. Equal images give equal maps."""

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights file, None for a generator without weights."""

    def generate(self, image: np.ndarray) -> np.ndarray:
        """Segment one image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            ``(H, W)`` uint16 segment ids in canonical form: 1..K in raster order of the segments'
            first pixels, 0 = pixel without a segment.

        Raises:
            DataError: more segments than a 16-bit map can hold.
        """


def build_generator(
    name: str, config: SuperpixelsConfig | SamConfig, device: torch.device
) -> StructureGenerator:
    """Build the structure generator ``name`` with its settings.

    Args:
        name: as in ``structure.modalities``.
        config: the settings of that generator.
        device: where it is to run.

    Raises:
        ConfigError: there is no such generator.
        MissingDataError: its weights file is missing.
        DataError: its weights file cannot be used.
    """
    if name not in _BUILDERS:
        known = ", ".join(_BUILDERS)
        raise ConfigError(f"there is no structure generator '{name}'; known are {known}")
    return _BUILDERS[name](config, device)


def check_generated(structure: StructureConfig, source: str) -> None:
    """Refuse structure that cannot be made of an RGB image alone.

    Args:
        structure: what a checkpoint wants.
        source: the checkpoint's path, for the sentence.

    Raises:
        ConfigError: the maps of other images (``shuffled``), or a sensor that is not absent.
    """
    if structure.control == "shuffled":
        raise ConfigError(
            f"{source} was trained on the maps of other images (structure.control=shuffled), a "
            "control experiment; infer with structure.control=on"
        )
    if structure.control == "on" and structure.sensors():
        names = ",".join(structure.sensors())
        raise ConfigError(
            f"{source} was trained with a sensor ({names}), which cannot be made of RGB; go "
            f"without it: structure.absent=[{names}]"
        )


def _build_superpixels(config: SuperpixelsConfig, device: torch.device) -> Superpixels:
    return Superpixels(
        segment_size_px=config.segment_size_px,
        compactness=config.compactness,
        num_iterations=config.num_iterations,
        min_area_share=config.min_area_share,
        device=device,
    )


def _build_sam(config: SamConfig, device: torch.device) -> Sam:
    checkpoint = Path(config.checkpoint).expanduser() if config.checkpoint else None
    network, digest = load_sam(config.model_type, checkpoint, device)
    return Sam(
        network=network,
        weights_sha256=digest,
        points_per_side=config.points_per_side,
        points_per_batch=config.points_per_batch,
        pred_iou_thresh=config.pred_iou_thresh,
        stability_score_thresh=config.stability_score_thresh,
        stability_score_offset=config.stability_score_offset,
        box_nms_thresh=config.box_nms_thresh,
        crop_n_layers=config.crop_n_layers,
        crop_nms_thresh=config.crop_nms_thresh,
        crop_overlap_ratio=config.crop_overlap_ratio,
        crop_n_points_downscale_factor=config.crop_n_points_downscale_factor,
    )


_BUILDERS: dict[str, Callable[[Any, torch.device], StructureGenerator]] = {
    "superpixels": _build_superpixels,
    "sam": _build_sam,
}
