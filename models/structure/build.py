"""Factory of structure generators.

The module of a generator is imported when it is built: importing the packages behind SAM and the
depth network takes longer than computing a small set of superpixels.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch

from configs.schema import (
    DepthAnythingConfig,
    FeaturesConfig,
    GeneratorConfig,
    SamConfig,
    StructureConfig,
    SuperpixelsConfig,
)
from models.structure.generator import StructureGenerator
from models.structure.windows import Windowed
from models.weights import fetch_weights, official_depth_anything, official_sam
from utils.errors import ConfigError
from utils.precision import Precision


def build_generator(name: str, config: GeneratorConfig, device: torch.device) -> StructureGenerator:
    """Build a structure generator.

    Args:
        name: one of ``GENERATORS``.
        config: settings of that generator.
        device: device of the computation.

    Returns:
        The generator; one of ``CELL_GENERATORS`` is still to be fitted.

    Raises:
        ConfigError: settings that the network does not support.
        MissingDataError: the weights file is missing.
        DataError: the weights file is damaged or of another model.
    """
    return _BUILDERS[name](config, device)


def fetch_generator_weights(structure: StructureConfig) -> None:
    """Download the official weights of a recipe's generators unless they are in ``weights/``.

    Raises:
        ConfigError: an unknown ViT, or one whose weights have no direct URL.
        DataError: a download failed.
    """
    for config in structure.selected().values():
        if isinstance(config, SamConfig) and config.checkpoint is None:
            fetch_weights(official_sam(config.model_type))
        elif isinstance(config, DepthAnythingConfig) and config.checkpoint is None:
            fetch_weights(official_depth_anything(config.model_type))
        elif isinstance(config, FeaturesConfig) and config.checkpoint is None:
            from models.frozen_vit import published_weights

            fetch_weights(published_weights(config.name))


def check_generated(structure: StructureConfig, source: str, given: Collection[str] = ()) -> None:
    """Refuse structure that cannot be computed from an RGB image alone.

    Args:
        structure: section of a checkpoint's recipe.
        source: path of the checkpoint, for the error.
        given: sensors whose values are given.

    Raises:
        ConfigError: the maps of other images (``shuffled``), or a sensor that is neither given nor
            absent.
    """
    if structure.control == "shuffled":
        raise ConfigError(
            f"{source} was trained on the maps of other images (structure.control=shuffled), a "
            "control experiment; infer with structure.control=on"
        )
    missing = [name for name in structure.sensors() if name not in given]
    if structure.control == "on" and missing:
        names, options = ",".join(missing), " ".join(f"--sensor {n}=FOLDER" for n in missing)
        raise ConfigError(
            f"{source} was trained with a sensor ({names}), which cannot be computed from RGB; "
            f"name its rasters ({options}), or leave it out: structure.absent=[{names}]"
        )


def _build_superpixels(config: SuperpixelsConfig, device: torch.device) -> StructureGenerator:
    from models.structure.superpixels import Superpixels

    return Superpixels(config, device)


def _build_sam(config: SamConfig, device: torch.device) -> StructureGenerator:
    from models.structure.sam import Sam, load_sam

    network, digest = load_sam(config, device)
    return _in_windows(Sam(config, network, digest, _dtype(config, device)), config)


def _build_depth_anything(config: DepthAnythingConfig, device: torch.device) -> StructureGenerator:
    from models.structure.depth_anything import DepthAnything, load_depth_anything

    dtype = _dtype(config, device)
    network, digest = load_depth_anything(config, device, dtype)
    return _in_windows(DepthAnything(config, network, digest, dtype), config)


def _build_features(config: FeaturesConfig, device: torch.device) -> StructureGenerator:
    from models.frozen_vit import load_frozen_vit
    from models.structure.features import Features

    dtype = Precision(config.precision, device).frozen_dtype
    vit = load_frozen_vit(config.name, config.checkpoint, layers=config.layers, dtype=dtype)
    return Features(config, vit.to(device))


def _dtype(config: SamConfig | DepthAnythingConfig, device: torch.device) -> torch.dtype:
    is_half = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if is_half else torch.float32


def _in_windows(
    generator: StructureGenerator, config: SamConfig | DepthAnythingConfig
) -> StructureGenerator:
    return Windowed(generator, window_px=config.window_px, overlap_px=config.window_overlap_px)


_BUILDERS: dict[str, Callable[[Any, torch.device], StructureGenerator]] = {
    "superpixels": _build_superpixels,
    "sam": _build_sam,
    "depth_anything": _build_depth_anything,
    "features": _build_features,
}
