"""Named protocols on a matrix worked out by hand."""

import pytest
import torch

from utils.errors import ConfigError
from utils.metrics import scores
from utils.protocols import PROTOCOLS, indices_left_out, protocols_of

CLASSES = ("ground", "car", "clutter")
CONFUSION = torch.tensor([[80, 5, 5], [2, 8, 0], [10, 0, 10]])
ALL, GEOSEG, VSGNET = PROTOCOLS


def score(protocol, confusion=CONFUSION):
    counted = protocol.apply(confusion, CLASSES)
    return scores(counted, protocol.not_in_mean(CLASSES))


def test_all_classes():
    result = score(ALL)
    assert result.miou == pytest.approx((80 / 102 + 8 / 15 + 10 / 25) / 3)
    assert result.oa == pytest.approx(98 / 120)


def test_clutter_left_out_of_the_mean_still_costs_the_others():
    result = score(GEOSEG)
    assert result.miou == pytest.approx((80 / 102 + 8 / 15) / 2)
    assert result.mf1 == pytest.approx((160 / 182 + 16 / 23) / 2)
    assert result.oa == pytest.approx(98 / 120)


def test_clutter_removed():
    result = score(VSGNET)
    assert result.miou == pytest.approx((80 / 92 + 8 / 15) / 2)
    assert result.oa == pytest.approx(88 / 100)
    assert sum(result.support) == 100


def test_removing_takes_several_matrices_and_leaves_them_alone():
    several = torch.stack([CONFUSION, 2 * CONFUSION])
    assert torch.equal(VSGNET.apply(several, CLASSES).sum(0), 3 * VSGNET.apply(CONFUSION, CLASSES))
    assert torch.equal(several[0], CONFUSION)


@pytest.mark.parametrize(
    ("classes", "number"),
    [(CLASSES, 3), (("clutter", "road"), 3), (("building", "road"), 1), (("clutter",), 1)],
)
def test_a_data_set_has_the_protocols_of_its_classes(classes, number):
    assert protocols_of(classes) == PROTOCOLS[:number]


def test_names_become_indices():
    assert indices_left_out(["clutter", "ground"], CLASSES) == [2, 0]
    assert indices_left_out([], CLASSES) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cow"], "eval.mean_without names cow; the data set has ground, car, clutter"),
        (list(CLASSES), "eval.mean_without names every class; one at least must stay in the mean"),
    ],
)
def test_names_that_cannot_be_left_out(names, message):
    with pytest.raises(ConfigError) as caught:
        indices_left_out(names, CLASSES)
    assert str(caught.value) == message
