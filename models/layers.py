"""What two or more blocks of the figure share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of ``(B, C, h, w)`` to ``(B, C, *size)``; the same size is a no-op."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Normalize(nn.Module):
    """Fixed ``(x - mean) / std`` per channel; the constants are never saved and never trained."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] -> the same shape, about zero mean and unit variance."""
        return (x - self.mean) / self.std


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of ``(B, C, H, W)``, computed in fp32 under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """One learned factor a channel, ``γ ⊙ x``.

    Differs from the paper: the factors start at 0.1 instead of 1e-6. At 1e-6 and with no trained
    values to load, a block is an identity for the whole run (method note, fault 20).
    """

    def __init__(self, channels: int, init: float = 0.1) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), init))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        return self.gamma * x


class ConvMlp(nn.Module):
    """1x1 conv, depth-wise 3x3 conv, GELU, 1x1 conv: the position-aware MLP of DFormer's block."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = channels * ratio
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.reduce = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        return self.reduce(self.act(self.mix(self.expand(x))))


class Residual(nn.Module):
    """``x + drop(γ ⊙ branch)``: layer scale and stochastic depth of one residual branch."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.scale = LayerScale(channels)
        self.drop = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Two ``(B, C, H, W)`` -> one."""
        return x + self.drop(self.scale(branch))
