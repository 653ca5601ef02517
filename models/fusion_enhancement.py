"""Fusion enhancement, FE (figure, per stage): both streams enriched by each other.

The block of DFormer (Yin et al., ICLR 2024) without its large-kernel RGB branch, as the released
VSGNet has it, with both streams at full width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import ChannelNorm, ConvMlp, Residual

POOLED_SIZE = 7  # queries of the global branch: 7 x 7, whatever the input size


class GlobalBranch(nn.Module):
    """Long-range context: a 7x7 pooled query of both streams attends over all of RGB.

    ``q = W_q pool(u)``, ``k = W_k u_rgb``, ``v = W_v u_rgb`` with ``u = [u_rgb; u_str]``; the 49
    answers are resized back to H x W. The query is pooled before ``W_q``, not after: the two
    commute, and 49 positions are cheaper than H x W. Keys and values have no bias: softmax cancels
    the one, and the projection that follows has the other.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Conv2d(2 * channels, channels // 2, 1)
        self.key_value = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, u_rgb: Tensor, u_str: Tensor) -> Tensor:
        """Two ``(B, C, H, W)`` -> ``(B, C/2, H, W)``."""
        size = u_rgb.shape[-2:]
        pooled = [F.adaptive_avg_pool2d(u, POOLED_SIZE) for u in (u_rgb, u_str)]
        query = self._heads(self.query(torch.cat(pooled, 1)))
        key, value = self.key_value(u_rgb).chunk(2, dim=1)
        answer = F.scaled_dot_product_attention(query, self._heads(key), self._heads(value))
        batch, heads, _, width = answer.shape
        grid = answer.transpose(2, 3).reshape(batch, heads * width, POOLED_SIZE, POOLED_SIZE)
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


class FusionEnhancementBlock(nn.Module):
    """One FE block.

    With ``u = LN(x)`` for each stream::

        y     = [global(u_rgb, u_str); gate(u_rgb, u_str)]          (B, C, H, W)
        x_m  <- x_m + γ_m ⊙ W_m y            for m in rgb, str
        x_m  <- x_m + γ'_m ⊙ MLP_m(LN(x_m))

    Differs from the released code: no parameter is created that is not used (fault 10), both
    streams' layer scales and MLPs have full width (fault 7), the structure projection exists in
    every block (fault 8).
    """

    def __init__(self, *, channels: int, num_heads: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        if channels % (2 * num_heads):
            raise ValueError(f"{channels} channels do not divide into 2 x {num_heads} heads")
        self.norm_rgb, self.norm_str = ChannelNorm(channels), ChannelNorm(channels)
        self.global_branch = GlobalBranch(channels, num_heads)
        self.structure_gate = StructureGate(channels)
        self.out_rgb, self.out_str = (nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.add_rgb, self.add_str = (Residual(channels, drop_path) for _ in range(2))
        self.mlp_norm_rgb, self.mlp_norm_str = ChannelNorm(channels), ChannelNorm(channels)
        self.mlp_rgb, self.mlp_str = (ConvMlp(channels, mlp_ratio) for _ in range(2))
        self.mlp_add_rgb, self.mlp_add_str = (Residual(channels, drop_path) for _ in range(2))

    def forward(self, x_rgb: Tensor, x_str: Tensor) -> tuple[Tensor, Tensor]:
        """Two ``(B, C, H, W)`` -> two of the same shape."""
        u_rgb, u_str = self.norm_rgb(x_rgb), self.norm_str(x_str)
        y = torch.cat([self.global_branch(u_rgb, u_str), self.structure_gate(u_rgb, u_str)], 1)
        x_rgb = self.add_rgb(x_rgb, self.out_rgb(y))
        x_str = self.add_str(x_str, self.out_str(y))
        x_rgb = self.mlp_add_rgb(x_rgb, self.mlp_rgb(self.mlp_norm_rgb(x_rgb)))
        x_str = self.mlp_add_str(x_str, self.mlp_str(self.mlp_norm_str(x_str)))
        return x_rgb, x_str


class FusionEnhancement(nn.Module):
    """The FE blocks of one stage.

    Args:
        channels: width of both streams; a multiple of ``2 * num_heads``.
        num_heads: attention heads of the global branch.
        mlp_ratio: hidden width of the MLPs over ``channels``.
        drop_paths: stochastic-depth rate of each block; its length is the depth.
    """

    def __init__(
        self, *, channels: int, num_heads: int, mlp_ratio: int, drop_paths: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            FusionEnhancementBlock(
                channels=channels, num_heads=num_heads, mlp_ratio=mlp_ratio, drop_path=rate
            )
            for rate in drop_paths
        )

    def forward(self, x_rgb: Tensor, x_str: Tensor) -> tuple[Tensor, Tensor]:
        """Two ``(B, C, H, W)`` -> two of the same shape."""
        for block in self.blocks:
            x_rgb, x_str = block(x_rgb, x_str)
        return x_rgb, x_str
