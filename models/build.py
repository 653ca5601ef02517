"""Construction of the network from a recipe."""

from dataclasses import replace

import torch

from configs.schema import Config, ModelConfig, VitConfig
from models.encoder import IMAGENET_MEAN, IMAGENET_STD, Branch, DualBranchEncoder, Size
from models.frozen_vit import FrozenViT, load_frozen_vit, published_weights
from models.mlp_head import MlpHead
from models.vsgnet import VSGNet
from models.weights import fetch_weights

Pictures = tuple[tuple[int, int, int], ...]

SIZES = {
    "tiny": Size(
        channels=(16, 32, 48, 64),
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 4),
        mlp_ratios=(4, 4, 2, 2),
        embed_channels=64,
        rgb_vit="test_vit",
        structure_vit="test_vit",
    ),
    "small": Size(
        channels=(32, 64, 128, 192),
        depths=(2, 2, 4, 2),
        num_heads=(1, 2, 4, 6),
        mlp_ratios=(4, 4, 3, 3),
        embed_channels=128,
        rgb_vit="vit_small_patch14_reg4_dinov2",
        structure_vit="vit_small_patch14_reg4_dinov2",
    ),
    # As in `small`, ratios of at most 4 and few blocks on fine maps, which cost the most time.
    "base": Size(
        channels=(64, 128, 256, 512),
        depths=(2, 2, 8, 2),
        num_heads=(1, 2, 4, 8),
        mlp_ratios=(4, 4, 4, 4),
        embed_channels=256,
        rgb_vit="vit_base_patch14_reg4_dinov2",
        structure_vit="vit_base_patch14_reg4_dinov2",
    ),
    # Widths, depths and ViTs of the released code; widths and depths are those of DFormer-L.
    "large": Size(
        channels=(96, 192, 288, 576),
        depths=(3, 3, 12, 2),
        num_heads=(1, 2, 4, 8),
        mlp_ratios=(8, 8, 4, 4),
        embed_channels=512,
        rgb_vit="vit_giant_patch14_reg4_dinov2",
        structure_vit="vit_base_patch14_reg4_dinov2",
    ),
}


def build_network(
    config: ModelConfig,
    *,
    num_classes: int,
    structure_channels: int,
    pictures: Pictures,
    num_components: tuple[int, ...] = (),
    frozen_dtype: torch.dtype = torch.float32,
) -> VSGNet:
    """Build the network of a recipe, on the current default device, channels-last.

    Args:
        config: the recipe's ``model`` section.
        num_classes: number of classes of the data set.
        structure_channels: channels of the encoded structure maps.
        pictures: for each modality, the three structure channels given to its frozen ViT; without
            any, there is none.
        num_components: K of each structure map of cells.
        frozen_dtype: dtype in which the frozen ViTs are stored and computed, see ``FrozenViT``.

    Raises:
        ConfigError: an unknown ViT, or settings that it does not support.
        MissingDataError, DataError: its weights file is missing or does not fit.
    """
    size = SIZES[config.size]
    if not pictures:
        config = replace(config, structure_vit=VitConfig(name="none"))
    rgb_vit, structure_vit = _load_vits(config, frozen_dtype)
    encoder = DualBranchEncoder(
        rgb=Branch(
            channels=size.channels,
            vit=rgb_vit,
            pictures=((0, 1, 2),),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        structure=Branch(
            channels=size.channels,
            vit=structure_vit,
            pictures=pictures,
            num_components=num_components,
            mean=(0.5,) * structure_channels,
            std=(0.25,) * structure_channels,
        ),
        size=size,
        config=config,
    )
    head = MlpHead(
        channels=size.channels,
        embed_channels=size.embed_channels,
        num_classes=num_classes,
        dropout=config.head_dropout,
    )
    return VSGNet(encoder=encoder, head=head).to(memory_format=torch.channels_last)


def _load_vits(config: ModelConfig, dtype: torch.dtype) -> list[FrozenViT | None]:
    """Load the frozen ViTs of RGB and structure; equal settings give one ViT, that both share."""
    loaded: dict[VitConfig, FrozenViT] = {}
    for vit in _vits(config):
        if vit.name != "none" and vit not in loaded:
            loaded[vit] = load_frozen_vit(
                vit.name,
                vit.weights,
                layers=vit.layers,
                input_scale=vit.input_scale,
                dtype=dtype,
            )
    return [loaded.get(vit) for vit in _vits(config)]


def _vits(config: ModelConfig) -> list[VitConfig]:
    """Return the settings of the ViTs of RGB and structure, with timm names (``none``: no ViT)."""
    size = SIZES[config.size]
    vits = ((size.rgb_vit, config.rgb_vit), (size.structure_vit, config.structure_vit))
    return [replace(vit, name=own) if vit.name == "default" else vit for own, vit in vits]


def fetch_frozen_weights(config: Config) -> None:
    """Download the official weights of a recipe's frozen ViTs that are not in ``weights/``.

    Raises:
        ConfigError: an unknown ViT, or one whose weights have no direct URL.
        DataError: a download failed.
    """
    for vit in _vits(config.model):
        if vit.name != "none" and vit.weights is None:
            fetch_weights(published_weights(vit.name))


def frozen_identities(network: VSGNet) -> dict[str, dict[str, str]]:
    """Return name and weights hash of each frozen ViT, by branch, as stored in checkpoints."""
    branches = {"rgb_vit": network.encoder.rgb.vit, "structure_vit": network.encoder.structure.vit}
    return {key: vit.identity for key, vit in branches.items() if vit is not None}
