"""The network in operations that an exported file can hold, whatever the height and width.

Four are not such. Pooling to a fixed grid has no ONNX operator. timm resamples position embeddings
(DINOv2) with a filter that ONNX runtimes compute in other ways, and before some of its versions not
where the grid is that of the training. The bicubic resize to whole patches has its operator, but
runtimes round its places in other ways, and logits differ in the fifth digit. These are linear and
separable, so they are written as two products here, of matrices that follow from the sizes. And
timm makes a number of the size on its way to the rotary positions of DINOv3. All are the same
functions, up to rounding.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.frozen_vit import FrozenViT
from models.layers import BicubicResize

# Keys' cubic filter has a parameter: PyTorch's, and that of its antialiased kind (as of Pillow).
_SHARP, _ANTIALIASED = -0.75, -0.5


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
            elif isinstance(child, BicubicResize):
                yield parent, name, ResizeByProducts()
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
        return _by_products(pooling_matrix, x, (self.size, self.size))


class ResizeByProducts(nn.Module):
    """``BicubicResize``."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, C, *size)``."""
        return _by_products(bicubic_matrix, x, size)


def _by_products(matrix: Callable[[int, int], Tensor], x: Tensor, size: tuple[int, int]) -> Tensor:
    """Rows and columns of ``(..., h, w)`` multiplied to ``(..., *size)``.

    ``matrix(old, new)`` is ``(new, old)``. Of all ways to multiply, F.linear is exported best.
    """
    rows, columns = (matrix(old, new) for old, new in zip(x.shape[-2:], size, strict=True))
    return F.linear(F.linear(x, columns).mT, rows).mT


def pooling_matrix(old: int, new: int) -> Tensor:
    """Means of adaptive pooling, ``(new, old)`` float32.

    Cell i is [⌊i old/new⌋, ⌈(i+1) old/new⌉).
    """
    cell = torch.arange(new).unsqueeze(1)
    first = torch.div(cell * old, new, rounding_mode="floor")
    last = torch.div((cell + 1) * old + new - 1, new, rounding_mode="floor")
    place = torch.arange(old)
    inside = (place >= first) & (place < last)
    return inside.float() / (last - first)


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
    resampled = _by_products(antialiased_matrix, grid, new_size)
    return torch.cat([prefix, resampled.flatten(2).transpose(1, 2)], 1)


def bicubic_matrix(old: int, new: int) -> Tensor:
    """Weights of bicubic resampling, ``(new, old)`` float32: four places, repeated at the ends.

    Sides of pixels lie on sides of pixels (``align_corners=False``). Places are rounded as PyTorch
    rounds them on CPUs, the scale and the result alone: at 300 px that is 1e-5 of a pixel, ten
    times as much as all other rounding.
    """
    scale = (torch.ones(()) * old / new).double()
    center = ((torch.arange(new) + 0.5).double() * scale - 0.5).float()
    first = center.floor()
    weights = torch.zeros(())
    for step in (-1, 0, 1, 2):
        taken = (first + step).clamp(min=0, max=old - 1).unsqueeze(1) == torch.arange(old)
        weights = weights + taken * _cubic(center - first - step, _SHARP).unsqueeze(1)
    return weights


def antialiased_matrix(old: int, new: int) -> Tensor:
    """The same with a filter that is wider where the new grid is the coarser one.

    What of the filter is beyond the ends is left out; every row has the sum 1.
    """
    scale = torch.ones(()) * old / new
    center = (torch.arange(new) + 0.5) * scale
    distance = torch.arange(old) + 0.5 - center.unsqueeze(1)
    weights = _cubic(distance / scale.clamp(min=1.0), _ANTIALIASED)
    return weights / weights.sum(1, keepdim=True)


def _cubic(x: Tensor, a: float) -> Tensor:
    """Keys' filter: 1 at 0, and 0 at all other whole numbers."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def rotary_positions(rope: Any, shape: tuple[int, int]) -> Tensor:
    """What timm's ``RotaryEmbeddingDinoV3.get_embed`` computes, ``(h * w, 2 * dim)``."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in shape)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    return torch.cat(rope._get_pos_embed_from_coords(2.0 * places - 1.0), -1)
