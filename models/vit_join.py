"""Frozen tokens to the stem's width and grid, in two ways."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.conv_stem import ConvStem
from models.layers import ChannelNorm, resize

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
