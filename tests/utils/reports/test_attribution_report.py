"""Report of an attribution: verdicts, and the same numbers on the console and in every file."""

import csv

import pytest
import torch

from tests.utils.evaluation.test_attribution import (
    ALL,
    CLASSES,
    SAM_SHUFFLED,
    SAM_ZEROED,
    UNTRIED,
    findings,
)
from tests.utils.reports.readers import read_json
from utils.console import percent, points
from utils.files import read_rgb
from utils.reports.attribution_report import attribution_text, verdicts, write_attribution

UNUSED = (
    "sam: zeroed shows no effect (0.00 to 0.00), shuffled shows no effect (0.00 to 0.00): "
    "no prediction changes, so the network does not use it."
)
KIND = "the kind of map; that it uses what the encoded map says about the image is not shown."
MISLED = ": maps of other images score higher, so the encoded map misleads the network."
USED = ": the network uses what the encoded map says about the image."


def images_with(*num_wrong):
    """Three source images of 200 pixels: of 100, 10 are wrong, and ``num_wrong`` if ablated."""
    pixel = torch.arange(200)
    target = (pixel % 2).to(torch.uint8)[None]
    return {
        name: (target, *(target ^ (pixel < 2 * wrong + number) for wrong in (10, *num_wrong)))
        for number, name in enumerate(("a1", "b", "c"))
    }


def written(folder, found, **header):
    write_attribution(folder, findings=found, classes=CLASSES, header=header)
    return read_json(folder / "attribution.json")


@pytest.mark.parametrize(
    ("zeroed", "shuffled", "end"),
    [(10, 10, UNUSED), (10, 30, USED), (40, 10, KIND), (10, 2, MISLED)],
)
def test_verdict_follows_the_intervals(zeroed, shuffled, end):
    (sentence,) = verdicts(findings((SAM_ZEROED, SAM_SHUFFLED), images_with(zeroed, shuffled)))
    assert sentence.endswith(end)


def test_effects_are_stated_with_size_and_interval():
    found = findings((SAM_SHUFFLED, UNTRIED, ALL), images_with(30, 50))
    difference = found.effects[0].differences[0]
    low, value, high = (percent(-x) for x in (difference.high, difference.value, difference.low))
    assert float(low) > 0
    sam, together = verdicts(found)
    assert sam == f"sam: shuffled loses {value} points of mIoU ({low} to {high}){USED}"
    assert together.startswith("all modalities: zeroed loses")
    assert together.endswith(": the network depends on them.")
    assert "sam: shuffled gains" in verdicts(findings((SAM_SHUFFLED,), images_with(2)))[0]


def test_an_interval_that_includes_zero_is_no_effect():
    """As many wrong pixels at another place, then one more in one image and one less in another."""
    images = images_with(10)
    images = {name: (t, own, own.roll(100)) for name, (t, own, _) in images.items()}
    images["a1"][2][0, 0] ^= 1
    images["b"][2][0, 100] ^= 1
    found = findings((SAM_SHUFFLED,), images)
    assert not found.effects[0].differences[0].excludes_zero and found.effects[0].moved > 0.15
    assert verdicts(found)[0].endswith(": no effect on the mIoU is shown.")


def test_one_source_image_has_differences_and_no_verdict(tmp_path):
    found = findings((SAM_SHUFFLED,), {"a1": images_with(30)["a1"]})
    assert verdicts(found)[0].endswith("give no interval, so nothing can be concluded.")
    text = " ".join(attribution_text(found, CLASSES).split())
    assert "no intervals, which need at least two source images." in text
    entry = written(tmp_path, found)["ablations"][0]
    assert entry["miou"]["low"] is None and entry["miou"]["difference"] < 0


def test_tables_line_up_and_name_what_was_not_measured():
    found = findings((SAM_ZEROED, SAM_SHUFFLED, UNTRIED, ALL), images_with(20, 30, 40), ("road",))
    first, second, *_ = attribution_text(found, CLASSES).split("\n\n")
    lines = first.splitlines()
    assert lines[0].split() == ["sam", "unchanged", "zeroed", "shuffled", "superpixels"]
    assert len(lines) == 1 + 3 + 3 * 2 + 2 + 1  # head, rules, classes, mean, pixels
    mean, land, *_ = found.effects[0].differences
    assert lines[2].split()[:3] == ["land", percent(found.scores.iou[0]), points(land.value)]
    line = next(line for line in lines if line.startswith("mean without road"))
    assert line.endswith("holds values")
    assert line.split()[3:5] == [percent(found.scores.miou), points(mean.value)]
    assert lines[-1].startswith("changed pixels") and lines[-1].split()[-2:] == [
        percent(effect.moved) for effect in found.effects[:2]
    ]
    assert second.splitlines()[0].split() == ["all", "modalities", "unchanged", "zeroed"]


def test_files_hold_the_same_numbers(tmp_path):
    images = images_with(20, 30)
    images["a1"][2][0, 100] ^= 1  # one more pixel of land than of water
    found = findings((SAM_ZEROED, UNTRIED, SAM_SHUFFLED), images, ("road",))
    for folder in ("a", "a", "b"):
        result = written(tmp_path / folder, found, split="val")
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files.keys() == {f"attribution.{suffix}" for suffix in ("json", "csv", "png")}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert result["header"] == {"split": "val"} and result["mean_without"] == ["road"]
    assert result["unchanged"]["confusion"] == found.confusion.tolist()
    rows = list(csv.DictReader(files["attribution.csv"].decode().splitlines()))
    assert len(rows) == 3 * 4  # ablations, measured or not; the mean and three classes
    keys = ("difference", "low", "high", "changed_pixels")
    for place, effect in ((0, found.effects[0]), (8, found.effects[1])):
        entry = result["ablations"][place // 4]
        assert entry["ablation"] == effect.ablation.name
        assert entry["confusion"] == effect.confusion.tolist()
        in_json = [{**entry["miou"], "changed_pixels": entry["changed_pixels"]}, *entry["classes"]]
        moved = (effect.moved, *effect.moved_by_class)
        for number, name in enumerate(("mean", "land")):
            row, difference = rows[place + number], effect.differences[number]
            assert (row["ablation"], row["class"]) == (entry["ablation"], name)
            numbers = [difference.value, difference.low, difference.high, moved[number]]
            assert [float(row[key]) for key in keys] == numbers
            assert [in_json[number][key] for key in keys] == numbers
    assert rows[4]["unmeasured"] == result["ablations"][1]["unmeasured"] == "holds values"
    assert rows[4]["difference"] == rows[3]["difference"] == ""  # not measured; no road
    assert read_rgb(tmp_path / "a" / "attribution.png").shape[1] > 400
