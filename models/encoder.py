"""Dual-branch encoder (figure, centre): stems and frozen ViTs, then four stages of FE and FR."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.feature_recalibration import FeatureRecalibration
from models.frozen_vit import FrozenViT
from models.fusion_enhancement import FusionEnhancement
from models.layers import ChannelNorm, Normalize, resize


class ConvStem(nn.Module):
    """conv3x3 /2 - BN - GELU - conv3x3 /2 - BN, the stem of the figure and of DFormer.

    Args:
        in_channels: 3 for RGB; for structure, the channels of all encodings together.
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
        """``(B, in_channels, H, W)`` -> ``(B, C1, ⌈H/4⌉, ⌈W/4⌉)``."""
        return self.layers(x)


CELL = 8  # side of the picture that depth-to-space makes of one token


class ProjectionJoin(nn.Module):
    """LN - 1x1 conv on the tokens' own grid - bilinear to H/4.

    Differs from the released code, which reshapes tokens to a picture so that their columns are
    scrambled, blows it up to full size and strides it back (faults 11-13).
    """

    def __init__(self, vit_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(vit_channels)
        self.project = nn.Conv2d(vit_channels, channels, 1)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, D, h, w)`` -> ``(B, C1, *size)``."""
        return resize(self.project(self.norm(tokens)), size)


class DepthToSpaceJoin(nn.Module):
    """Every token unfolded to 8x8 pixels of D/64 channels, resized, and a stride-4 stem.

    What the released code means to do (faults 11, 13), with the pixels of a token in its own
    cell. Heavy in memory: the picture has four times the side of the result. An ablation.
    """

    def __init__(self, vit_channels: int, channels: int) -> None:
        super().__init__()
        if vit_channels % CELL**2:
            raise ValueError(
                f"join=depth_to_space needs tokens of a multiple of {CELL**2} channels, these "
                f"have {vit_channels}; take join=projection"
            )
        self.stem = ConvStem(in_channels=vit_channels // CELL**2, channels=channels)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, D, h, w)`` -> ``(B, C1, *size)``."""
        picture = F.pixel_shuffle(tokens, CELL)
        return self.stem(resize(picture, (4 * size[0], 4 * size[1])))


JOINS: dict[str, type[ProjectionJoin] | type[DepthToSpaceJoin]] = {
    "projection": ProjectionJoin,
    "depth_to_space": DepthToSpaceJoin,
}


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Embedding(nn.Module):
    """One branch up to stage 1: CNN stem plus what the frozen ViT sees.

    Args:
        in_channels: channels of the input.
        channels: C1.
        vit: the branch's frozen ViT, or None for the CNN stem alone.
        join: ``projection`` or ``depth_to_space``, see ``models.encoder``.
        pictures: for each picture shown to the ViT, the three input channels it is made of.
        mean, std: fixed normalisation of the stem's input, one entry a channel.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        vit: FrozenViT | None,
        join: str,
        pictures: tuple[tuple[int, int, int], ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.stem = ConvStem(in_channels=in_channels, channels=channels)
        self.pictures = pictures if vit is not None else ()
        self.vit = vit
        self.joins = nn.ModuleList(
            JOINS[join](vit.channels, channels) for _ in self.pictures if vit is not None
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` in [0, 1] -> ``(B, C1, ⌈H/4⌉, ⌈W/4⌉)``."""
        out = self.stem(self.normalize(x))
        size = (out.shape[-2], out.shape[-1])
        for picture, join in zip(self.pictures, self.joins, strict=True):
            assert self.vit is not None
            out = out + join(self.vit(x[:, list(picture)]), size)
        return out


class DualBranchEncoder(nn.Module):
    """Both embeddings and the four stages.

    Args:
        rgb, structure: the two embeddings, built outside, of width ``channels[0]``.
        channels: C1..C4.
        depths: FE blocks in each stage.
        num_heads: attention heads in each stage.
        mlp_ratios: hidden over outer width of the MLPs in each stage.
        drop_path: stochastic depth of the last block; earlier ones rise linearly from 0.
        fe_branches: see ``FusionEnhancement``.
        fr_gates: see ``FeatureRecalibration``.
        recompute: see ``FusionEnhancement``.
    """

    def __init__(
        self,
        *,
        rgb: Embedding,
        structure: Embedding,
        channels: tuple[int, ...],
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        mlp_ratios: tuple[int, ...],
        drop_path: float,
        fe_branches: Sequence[str],
        fr_gates: str,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.rgb, self.structure = rgb, structure
        last = max(1, sum(depths) - 1)
        rates = [drop_path * block / last for block in range(sum(depths))]
        self.enhance, self.recalibrate = nn.ModuleList(), nn.ModuleList()
        for width, depth, heads, ratio in zip(channels, depths, num_heads, mlp_ratios, strict=True):
            own, rates = rates[:depth], rates[depth:]
            self.enhance.append(
                FusionEnhancement(
                    channels=width,
                    num_heads=heads,
                    mlp_ratio=ratio,
                    drop_paths=own,
                    branches=fe_branches,
                    recompute=recompute,
                )
            )
            self.recalibrate.append(FeatureRecalibration(channels=width, gates=fr_gates))
        self.down_rgb = nn.ModuleList(_down_sample(*step) for step in pairwise(channels))
        self.down_str = nn.ModuleList(_down_sample(*step) for step in pairwise(channels))

    def forward(self, image: Tensor, structure: Tensor) -> list[Tensor]:
        """Run the four stages.

        Args:
            image: ``(B, 3, H, W)`` RGB in [0, 1].
            structure: ``(B, S, H, W)`` encoded structure maps in [0, 1].

        Returns:
            Four maps ``(B, 2*Ci, ⌈H/2^(i+1)⌉, ⌈W/2^(i+1)⌉)``: RGB and structure stream, joined.
        """
        x_rgb, x_str = self.rgb(image), self.structure(structure)
        pyramid = []
        for stage, (enhance, recalibrate) in enumerate(
            zip(self.enhance, self.recalibrate, strict=True)
        ):
            if stage > 0:
                x_rgb, x_str = self.down_rgb[stage - 1](x_rgb), self.down_str[stage - 1](x_str)
            f_rgb, f_str = enhance(x_rgb, x_str)
            x_rgb, x_str = recalibrate(x_rgb, x_str, f_rgb, f_str)
            pyramid.append(torch.cat([x_rgb, x_str], 1))
        return pyramid


def _down_sample(in_channels: int, out_channels: int) -> nn.Module:
    """Half the resolution between two stages, as in DFormer: BN, then conv3x3 /2."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    )
