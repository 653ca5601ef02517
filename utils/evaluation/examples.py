"""Example tiles of an evaluation: some spread evenly over a split, and those with the lowest mIoU.

Both are collected during the evaluation and reduced to the size they are drawn in, so no tile is
read or predicted twice, and memory does not grow with their number.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from configs.schema import IGNORE_INDEX
from datasets.dataset import Batch
from datasets.encodings import StructureEncoder
from utils.boxes import Box, window_starts
from utils.distributed import DistContext
from utils.evaluation.metrics import scores
from utils.geometry import cut_maps
from utils.visualization.panels import Cell, PanelRow

WINDOW_PX = 1024  # of a larger tile one window is shown, so that details stay visible


class ExampleTiles:
    """Example tiles of one pass over a split, on this rank.

    Args:
        encoder: encodes the structure maps that are shown.
        dist: this process.
        num_tiles: tiles of this rank.
        num_rows: how many of either kind are kept.
        side_px: longer side of their pictures.
        left_out: indices of classes that the mIoU leaves out.

    Attributes:
        spread: tiles spread evenly over those of the main rank, the same ones in every pass over a
            split; none on other ranks.
    """

    def __init__(
        self,
        encoder: StructureEncoder,
        dist: DistContext,
        num_tiles: int,
        num_rows: int,
        side_px: int,
        left_out: Sequence[int] = (),
    ) -> None:
        self._encoder, self._dist, self._num_rows = encoder, dist, num_rows
        self._side_px, self._left_out = side_px, left_out
        number = min(num_rows, num_tiles) if dist.is_main else 0
        self._chosen = {index * num_tiles // number for index in range(number)}
        self._num_seen = 0
        self.spread: list[PanelRow] = []
        # By mIoU (of the tile alone, over the classes in its target or prediction) and tile id.
        self._worst: dict[tuple[float, str], PanelRow] = {}

    def add(self, batch: Batch, prediction: Tensor, confusion: Tensor) -> None:
        """Keep the pictures of a tile if it is to be shown: ``on_tile`` of ``evaluate``.

        Of a large tile, the spread ones show the middle, the worst the window with most errors.
        Tiles without a labelled pixel of a scored class are not among the worst.
        """
        windows = _windows(prediction.shape)
        if self._num_seen in self._chosen:
            middle = windows[len(windows) // 2]
            self.spread.append(panel_row(batch, prediction, self._encoder, middle, self._side_px))
        self._num_seen += 1
        miou = scores(confusion, self._left_out).miou
        if math.isnan(miou):
            return
        scored = miou, batch.tile_ids[0]
        if len(self._worst) == self._num_rows:
            if scored > max(self._worst):
                return
            del self._worst[max(self._worst)]
        wrong = (batch.target[0] != prediction) & (batch.target[0] != IGNORE_INDEX)
        window = max(windows, key=lambda box: int(wrong[box.slices].sum()))
        title = f"{batch.tile_ids[0]}: mIoU {100 * miou:.2f}"
        row = panel_row(batch, prediction, self._encoder, window, self._side_px, title)
        self._worst[scored] = row

    def worst(self) -> list[PanelRow]:
        """Return the tiles of all ranks with the lowest mIoU, the worst first. Call on all ranks.

        Ranks exchange scores first, and then only the pictures of the tiles that are kept.
        """
        chosen = sorted(scored for part in self._dist.gather([*self._worst]) for scored in part)
        chosen = chosen[: self._num_rows]
        own = {scored: row for scored, row in self._worst.items() if scored in chosen}
        rows = {scored: row for part in self._dist.gather(own) for scored, row in part.items()}
        return [rows[scored] for scored in chosen]


def panel_row(
    batch: Batch,
    prediction: Tensor,
    encoder: StructureEncoder,
    window: Box,
    side_px: int,
    title: str | None = None,
) -> PanelRow:
    """Return a panel row of a window of one tile: image, encoded structure, target and prediction.

    Pictures with a side longer than ``side_px`` are reduced to it, class indices by the nearest
    pixel. The title is the tile id by default.
    """

    def crop(x: Tensor) -> Tensor:
        return x[(..., *window.slices)]

    def picture(x: Tensor, resampling: Image.Resampling = Image.Resampling.NEAREST) -> np.ndarray:
        scale, array = side_px / max(window.height_px, window.width_px), x.numpy()
        if scale >= 1:
            return array.copy()  # not a view of the whole tile
        height_px, width_px = (max(1, round(scale * length)) for length in array.shape[:2])
        return np.array(Image.fromarray(array).resize((width_px, height_px), resampling))

    image, other = crop(batch.image), batch.structure_image
    size = (batch.image.shape[-2], batch.image.shape[-1])
    structure = encoder(
        image.float() / 255,
        cut_maps(batch.maps, size, window, encoder.cell_px),
        None if other is None else crop(other).float() / 255,
    )[0][0, list(encoder.shown)]
    shown = (255 * structure).byte().movedim(0, -1)
    return PanelRow(
        image=picture(image[0].movedim(0, -1), Image.Resampling.LANCZOS),
        structure=Cell(picture=picture(shown), smooth=False),
        target=picture(crop(batch.target[0])),
        prediction=picture(crop(prediction)),
        title=batch.tile_ids[0] if title is None else title,
    )


def _windows(size: Sequence[int]) -> list[Box]:
    """Cover a tile of ``(height, width)`` with even windows of at most ``WINDOW_PX``."""
    height_px, width_px = (min(length, WINDOW_PX) for length in size)
    tops, lefts = (window_starts(length, WINDOW_PX, 0) for length in size)
    return [Box(top, left, height_px, width_px) for top in tops for left in lefts]
