"""Which tiles of an evaluation are shown: some spread evenly over a split, and the worst.

Both are kept while the tiles go by, reduced to the size they are drawn in, so no tile is read or
predicted twice, and the memory does not grow with their number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from configs.schema import IGNORE_INDEX
from utils.distributed import DistContext
from utils.evaluation.metrics import scores
from utils.evaluation.sliding_window import Window
from utils.visualization.colors import PanelRow
from utils.visualization.panels import Cell

WINDOW_PX = 1024  # larger tiles are shown in part: reduced further, nothing could be seen


class Encoder(Protocol):
    """What is needed of a ``StructureEncoder``."""

    pictures: tuple[tuple[int, int, int], ...]

    def __call__(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Tensor:
        """Structure ``(B, S, H, W)`` in [0, 1] of images and maps."""


class SpreadRows:
    """Tiles spread evenly over those of this rank: the same ones in every pass over a split.

    Args:
        encoder: shows what the structure branch sees.
        num_tiles: tiles of this rank.
        num_rows: how many of them are kept, or all if there are fewer.
        side_px: longer side of their pictures.
    """

    def __init__(self, encoder: Encoder, num_tiles: int, num_rows: int, side_px: int) -> None:
        self._encoder, self._side_px = encoder, side_px
        number = min(num_rows, num_tiles)
        self._places = {index * num_tiles // number for index in range(number)}
        self._num_seen = 0
        self.rows: list[PanelRow] = []

    def look(self, batch: Any, prediction: Tensor) -> None:
        """See the next tile.

        Args:
            batch: of one tile (``datasets.dataset.Batch``).
            prediction: its class indices ``(H, W)`` uint8.
        """
        if self._num_seen in self._places:
            windows = _windows(prediction.shape)
            row = panel_row(batch, prediction, self._encoder, windows[len(windows) // 2])
            self.rows.append(reduced(row, self._side_px))
        self._num_seen += 1


@dataclass(frozen=True, kw_only=True, order=True)
class _Scored:
    """A tile and its score, in the order of the worst."""

    miou: float  # of this tile alone, over the classes that occur in its target or prediction
    tile_id: str


class WorstRows:
    """The tiles with the lowest mIoU; one without a labelled pixel of the mean is none of them.

    Args:
        encoder: shows what the structure branch sees.
        num_rows: how many are kept.
        side_px: longer side of their pictures.
        left_out: indices of classes that the mean does not count.
    """

    def __init__(
        self, encoder: Encoder, num_rows: int, side_px: int, left_out: Sequence[int] = ()
    ) -> None:
        self._encoder, self._num_rows, self._side_px = encoder, num_rows, side_px
        self._left_out = left_out
        self._kept: dict[_Scored, PanelRow] = {}

    def look(self, batch: Any, prediction: Tensor, confusion: Tensor) -> None:
        """See a tile.

        Args:
            batch: of one tile (``datasets.dataset.Batch``).
            prediction: its class indices ``(H, W)`` uint8.
            confusion: its confusion matrix.
        """
        miou = scores(confusion, self._left_out).miou
        if math.isnan(miou):
            return
        scored = _Scored(miou=miou, tile_id=batch.tile_ids[0])
        if len(self._kept) == self._num_rows:
            if scored > max(self._kept):
                return
            del self._kept[max(self._kept)]
        title = f"{scored.tile_id}: mIoU {100 * miou:.2f}"
        wrong = (batch.target[0] != prediction) & (batch.target[0] != IGNORE_INDEX)
        window = max(_windows(wrong.shape), key=lambda part: int(wrong[part].sum()))
        row = panel_row(batch, prediction, self._encoder, window, title)
        self._kept[scored] = reduced(row, self._side_px)

    def gather(self, dist: DistContext) -> list[PanelRow]:
        """The worst tiles of all ranks, the worst first; only their pictures travel.

        Call on all ranks.
        """
        chosen = sorted(scored for part in dist.gather([*self._kept]) for scored in part)
        chosen = chosen[: self._num_rows]
        own = {scored: row for scored, row in self._kept.items() if scored in chosen}
        rows = {scored: row for part in dist.gather(own) for scored, row in part.items()}
        return [rows[scored] for scored in chosen]


def panel_row(
    batch: Any,
    prediction: Tensor,
    encoder: Encoder,
    window: Window = (slice(None), slice(None)),
    title: str | None = None,
) -> PanelRow:
    """A row of a panel: image, what the structure branch saw, target, prediction.

    Args:
        batch: of one tile (``datasets.dataset.Batch``).
        prediction: class indices ``(H, W)`` uint8.
        encoder: of the recipe.
        window: the part of the tile to show.
        title: None: the name of the tile.
    """

    def cut(x: Tensor) -> Tensor:
        return x[(..., *window)]

    image, other = cut(batch.image), batch.structure_image
    structure = encoder(
        image.float() / 255,
        {store: cut(ids) for store, ids in batch.maps.items()},
        None if other is None else cut(other).float() / 255,
    )[0, list(encoder.pictures[0])]
    return PanelRow(
        image=image[0].movedim(0, -1).numpy(),
        structure=Cell(picture=(255 * structure).byte().movedim(0, -1).numpy(), smooth=False),
        target=cut(batch.target[0]).numpy(),
        prediction=cut(prediction).numpy(),
        title=batch.tile_ids[0] if title is None else title,
    )


def reduced(row: PanelRow, side_px: int) -> PanelRow:
    """A row whose pictures are no larger than they will be drawn; classes are never blended."""

    def fit(picture: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
        scale = side_px / max(picture.shape[:2])
        if scale >= 1:
            return picture.copy()  # not a view of the whole tile
        height_px, width_px = (max(1, round(scale * length)) for length in picture.shape[:2])
        return np.array(Image.fromarray(picture).resize((width_px, height_px), resampling))

    smooth, sharp = Image.Resampling.LANCZOS, Image.Resampling.NEAREST
    assert row.target is not None and row.structure is not None
    return PanelRow(
        image=fit(row.image, smooth),
        structure=Cell(picture=fit(row.structure.picture, sharp), smooth=False),
        target=fit(row.target, sharp),
        prediction=fit(row.prediction, sharp),
        title=row.title,
    )


def _windows(size: Sequence[int]) -> list[Window]:
    """Parts of a tile of at most ``WINDOW_PX`` that cover it, evenly spaced, row by row."""
    spans = []
    for length in size:
        side, number = min(length, WINDOW_PX), -(-length // WINDOW_PX)
        starts = torch.linspace(0, length - side, number).round().int().tolist()
        spans.append([slice(start, start + side) for start in starts])
    return [(rows, columns) for rows in spans[0] for columns in spans[1]]
