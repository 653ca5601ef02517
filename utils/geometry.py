"""Dihedral transforms and resizing of images, targets, segment ids, value maps and cells.

Pixels are squares. Resizing maps pixel centres to each other: bilinear between centres (with
antialiasing where the result is smaller), or the pixel with the nearest centre.

A map of cells holds several numbers for each of the equal parts that an image is divided into. It
covers its image exactly: ``⌈H / cell_px⌉`` rows and ``⌈W / cell_px⌉`` columns of cells, which are
as high and wide as that makes them, ``cell_px`` or a little less. It is kept at its own resolution;
a window of the image gets a grid of its own, whose cells are interpolated between those of the
image.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.boxes import Box, cell_grid, nearest_pixels


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


def cut_maps(
    maps: Mapping[str, Tensor], size: tuple[int, int], window: Box, cell_px: Mapping[str, int]
) -> dict[str, Tensor]:
    """Cut a window of an image from its maps.

    Args:
        maps: by store ``(N, H, W)`` of the pixels, or ``(N, K, gh, gw)`` uint8 of any number of
            cells.
        size: height and width of the image.
        window: within the image.
        cell_px: side of a cell, by store; the others are maps of pixels.

    Returns:
        ``(N, h, w)``, views; or ``(N, K, ⌈h / cell_px⌉, ⌈w / cell_px⌉)``, see ``cut_cells``.
    """
    parts = {}
    for store, levels in maps.items():
        if store in cell_px:
            out = cell_grid((window.height_px, window.width_px), cell_px[store])
            parts[store] = cut_cells(levels, size, window, out)
        else:
            parts[store] = levels[(..., *window.slices)]
    return parts


def cut_cells(
    cells: Tensor | np.ndarray, size: tuple[int, int], window: Box, out: tuple[int, int]
) -> Tensor:
    """Resample the cells of a window of an image, bilinearly between their centres.

    Weighted by validity: cells without data do not count, and where less than half counts, or the
    centre lies outside the image, there is no data. Beyond the outermost centres the outermost
    cells go on. Where window and cells coincide, nothing changes.

    Args:
        cells: ``(..., K, gh, gw)`` uint8, 0 = no data.
        size: height and width of the image, in pixels.
        window: may extend beyond the image.
        out: rows and columns of the result.

    Returns:
        ``(..., K, *out)`` uint8.
    """
    grid = (cells.shape[-2], cells.shape[-1])
    spans = ((window.top_px, window.height_px), (window.left_px, window.width_px))
    axes = [_Axis(*each) for each in zip(size, grid, spans, out, strict=True)]
    part = cells[..., axes[0].needed, axes[1].needed]
    levels = torch.from_numpy(np.array(part)) if isinstance(part, np.ndarray) else part
    if all(axis.is_identity for axis in axes):
        return levels
    valid = levels[..., :1, :, :] > 0
    mean = _interpolate(levels.float(), axes)
    if not (bool(valid.all()) and all(axis.inside.all() for axis in axes)):
        share = _interpolate(valid.float(), axes)
        inside = np.outer(*(axis.inside for axis in axes))
        share = share * torch.from_numpy(inside).to(share.device)
        mean = torch.where(share >= 0.5, mean / share.clamp(min=0.5), 0)
    return mean.round_().to(torch.uint8)


class _Axis:
    """Neighbours of the new cells along one axis, and their weights, exact but for a rounding.

    Args:
        length: of the image, in pixels.
        count: its cells.
        span: first pixel and length of the window.
        out: number of new cells.
    """

    def __init__(self, length: int, count: int, span: tuple[int, int], out: int) -> None:
        start, window = span
        whole = 2 * out * length
        centres = 2 * out * start + (2 * np.arange(out) + 1) * window  # in parts of a pixel
        lower, rest = np.divmod(centres * count - out * length, whole)
        self.inside = (centres >= 0) & (centres <= whole)
        self.weights = (whole - rest) / whole, rest / whole
        both = np.clip([lower, lower + 1], 0, count - 1)
        first, last = int(both.min()), int(both.max())
        self.needed = slice(first, last + 1)
        self.neighbours = both - first
        self.is_identity = (start, window, out) == (0, length, count)

    def matrix(self, like: Tensor) -> Tensor:
        """Return the weights of the needed cells for each new one, ``(out, needed)`` float32."""
        lower, upper = self.neighbours
        rows = np.arange(len(lower))
        weights = np.zeros((len(lower), self.needed.stop - self.needed.start), np.float32)
        weights[rows, lower] = self.weights[0]
        weights[rows, upper] += self.weights[1].astype(np.float32)  # one cell twice at the edges
        return torch.from_numpy(weights).to(like.device)


def _interpolate(x: Tensor, axes: Sequence[_Axis]) -> Tensor:
    # Products with the matrices of the axes: four times as fast as picking rows and columns.
    rows, columns = (axis.matrix(x) for axis in axes)
    return rows @ x @ columns.T
