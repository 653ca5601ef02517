"""Dual-branch encoder (figure, centre): stems and frozen ViTs, then four stages of FE and FR."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import ModelConfig
from models.feature_recalibration import FeatureRecalibration
from models.frozen_vit import FrozenViT
from models.fusion_enhancement import FusionEnhancement
from models.layers import ChannelNorm, Normalize, resize


class ConvStem(nn.Module):
    """Convolutional stem of the figure and of DFormer: conv3x3 /2 - BN - GELU - conv3x3 /2 - BN.

    Args:
        in_channels: 3 for RGB; for structure, the channels of all encodings.
        channels: C1, width of the first stage.
    """

    def __init__(self, *, in_channels: int, channels: int) -> None:
        super().__init__()
        middle = channels // 2
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, middle, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.GELU(),
            nn.Conv2d(middle, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, C1, ⌈H/4⌉, ⌈W/4⌉)``."""
        return self.layers(x)


CELL = 8  # side of the cell that depth-to-space unfolds one token into


class ProjectionJoin(nn.Module):
    """Projection of ViT tokens: LN - 1x1 conv on the tokens' own grid - bilinear to H/4.

    Differs from the released code, which reshapes tokens to a map with scrambled columns, upsamples
    it to full size and strides it back (faults 11-13).
    """

    def __init__(self, vit_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(vit_channels)
        self.project = nn.Conv2d(vit_channels, channels, 1)

    def forward(self, tokens: Tensor, size: tuple[int, ...]) -> Tensor:
        """Map ``(B, D, h, w)`` to ``(B, C1, *size)``."""
        return resize(self.project(self.norm(tokens)), size)


class DepthToSpaceJoin(nn.Module):
    """Depth-to-space of ViT tokens: 8x8 pixels of D/64 channels each, resized, stride-4 stem.

    The intention of the released code (faults 11, 13), with the pixels of a token in its own cell.
    An ablation, heavy in memory: the intermediate map has four times the side of the result.
    """

    def __init__(self, vit_channels: int, channels: int) -> None:
        super().__init__()
        if vit_channels % CELL**2:
            raise ValueError(
                f"join=depth_to_space needs token channels divisible by {CELL**2}, the ViT has "
                f"{vit_channels}; set join=projection"
            )
        self.stem = ConvStem(in_channels=vit_channels // CELL**2, channels=channels)

    def forward(self, tokens: Tensor, size: tuple[int, ...]) -> Tensor:
        """Map ``(B, D, h, w)`` to ``(B, C1, *size)``."""
        unfolded = F.pixel_shuffle(tokens, CELL)
        return self.stem(resize(unfolded, (4 * size[0], 4 * size[1])))


JOINS = {"projection": ProjectionJoin, "depth_to_space": DepthToSpaceJoin}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Embedding(nn.Module):
    """Embedding of one branch: CNN stem plus projected tokens of a frozen ViT.

    Args:
        channels: C1.
        vit: the branch's frozen ViT, or None for the CNN stem alone.
        join: ``projection`` or ``depth_to_space``.
        pictures: for each picture given to the ViT, its three input channels.
        mean, std: fixed normalisation of the stem's input, one entry per input channel.
    """

    def __init__(
        self,
        *,
        channels: int,
        vit: FrozenViT | None,
        join: str,
        pictures: tuple[tuple[int, int, int], ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.stem = ConvStem(in_channels=len(mean), channels=channels)
        self.pictures = pictures if vit is not None else ()
        self.vit = vit
        self.joins = nn.ModuleList(
            JOINS[join](vit.channels, channels) for _ in self.pictures if vit is not None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` in [0, 1] to ``(B, C1, ⌈H/4⌉, ⌈W/4⌉)``."""
        out = self.stem(self.normalize(x))
        for picture, join in zip(self.pictures, self.joins, strict=True):
            assert self.vit is not None
            out = out + join(self.vit(x[:, list(picture)]), out.shape[-2:])
        return out


@dataclass(frozen=True, kw_only=True)
class Size:
    """Settings of a named model size."""

    channels: tuple[int, int, int, int]  # C1..C4
    depths: tuple[int, int, int, int]  # FE blocks per stage
    num_heads: tuple[int, int, int, int]
    mlp_ratios: tuple[int, int, int, int]  # hidden width of the MLPs over the channels
    embed_channels: int  # width of the head
    rgb_vit: str
    structure_vit: str


class DualBranchEncoder(nn.Module):
    """Dual-branch encoder: two embeddings and four stages.

    Args:
        rgb, structure: embeddings of width C1.
        size: widths, depths, attention heads and MLP ratios of the stages.
        config: the recipe's ``model`` section, for everything else in the blocks.
    """

    def __init__(
        self, *, rgb: Embedding, structure: Embedding, size: Size, config: ModelConfig
    ) -> None:
        super().__init__()
        self.rgb, self.structure = rgb, structure
        num_blocks = sum(size.depths)
        rates = [config.drop_path * block / max(1, num_blocks - 1) for block in range(num_blocks)]
        self.enhance, self.recalibrate = nn.ModuleList(), nn.ModuleList()
        for width, depth, heads, ratio in zip(
            size.channels, size.depths, size.num_heads, size.mlp_ratios, strict=True
        ):
            own, rates = rates[:depth], rates[depth:]
            self.enhance.append(
                FusionEnhancement(
                    channels=width,
                    num_heads=heads,
                    mlp_ratio=ratio,
                    drop_paths=own,
                    branches=config.fe_branches,
                    recompute=config.recompute,
                )
            )
            self.recalibrate.append(FeatureRecalibration(channels=width, gates=config.fr_gates))
        self.down_rgb, self.down_structure = (
            nn.ModuleList(_down_sample(*step) for step in pairwise(size.channels)) for _ in range(2)
        )

    def forward(self, image: Tensor, structure: Tensor) -> list[Tensor]:
        """Run the four stages.

        Args:
            image: ``(B, 3, H, W)`` RGB in [0, 1].
            structure: ``(B, S, H, W)`` encoded structure maps in [0, 1].

        Returns:
            Four maps ``(B, 2*Ci, ⌈H/2^(i+1)⌉, ⌈W/2^(i+1)⌉)``, RGB and structure concatenated.
        """
        x_rgb, x_structure = self.rgb(image), self.structure(structure)
        pyramid = []
        for stage, (enhance, recalibrate) in enumerate(
            zip(self.enhance, self.recalibrate, strict=True)
        ):
            if stage > 0:
                x_rgb = self.down_rgb[stage - 1](x_rgb)
                x_structure = self.down_structure[stage - 1](x_structure)
            f_rgb, f_structure = enhance(x_rgb, x_structure)
            x_rgb, x_structure = recalibrate(x_rgb, x_structure, f_rgb, f_structure)
            pyramid.append(torch.cat([x_rgb, x_structure], 1))
        return pyramid


def _down_sample(in_channels: int, out_channels: int) -> nn.Module:
    """Build the down-sampling between two stages, as in DFormer: BN, then conv3x3 /2."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    )
