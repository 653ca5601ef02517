"""Dihedral transforms and resizing of images, targets, segment ids and value maps.

Pixels are squares. Resizing maps pixel centres to each other: bilinear between centres (with
antialiasing where the result is smaller), or the pixel with the nearest centre.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes import nearest_pixels


def dihedral(x: Tensor, number: int) -> Tensor:
    """Apply one of the eight symmetries of the square to the last two axes.

    Args:
        x: ``(..., H, W)``.
        number: 0..7: ``number % 4`` quarter turns to the left, from 4 on followed by a horizontal
            flip. 0 is the identity.
    """
    turned = torch.rot90(x, number % 4, (-2, -1)) if number % 4 else x
    return turned.flip(-1) if number >= 4 else turned


def undo_dihedral(x: Tensor, number: int) -> Tensor:
    """Apply the inverse of ``dihedral``."""
    return dihedral(x.flip(-1) if number >= 4 else x, -number % 4)


def dihedral_view(array: np.ndarray, number: int) -> np.ndarray:
    """Return a view of ``(H, W)`` or ``(H, W, C)``, transformed as by ``dihedral``."""
    turned = np.rot90(array, number % 4)
    return turned[:, ::-1] if number >= 4 else turned


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(N, C, H, W)`` float or uint8 to ``(N, C, *size)``, bilinear, antialiased."""
    if size == x.shape[-2:]:
        return x
    # The fast kernel for uint8 is the antialiasing one, also where the result is larger.
    antialias = size[0] < x.shape[-2] or size[1] < x.shape[-1] or x.dtype == torch.uint8
    return F.interpolate(x, size, mode="bilinear", antialias=antialias)


def resize_levels(levels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize value levels like an image, weighted by validity.

    Args:
        levels: ``(N, H, W)`` whole numbers, 0 = no data.
        size: height and width of the result.

    Returns:
        ``(N, *size)`` of the same dtype: the mean of valid levels, 0 where less than half is valid.
    """
    if size == levels.shape[-2:]:
        return levels
    mean = resize(levels.float().unsqueeze(1), size)
    if levels.amin() == 0:  # four times as fast as all()
        valid = resize((levels > 0).float().unsqueeze(1), size)
        mean = torch.where(valid >= 0.5, mean / valid.clamp(min=1e-6), 0)
    return mean.round_().squeeze(1).to(levels.dtype)


def resize_nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(..., H, W)`` of any dtype to ``(..., *size)``; values are copied, none is new."""
    for axis, length in zip((-2, -1), size, strict=True):
        if length != x.shape[axis]:
            kept = torch.from_numpy(nearest_pixels(x.shape[axis], length))
            x = x.index_select(axis, kept.to(x.device))
    return x


def resize_array_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize ``(H, W)`` or ``(H, W, C)`` of any dtype to ``size``, as ``resize_nearest``."""
    rows, columns = (
        nearest_pixels(*lengths) for lengths in zip(array.shape[:2], size, strict=True)
    )
    if len(columns) > array.shape[1]:  # whole rows are copied faster than single pixels
        return array.take(columns, 1)[rows]
    return array[rows].take(columns, 1)
