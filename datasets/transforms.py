"""What is random about a training sample: one geometry for all members, colour for RGB only."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema import IGNORE_INDEX
from utils.boxes import nearest_pixels

# Photos are averaged when resized, and values where there is data; class indices and segment ids
# must stay what they are.
PHOTOS = ("image", "structure_image")


@dataclass(frozen=True, kw_only=True)
class Window:
    """A square of a tile, and how it is turned."""

    top_px: int  # may be negative: the tile may be smaller than the window
    left_px: int
    side_px: int
    turn: int  # one of the eight symmetries of the square; 0 changes nothing


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Random zoom, crop and dihedral flip, the same for every member of a sample.

    The window is cut first and only then resized, so the cost depends on the crop, not the tile.
    Pixels are squares, and their centres are what is resized: bilinear between centres, or the
    pixel with the nearest one.

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

    def draw(
        self,
        size: tuple[int, int],
        rng: np.random.Generator,
        shown: tuple[int, int] | None = None,
    ) -> Window:
        """Draw a window of a tile, every place with the same probability.

        Args:
            size: height and width of the tile.
            rng: decides the zoom, the place and the turn.
            shown: row and column of a pixel that the result must show; None: any place.
        """
        side = max(1, round(self.crop_size_px / rng.uniform(*self.scale_range)))
        starts = []
        for axis, length in enumerate(size):
            # Where the tile is smaller than the window, it is placed anywhere inside it.
            low, high = min(0, length - side), max(0, length - side)
            if shown is None:
                starts.append(int(rng.integers(low, high + 1)))
                continue
            possible = shown[axis] - nearest_pixels(side, self.crop_size_px)
            possible = np.unique(possible[(possible >= low) & (possible <= high)])
            if not possible.size:  # between the pixels that are kept, wherever the window lies
                possible = np.arange(max(low, shown[axis] - side + 1), min(high, shown[axis]) + 1)
            starts.append(int(rng.choice(possible)))
        turn = int(rng.integers(8)) if self.dihedral else 0
        return Window(top_px=starts[0], left_px=starts[1], side_px=side, turn=turn)

    def cut(self, name: str, member: np.ndarray, window: Window) -> np.ndarray:
        """Cut, resize and turn one member.

        Args:
            name: of the member, which decides how it is resized.
            member: ``(H, W)`` or ``(H, W, 3)``.
            window: the same for all members of the sample.

        Returns:
            ``(crop, crop)`` or ``(crop, crop, 3)``, a view of ``member`` where possible. Where the
            tile is smaller than the window, the target is ignore, ids are 0 and images black.
        """
        part = _cut(member, window, IGNORE_INDEX if name == "target" else 0)
        if part.shape[0] != self.crop_size_px:
            if name in PHOTOS:
                part = _resize_photo(part, self.crop_size_px)
            elif name in self.value_stores:
                part = _resize_levels(part, self.crop_size_px)
            else:
                part = resize_nearest(part, (self.crop_size_px, self.crop_size_px))
        return _turn(part, window.turn)


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``(H, W)`` or ``(H, W, 3)`` of any type -> the same at ``size``; no value is new."""
    rows, columns = (
        nearest_pixels(*lengths) for lengths in zip(array.shape[:2], size, strict=True)
    )
    if len(columns) > array.shape[1]:  # whole rows are copied faster than single pixels
        return array.take(columns, 1)[rows]
    return array[rows].take(columns, 1)


def _resize_photo(photo: np.ndarray, size: int) -> np.ndarray:
    """``(H, W, 3)`` uint8, bilinear, averaged when it gets smaller.

    torch works on the bytes as they lie, six times as fast as Pillow.
    """
    picture = torch.from_numpy(np.array(photo)).unsqueeze(0).permute(0, 3, 1, 2)
    resized = F.interpolate(picture, (size, size), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _resize_levels(levels: np.ndarray, size: int) -> np.ndarray:
    """``(H, W)`` levels averaged where there is data; none where less than half is data."""
    mean = _resize_plane(levels, size)
    if not levels.all():
        has_data = _resize_plane(levels > 0, size)
        mean = np.where(has_data >= 0.5, mean / np.maximum(has_data, 1e-6), 0)
    return np.rint(mean).astype(levels.dtype)


def _resize_plane(plane: np.ndarray, size: int) -> np.ndarray:
    """``(H, W)`` -> ``(size, size)`` float32, bilinear, averaged when it gets smaller."""
    picture = torch.from_numpy(plane.astype(np.float32)).unsqueeze(0).unsqueeze(0)
    smaller = size < len(plane)
    return F.interpolate(picture, (size, size), mode="bilinear", antialias=smaller)[0, 0].numpy()


def _cut(array: np.ndarray, window: Window, fill: int) -> np.ndarray:
    """The pixels of a window; outside of the tile they are ``fill``."""
    height, width = array.shape[:2]
    top, left, side = window.top_px, window.left_px, window.side_px
    inside = array[max(top, 0) : min(top + side, height), max(left, 0) : min(left + side, width)]
    if inside.shape[:2] == (side, side):
        return inside
    filled = np.full((side, side, *array.shape[2:]), fill, dtype=array.dtype)
    y, x = max(-top, 0), max(-left, 0)
    filled[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return filled


def _turn(array: np.ndarray, turn: int) -> np.ndarray:
    """One of the eight symmetries of the square, as a view."""
    turned = np.rot90(array, turn % 4)
    return turned[:, ::-1] if turn >= 4 else turned


def draw_color_factors(strength: float, rng: np.random.Generator) -> np.ndarray:
    """Factors of brightness, contrast and saturation, ``(3,)`` float32 in 1 ± strength."""
    return rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)


def draw_id_key(rng: np.random.Generator) -> np.ndarray:
    """What ``datasets.encodings.shuffle_ids`` needs: three odd numbers below 2^15, int32."""
    return (2 * rng.integers(1 << 14, size=3) + 1).astype(np.int32)


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
