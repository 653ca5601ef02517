"""Validation while training: score the EMA weights, log the scores, show example tiles."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from datasets.dataset import Batch
from datasets.loaders import EvalLoader
from models.frozen_vit import remembered_tokens
from utils.evaluation.evaluate import Predictor, evaluate
from utils.evaluation.examples import ExampleTiles
from utils.evaluation.metrics import scores
from utils.evaluation.protocols import LabelPlan, indices_left_out
from utils.files import write_png
from utils.training.log import RunLog
from utils.training.state import TrainState
from utils.visualization.panels import PanelRow, prediction_panel

NUM_ROWS = 4  # tiles in a panel
CELL_PX = 216  # side of a picture in a panel


class Validation:
    """Validation of a run. All ranks must call every method.

    TensorBoard gets a panel of fixed tiles, which are those of the main rank: the same ones in
    every validation, as long as the number of ranks does not change. ``pictures/worst.png`` shows
    the worst tiles of all ranks. It is written by the best validation only, because it shows the
    network of ``best.pth``.

    Args:
        state: of the run; has the weights, and records the best score.
        predictor: of its network.
        loader: validation tiles of this rank.
        labels: kinds of label to score on.
        log: gets scores and panels.
        folder: of the run.

    Raises:
        ConfigError: ``eval.mean_without`` names a class that the data set does not have.
    """

    def __init__(
        self,
        *,
        state: TrainState,
        predictor: Predictor,
        loader: EvalLoader,
        labels: LabelPlan,
        log: RunLog,
        folder: Path,
    ) -> None:
        self._state, self._predictor, self._loader = state, predictor, loader
        self._labels, self._log, self._folder = labels, log, folder
        identity = state.identity
        self._left_out = indices_left_out(identity.recipe["eval"]["mean_without"], identity.classes)

    @property
    def num_images(self) -> int:
        """Return the number of source images that this rank scores."""
        return len(self._loader.source_images)

    def __call__(self) -> bool:
        """Validate; return True if the score of the recipe is the best so far."""
        state, num_tiles = self._state, len(self._loader)
        tiles = ExampleTiles(self._predictor.encoder, state.dist, num_tiles, NUM_ROWS, CELL_PX)
        result = scores(self._confusion(tiles.add), self._left_out)
        is_best = state.is_best(getattr(result, state.identity.selected_by))
        self._log.evaluation(result, is_best)
        if tiles.spread:
            self._log.picture("val/predictions", self._panel(tiles.spread), state.step)
        worst = tiles.worst() if is_best else []
        if worst and state.dist.is_main:
            write_png(self._folder / "pictures" / "worst.png", self._panel(worst))
        return is_best

    def try_one(self) -> None:
        """Predict the first image of each rank, without a report."""
        self._confusion(lambda batch, prediction, confusion: None, num_images=1)

    def _confusion(
        self, on_tile: Callable[[Batch, Tensor, Tensor], None], num_images: int | None = None
    ) -> Tensor:
        """Return the confusion matrix of the first images of all ranks; None: of all images."""
        state = self._state
        with state.evaluation_weights(), remembered_tokens(self._predictor.network):
            return evaluate(
                self._predictor,
                self._loader,
                self._labels,
                len(state.identity.classes),
                state.dist,
                on_tile,
                num_images=num_images,
            )

    def _panel(self, rows: Sequence[PanelRow]) -> np.ndarray:
        identity = self._state.identity
        palette = [(red, green, blue) for red, green, blue in identity.palette]
        return prediction_panel(rows, identity.classes, palette, CELL_PX)
