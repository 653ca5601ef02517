"""What two or more blocks of the figure share."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of ``(B, C, h, w)`` to ``(B, C, *size)``."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class BicubicResize(nn.Module):
    """Bicubic resize, a module so that ``models.export`` can replace it."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, C, *size)``; of its own size it comes back as it is."""
        return F.interpolate(x, size=size, mode="bicubic", align_corners=False)


def _no_autocast(device_type: str) -> AbstractContextManager[None]:
    """Leave autocast, on devices that have it (the meta device, which counts, does not)."""
    # To ask torch whether it is available breaks the graph of torch.compile in torch 2.9.
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


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
    """Layer norm over the channels of ``(B, C, H, W)``.

    Mean and variance are accumulated in fp32 whatever the dtype of ``x`` is, which the result
    keeps. (Autocast would make an fp32 copy of every map instead.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as the input."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        with _no_autocast(x.device.type):
            out = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, weight, bias, self.eps)
        return out.permute(0, 3, 1, 2)


class ScaledConv1x1(nn.Conv2d):
    """The end of a residual branch: 1x1 convolution and layer scale, ``γ ⊙ (W x + b)``.

    Computed as ``(γ W) x + γ b``: the same function without another pass over the map, and
    without keeping the unscaled branch for the gradient of γ.

    Differs from the paper: γ starts at 0.1 instead of 1e-6. At 1e-6 and with no trained values to
    load, a block is an identity for the whole run (method note, fault 20).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)
        self.gamma = nn.Parameter(torch.full((out_channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, out_channels, H, W)``."""
        assert self.bias is not None
        weight = self.gamma.view(-1, 1, 1, 1) * self.weight
        return F.conv2d(x, weight, self.gamma * self.bias)


class ResidualAdd(nn.Module):
    """``x + keep ⊙ branch``: stochastic depth, one draw a sample, in a single pass.

    Args:
        drop_path: probability that a sample's branch is left out in training; the others are
            divided by ``1 - drop_path``.
    """

    def __init__(self, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Two ``(B, C, H, W)`` -> one."""
        if not self.training or self.drop_path == 0:
            return x + branch
        keep = branch.new_empty(len(branch), 1, 1, 1).bernoulli_(1 - self.drop_path)
        return torch.addcmul(x, branch, keep / (1 - self.drop_path))


class ConvMlp(nn.Module):
    """1x1 conv, depth-wise 3x3 conv, GELU, 1x1 conv: the position-aware MLP of DFormer's block."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = channels * ratio
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.reduce = ScaledConv1x1(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape, layer scale included."""
        return self.reduce(self.act(self.mix(self.expand(x))))
