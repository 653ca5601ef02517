from types import SimpleNamespace

import numpy as np
import pytest

from tests.utils.evaluation.test_examples import Encoder, tile, titles
from utils.files import read_rgb
from utils.training.validation import CELL_PX, NUM_ROWS, ValidationExamples

PALETTE = [[255, 0, 0], [0, 255, 0]]


class Log:
    def __init__(self):
        self.shown = []

    def picture(self, name, picture, step):
        self.shown.append((name, picture, step))


def make_state(**dist):
    context = {"is_main": True, "gather": lambda value: [value], **dist}
    identity = SimpleNamespace(classes=["a", "b"], palette=PALETTE)
    return SimpleNamespace(dist=SimpleNamespace(**context), identity=identity, step=30)


def add_to(examples, *tiles):
    for given in tiles:
        examples.add(*given)


@pytest.mark.parametrize(("num_tiles", "kept"), [(1, [0]), (3, [0, 1, 2]), (8, [0, 2, 4, 6])])
def test_fixed_tiles_are_spread_over_the_split_and_the_same_every_time(num_tiles, kept):
    examples, log = ValidationExamples(Encoder(), make_state(), num_tiles), Log()
    for _ in range(2):
        add_to(examples, *(tile(f"t{index}", index) for index in range(num_tiles)))
        rows = examples._tiles.spread
        assert titles(rows) == [f"t{index}" for index in kept] and len(kept) <= NUM_ROWS
        examples.publish(log, None, is_best=False)
    assert [(name, step) for name, _, step in log.shown] == [("val/predictions", 30)] * 2
    picture = log.shown[0][1]
    assert picture.dtype == np.uint8 and picture.shape[1] == 5 * CELL_PX + 4 * 10 + 2 * 20


def test_other_ranks_than_the_main_one_keep_no_fixed_tiles():
    examples, log = ValidationExamples(Encoder(), make_state(is_main=False), 5), Log()
    add_to(examples, tile("a", 3))
    examples.publish(log, None, is_best=False)
    assert log.shown == []


def test_only_the_best_validation_leaves_its_worst_tiles(tmp_path):
    state = make_state()
    examples = ValidationExamples(Encoder(), state, 1)
    add_to(examples, tile("a", 64))
    examples.publish(Log(), tmp_path, is_best=False)
    assert not list(tmp_path.iterdir())
    add_to(examples, tile("b", 64))
    examples.publish(Log(), tmp_path, is_best=True)
    picture = read_rgb(tmp_path / "pictures" / "worst.png")
    assert (picture == PALETTE[1]).all(-1).sum() > 0.9 * CELL_PX**2  # the prediction: class 1
    assert titles(examples._tiles.worst()) == []  # the next validation begins anew
