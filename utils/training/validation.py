"""Validation while training: score the EMA weights, log the scores, show example tiles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from datasets.dataset import Batch
from datasets.encodings import StructureEncoder
from datasets.loaders import EvalLoader
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


class ValidationExamples:
    """Example tiles of a validation, on this rank.

    The fixed tiles are those of the main rank: the same ones in every validation, as long as the
    number of ranks does not change. The worst tiles are those of all ranks.

    Args:
        encoder: encodes the structure maps that are shown.
        state: of the run; names classes and palette.
        num_tiles: validation tiles of this rank.
    """

    def __init__(self, encoder: StructureEncoder, state: TrainState, num_tiles: int) -> None:
        self._encoder = encoder
        self._state = state
        self._num_tiles = num_tiles
        self._clear()

    def _clear(self) -> None:
        self._tiles = ExampleTiles(
            self._encoder, self._state.dist, self._num_tiles, NUM_ROWS, CELL_PX
        )

    def add(self, batch: Batch, prediction: Tensor, confusion: Tensor) -> None:
        """Keep the pictures of a tile if they will be shown.

        Args:
            batch: of one tile.
            prediction: its class indices ``(H, W)`` uint8.
            confusion: its confusion matrix.
        """
        self._tiles.add(batch, prediction, confusion)

    def publish(self, log: RunLog, folder: Path, *, is_best: bool) -> None:
        """Write the panels and start over. Call on all ranks after every validation.

        Args:
            log: gets the panel of the fixed tiles.
            folder: of the run; gets ``pictures/worst.png``, the panel of the worst tiles.
            is_best: the validation is the best so far. The panel of the worst tiles is written
                only then, because it shows the network of ``best.pth``.
        """
        state, fixed = self._state, self._tiles.spread
        worst = self._tiles.worst() if is_best else []
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
    """Validation of a run. All ranks must call every method.

    Args:
        state: of the run; has the weights, and records the best score.
        predictor: of its network.
        loader: validation tiles of this rank.
        labels: kinds of label to score on.
        examples: collects example tiles.
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
        examples: ValidationExamples,
        log: RunLog,
        folder: Path,
    ) -> None:
        self._state, self._predictor, self._loader = state, predictor, loader
        self._labels, self._examples = labels, examples
        self._log, self._folder = log, folder
        identity = state.identity
        self._left_out = indices_left_out(identity.recipe["eval"]["mean_without"], identity.classes)

    @property
    def num_images(self) -> int:
        """Return the number of source images that this rank scores."""
        return len(self._loader.source_images)

    def __call__(self) -> bool:
        """Validate; return True if the score of the recipe is the best so far."""
        result = scores(self._confusion(None), self._left_out)
        is_best = self._state.is_best(getattr(result, self._state.identity.selected_by))
        self._log.evaluation(result, is_best)
        self._examples.publish(self._log, self._folder, is_best=is_best)
        return is_best

    def try_one(self) -> None:
        """Predict the first image of each rank, without a report."""
        self._confusion(1)

    def _confusion(self, num_images: int | None) -> Tensor:
        """Return the confusion matrix of the first images of all ranks; None: of all images."""
        state = self._state
        with state.evaluation_weights():
            return evaluate(
                self._predictor,
                self._loader,
                self._labels,
                len(state.identity.classes),
                state.dist,
                self._examples.add,
                num_images=num_images,
            )
