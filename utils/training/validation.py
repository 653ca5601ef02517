"""A validation while training: the weights that would be used are scored, the result is told."""

from pathlib import Path

from torch import Tensor

from utils.evaluation.evaluate import Loader, Predictor, evaluate
from utils.evaluation.metrics import scores
from utils.evaluation.protocols import indices_left_out
from utils.training.log import RunLog
from utils.training.state import TrainState
from utils.training.validation_view import ValidationView


class Validation:
    """The validations of a run. Every method must be called by all ranks.

    Args:
        state: of the run; has the weights that are evaluated, and remembers the best score.
        predictor: of its network.
        loader: what this rank scores.
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
        loader: Loader,
        view: ValidationView,
        log: RunLog,
        folder: Path,
    ) -> None:
        self._state, self._predictor, self._loader = state, predictor, loader
        self._view, self._log, self._folder = view, log, folder
        identity = state.identity
        self._left_out = indices_left_out(identity.recipe["eval"]["mean_without"], identity.classes)

    @property
    def num_images(self) -> int:
        """What this rank scores, one at a time: source images, or tiles."""
        return len(self._loader.units)

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
                state.num_classes,
                state.dist,
                self._view.look,
                num_units=num_images,
            )
