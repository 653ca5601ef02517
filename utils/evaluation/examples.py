"""Example tiles of an evaluation: some spread evenly over a split, and those with the lowest mIoU.

Both are collected during the evaluation and reduced to the size they are drawn in, so no tile is
read or predicted twice, and memory does not grow with their number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from configs.schema import IGNORE_INDEX
from datasets.dataset import Batch
from datasets.encodings import StructureEncoder
from utils.boxes import Box, window_starts
from utils.distributed import DistContext
from utils.evaluation.metrics import scores
from utils.visualization.panels import Cell, PanelRow

WINDOW_PX = 1024  # of a larger tile one window is shown, so that details stay visible


class SpreadRows:
    """Tiles spread evenly over those of this rank: the same ones in every pass over a split.

    Args:
        encoder: encodes the structure maps that are shown.
        num_tiles: tiles of this rank.
        num_rows: how many of them are kept, or all if there are fewer.
        side_px: longer side of their pictures.

    Attributes:
        rows: the tiles kept so far.
    """

    def __init__(
        self, encoder: StructureEncoder, num_tiles: int, num_rows: int, side_px: int
    ) -> None:
        self._encoder, self._side_px = encoder, side_px
        number = min(num_rows, num_tiles)
        self._chosen = {index * num_tiles // number for index in range(number)}
        self._num_seen = 0
        self.rows: list[PanelRow] = []

    def add(self, batch: Batch, prediction: Tensor) -> None:
        """Keep the next tile if it is one of the chosen ones; the middle window of a large tile.

        Args:
            batch: of one tile.
            prediction: its class indices ``(H, W)`` uint8.
        """
        if self._num_seen in self._chosen:
            windows = tile_windows(prediction.shape)
            row = panel_row(batch, prediction, self._encoder, windows[len(windows) // 2])
            self.rows.append(reduced(row, self._side_px))
        self._num_seen += 1


@dataclass(frozen=True, kw_only=True, order=True)
class _ScoredTile:
    """A tile and its score, sorted from the worst to the best."""

    miou: float  # of this tile alone, over the classes that occur in its target or prediction
    tile_id: str


class WorstRows:
    """The tiles with the lowest mIoU; those without a labelled pixel of a scored class are skipped.

    Args:
        encoder: encodes the structure maps that are shown.
        num_rows: how many are kept.
        side_px: longer side of their pictures.
        left_out: indices of classes that the mean leaves out.
    """

    def __init__(
        self,
        encoder: StructureEncoder,
        num_rows: int,
        side_px: int,
        left_out: Sequence[int] = (),
    ) -> None:
        self._encoder, self._num_rows, self._side_px = encoder, num_rows, side_px
        self._left_out = left_out
        self._kept: dict[_ScoredTile, PanelRow] = {}

    def add(self, batch: Batch, prediction: Tensor, confusion: Tensor) -> None:
        """Keep a tile if it is among the worst so far; the window with most errors of a large tile.

        Args:
            batch: of one tile.
            prediction: its class indices ``(H, W)`` uint8.
            confusion: its confusion matrix.
        """
        miou = scores(confusion, self._left_out).miou
        if math.isnan(miou):
            return
        scored = _ScoredTile(miou=miou, tile_id=batch.tile_ids[0])
        if len(self._kept) == self._num_rows:
            if scored > max(self._kept):
                return
            del self._kept[max(self._kept)]
        wrong = (batch.target[0] != prediction) & (batch.target[0] != IGNORE_INDEX)
        window = max(tile_windows(wrong.shape), key=lambda box: int(wrong[box.slices].sum()))
        title = f"{scored.tile_id}: mIoU {100 * miou:.2f}"
        row = panel_row(batch, prediction, self._encoder, window, title)
        self._kept[scored] = reduced(row, self._side_px)

    def gather(self, dist: DistContext) -> list[PanelRow]:
        """Return the worst tiles of all ranks, the worst first. Call on all ranks.

        Ranks exchange scores first, and then only the pictures of the tiles that are kept.
        """
        chosen = sorted(scored for part in dist.gather([*self._kept]) for scored in part)
        chosen = chosen[: self._num_rows]
        own = {scored: row for scored, row in self._kept.items() if scored in chosen}
        rows = {scored: row for part in dist.gather(own) for scored, row in part.items()}
        return [rows[scored] for scored in chosen]


def panel_row(
    batch: Batch,
    prediction: Tensor,
    encoder: StructureEncoder,
    window: Box,
    title: str | None = None,
) -> PanelRow:
    """Return a panel row of one tile: image, encoded structure, target and prediction.

    Args:
        batch: of one tile.
        prediction: its class indices ``(H, W)`` uint8.
        encoder: encodes the structure maps.
        window: the part of the tile to show.
        title: by default the tile id.
    """

    def crop(x: Tensor) -> Tensor:
        return x[(..., *window.slices)]

    image, other = crop(batch.image), batch.structure_image
    structure = encoder(
        image.float() / 255,
        {store: crop(levels) for store, levels in batch.maps.items()},
        None if other is None else crop(other).float() / 255,
    )[0, list(encoder.pictures[0])]
    return PanelRow(
        image=image[0].movedim(0, -1).numpy(),
        structure=Cell(picture=(255 * structure).byte().movedim(0, -1).numpy(), smooth=False),
        target=crop(batch.target[0]).numpy(),
        prediction=crop(prediction).numpy(),
        title=batch.tile_ids[0] if title is None else title,
    )


def reduced(row: PanelRow, side_px: int) -> PanelRow:
    """Reduce the pictures of a row to the size they are drawn in; class indices by the nearest."""

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


def tile_windows(size: Sequence[int]) -> list[Box]:
    """Cover a tile with evenly spaced windows of at most ``WINDOW_PX``, row by row.

    Args:
        size: height and width of the tile.
    """
    height_px, width_px = (min(length, WINDOW_PX) for length in size)
    tops, lefts = (window_starts(length, WINDOW_PX, 0) for length in size)
    return [Box(top, left, height_px, width_px) for top in tops for left in lefts]
