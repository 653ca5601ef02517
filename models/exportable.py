"""The network in operations that an exported file can hold, whatever the height and width.

Three operations are not such. Pooling to a fixed grid has no ONNX operator. timm resamples position
embeddings (DINOv2) with a filter that ONNX runtimes compute in other ways, and before some of its
versions not where the grid is that of the training. Both are linear and separable, so both are
written as two products here, of matrices that follow from the sizes. And timm makes a number of the
size on its way to the rotary positions of DINOv3. All are the same functions, up to rounding.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.frozen_vit import FrozenViT

_CUBIC = -0.5  # of the antialiased bicubic filter of PyTorch, and of Pillow


@contextmanager
def exportable(network: nn.Module) -> Iterator[None]:
    """Within the block, those operations of a network are replaced; its weights stay."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _replacements(network)]
    try:
        for owner, name, ours in _replacements(network):
            setattr(owner, name, ours)
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


def _replacements(network: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """Whose attribute, its name, and what it becomes."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                yield parent, name, PoolByProducts(child.output_size)
    for vit in [module.vit for module in network.modules() if isinstance(module, FrozenViT)]:
        yield sys.modules[type(vit).__module__], "resample_abs_pos_embed", resample_positions
        for module in vit.modules():
            if type(module).__name__ == "RotaryEmbeddingDinoV3":  # not in older versions of timm
                yield type(module), "get_embed", rotary_positions


class PoolByProducts(nn.Module):
    """``nn.AdaptiveAvgPool2d`` to a square grid.

    Args:
        size: side of the grid.
    """

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C, size, size)``."""
        rows, columns = (pooling_matrix(side, self.size) for side in x.shape[-2:])
        return _product(rows, x, columns)


def pooling_matrix(old: int, new: int) -> Tensor:
    """Means of adaptive pooling, ``(new, old)`` float32.

    Cell i is [⌊i old/new⌋, ⌈(i+1) old/new⌉).
    """
    cell = torch.arange(new).unsqueeze(1)
    first = torch.div(cell * old, new, rounding_mode="floor")
    last = torch.div((cell + 1) * old + new - 1, new, rounding_mode="floor")
    place = torch.arange(old)
    inside = (place >= first) & (place < last)
    return inside / (last - first)


def resample_positions(
    posemb: Tensor, new_size: tuple[int, int], old_size: tuple[int, int], num_prefix_tokens: int
) -> Tensor:
    """What timm's ``resample_abs_pos_embed`` computes, at its defaults.

    Args:
        posemb: ``(1, P + h * w, D)`` position embeddings, those of P prefix tokens first.
        new_size: height and width of the new grid.
        old_size: h and w.
        num_prefix_tokens: P.

    Returns:
        ``(1, P + new h * new w, D)``.
    """
    prefix, grid = posemb[:, :num_prefix_tokens], posemb[:, num_prefix_tokens:]
    grid = grid.unflatten(1, old_size).permute(0, 3, 1, 2)
    rows, columns = (
        bicubic_matrix(old, new).to(grid.dtype) for old, new in zip(old_size, new_size, strict=True)
    )
    resampled = _product(rows, grid, columns)
    return torch.cat([prefix, resampled.flatten(2).transpose(1, 2)], 1)


def bicubic_matrix(old: int, new: int) -> Tensor:
    """Weights of antialiased bicubic resampling, ``(new, old)`` float64.

    Every row has the sum 1. Sides of pixels lie on sides of pixels (``align_corners=False``); where
    the new grid is the coarser one, the filter is as much wider.
    """
    scale = torch.full((), 1.0, dtype=torch.float64) * old / new
    center = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
    distance = torch.arange(old, dtype=torch.float64) + 0.5 - center.unsqueeze(1)
    weights = _cubic(distance / scale.clamp(min=1.0))
    return weights / weights.sum(1, keepdim=True)


def rotary_positions(rope: Any, shape: tuple[int, int]) -> Tensor:
    """What timm's ``RotaryEmbeddingDinoV3.get_embed`` computes, ``(h * w, 2 * dim)``."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in shape)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    return torch.cat(rope._get_pos_embed_from_coords(2.0 * places - 1.0), -1)


def _product(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """``rows x columns^T`` of maps ``(..., h, w)``; of what multiplies, F.linear exports best."""
    return F.linear(F.linear(x, columns).mT, rows).mT


def _cubic(x: Tensor) -> Tensor:
    """Keys' filter: 1 at 0, and 0 at all other whole numbers."""
    x = x.abs()
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
