"""A validation while training: the weights that would be used are scored, the result is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from datasets.loaders import EvalLoader
from utils.evaluation.evaluate import Predictor, evaluate
from utils.evaluation.examples import Encoder, SpreadRows, WorstRows
from utils.evaluation.metrics import scores
from utils.evaluation.protocols import LabelPlan, indices_left_out
from utils.files import write_png
from utils.training.log import RunLog
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


class Validation:
    """The validations of a run. Every method must be called by all ranks.

    Args:
        state: of the run; has the weights that are evaluated, and remembers the best score.
        predictor: of its network.
        loader: what this rank scores.
        labels: kinds of label to score on.
        view: looks at every tile.
        log: is told the scores, and shown pictures.
        folder: of the run.

    Raises:
        ConfigError: ``eval.mean_without`` names a class that the data set does not have.
    """

    def __init__(
        self,
        state: TrainState,
        predictor: Predictor,
        loader: EvalLoader,
        labels: LabelPlan,
        view: ValidationView,
        log: RunLog,
        folder: Path,
    ) -> None:
        self._state, self._predictor, self._loader = state, predictor, loader
        self._labels = labels
        self._view, self._log, self._folder = view, log, folder
        identity = state.identity
        self._left_out = indices_left_out(identity.recipe["eval"]["mean_without"], identity.classes)

    @property
    def num_images(self) -> int:
        """What this rank scores, one at a time: source images, or tiles."""
        return len(self._loader.source_images)

    def __call__(self) -> bool:
        """Validate; whether no validation was better, by the score of the recipe."""
        result = scores(self._confusion(None), self._left_out)
        is_best = self._state.is_best(getattr(result, self._state.identity.selected_by))
        self._log.evaluation(self._state, result, is_best)
        self._view.publish(self._log, self._folder, is_best=is_best)
        return is_best

    def try_one(self) -> None:
        """Predict and look at the first image; nothing is told."""
        self._confusion(1)

    def _confusion(self, num_images: int | None) -> Tensor:
        """Over the first images of all ranks; None: over all of them."""
        state = self._state
        with state.evaluation_weights():
            return evaluate(
                self._predictor,
                self._loader,
                self._labels,
                state.num_classes,
                state.dist,
                self._view.look,
                num_images=num_images,
            )
