"""Layers shared by several blocks of the figure."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize ``(B, C, h, w)`` to ``(B, C, *size)`` bilinearly."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Normalize(nn.Module):
    """Fixed ``(x - mean) / std`` per channel; the constants are neither saved nor trained."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` in [0, 1] to about zero mean and unit variance."""
        return (x - self.mean) / self.std


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of ``(B, C, H, W)``.

    Mean and variance are accumulated in fp32 whatever the dtype of ``x``, and the result keeps
    that dtype. (Autocast would make an fp32 copy of every map instead.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map, of the input's shape and dtype."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        device = "cpu" if x.is_meta else x.device.type  # the meta device has no autocast
        with torch.autocast(device, enabled=False):
            out = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, weight, bias, self.eps)
        return out.permute(0, 3, 1, 2)


class DepthWise7x7(nn.Conv2d):
    """Depth-wise 7x7 convolution, with weight gradients of our own on the CPU.

    oneDNN takes ten times as long for the weight gradient of kernels wider than 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape."""
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        assert self.bias is not None
        return _DepthWise7x7.apply(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class _DepthWise7x7(torch.autograd.Function):
    """The convolution of ``DepthWise7x7``: its weight gradient as those of three 7x3 kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=3, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        groups, width = len(weight), x.shape[-1]
        grad = grad.contiguous(memory_format=torch.channels_last)
        wide = F.pad(x, (2, 2))
        left, middle, right = (
            conv2d_weight(moved, (groups, 1, 7, 3), grad, padding=(3, 1), groups=groups)
            for moved in (wide[..., :width], x, wide[..., 4:])
        )
        return (
            F.conv2d(grad, weight.flip(2, 3), padding=3, groups=groups),
            torch.cat([left[..., :2], middle, right[..., 1:]], -1),
            grad.sum((0, 2, 3)),
        )


class ScaledConv1x1(nn.Conv2d):
    """End of a residual branch: 1x1 convolution and layer scale, ``γ ⊙ (W x + b)``.

    Computed as ``(γ W) x + γ b``: the same function without another pass over the map, and
    without keeping the unscaled branch for the gradient of γ.

    Differs from the paper: γ starts at 0.1 instead of 1e-6. From 1e-6, and without pre-trained
    values, a block stays an identity for the whole run (method note, fault 20).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)
        self.gamma = nn.Parameter(torch.full((out_channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, out_channels, H, W)``."""
        assert self.bias is not None
        weight = self.gamma.view(-1, 1, 1, 1) * self.weight
        return F.conv2d(x, weight, self.gamma * self.bias)


class ResidualAdd(nn.Module):
    """Stochastic depth ``x + keep ⊙ branch``, one draw per sample, in a single pass.

    Args:
        drop_path: probability that the branch of a sample is dropped in training; the others are
            divided by ``1 - drop_path``.
    """

    def __init__(self, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add two ``(B, C, H, W)``."""
        if not self.training or self.drop_path == 0:
            return x + branch
        keep = branch.new_empty(len(branch), 1, 1, 1).bernoulli_(1 - self.drop_path)
        return torch.addcmul(x, branch, keep / (1 - self.drop_path))


class DepthWise3x3Gelu(nn.Conv2d):
    """Depth-wise 3x3 convolution and GELU, one pass over the map for inference on the CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape."""
        if not _has_fused_gelu(x):
            return F.gelu(super().forward(x))
        assert self.bias is not None
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, (1, 1), (1, 1), (1, 1), self.groups, "gelu", [], "none"
        )


def _has_fused_gelu(x: Tensor) -> bool:
    """Return True if oneDNN can apply GELU (the exact one) to its convolution of this map."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False  # the fused operation has no gradient, and no place in exported files
    if not torch.backends.mkldnn.is_available():
        return False
    half = x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x.dtype == torch.float32 or half


class ConvMlp(nn.Module):
    """Position-aware MLP of DFormer's block: 1x1 conv, depth-wise 3x3 conv, GELU, 1x1 conv."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = channels * ratio
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.mix = DepthWise3x3Gelu(hidden)
        self.reduce = ScaledConv1x1(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the input's shape, layer scale included."""
        return self.reduce(self.mix(self.expand(x)))
