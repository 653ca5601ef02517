"""Fusion enhancement, FE (figure, per stage): cross-modal residual blocks on both streams.

The block of DFormer (Yin et al., ICLR 2024), with both streams at full width. DFormer's third
branch, a large-kernel convolution on RGB alone, is optional: the released VSGNet omits it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers import ChannelNorm, ConvMlp, DepthWise7x7, ResidualAdd, ScaledConv1x1, resize

POOLED_SIZE = 7  # queries of the global branch: 7 x 7, whatever the input size


class GlobalBranch(nn.Module):
    """Global context: a 7x7 pooled query of both streams attends over all RGB positions.

    With ``u = [u_rgb; u_structure]`` and h heads of width d = C / 2h::

        q = pool_7x7(W_q u + b_q)      k = W_k u_rgb      v = W_v u_rgb
        out = resize_HxW(softmax(q k^T / sqrt(d)) v)      for each head, heads joined

    The softmax is over all positions, in fp32. The query is pooled before ``W_q``: the two commute,
    and 49 positions are cheaper than H x W. Keys and values have no bias: softmax cancels that of
    the keys, and the projection that follows has that of the values.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pool = nn.AdaptiveAvgPool2d(POOLED_SIZE)
        self.query = nn.Conv2d(2 * channels, channels // 2, 1)
        self.key_value = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, u_rgb: Tensor, u_structure: Tensor) -> Tensor:
        """Map two ``(B, C, H, W)`` to ``(B, C/2, H, W)``."""
        pooled = [self.pool(u) for u in (u_rgb, u_structure)]
        query = self._heads(self.query(torch.cat(pooled, 1)))
        key, value = (self._heads(x) for x in self.key_value(u_rgb).chunk(2, dim=1))
        answer = _attend(query, key, value)
        grid = answer.transpose(2, 3).flatten(1, 2).unflatten(2, (POOLED_SIZE, POOLED_SIZE))
        return resize(grid, u_rgb.shape[-2:])

    def _heads(self, x: Tensor) -> Tensor:
        """Split ``(B, C, h, w)`` into ``(B, heads, h*w, C/heads)``."""
        return x.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return ``softmax(q k^T / sqrt(d)) v`` of three ``(B, heads, positions, d)``."""
    half = value.dtype in (torch.bfloat16, torch.float16)
    if half and value.device.type == "cpu" and torch.is_grad_enabled():
        # The fused kernel's gradient in half precision takes two to five times as long there.
        with torch.autocast("cpu", enabled=False):
            answer = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
            return answer.to(value.dtype)
    return F.scaled_dot_product_attention(query, key, value)


class StructureGate(nn.Module):
    """Local RGB features gated by structure context, ``W_l u_rgb ⊙ DW7x7(W_g u_structure)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.local = nn.Conv2d(channels, half, 1)
        self.gate = nn.Conv2d(channels, half, 1)
        self.gate_context = DepthWise7x7(half)

    def forward(self, u_rgb: Tensor, u_structure: Tensor) -> Tensor:
        """Map two ``(B, C, H, W)`` to ``(B, C/2, H, W)``."""
        return self.local(u_rgb) * self.gate_context(self.gate(u_structure))


class LargeKernelBranch(nn.Module):
    """Local RGB features gated by their RGB context, ``W_q u_rgb ⊙ DW7x7(GELU(W_a u_rgb))``.

    DFormer's third branch, at full width. The released code creates its parameters and never
    uses them (fault 10).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.act = nn.GELU()
        self.gate_context = DepthWise7x7(channels)

    def forward(self, u_rgb: Tensor, u_structure: Tensor) -> Tensor:
        """Map two ``(B, C, H, W)``, the second unused, to ``(B, C, H, W)``."""
        return self.local(u_rgb) * self.gate_context(self.act(self.gate(u_rgb)))


class FusionEnhancementBlock(nn.Module):
    """FE block.

    With ``u = LN(x)`` for each stream::

        y     = [global(u_rgb, u_structure); gate(u_rgb, u_structure)]          (B, C, H, W)
        x_m  <- x_m + γ_m ⊙ (W_m y + b_m)     for m in rgb, str
        x_m  <- x_m + γ'_m ⊙ MLP_m(LN(x_m))
        MLP(z) = W_2 GELU(DW3x3(W_1 z + b_1)) + b_2

    ``branches`` selects the parts of y; large_kernel comes last and adds C channels.

    Differs from the released code: no unused parameter is created (fault 10), both
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
        self.norm_rgb, self.norm_structure = ChannelNorm(channels), ChannelNorm(channels)
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
        self.out_rgb, self.out_structure = (ScaledConv1x1(width, channels) for _ in range(2))
        self.mlp_norm_rgb, self.mlp_norm_structure = ChannelNorm(channels), ChannelNorm(channels)
        self.mlp_rgb, self.mlp_structure = (ConvMlp(channels, mlp_ratio) for _ in range(2))
        self.add = ResidualAdd(drop_path)

    def forward(self, x_rgb: Tensor, x_structure: Tensor) -> tuple[Tensor, Tensor]:
        """Map two ``(B, C, H, W)`` to two of the same shape."""
        u_rgb, u_structure = self.norm_rgb(x_rgb), self.norm_structure(x_structure)
        y = torch.cat([branch(u_rgb, u_structure) for branch in self.branches.values()], 1)
        x_rgb = self.add(x_rgb, self.out_rgb(y))
        x_structure = self.add(x_structure, self.out_structure(y))
        x_rgb = self.add(x_rgb, self.mlp_rgb(self.mlp_norm_rgb(x_rgb)))
        x_structure = self.add(
            x_structure, self.mlp_structure(self.mlp_norm_structure(x_structure))
        )
        return x_rgb, x_structure


class FusionEnhancement(nn.Module):
    """FE blocks of one stage.

    Args:
        channels: width of both streams; a multiple of ``2 * num_heads``.
        num_heads: attention heads of the global branch.
        mlp_ratio: hidden width of the MLPs over ``channels``.
        drop_paths: stochastic-depth rate of each block; its length is the depth.
        branches: parts of a block: ``global_context``, ``structure_gate``, ``large_kernel``.
        recompute: activation checkpointing: keep only the blocks' inputs for the backward pass and
            recompute the rest. The same gradients, less memory, one more forward pass.
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

    def forward(self, x_rgb: Tensor, x_structure: Tensor) -> tuple[Tensor, Tensor]:
        """Map two ``(B, C, H, W)`` to two of the same shape."""
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x_rgb, x_structure = checkpoint(block, x_rgb, x_structure, use_reentrant=False)
            else:
                x_rgb, x_structure = block(x_rgb, x_structure)
        return x_rgb, x_structure
