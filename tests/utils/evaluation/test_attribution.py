"""Counts of changed predictions by hand, and what the report says of them."""

import json
import math

import numpy as np
import pytest
import torch

from tests.conftest import single_process
from utils.evaluation.attribution import Ablation, AblationCounts
from utils.evaluation.compare import paired_intervals
from utils.evaluation.metrics import scores
from utils.reports.attribution_report import attribution_text, reading, write_attribution

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


def images_with(*shares_wrong):
    """Three source images; of each change, how many of 100 pixels are wrong, 10 as it is."""
    target = torch.arange(200).remainder(2).to(torch.uint8).view(1, -1)
    images = {}
    for number, tile_id in enumerate(("a1", "b", "c")):
        predictions = []
        for wrong in (10, *shares_wrong):
            prediction = target.clone()
            if wrong:
                prediction[0, : 2 * wrong + number] ^= 1
            predictions.append(prediction)
        images[tile_id] = (target, *predictions)
    return images


@pytest.mark.parametrize(
    ("zeroed", "shuffled", "said"),
    [
        (
            10,
            10,
            "sam: zeroed makes no clear difference (0.00 to 0.00), shuffled makes no clear "
            "difference (0.00 to 0.00): no pixel is predicted otherwise, so the network does not "
            "use it.",
        ),
        (10, 30, "the network uses what the encoded map says of the image."),
        (40, 10, "minds that the map is of another kind, but that it uses what the"),
        (
            10,
            2,
            "other images do better, so what the encoded map says misleads the network.",
        ),
    ],
)
def test_the_reading_follows_the_intervals(zeroed, shuffled, said):
    found = findings((ZEROED, SHUFFLED), images_with(zeroed, shuffled))
    (sentence,) = reading(found)
    assert said in sentence


def test_an_effect_is_told_with_its_size_and_interval():
    found = findings((SHUFFLED, UNTRIED), images_with(30))
    difference = found.effects[0].differences.miou
    low, value, high = (
        f"{-100 * x:.2f}" for x in (difference.high, difference.value, difference.low)
    )
    assert reading(found) == [
        f"sam: shuffled costs {value} points of mIoU ({low} to {high}): the network uses what the "
        "encoded map says of the image."
    ]
    gain = findings((SHUFFLED,), images_with(2))
    assert "sam: shuffled gains" in reading(gain)[0]


def test_a_difference_whose_interval_holds_zero_is_no_effect():
    """As many wrong pixels at another place, then one more in one image and one less in another."""
    images = images_with(10)
    images = {name: (t, own, own.roll(100)) for name, (t, own, _) in images.items()}
    images["a1"][2][0, 0] ^= 1
    images["b"][2][0, 100] ^= 1
    found = findings((SHUFFLED,), images)
    assert not found.effects[0].differences.miou.excludes_zero and found.effects[0].moved > 0.15
    assert reading(found)[0].endswith(": an effect on mIoU is not shown.")


def test_all_modalities_are_read_without_a_shuffle():
    found = findings((SHUFFLED, ALL), images_with(10, 50))
    assert reading(found)[1].startswith("all modalities: zeroed costs")
    assert reading(found)[1].endswith(": the network does not do without them.")


def test_one_source_image_has_differences_and_no_verdict(tmp_path):
    images = {"a1": images_with(30)["a1"]}
    found = findings((SHUFFLED,), images)
    assert reading(found)[0].endswith("there is no interval, so nothing can be said.")
    text = " ".join(attribution_text(found, CLASSES).split())
    assert "no interval, for which it takes two source images" in text
    write_attribution(tmp_path, findings=found, classes=CLASSES, header={})
    entry = json.loads((tmp_path / "attribution.json").read_text())["changes"][0]
    assert entry["miou"]["low"] is None and entry["miou"]["difference"] < 0


def test_the_table_lines_up_and_names_what_was_not_tried():
    found = findings((ZEROED, SHUFFLED, UNTRIED, ALL), images_with(20, 30, 40), ("road",))
    first, second, *_ = attribution_text(found, CLASSES).split("\n\n")
    lines = first.splitlines()
    assert lines[0].split() == ["sam", "as", "it", "is", "zeroed", "shuffled", "superpixels"]
    assert len(lines) == 1 + 3 + 3 * 2 + 2 + 1  # head, rules, classes, mean, pixels
    mean = next(line for line in lines if line.startswith("mean without road"))
    assert mean.endswith("holds values")
    assert lines[-1].startswith("pixels that change") and lines[-1].split()[-2:] == [
        f"{100 * effect.moved:.2f}" for effect in found.effects[:2]
    ]
    assert max(map(len, lines)) <= 100
    assert second.splitlines()[0].split() == ["all", "modalities", "as", "it", "is", "zeroed"]
