"""Named protocols on a matrix worked out by hand."""

import pytest
import torch

from configs.schema import EvalConfig
from utils.errors import ConfigError
from utils.evaluation.metrics import scores
from utils.evaluation.protocols import (
    WITH_CLUTTER,
    WITHOUT_CLUTTER,
    conditions_of,
    indices_left_out,
    plan_labels,
    protocols_of,
    sentence_of,
)

CLASSES = ("ground", "car", "clutter")
CONFUSION = torch.tensor([[80, 5, 5], [2, 8, 0], [10, 0, 10]])
MMSEG, GEOSEG, VSGNET, ALL = WITH_CLUTTER
F, E = ("full",), ("eroded",)


@pytest.mark.parametrize(
    ("available", "headline", "also", "kinds", "read", "is_made"),
    [
        (F, "full", (), F, F, False),
        (F, "eroded", (), E, F, True),
        (F, "full", E, F + E, F, True),
        (F, "eroded", F, F + E, F, True),
        (F + E, "full", F, F, F, False),
        (F + E, "full", E, F + E, F + E, False),
        (F + E, "eroded", (), E, E, False),
        (F + E, "eroded", F, F + E, E + F, False),
        (E, "eroded", F, E, E, False),
    ],
)
def test_kinds_of_label_that_are_scored_on_and_read(
    available, headline, also, kinds, read, is_made
):
    plan = plan_labels(available, headline, also)
    assert (plan.headline, plan.kinds, plan.read) == (headline, kinds, read)
    assert plan.is_made == is_made


def score(protocol):
    return scores(protocol.apply(CONFUSION, CLASSES), protocol.not_in_mean(CLASSES))


def test_scores_by_hand():
    for protocol in (MMSEG, ALL, *WITHOUT_CLUTTER):
        result = score(protocol)
        assert result.miou == pytest.approx((80 / 102 + 8 / 15 + 10 / 25) / 3)
        assert result.oa == pytest.approx(98 / 120)
    # Clutter left out of the mean still costs the others.
    result = score(GEOSEG)
    assert result.miou == pytest.approx((80 / 102 + 8 / 15) / 2)
    assert result.mf1 == pytest.approx((160 / 182 + 16 / 23) / 2)
    assert result.oa == pytest.approx(98 / 120)
    # Clutter removed.
    result = score(VSGNET)
    assert result.miou == pytest.approx((80 / 92 + 8 / 15) / 2)
    assert result.oa == pytest.approx(88 / 100)
    assert sum(result.support) == 100
    # Of several matrices, which are left alone.
    several = torch.stack([CONFUSION, 2 * CONFUSION])
    assert torch.equal(VSGNET.apply(several, CLASSES).sum(0), 3 * VSGNET.apply(CONFUSION, CLASSES))
    assert torch.equal(several[0], CONFUSION)


def test_a_data_set_has_the_protocols_of_its_classes():
    assert protocols_of(("clutter", "road")) == WITH_CLUTTER
    assert protocols_of(("building", "road")) == protocols_of(("clutter",)) == WITHOUT_CLUTTER


def test_the_sentence_says_which_labels_and_classes():
    made, own = plan_labels(F, "full", E), plan_labels(F + E, "eroded")
    for protocol, plan, labels in (
        (VSGNET, made, "full"),
        (MMSEG, made, "eroded, computed from the full ones with a disc of 3 px"),
        (MMSEG, own, "eroded, as published with the data set"),
    ):
        assert sentence_of(protocol, plan) == f"labels {labels}; {protocol.sentence}"


def test_the_conditions_are_stated_to_the_letter():
    assert conditions_of(EvalConfig(), "potsdam, split test of geoseg, SHA-256 01234567") == (
        "potsdam, split test of geoseg, SHA-256 01234567; whole source images; the logits of "
        "overlapping tiles are averaged with weights that fall linearly over the overlap; windows "
        "of 640 px overlapping by at least 128 px, logits averaged with weights that fall linearly "
        "over the overlap; no test-time augmentation; one confusion matrix of all pixels"
    )
    other = EvalConfig(unit="tile", window_px=512, overlap_px=0, scales=(0.5, 1.0), turns=8)
    assert conditions_of(other, "a set") == (
        "a set; each tile on its own; windows of 512 px; softmax averaged over the scales 0.5, 1, "
        "each in all flips and quarter turns; one confusion matrix of all pixels"
    )
    mirrored = conditions_of(EvalConfig(turns=2), "a set")
    assert "softmax averaged over the scales 1, each also mirrored; one" in mirrored


def test_classes_are_left_out_by_name():
    assert indices_left_out(["clutter", "ground"], CLASSES) == [2, 0]
    for names, message in (
        (["cow"], "eval.mean_without names cow; the data set has ground, car, clutter"),
        (CLASSES, "eval.mean_without names every class; keep one in the mean"),
    ):
        with pytest.raises(ConfigError) as caught:
            indices_left_out(names, CLASSES)
        assert str(caught.value) == message
