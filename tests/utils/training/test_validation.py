from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.utils.evaluation.test_examples import Encoder, tile
from utils.files import read_rgb
from utils.training import validation
from utils.training.validation import CELL_PX, Validation

PALETTE = [[255, 0, 0], [0, 255, 0]]


@pytest.mark.parametrize("is_main", [True, False])
def test_every_validation_shows_fixed_tiles_and_the_best_one_leaves_its_worst_tiles(
    tmp_path, monkeypatch, is_main
):
    shown, tiles = [], []
    state = SimpleNamespace(
        dist=SimpleNamespace(is_main=is_main, gather=lambda value: [value]),
        identity=SimpleNamespace(
            classes=["a", "b"],
            palette=PALETTE,
            recipe={"eval": {"mean_without": []}},
            selected_by="oa",
        ),
        step=30,
        is_best=lambda score: score > 0.5,
        evaluation_weights=nullcontext,
    )

    def evaluate(predictor, loader, labels, num_classes, dist, on_tile, *, num_images):
        for given in tiles:
            on_tile(*given)
        return sum(confusion for _, _, confusion in tiles)

    monkeypatch.setattr(validation, "evaluate", evaluate)
    validate = Validation(
        state=state,
        predictor=SimpleNamespace(encoder=Encoder(), network=torch.nn.Identity()),
        loader=range(8),
        labels=None,
        log=SimpleNamespace(evaluation=lambda *_: None, picture=lambda *args: shown.append(args)),
        folder=tmp_path,
    )
    tiles[:] = [tile("bad", 64)]
    assert not validate() and not list(tmp_path.iterdir())
    tiles[:] = [tile("a", 63, label=1), tile("b", 10), tile("c", 0)]
    assert validate()
    assert [(name, step) for name, _, step in shown] == [("val/predictions", 30)] * 2 * is_main
    if not is_main:
        assert not list(tmp_path.iterdir())
        return
    # Of eight tiles, the first, third, fifth and seventh would be shown.
    heights = [picture.shape[0] for _, picture, _ in shown]
    assert heights[1] > heights[0] + CELL_PX and shown[0][1].shape[1] == 5 * CELL_PX + 80
    picture = read_rgb(tmp_path / "pictures" / "worst.png")
    assert picture.dtype == np.uint8 and picture.shape[0] > 3 * CELL_PX
    assert (picture == PALETTE[1]).all(-1).sum() > 1.9 * CELL_PX**2  # target and prediction of a
