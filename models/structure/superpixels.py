"""SLIC superpixels, with identical maps on all devices.

Source: Achanta, Shaji, Smith, Lucchi, Fua, Süsstrunk, "SLIC Superpixels Compared to
State-of-the-Art Superpixel Methods", TPAMI 34(11), 2012, section 3 and algorithm 1. Each pixel is
compared with the centres of the nine cells around it, instead of each centre with the pixels around
it: the parallel form of Ren and Reid, "gSLIC", 2011.

Differs from the paper:

- A cluster is initialised with the mean of its grid cell, which is robust to outliers, not with the
  pixel of lowest gradient near the centre of the cell.
- The number of iterations is fixed and small; the paper iterates to convergence, about ten times.
- Small regions join the neighbour with the longest shared border (``merge_small``); the paper says
  "a nearby cluster".

Maps do not depend on the device or the number of threads. Colours are computed in double precision
and rounded to 1/64, which removes the last bits of a device's power function. Distances are
single-precision subtractions, products and sums, one operation per call, which IEEE 754 rounds
alike everywhere (a fused multiply-add would differ). Sums over a cluster add multiples of 1/64 in
double precision, which is exact in any order.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from configs.schema import SuperpixelsConfig
from models.structure.generator import StructureGenerator
from models.structure.segments import canonical, merge_small

_COLOR_STEPS = 64.0  # colours are multiples of 1/64, far below a visible difference (about 2)

# Linear sRGB (IEC 61966-2-1) to CIE XYZ. The sum of the columns is the white point D65.
_RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)

# Row and column steps to the nine candidate cells of a pixel. Ties go to the first, its own cell.
_NEIGHBOURS = ((0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


class Superpixels(StructureGenerator):
    """SLIC: k-means of colour and position, initialised on a grid.

    Args:
        config: the settings. Of cells of ``segment_size_px`` S there are ``round(H / S)`` rows and
            ``round(W / S)`` columns, at least one, of equal size up to one pixel. Regions smaller
            than ``min_area_share`` of S² are merged. ``compactness`` is m of equation 3.
        device: device of the k-means iterations.
    """

    kind = "segments"
    weights_sha256 = None
    images_per_batch = 1  # one image keeps a device busy

    def __init__(self, config: SuperpixelsConfig, device: torch.device) -> None:
        self._size_px = config.segment_size_px
        self._position_weight = (config.compactness / config.segment_size_px) ** 2
        self._num_iterations = config.num_iterations
        self._min_area_px = math.ceil(config.min_area_share * config.segment_size_px**2)
        self.device = device

    def generate_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Segment images of any sizes, each as ``generate`` does."""
        return [self.generate(image) for image in images]

    @torch.no_grad()
    def generate(self, image: np.ndarray) -> np.ndarray:
        """Segment one image: every pixel has a segment, and every segment is 4-connected."""
        cells = _Cells(image.shape[0], image.shape[1], self._size_px, self.device)
        pixels = torch.tensor(np.ascontiguousarray(image), device=self.device)
        lab = cells.split(rgb_to_lab(pixels))
        centres = cells.means(lab, cells.own, lab.new_zeros(5, cells.own.numel()))
        for _ in range(self._num_iterations):
            cluster = self._assign(cells, lab, centres)
            centres = cells.means(lab, cluster, empty=centres)  # empty clusters stay
        ids = cells.join(cluster).cpu().numpy() + 1
        return canonical(merge_small(ids, self._min_area_px))

    def _assign(self, cells: "_Cells", lab: Tensor, centres: Tensor) -> Tensor:
        """Return the nearest of the nine clusters of each pixel, ``(h, w, N)`` int64 (eq. 3)."""
        nearest = torch.full(lab.shape[1:], torch.inf, device=lab.device)
        step = torch.zeros(lab.shape[1:], dtype=torch.int64, device=lab.device)
        for rows, columns in _NEIGHBOURS:
            *color, y, x = cells.shifted(centres, rows, columns)
            position = (cells.y - y).square_()[:, None] + (cells.x - x).square_()
            distance = position.mul_(self._position_weight)
            for channel, centre in zip(lab, color, strict=True):
                distance.add_((channel - centre).square_())
            step.masked_fill_(distance < nearest, rows * cells.num_columns + columns)
            nearest = torch.minimum(nearest, distance)
        return cells.own + step


class _Cells:
    """An image in a grid of N cells, stored as ``(h, w, N)``: the first pixels of all cells, ...

    With the cells in the last dimension, values of a cell broadcast over its pixels contiguously in
    memory. Cells that are a row or column short of ``h`` x ``w`` are padded with a pixel of the
    image, which is masked out.
    """

    def __init__(self, height: int, width: int, size_px: int, device: torch.device) -> None:
        self.num_rows = max(1, round(height / size_px))
        self.num_columns = max(1, round(width / size_px))
        self.own = torch.arange(self.num_rows * self.num_columns, device=device)
        row_of, in_row, rows, rows_real = _cut(height, self.num_rows, device)
        column_of, in_column, columns, columns_real = _cut(width, self.num_columns, device)
        own_of = row_of[:, None] * self.num_columns + column_of
        self._scatter = (in_row[:, None], in_column, own_of)
        self._gather = (slice(None), rows[:, None, :, None], columns[:, None, :])
        real = rows_real[:, None, :, None] & columns_real[:, None, :]
        self._padding = ~real.flatten(2)
        # (h, N) row and (w, N) column of the pixels; the other axis broadcasts.
        self.y = rows.repeat_interleave(self.num_columns, dim=1).float()
        self.x = columns.repeat(1, self.num_rows).float()

    def split(self, values: Tensor) -> Tensor:
        """Rearrange ``(C, H, W)`` to ``(C, h, w, N)``."""
        return values[self._gather].flatten(3)

    def join(self, values: Tensor) -> Tensor:
        """Rearrange ``(h, w, N)`` to ``(H, W)``."""
        return values[self._scatter]

    def means(self, lab: Tensor, cluster: Tensor, empty: Tensor) -> Tensor:
        """Return the mean colour and position of every cluster.

        Args:
            lab: ``(3, h, w, N)`` float32 multiples of 1/64.
            cluster: index of each pixel's cluster, broadcastable to ``(h, w, N)`` int64.
            empty: ``(5, N)`` float32, means of clusters without pixels.

        Returns:
            ``(5, N)`` float32: L, a, b, row and column in pixels.
        """
        num_clusters = self.own.numel()
        size = self._padding.shape
        # Padding is summed in a cluster of its own, the last one.
        index = torch.where(self._padding, num_clusters, cluster).flatten()
        count = index.bincount(minlength=num_clusters + 1)
        # One plane at a time, in double precision: that of all would take 200 MB of 4 megapixels.
        sums = [
            index.bincount(plane.expand(size).flatten().double(), minlength=num_clusters + 1)
            for plane in (*lab, self.y[:, None], self.x)
        ]
        means = (torch.stack(sums) / count)[:, :-1].float()
        return torch.where(count[:-1] > 0, means, empty)

    def shifted(self, centres: Tensor, rows: int, columns: int) -> Tensor:
        """Return for each cell the centre of the cell at an offset; infinity off the grid."""
        grid = centres.unflatten(1, (self.num_rows, self.num_columns))
        padded = torch.nn.functional.pad(grid, (1, 1, 1, 1), value=torch.inf)
        rolled = padded[:, 1 + rows :, 1 + columns :][:, : self.num_rows, : self.num_columns]
        return rolled.flatten(1)


def _cut(
    length: int, num_cells: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut a line of pixels into cells that differ by at most one pixel.

    Returns:
        Cell of each pixel and its position in the cell, both ``(length,)``; pixel at each position
        of each cell, and False where it is padding, both ``(largest cell, num_cells)``.
    """
    pixels = torch.arange(length, device=device)
    cell_of = pixels * num_cells // length
    begins = -(-torch.arange(num_cells + 1, device=device) * length // num_cells)
    positions = torch.arange(-(-length // num_cells), device=device)
    table = begins[:-1] + positions[:, None]
    return cell_of, pixels - begins[cell_of], table.clamp(max=length - 1), table < begins[1:]


def rgb_to_lab(image: Tensor) -> Tensor:
    """Convert sRGB pixels to CIELAB (D65, 2 degree observer).

    Args:
        image: ``(H, W, 3)`` uint8.

    Returns:
        ``(3, H, W)`` float32 in multiples of 1/64: L in 0..100, a and b within about ±128.
    """
    level = torch.arange(256, dtype=torch.float64, device=image.device) / 255
    linear = torch.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(_RGB_TO_XYZ, dtype=torch.float64, device=image.device)
    matrix = matrix / matrix.sum(dim=1, keepdim=True)
    x, y, z = torch.tensordot(matrix, linear[image.long()], dims=([1], [2]))
    x, y, z = _lightness(x), _lightness(y), _lightness(z)
    lab = torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])
    return lab.mul_(_COLOR_STEPS).round_().div_(_COLOR_STEPS).float()


def _lightness(ratio: Tensor) -> Tensor:
    """Apply the cube root of CIELAB, linear near 0 (CIE 15:2004, section 8.2.1)."""
    edge = 6 / 29
    return torch.where(ratio > edge**3, ratio ** (1 / 3), ratio / (3 * edge**2) + 4 / 29)
