"""Candidates of ``benchmarks/accuracy.py``: the list, heads on a frozen ViT, nets from scratch.

The opponents have the interface of ours, ``network(image, structure) -> logits``, and leave the
structure maps aside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import Config
from datasets.encodings import StructureEncoder
from models.build import build_network
from models.encoder import IMAGENET_MEAN, IMAGENET_STD
from models.frozen_vit import FrozenViT, load_frozen_vit
from models.layers import Normalize, resize
from models.mlp_head import MlpHead
from models.structure.depth_anything import DptHead

FROZEN_DTYPE = torch.bfloat16
_STRIDES_PX = (4, 8, 16, 32)
_HIDDEN = 512  # of the MLP on tokens
_SEGFORMER = 256  # width of SegFormer's head in its smallest networks
_MULTIPLE_PX = 32  # sides that segmentation_models_pytorch accepts


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Input of a head: layers of a frozen ViT, or one map of stored components."""

    channels: int  # D, of each layer
    num_layers: int = 1
    input_scale: float = 1.0  # of the ViT


class OnTokens(nn.Module):
    """Head on the tokens of a frozen ViT.

    Args:
        vit: its layers are what the head reads.
        head: maps tokens ``(B, D, h, w)`` by layer, and the size of the image, to logits of any
            size.
    """

    def __init__(self, vit: FrozenViT, head: nn.Module) -> None:
        super().__init__()
        self.vit, self.head = vit, head

    def forward(self, image: Tensor, structure: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` in [0, 1] to logits ``(B, C, H, W)``."""
        size = image.shape[-2:]
        return resize(self.head(self.vit(image), size), size)


class OnCells(nn.Module):
    """Head on the stored components of a frozen ViT's tokens.

    Args:
        head: maps components ``(B, K, h, w)``, the only layer, and the size of the image, to logits
            of any size.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, image: Tensor, structure: Tensor, cells: Tensor) -> Tensor:
        """Map cells ``(B, K, h, w)`` in [0, 1] to logits ``(B, C, H, W)``; image: the size."""
        size = image.shape[-2:]
        return resize(self.head([cells], size), size)


class OfConcatenated(nn.Module):
    """Head on the tokens of all layers of a ViT, concatenated.

    Args:
        layers: of the head, one after the other.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map tokens ``(B, D, h, w)`` by layer to ``(B, C, h, w)``."""
        return self.layers(torch.cat(list(tokens), 1))


def linear_probe(tokens: Tokens, num_classes: int, dropout: float) -> nn.Module:
    """Build the linear head of DINOv2's authors: batch norm and 1x1 convolution, no dropout."""
    width = tokens.channels * tokens.num_layers
    return OfConcatenated(nn.BatchNorm2d(width), nn.Conv2d(width, num_classes, 1))


def token_mlp(tokens: Tokens, num_classes: int, dropout: float) -> nn.Module:
    """Build an MLP of two layers that sees one token at a time."""
    width = tokens.channels * tokens.num_layers
    return OfConcatenated(
        nn.BatchNorm2d(width),
        nn.Dropout(dropout),
        nn.Conv2d(width, _HIDDEN, 1),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Conv2d(_HIDDEN, num_classes, 1),
    )


class SegformerOnTokens(nn.Module):
    """SegFormer's all-MLP head on a pyramid of four layers.

    Each layer goes through batch norm and 1x1 to the width of the head, on the tokens' own grid,
    then bilinear to its stride. Batch norm takes away the scales of the layers, as in our join.

    Args:
        tokens: of four layers.
        num_classes: number of classes C.
        dropout: before the last layer.
    """

    def __init__(self, tokens: Tokens, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(tokens.channels), nn.Conv2d(tokens.channels, _SEGFORMER, 1)
            )
            for _ in _STRIDES_PX
        )
        self.head = MlpHead(
            channels=(_SEGFORMER // 2,) * 4,  # our head takes two streams of each
            embed_channels=_SEGFORMER,
            num_classes=num_classes,
            dropout=dropout,
        )

    def forward(self, tokens: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map the tokens of four layers to ``(B, C, ⌈H/4⌉, ⌈W/4⌉)``."""
        pyramid = []
        for stride, layer, enter in zip(_STRIDES_PX, tokens, self.enter, strict=True):
            pyramid.append(resize(enter(layer), tuple(-(-side // stride) for side in size)))
        return self.head(pyramid)


class DptOnTokens(nn.Module):
    """DPT head for segmentation on four layers: that of our depth network, with another end.

    The end is 3x3, batch norm, ReLU, dropout, 1x1, as in DPT's own segmentation networks. Widths
    are those of Depth Anything, in proportion to the ViT's. Layers are reassembled at 4, 2, 1 and
    1/2 times the token grid *of an unscaled image*, so that a scaled input does not also multiply
    the work of the head.

    Args:
        tokens: of four layers.
        num_classes: number of classes C, at least 2.
        dropout: before the last layer.
    """

    def __init__(self, tokens: Tokens, num_classes: int, dropout: float) -> None:
        super().__init__()
        width, features = tokens.channels, tokens.channels // 6
        widths = (width // 8, width // 4, width // 2, width)
        self.head = DptHead(width, widths, features)
        if tokens.input_scale != 1:
            factors = [factor / tokens.input_scale for factor in (4, 2, 1, 0.5)]
            self.head.resize_layers = nn.ModuleList(map(_reassemble, widths, factors))
        self.head.scratch["output_conv1"] = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1, bias=False),
            nn.BatchNorm2d(features),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(features, num_classes, 1),
        )
        self.head.scratch["output_conv2"] = nn.Identity()
        self.head.scratch["refinenet4"].resConfUnit1 = nn.Identity()  # never used

    def forward(self, tokens: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Map the tokens of four layers to logits on a grid of pixels of the ViT's input."""
        return self.head(tokens)


def _reassemble(width: int, factor: float) -> nn.Module:
    """Build the learned resampling of a layer's map by a factor, rounded to a whole number."""
    if (up := round(factor)) > 1:
        return nn.ConvTranspose2d(width, width, up, stride=up)
    down = round(1 / factor)
    return nn.Conv2d(width, width, 3, stride=down, padding=1) if down > 1 else nn.Identity()


class FromScratch(nn.Module):
    """Network of segmentation_models_pytorch with random weights; nothing is downloaded.

    Args:
        kind: class of the package.
        encoder: name of its encoder.
        num_classes: number of classes C.
    """

    def __init__(self, kind: str, encoder: str, num_classes: int) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        self.normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
        self.network = getattr(smp, kind)(encoder, encoder_weights=None, classes=num_classes)

    def forward(self, image: Tensor, structure: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` in [0, 1] to logits ``(B, C, H, W)``; any size, padded inside."""
        height, width = image.shape[-2:]
        padding = (0, -width % _MULTIPLE_PX, 0, -height % _MULTIPLE_PX)
        padded = F.pad(self.normalize(image), padding, mode="replicate")
        return self.network(padded)[..., :height, :width]


Build = Callable[[Config, StructureEncoder, int], nn.Module]
Head = Callable[[Tokens, int, float], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One entry of the list: a network, and its changes to the recipe.

    Attributes:
        build: builds the network for a recipe, the encoder of its structure maps, and C classes.
        changes: overrides of the recipe, without whose ViTs all begin; ``{vit}`` and ``{weights}``
            stand for the command line's.
        package: that it needs.
    """

    build: Build
    changes: tuple[str, ...]
    package: str = "torch"

    @property
    def has_vit(self) -> bool:
        """Return True if it needs a ViT."""
        return any("{vit}" in change for change in self.changes)

    def overrides(self, vit: str | None, weights: str | None) -> list[str]:
        """Return the overrides of the recipe for a timm name and its file (None: the official)."""
        changes = [
            change.replace("{vit}", vit or "none").replace("{weights}", weights or "null")
            for change in self.changes
        ]
        return ["model.rgb_vit={name: none}", "model.structure_vit={name: none}", *changes]


_VIT = ("model.rgb_vit.name={vit}", "model.rgb_vit.weights={weights}")
# Maps of `generate.py` from the same ViT; its forward passes are not part of the minutes.
_FEATURES = (
    "structure.modalities=[features]",
    "structure.features.name={vit}",
    "structure.features.checkpoint={weights}",
)
_OPPONENT = ("structure.control=off", "optim.lr_factors={}")  # no maps are read; names are ours


def _ours(*overrides: str) -> Candidate:
    """Enter our network with changes to the recipe."""

    def build(config: Config, encoder: StructureEncoder, num_classes: int) -> nn.Module:
        return build_network(
            config.model,
            num_classes=num_classes,
            structure_channels=encoder.num_channels,
            pictures=encoder.pictures,
            num_components=encoder.num_components,
            frozen_dtype=FROZEN_DTYPE,
        )

    return Candidate(build=build, changes=overrides)


def _on_tokens(head: Head, *overrides: str) -> Candidate:
    """Enter a head on the frozen ViT."""

    def build(config: Config, encoder: StructureEncoder, num_classes: int) -> nn.Module:
        settings = config.model.rgb_vit
        vit = load_frozen_vit(
            settings.name,
            settings.weights,
            layers=settings.layers,
            input_scale=settings.input_scale,
            dtype=FROZEN_DTYPE,
        )
        tokens = Tokens(
            channels=vit.channels, num_layers=len(vit.layers), input_scale=vit.input_scale
        )
        return OnTokens(vit, head(tokens, num_classes, config.model.head_dropout))

    return Candidate(build=build, changes=(*_OPPONENT, *_VIT, *overrides))


def _on_cells(head: Head, *overrides: str) -> Candidate:
    """Enter a head on the stored components that our network has too."""

    def build(config: Config, encoder: StructureEncoder, num_classes: int) -> nn.Module:
        tokens = Tokens(channels=encoder.num_components[0])
        return OnCells(head(tokens, num_classes, config.model.head_dropout))

    return Candidate(build=build, changes=(*_FEATURES, "optim.lr_factors={}", *overrides))


def _from_scratch(kind: str, encoder_name: str, *overrides: str) -> Candidate:
    """Enter a network of segmentation_models_pytorch."""

    def build(config: Config, encoder: StructureEncoder, num_classes: int) -> nn.Module:
        return FromScratch(kind, encoder_name, num_classes)

    package = "segmentation_models_pytorch"
    return Candidate(build=build, changes=(*_OPPONENT, *overrides), package=package)


_LISTED = {
    # 1e-3: the rate of the linear heads published with DINOv2 (AdamW).
    "linear_last": _on_tokens(linear_probe, "model.rgb_vit.layers=last", "optim.lr=1e-3"),
    "linear_four": _on_tokens(linear_probe, "optim.lr=1e-3"),
    # 1e-3 and 0.3: those of our own first measurements of these tokens.
    "mlp_four": _on_tokens(token_mlp, "model.head_dropout=0.3", "optim.lr=1e-3"),
    # 1e-3: the upper end of what is swept for heads on frozen ViTs (3e-5 to 1e-3 in 40,000 steps);
    # runs of minutes have few steps. Not tuned.
    "dpt": _on_tokens(DptOnTokens, "optim.lr=1e-3"),
    "segformer_mlp": _on_tokens(SegformerOnTokens, "optim.lr=1e-3"),
    # 1e-3: that of Segformer's encoder on ImageNet, from random weights; UPerNet has the same. Not
    # tuned.
    "segformer_b0": _from_scratch("Segformer", "mit_b0", "optim.lr=1e-3"),
    "upernet_r18": _from_scratch("UPerNet", "resnet18", "optim.lr=1e-3"),
    # The same heads on the stored maps that vsgnet_features reads.
    "linear_features": _on_cells(linear_probe, "optim.lr=1e-3"),
    "mlp_features": _on_cells(token_mlp, "model.head_dropout=0.3", "optim.lr=1e-3"),
    # Ours have the rate of the recipe.
    "vsgnet": _ours(),
    "vsgnet_vit": _ours(*_VIT),
    "vsgnet_features": _ours(*_FEATURES),
}
CANDIDATES = _LISTED | {  # every one with a ViT inside also with its input at twice the size
    f"{name}_x2": replace(one, changes=(*one.changes, "model.rgb_vit.input_scale=2"))
    for name, one in _LISTED.items()
    if _VIT[0] in one.changes
}
