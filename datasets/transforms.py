"""Augmentation of samples: one geometric transform for all members, colour jitter for RGB only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from configs.schema import IGNORE_INDEX
from utils.boxes import Box, cell_grid, nearest_pixels
from utils.geometry import (
    cut_cells,
    dihedral,
    dihedral_view,
    resize,
    resize_array_nearest,
    resize_levels,
)

# Members that are resized bilinearly, as are values where they are valid; class indices and segment
# ids are resized by nearest neighbour.
PHOTOS = ("image", "structure_image")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A square window of a tile and the symmetry that is applied to it."""

    size: tuple[int, int]  # of the tile
    box: Box  # may extend beyond a tile that is smaller than the window
    turn: int  # 0..7, see utils.geometry.dihedral; 0 changes nothing


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Random zoom, crop and dihedral flip, the same for every member of a sample.

    The window is cut before it is resized, so the cost depends on the crop size, not on the tile.

    Attributes:
        crop_size_px: side of the result.
        scale_range: the zoom is uniform in it; at zoom z a window of ``crop_size_px / z`` is cut.
        dihedral: apply one of the eight flips and quarter turns, each with the same probability.
        value_stores: names of the members that hold value levels, 0 = no data.
        cell_px: by name, members that hold cells.
    """

    crop_size_px: int
    scale_range: tuple[float, float]
    dihedral: bool
    value_stores: tuple[str, ...] = ()
    cell_px: Mapping[str, int] = field(default_factory=dict)

    def draw(
        self,
        size: tuple[int, int],
        rng: np.random.Generator,
        shown: tuple[int, int] | None = None,
    ) -> Crop:
        """Draw a window of a tile, every position with the same probability.

        Args:
            size: height and width of the tile.
            rng: source of the zoom, the position and the symmetry, in this order.
            shown: row and column of a pixel that the result must contain; None: any position.
        """
        side = max(1, round(self.crop_size_px / rng.uniform(*self.scale_range)))
        top, left = (
            self._draw_start(length, side, pixel, rng)
            for length, pixel in zip(size, shown or (None, None), strict=True)
        )
        turn = int(rng.integers(8)) if self.dihedral else 0
        return Crop(size=size, box=Box(top, left, side, side), turn=turn)

    def _draw_start(
        self, length: int, side: int, pixel: int | None, rng: np.random.Generator
    ) -> int:
        """Draw the first row or column of a window; its result contains ``pixel``, if given."""
        low, high = min(0, length - side), max(0, length - side)  # a smaller tile lies inside it
        if pixel is None:
            return int(rng.integers(low, high + 1))
        # A zoomed-out crop keeps only the pixels nearest to its own centres.
        starts = pixel - nearest_pixels(side, self.crop_size_px)
        starts = np.unique(starts[(starts >= low) & (starts <= high)])
        if not starts.size:  # no window keeps this pixel: take any window around it
            starts = np.arange(max(low, pixel - side + 1), min(high, pixel) + 1)
        return int(rng.choice(starts))

    def cut(self, name: str, member: np.ndarray, crop: Crop) -> np.ndarray:
        """Cut, resize and turn one member, ``(H, W)`` or ``(H, W, 3)``; a view where possible.

        Its name decides how it is resized. Where the window extends beyond the tile, the target is
        ignore, ids are 0 and images black. Of cells, ``(K, gh, gw)``, the result is ``(K, g, g)``
        with ``⌈crop_size_px / cell_px⌉`` cells on a side.
        """
        if name in self.cell_px:
            out = cell_grid((self.crop_size_px, self.crop_size_px), self.cell_px[name])
            cells = cut_cells(member, crop.size, crop.box, out)
            return dihedral(cells, crop.turn).contiguous().numpy()
        part = _cut(member, crop.box, IGNORE_INDEX if name == "target" else 0)
        size = (self.crop_size_px, self.crop_size_px)
        if part.shape[:2] != size:
            if name in PHOTOS:
                part = _resize_photo(part, size)
            elif name in self.value_stores:
                levels = torch.from_numpy(part.astype(np.float32)).unsqueeze(0)
                part = resize_levels(levels, size)[0].numpy().astype(part.dtype)
            else:
                part = resize_array_nearest(part, size)
        return dihedral_view(part, crop.turn)


def _resize_photo(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize ``(H, W, 3)`` uint8, bilinear and antialiased."""
    # torch reads the interleaved bytes as they are (channels-last), six times as fast as Pillow.
    picture = torch.from_numpy(np.array(photo)).unsqueeze(0).permute(0, 3, 1, 2)
    return resize(picture, size)[0].permute(1, 2, 0).numpy()


def _cut(array: np.ndarray, box: Box, fill: int) -> np.ndarray:
    """Return the pixels of a box, as a view if it lies inside; pixels outside are ``fill``."""
    height, width = array.shape[:2]
    inside = array[
        max(box.top_px, 0) : min(box.bottom_px, height),
        max(box.left_px, 0) : min(box.right_px, width),
    ]
    if inside.shape[:2] == (box.height_px, box.width_px):
        return inside
    filled = np.full((box.height_px, box.width_px, *array.shape[2:]), fill, dtype=array.dtype)
    y, x = max(-box.top_px, 0), max(-box.left_px, 0)
    filled[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return filled


def draw_color_factors(strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draw factors of brightness, contrast and saturation, ``(3,)`` float32 in 1 ± strength."""
    return rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)


def draw_id_key(rng: np.random.Generator) -> np.ndarray:
    """Draw a key for ``datasets.encodings.shuffle_ids``: three odd numbers below 2^15, int32."""
    return (2 * rng.integers(1 << 14, size=3) + 1).astype(np.int32)


def jitter_colors(image: Tensor, factors: Tensor) -> Tensor:
    """Scale brightness, then contrast about the mean grey, then saturation about each grey.

    Args:
        image: ``(B, 3, H, W)`` in [0, 1], like the result.
        factors: ``(B, 3)`` brightness, contrast, saturation; 1 changes nothing.
    """
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    image = image * brightness
    mean = _grey(image).mean((2, 3), keepdim=True)
    image = mean + (image - mean) * contrast
    grey = _grey(image)
    return (grey + (image - grey) * saturation).clamp(0, 1)


def _grey(image: Tensor) -> Tensor:
    """Return ITU-R BT.601 luma, ``(B, 1, H, W)``."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device, dtype=image.dtype)
    return (image * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
