"""Counts of changed predictions by hand."""

import math

import numpy as np
import pytest
import torch

from tests.conftest import single_process
from utils.evaluation.attribution import Ablation, AblationCounts
from utils.evaluation.compare import paired_intervals
from utils.evaluation.metrics import scores

CLASSES = ("land", "water", "road")
SOURCE_OF = {"a1": "a", "a2": "a", "b": "b", "c": "c"}
ZEROED = Ablation(name="zeroed", modalities=("sam",))
SHUFFLED = Ablation(name="shuffled", modalities=("sam",))
UNTRIED = Ablation(name="superpixels", modalities=("sam",), unmeasured="holds values")
ALL = Ablation(name="zeroed", modalities=("sam", "height"))


def row(*classes):
    return torch.tensor([classes], dtype=torch.uint8)


def findings(changes, images, left_out=(), sources=SOURCE_OF):
    counts = AblationCounts(CLASSES, sources, changes)
    for tile_id, (target, *predictions) in images.items():
        counts.add(tile_id, target, predictions)
    return counts.findings(single_process(), left_out)


def test_counts_by_hand():
    """Two tiles of one source image are one image; ignored pixels are in nothing."""
    found = findings(
        (ZEROED, UNTRIED, SHUFFLED),
        {
            "a1": (row(0, 1, 255, 1), row(0, 1, 0, 0), row(0, 0, 1, 1), row(0, 1, 0, 0)),
            "a2": (row(0, 0), row(0, 0), row(1, 0), row(0, 0)),
            "b": (row(1, 1), row(1, 1), row(1, 1), row(0, 1)),
        },
        left_out=("road",),
    )
    assert found.confusion.tolist() == [[3, 0, 0], [1, 3, 0], [0, 0, 0]]
    assert found.scores.iou[:2] == (3 / 4, 3 / 4) and found.scores.miou == 3 / 4
    assert found.num_sources == 2 and found.left_out == ("road",)
    zeroed, shuffled = found.effects
    assert (zeroed.ablation, shuffled.ablation) == (ZEROED, SHUFFLED)
    assert zeroed.confusion.tolist() == [[2, 1, 0], [1, 3, 0], [0, 0, 0]]
    assert zeroed.moved == 3 / 7  # one pixel of land, two of water
    assert zeroed.moved_by_class[:2] == pytest.approx((1 / 3, 2 / 4))
    assert math.isnan(zeroed.moved_by_class[2])
    assert zeroed.differences.iou[0].value == pytest.approx(2 / 4 - 3 / 4)
    assert shuffled.moved == pytest.approx(1 / 7)
    # a: (3, 0 / 1, 1) as it is and shuffled; b: (0, 0 / 0, 2), shuffled (0, 0 / 1, 1).
    own = np.array([[[3, 0, 0], [1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 2, 0], [0, 0, 0]]])
    other = np.array([[[3, 0, 0], [1, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 0]]])
    assert shuffled.differences.miou == paired_intervals(own, other, [2]).miou
    expected = scores(torch.from_numpy(other.sum(0)), [2]).miou - 3 / 4
    assert shuffled.differences.miou.value == pytest.approx(expected)
