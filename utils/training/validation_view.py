"""What a validation looks like: a few fixed tiles for TensorBoard, the worst for the run's page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from utils.evaluation.examples import Encoder, SpreadRows, WorstRows
from utils.files import write_png
from utils.training.state import TrainState
from utils.visualization.colors import PanelRow, prediction_panel

NUM_FIXED, NUM_WORST = 4, 4
CELL_PX = 216  # side of a picture in a panel


class PictureLog(Protocol):
    """What is needed of a ``RunLog``."""

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Show a picture."""


class ValidationView:
    """Looks at every tile of a validation on this rank.

    The fixed tiles are those of the main rank: the same ones in every validation, as long as the
    number of ranks does not change. The worst tiles are those of all ranks.

    Args:
        encoder: shows what the structure branch sees.
        state: of the run; names classes and palette.
        num_tiles: validation tiles of this rank.
    """

    def __init__(self, encoder: Encoder, state: TrainState, num_tiles: int) -> None:
        self._encoder = encoder
        self._state = state
        self._num_tiles = num_tiles
        self._clear()

    def _clear(self) -> None:
        num_fixed = NUM_FIXED if self._state.dist.is_main else 0
        self._fixed = SpreadRows(self._encoder, self._num_tiles, num_fixed, CELL_PX)
        self._worst = WorstRows(self._encoder, NUM_WORST, CELL_PX)

    def look(self, batch: Any, prediction: Tensor, confusion: Tensor) -> None:
        """Keep what will be shown of a tile: ``look`` of ``utils.evaluation.evaluate``.

        Args:
            batch: of one tile (``datasets.dataset.Batch``).
            prediction: its class indices ``(H, W)`` uint8.
            confusion: its confusion matrix.
        """
        self._fixed.look(batch, prediction)
        self._worst.look(batch, prediction, confusion)

    def publish(self, log: PictureLog, folder: Path, *, is_best: bool) -> None:
        """Show what was kept, and begin anew. Call on all ranks after every validation.

        Args:
            log: gets a panel of the fixed tiles.
            folder: of the run; gets ``pictures/worst.png``, a panel of the worst tiles.
            is_best: whether the validation was the best so far; the worst tiles of others are not
                written, for ``best.pth`` is what will be used.
        """
        state, fixed = self._state, self._fixed.rows
        worst = self._worst.gather(state.dist) if is_best else []
        self._clear()
        if fixed:
            log.picture("val/predictions", self._panel(fixed), state.step)
        if worst and state.dist.is_main:
            write_png(folder / "pictures" / "worst.png", self._panel(worst))

    def _panel(self, rows: Sequence[PanelRow]) -> np.ndarray:
        identity = self._state.identity
        palette = [(red, green, blue) for red, green, blue in identity.palette]
        return prediction_panel(rows, identity.classes, palette, CELL_PX)
