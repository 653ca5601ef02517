"""What is random about a training sample: one geometry for all members, colour for RGB only."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from configs.schema import IGNORE_INDEX

# Photos are averaged when resized, and values where there is data; class indices and segment ids
# must stay what they are.
_PHOTOS = ("image", "structure_image")


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Random zoom, crop and dihedral flip, the same for every member of a sample.

    The window is cut first and only then resized, so the cost depends on the crop, not the tile.

    Attributes:
        crop_size_px: side of the result.
        scale_range: the zoom is uniform in it; at zoom z a window of ``crop_size_px / z`` is cut.
        dihedral: one of the eight flips and quarter turns, each with the same probability.
        value_stores: names of the members that hold levels of a sensor or a depth, 0 = no data.
    """

    crop_size_px: int
    scale_range: tuple[float, float]
    dihedral: bool
    value_stores: tuple[str, ...] = ()

    def __call__(
        self, members: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Cut, resize and turn all members alike.

        Args:
            members: arrays ``(H, W)`` or ``(H, W, 3)`` of one height and width, by name.
            rng: decides the zoom, the place and the turn.

        Returns:
            The members, each ``(crop, crop)`` or ``(crop, crop, 3)``. Where the tile is smaller
            than the window, the target is ignore, segment ids are 0 and images black.
        """
        side = max(1, round(self.crop_size_px / rng.uniform(*self.scale_range)))
        height, width = members["image"].shape[:2]
        # Where the tile is smaller than the window, it is placed anywhere inside it.
        top = int(rng.integers(min(0, height - side), max(0, height - side) + 1))
        left = int(rng.integers(min(0, width - side), max(0, width - side) + 1))
        turn = int(rng.integers(8)) if self.dihedral else 0
        return {
            name: _turn(self._resize(name, _cut(name, array, top, left, side)), turn)
            for name, array in members.items()
        }

    def _resize(self, name: str, array: np.ndarray) -> np.ndarray:
        size = self.crop_size_px
        if array.shape[0] == size:
            return array
        if name in self.value_stores:
            return _resize_levels(array, size)
        method = Image.Resampling.BILINEAR if name in _PHOTOS else Image.Resampling.NEAREST
        return np.array(Image.fromarray(array).resize((size, size), method))


def _resize_levels(levels: np.ndarray, size: int) -> np.ndarray:
    """Levels averaged where there is data; none where less than half is data."""

    def resized(array: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(array.astype(np.float32))
        return np.array(picture.resize((size, size), Image.Resampling.BILINEAR))

    valid = resized(levels > 0)
    mean = resized(levels) / np.maximum(valid, 1e-6)
    return np.where(valid >= 0.5, np.rint(mean), 0).astype(levels.dtype)


def _cut(name: str, array: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """The ``side x side`` window at (top, left), which may be negative; outside is filled."""
    height, width = array.shape[:2]
    rows = slice(max(top, 0), min(top + side, height))
    columns = slice(max(left, 0), min(left + side, width))
    inside = array[rows, columns]
    if inside.shape[:2] == (side, side):
        return inside
    fill = IGNORE_INDEX if name == "target" else 0
    window = np.full((side, side, *array.shape[2:]), fill, dtype=array.dtype)
    y, x = max(-top, 0), max(-left, 0)
    window[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return window


def _turn(array: np.ndarray, turn: int) -> np.ndarray:
    """One of the eight symmetries of the square, by number; 0 changes nothing."""
    turned = np.rot90(array, turn % 4)
    return turned[:, ::-1] if turn >= 4 else turned


def draw_color_factors(strength: float, rng: np.random.Generator) -> np.ndarray:
    """Factors of brightness, contrast and saturation, ``(3,)`` float32 in 1 ± strength."""
    return rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)


def jitter_colors(image: Tensor, factors: Tensor) -> Tensor:
    """Scale brightness, then contrast about the mean grey, then saturation about each grey.

    Args:
        image: ``(B, 3, H, W)`` in [0, 1].
        factors: ``(B, 3)`` brightness, contrast, saturation; 1 changes nothing.

    Returns:
        ``(B, 3, H, W)`` in [0, 1].
    """
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1).unbind(1)
    image = image * brightness
    mean = _grey(image).mean((2, 3), keepdim=True)
    image = mean + (image - mean) * contrast
    grey = _grey(image)
    return (grey + (image - grey) * saturation).clamp(0, 1)


def _grey(image: Tensor) -> Tensor:
    """ITU-R BT.601 luma, ``(B, 1, H, W)``."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device, dtype=image.dtype)
    return (image * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
