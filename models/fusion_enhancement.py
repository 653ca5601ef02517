"""Fusion enhancement, FE (figure, per stage): both streams enriched by each other.

The block of DFormer (Yin et al., ICLR 2024), with both streams at full width. DFormer's third
branch, a large-kernel one on RGB alone, is a switch: the released VSGNet leaves it out.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers import ChannelNorm, ConvMlp, ResidualAdd, ScaledConv1x1

POOLED_SIZE = 7  # queries of the global branch: 7 x 7, whatever the input size


class GlobalBranch(nn.Module):
    """Long-range context: a 7x7 pooled query of both streams attends over all of RGB.

    With ``u = [u_rgb; u_str]`` and h heads of width d = C / 2h::

        q = pool_7x7(W_q u + b_q)      k = W_k u_rgb      v = W_v u_rgb
        out = resize_HxW(softmax(q k^T / sqrt(d)) v)      for each head, heads joined

    The softmax is a plain one, over all positions, in fp32. Here the query is pooled before
    ``W_q``: the two commute, and 49 positions are cheaper than H x W. Keys and values have no
    bias: softmax cancels the one, and the projection that follows has the other.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pool = nn.AdaptiveAvgPool2d(POOLED_SIZE)
        self.query = nn.Conv2d(2 * channels, channels // 2, 1)
        self.key_value = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, u_rgb: Tensor, u_str: Tensor) -> Tensor:
        """Two ``(B, C, H, W)`` -> ``(B, C/2, H, W)``."""
        size = u_rgb.shape[-2:]
        pooled = [self.pool(u) for u in (u_rgb, u_str)]
        query = self._heads(self.query(torch.cat(pooled, 1)))
        key, value = (self._heads(x) for x in self.key_value(u_rgb).chunk(2, dim=1))
        answer = F.scaled_dot_product_attention(query, key, value)
        grid = answer.transpose(2, 3).flatten(1, 2).unflatten(2, (POOLED_SIZE, POOLED_SIZE))
        return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)

    def _heads(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, heads, h*w, C/heads)``."""
        return x.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)


class StructureGate(nn.Module):
    """Local RGB detail weighted by the structure around: ``W_l u_rgb ⊙ DW7x7(W_g u_str)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.local = nn.Conv2d(channels, half, 1)
        self.gate = nn.Conv2d(channels, half, 1)
        self.gate_context = nn.Conv2d(half, half, 7, padding=3, groups=half)

    def forward(self, u_rgb: Tensor, u_str: Tensor) -> Tensor:
        """Two ``(B, C, H, W)`` -> ``(B, C/2, H, W)``."""
        return self.local(u_rgb) * self.gate_context(self.gate(u_str))


class LargeKernelBranch(nn.Module):
    """RGB detail weighted by the RGB around, ``W_q u_rgb ⊙ DW7x7(GELU(W_a u_rgb))``.

    DFormer's third branch, at full width. The released code creates its parameters and never
    uses them (fault 10); here it is there or it is not.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.act = nn.GELU()
        self.gate_context = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)

    def forward(self, u_rgb: Tensor, u_str: Tensor) -> Tensor:
        """Two ``(B, C, H, W)``, the second unused -> ``(B, C, H, W)``."""
        return self.local(u_rgb) * self.gate_context(self.act(self.gate(u_rgb)))


class FusionEnhancementBlock(nn.Module):
    """One FE block.

    With ``u = LN(x)`` for each stream::

        y     = [global(u_rgb, u_str); gate(u_rgb, u_str)]          (B, C, H, W)
        x_m  <- x_m + γ_m ⊙ (W_m y + b_m)     for m in rgb, str
        x_m  <- x_m + γ'_m ⊙ MLP_m(LN(x_m))
        MLP(z) = W_2 GELU(DW3x3(W_1 z + b_1)) + b_2

    ``branches`` chooses what y is made of; large_kernel comes last and adds C channels.

    Differs from the released code: no parameter is created that is not used (fault 10), both
    streams' layer scales and MLPs have full width (fault 7), the structure projection exists in
    every block (fault 8), and the number of heads is checked (fault 24).
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        mlp_ratio: int,
        drop_path: float,
        branches: Sequence[str] = ("global_context", "structure_gate"),
    ) -> None:
        super().__init__()
        if channels % (2 * num_heads):
            raise ValueError(f"{channels} channels do not divide into 2 x {num_heads} heads")
        self.norm_rgb, self.norm_str = ChannelNorm(channels), ChannelNorm(channels)
        self.branches = nn.ModuleDict()
        width = 0
        if "global_context" in branches:
            self.branches["global_context"] = GlobalBranch(channels, num_heads)
            width += channels // 2
        if "structure_gate" in branches:
            self.branches["structure_gate"] = StructureGate(channels)
            width += channels // 2
        if "large_kernel" in branches:
            self.branches["large_kernel"] = LargeKernelBranch(channels)
            width += channels
        self.out_rgb, self.out_str = (ScaledConv1x1(width, channels) for _ in range(2))
        self.mlp_norm_rgb, self.mlp_norm_str = ChannelNorm(channels), ChannelNorm(channels)
        self.mlp_rgb, self.mlp_str = (ConvMlp(channels, mlp_ratio) for _ in range(2))
        self.add = ResidualAdd(drop_path)

    def forward(self, x_rgb: Tensor, x_str: Tensor) -> tuple[Tensor, Tensor]:
        """Two ``(B, C, H, W)`` -> two of the same shape."""
        u_rgb, u_str = self.norm_rgb(x_rgb), self.norm_str(x_str)
        y = torch.cat([branch(u_rgb, u_str) for branch in self.branches.values()], 1)
        x_rgb = self.add(x_rgb, self.out_rgb(y))
        x_str = self.add(x_str, self.out_str(y))
        x_rgb = self.add(x_rgb, self.mlp_rgb(self.mlp_norm_rgb(x_rgb)))
        x_str = self.add(x_str, self.mlp_str(self.mlp_norm_str(x_str)))
        return x_rgb, x_str


class FusionEnhancement(nn.Module):
    """The FE blocks of one stage.

    Args:
        channels: width of both streams; a multiple of ``2 * num_heads``.
        num_heads: attention heads of the global branch.
        mlp_ratio: hidden width of the MLPs over ``channels``.
        drop_paths: stochastic-depth rate of each block; its length is the depth.
        branches: what a block is made of: ``global_context``, ``structure_gate``, ``large_kernel``.
        recompute: keep only the blocks' inputs for the backward pass and compute what is inside
            again (activation checkpointing): the same gradients, less memory, one more forward.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        mlp_ratio: int,
        drop_paths: Sequence[float],
        branches: Sequence[str] = ("global_context", "structure_gate"),
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.blocks = nn.ModuleList(
            FusionEnhancementBlock(
                channels=channels,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                drop_path=rate,
                branches=branches,
            )
            for rate in drop_paths
        )

    def forward(self, x_rgb: Tensor, x_str: Tensor) -> tuple[Tensor, Tensor]:
        """Two ``(B, C, H, W)`` -> two of the same shape."""
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x_rgb, x_str = checkpoint(block, x_rgb, x_str, use_reentrant=False)
            else:
                x_rgb, x_str = block(x_rgb, x_str)
        return x_rgb, x_str
