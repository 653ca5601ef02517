"""Dual-branch encoder (figure, centre): stems and frozen ViTs, then four stages of FE and FR."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from configs.schema import ModelConfig
from models.feature_recalibration import FeatureRecalibration
from models.frozen_vit import FrozenViT
from models.fusion_enhancement import FusionEnhancement
from models.layers import Normalize, resize


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


class TokenJoin(nn.Module):
    """Join of a frozen ViT's tokens with the four stages of a branch.

    Layer i enters stage i (a single layer enters all of them), on the tokens' own grid through a
    batch norm and a 1x1 projection to the width of the stage, then bilinear to its grid:
    ``x_i <- x_i + up(W_i BN_i(t_i) + b_i)``. The layers of a ViT differ in scale, which the batch
    norms remove (``lateral_bn`` of PMT, and the linear head of DINOv2, have them too).

    Differs from the released code, which adds the last layer alone, at the first stage, reshapes
    tokens to a map with scrambled columns, upsamples it to full size and strides it back (faults
    11-13).
    """

    def __init__(self, vit_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(vit_channels), nn.Conv2d(vit_channels, width, 1))
            for width in channels
        )

    def forward(self, stage: int, tokens: Sequence[Tensor], size: tuple[int, ...]) -> Tensor:
        """Map the tokens ``(B, D, h, w)`` of a stage (from 0) to ``(B, Ci, *size)``."""
        return resize(self.stages[stage](tokens[min(stage, len(tokens) - 1)]), size)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Branch(nn.Module):
    """Entries of one branch into the four stages: CNN stem, down-sampling, tokens of a frozen ViT.

    Args:
        channels: C1..C4.
        vit: the branch's frozen ViT, or None for the CNN alone.
        pictures: for each picture given to the ViT, its three input channels.
        num_components: for each map of cells, K; its cells enter the stages as tokens do.
        mean, std: fixed normalisation of the stem's input, one entry per input channel.
    """

    def __init__(
        self,
        *,
        channels: tuple[int, int, int, int],
        vit: FrozenViT | None,
        pictures: tuple[tuple[int, int, int], ...],
        num_components: tuple[int, ...] = (),
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.stem = ConvStem(in_channels=len(mean), channels=channels[0])
        self.down = nn.ModuleList(_down_sample(*step) for step in pairwise(channels))
        self.vit = vit
        self.pictures = pictures if vit is not None else ()
        widths = [vit.channels for _ in self.pictures if vit is not None]
        self.joins = nn.ModuleList(TokenJoin(w, channels) for w in (*widths, *num_components))

    def enter(self, stage: int, x: Tensor, tokens: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return the input of a stage.

        Args:
            stage: from 0.
            x: ``(B, in_channels, H, W)`` in [0, 1] for the first stage, else the output of the
                stage before.
            tokens: of the layers of the ViT, for each picture; then each map of cells.

        Returns:
            ``(B, Ci, ⌈H/2^(i+1)⌉, ⌈W/2^(i+1)⌉)`` with i from 1.
        """
        x = self.stem(self.normalize(x)) if stage == 0 else self.down[stage - 1](x)
        for join, layers in zip(self.joins, tokens, strict=True):
            x = x + join(stage, layers, x.shape[-2:])
        return x


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
    """Dual-branch encoder: the entries of both branches, and four stages.

    Args:
        rgb, structure: the branches; they may share one frozen ViT.
        size: widths, depths, attention heads and MLP ratios of the stages.
        config: the recipe's ``model`` section, for everything else in the blocks.
    """

    def __init__(self, *, rgb: Branch, structure: Branch, size: Size, config: ModelConfig) -> None:
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

    def forward(
        self, image: Tensor, structure: Tensor, cells: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Run the four stages.

        Args:
            image: ``(B, 3, H, W)`` RGB in [0, 1].
            structure: ``(B, S, H, W)`` encoded structure maps in [0, 1].
            cells: ``(B, K, gh, gw)`` in [0, 1], for each structure map of cells.

        Returns:
            Four maps ``(B, 2*Ci, ⌈H/2^(i+1)⌉, ⌈W/2^(i+1)⌉)``, RGB and structure concatenated.
        """
        tokens_rgb, tokens_structure = self._tokens(image, structure)
        tokens_structure = [*tokens_structure, *([each] for each in cells)]
        x_rgb, x_structure = image, structure
        pyramid = []
        for stage, (enhance, recalibrate) in enumerate(
            zip(self.enhance, self.recalibrate, strict=True)
        ):
            x_rgb = self.rgb.enter(stage, x_rgb, tokens_rgb)
            x_structure = self.structure.enter(stage, x_structure, tokens_structure)
            f_rgb, f_structure = enhance(x_rgb, x_structure)
            x_rgb, x_structure = recalibrate(x_rgb, x_structure, f_rgb, f_structure)
            pyramid.append(torch.cat([x_rgb, x_structure], 1))
        return pyramid

    def _tokens(self, image: Tensor, structure: Tensor) -> list[list[list[Tensor]]]:
        """Return the tokens of both branches, as ``Branch.enter`` takes them.

        All pictures of a ViT that both branches share are one batch.
        """
        inputs = ((self.rgb, image), (self.structure, structure))
        pictures = [[x[:, list(channels)] for channels in branch.pictures] for branch, x in inputs]
        if self.rgb.vit is not self.structure.vit:
            branches = (self.rgb, self.structure)
            pairs = zip(branches, pictures, strict=True)
            return [_tokens_of(branch.vit, own) for branch, own in pairs]
        shared = _tokens_of(self.rgb.vit, pictures[0] + pictures[1])
        return [shared[: len(pictures[0])], shared[len(pictures[0]) :]]


def _tokens_of(vit: FrozenViT | None, pictures: list[Tensor]) -> list[list[Tensor]]:
    """Return the tokens of every layer, for each picture; all pictures are one batch."""
    if vit is None or not pictures:
        return []
    # Not ``chunk``, which would fix the number of images of an exported network.
    each = (len(pictures), -1)
    layers = [tokens.unflatten(0, each).unbind() for tokens in vit(torch.cat(pictures))]
    return [list(tokens) for tokens in zip(*layers, strict=True)]


def _down_sample(in_channels: int, out_channels: int) -> nn.Module:
    """Build the down-sampling between two stages, as in DFormer: BN, then conv3x3 /2."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    )
