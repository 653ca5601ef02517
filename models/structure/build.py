"""Factory of structure generators: the only module of ``models/structure`` that reads settings.

The module of a generator is imported when it is built: importing the packages behind SAM and the
depth network takes longer than computing a small set of superpixels.
"""

from collections.abc import Callable
from typing import Any

import torch

from configs.schema import (
    DepthAnythingConfig,
    GeneratorConfig,
    SamConfig,
    StructureConfig,
    SuperpixelsConfig,
)
from models.structure.generator import StructureGenerator
from models.weights import fetch_weights, official_depth_anything, official_sam
from utils.errors import ConfigError


def build_generator(name: str, config: GeneratorConfig, device: torch.device) -> StructureGenerator:
    """Build a structure generator.

    Args:
        name: as in ``structure.modalities``.
        config: settings of that generator.
        device: device of the computation.

    Raises:
        ConfigError: there is no such generator.
        MissingDataError: the weights file is missing.
        DataError: the weights file is damaged or of another model.
    """
    if name not in _BUILDERS:
        known = ", ".join(_BUILDERS)
        raise ConfigError(f"there is no structure generator '{name}'; known are {known}")
    return _BUILDERS[name](config, device)


def fetch_generator_weights(structure: StructureConfig) -> None:
    """Download the official weights of a recipe's generators unless they are in ``weights/``.

    Raises:
        DataError: a download failed.
    """
    for config in structure.selected().values():
        if isinstance(config, SamConfig) and config.checkpoint is None:
            fetch_weights(official_sam(config.model_type))
        elif isinstance(config, DepthAnythingConfig) and config.checkpoint is None:
            fetch_weights(official_depth_anything(config.model_type))


def check_generated(structure: StructureConfig, source: str) -> None:
    """Refuse structure that cannot be computed from an RGB image alone.

    Args:
        structure: section of a checkpoint's recipe.
        source: path of the checkpoint, for the error.

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
            f"{source} was trained with a sensor ({names}), which cannot be computed from RGB; "
            f"leave it out: structure.absent=[{names}]"
        )


def _build_superpixels(config: SuperpixelsConfig, device: torch.device) -> StructureGenerator:
    from models.structure.superpixels import Superpixels

    return Superpixels(
        segment_size_px=config.segment_size_px,
        compactness=config.compactness,
        num_iterations=config.num_iterations,
        min_area_share=config.min_area_share,
        device=device,
    )


def _build_sam(config: SamConfig, device: torch.device) -> StructureGenerator:
    from models.structure.sam import Sam, load_sam

    network, digest = load_sam(config.model_type, config.checkpoint, device)
    sam = Sam(
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
        images_per_batch=config.images_per_batch,
        dtype=_dtype(config.precision, device),
    )
    return _in_windows(sam, config)


def _build_depth_anything(config: DepthAnythingConfig, device: torch.device) -> StructureGenerator:
    from models.structure.depth_anything import DepthAnything, load_depth_anything

    dtype = _dtype(config.precision, device)
    network, digest = load_depth_anything(config.model_type, config.checkpoint, device, dtype)
    depth = DepthAnything(
        network=network,
        weights_sha256=digest,
        input_size_px=config.input_size_px,
        images_per_batch=config.images_per_batch,
        dtype=dtype,
    )
    return _in_windows(depth, config)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    is_bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if is_bf16 else torch.float32


def _in_windows(
    generator: StructureGenerator, config: SamConfig | DepthAnythingConfig
) -> StructureGenerator:
    from models.structure.windows import Windowed

    return Windowed(generator, window_px=config.window_px, overlap_px=config.window_overlap_px)


_BUILDERS: dict[str, Callable[[Any, torch.device], StructureGenerator]] = {
    "superpixels": _build_superpixels,
    "sam": _build_sam,
    "depth_anything": _build_depth_anything,
}
