"""What a validation looks like: a few fixed tiles for TensorBoard, the worst for the run's page.

Both are kept while the tiles go by, reduced to the size they are drawn in, so no tile is read or
predicted twice, and the memory does not grow with their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from configs.schema import IGNORE_INDEX
from utils.contact_sheet import Cell
from utils.files import write_png
from utils.metrics import scores
from utils.sliding_window import Window
from utils.train_state import TrainState
from utils.visualize import PanelRow, prediction_panel

NUM_FIXED, NUM_WORST = 4, 4
CELL_PX = 216  # side of a picture in a panel
WINDOW_PX = 1024  # larger tiles are shown in part: reduced further, nothing could be seen


class Encoder(Protocol):
    """What is needed of a ``StructureEncoder``."""

    pictures: tuple[tuple[int, int, int], ...]

    def __call__(
        self, image: Tensor, maps: dict[str, Tensor], structure_image: Tensor | None = None
    ) -> Tensor:
        """Structure ``(B, S, H, W)`` in [0, 1] of images and maps."""


class PictureLog(Protocol):
    """What is needed of a ``RunLog``."""

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Show a picture."""


@dataclass(frozen=True, kw_only=True, order=True)
class _Scored:
    """A tile and its score, in the order of the worst."""

    miou: float  # of this tile alone, over the classes that occur in its target or prediction
    tile_id: str


class ValidationView:
    """Looks at every tile of a validation on this rank.

    The fixed tiles are spread evenly over those of the main rank: the same ones in every
    validation, as long as the number of ranks does not change. The worst tiles are those of all
    ranks with the lowest mIoU; a tile without a labelled pixel is none of them.

    Args:
        encoder: shows what the structure branch sees.
        state: of the run; names classes and palette.
        num_tiles: validation tiles of this rank.
    """

    def __init__(self, encoder: Encoder, state: TrainState, num_tiles: int) -> None:
        self._encoder = encoder
        self._state = state
        num_fixed = min(NUM_FIXED, num_tiles) if state.dist.is_main else 0
        self._fixed_places = {index * num_tiles // num_fixed for index in range(num_fixed)}
        self._clear()

    def _clear(self) -> None:
        self._num_seen = 0
        self._fixed: list[PanelRow] = []
        self._worst: dict[_Scored, PanelRow] = {}

    def look(self, batch: Any, prediction: Tensor, confusion: Tensor) -> None:
        """Keep what will be shown of a tile: ``look`` of ``utils.evaluation.evaluate``.

        Args:
            batch: of one tile (``datasets.samples.Batch``).
            prediction: its class indices ``(H, W)`` uint8.
            confusion: its confusion matrix.
        """
        wrong = (batch.target[0] != prediction) & (batch.target[0] != IGNORE_INDEX)
        if self._num_seen in self._fixed_places:
            windows = _windows(wrong.shape)
            row = panel_row(batch, prediction, self._encoder, windows[len(windows) // 2])
            self._fixed.append(reduced(row, CELL_PX))
        self._num_seen += 1
        if not confusion.any():
            return
        scored = _Scored(miou=scores(confusion).miou, tile_id=batch.tile_ids[0])
        if len(self._worst) == NUM_WORST:
            if scored > max(self._worst):
                return
            del self._worst[max(self._worst)]
        title = f"{scored.tile_id}: mIoU {100 * scored.miou:.2f}"
        window = max(_windows(wrong.shape), key=lambda part: int(wrong[part].sum()))
        row = panel_row(batch, prediction, self._encoder, window, title)
        self._worst[scored] = reduced(row, CELL_PX)

    def publish(self, log: PictureLog, folder: Path, *, is_best: bool) -> None:
        """Show what was kept, and begin anew. Call on all ranks after every validation.

        Args:
            log: gets a panel of the fixed tiles.
            folder: of the run; gets ``pictures/worst.png``, a panel of the worst tiles.
            is_best: whether the validation was the best so far; the worst tiles of others are not
                written, for ``best.pth`` is what will be used.
        """
        state, fixed = self._state, self._fixed
        worst = self._gather_worst() if is_best else []
        self._clear()
        if fixed:
            log.picture("val/predictions", self._panel(fixed), state.step)
        if worst and state.dist.is_main:
            write_png(folder / "pictures" / "worst.png", self._panel(worst))

    def _gather_worst(self) -> list[PanelRow]:
        """The worst tiles of all ranks, the worst first; only their pictures travel."""
        dist = self._state.dist
        chosen = sorted(scored for part in dist.gather([*self._worst]) for scored in part)
        chosen = chosen[:NUM_WORST]
        own = {scored: row for scored, row in self._worst.items() if scored in chosen}
        rows = {scored: row for part in dist.gather(own) for scored, row in part.items()}
        return [rows[scored] for scored in chosen]

    def _panel(self, rows: Sequence[PanelRow]) -> np.ndarray:
        identity = self._state.identity
        palette = [(red, green, blue) for red, green, blue in identity.palette]
        return prediction_panel(rows, identity.classes, palette, CELL_PX)


def panel_row(
    batch: Any,
    prediction: Tensor,
    encoder: Encoder,
    window: Window = (slice(None), slice(None)),
    title: str | None = None,
) -> PanelRow:
    """A row of a panel: image, what the structure branch saw, target, prediction.

    Args:
        batch: of one tile (``datasets.samples.Batch``).
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
