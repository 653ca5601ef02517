"""Comparison: reports that belong together, and paired differences against their definition."""

import json
import math

import numpy as np
import pytest
import torch

from utils.errors import ConfigError, DataError, MissingDataError
from utils.evaluation.bootstrap import NUM_DRAWS, SEED, bootstrap
from utils.evaluation.compare import (
    Difference,
    differences,
    paired_intervals,
    read_settings,
    sample,
    spread_over_seeds,
)
from utils.evaluation.metrics import scores

HEADER = {
    "checkpoint": "best.pth",
    "split": "val",
    "lists": "folders, SHA-256 ab",
    "labels": "full",
}
CONFUSIONS = {"a": [[6, 2], [1, 3]], "b": [[4, 0], [2, 9]]}


def content(**changes):
    report = {
        "header": HEADER,
        "miou": 0.5,
        "mf1": 0.6,
        "oa": 0.7,
        "kappa": 0.4,
        "mean_without": [],
        "classes": [{"name": "roof"}, {"name": "road"}],
        "sources": [{"name": n, "confusion": c} for n, c in CONFUSIONS.items()],
    }
    return {**report, **changes}


def write(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(content(**changes)))
    return folder


def refusal(error, *arguments):
    with pytest.raises(error) as caught:
        read_settings([str(argument) for argument in arguments])
    return str(caught.value)


def test_runs_evaluations_and_files_are_found_and_named_after_the_run(tmp_path):
    places = [
        write(tmp_path / "on" / "eval_val").parent,
        write(tmp_path / "off" / "eval_val"),
        write(tmp_path / "shuffled" / "eval_val") / "report.json",
        write(tmp_path / "elsewhere"),
    ]
    settings = read_settings([str(place) for place in places])
    assert [setting.name for setting in settings] == ["on", "off", "shuffled", "elsewhere"]
    assert settings[0].confusions.shape == (1, 2, 2, 2)
    assert np.array_equal(settings[0].confusions[0], list(CONFUSIONS.values()))
    assert settings[0].reports[0].path == tmp_path / "on" / "eval_val" / "report.json"


def test_seeds_of_a_setting_are_named_together(tmp_path):
    places = [write(tmp_path / name) for name in "abc"]
    settings = read_settings([f"on={places[0]},{places[1]}", f"off={places[2]}"])
    assert [setting.name for setting in settings] == ["on", "off"]
    assert [len(setting.reports) for setting in settings] == [2, 1]
    assert settings[0].confusions.shape == (2, 2, 2, 2)


def test_a_folder_with_an_equals_sign_or_a_comma_is_a_folder(tmp_path):
    places = [write(tmp_path / "lr=1,2"), write(tmp_path / "b")]
    assert read_settings([*map(str, places)])[0].name == "lr=1,2"


def test_runs_of_one_name_get_that_of_their_folder(tmp_path):
    places = [write(tmp_path / "on" / f"eval_{name}") for name in ("a", "b")]
    settings = read_settings([*map(str, places)])
    assert [setting.name for setting in settings] == [*map(str, places)]
    said = refusal(ConfigError, places[0], places[0])
    assert said == f"two runs are named {places[0]}; name them with NAME=RUN"
    assert len(read_settings([f"this={places[0]}", f"that={places[0]}"])) == 2


def test_wrong_command_lines_are_refused(tmp_path):
    a = write(tmp_path / "a")
    b = write(tmp_path / "b")
    assert refusal(ConfigError, a) == (
        "compare needs two or more runs; the first one is the reference"
    )
    assert refusal(ConfigError, f"x={a}", f"x={b}") == (
        "two runs are named x; name them with NAME=RUN"
    )
    assert (
        refusal(ConfigError, f"x={a},{b},{a}", b)
        == "x lists the same report twice; name each seed once"
    )
    assert refusal(ConfigError, f"{a},{b}", b) == (
        f"several seeds of one setting need a name; write NAME={a},{b}"
    )
    assert refusal(ConfigError, "x=", b) == (
        "'x=' has an empty report name after '=' or ','; write NAME=A,B"
    )


def test_missing_and_damaged_reports_are_refused(tmp_path):
    a = write(tmp_path / "a")
    run = tmp_path / "run"
    run.mkdir()
    assert refusal(MissingDataError, a, run) == (
        f"{run} holds no report.json; run eval.py on its checkpoint first"
    )
    write(run / "eval_test")
    write(run / "eval_val")
    assert refusal(MissingDataError, a, run) == (
        f"{run} holds several evaluations (eval_test, eval_val); name one of them"
    )
    assert refusal(MissingDataError, a, tmp_path / "no") == f"{tmp_path / 'no'} does not exist"
    (run / "report.json").write_text("[1")
    assert "is not valid JSON" in refusal(DataError, a, run)
    old = content()
    del old["sources"]
    (run / "report.json").write_text(json.dumps(old))
    assert refusal(DataError, a, run) == (
        f"{run / 'report.json'} has no field 'sources'; run eval.py again to rewrite it"
    )


@pytest.mark.parametrize(
    ("changes", "ours", "theirs"),
    [
        (
            {"classes": [{"name": "road"}, {"name": "roof"}]},
            "the classes roof, road",
            "the classes road, roof",
        ),
        ({"header": {**HEADER, "split": "test"}}, "the split val", "the split test"),
        (
            {"header": {**HEADER, "lists": "folders, SHA-256 cd"}},
            "the lists folders, SHA-256 ab",
            "the lists folders, SHA-256 cd",
        ),
        ({"header": {**HEADER, "labels": "eroded"}}, "full labels", "eroded labels"),
        ({"mean_without": ["road"]}, "means over all classes", "means without road"),
        (
            {"sources": [{"name": n, "confusion": CONFUSIONS["a"]} for n in ("a", "c", "d")]},
            "2 source images, b among them",
            "3 source images, c among them",
        ),
        (
            {"sources": [{"name": "a", "confusion": CONFUSIONS["a"]}]},
            "2 source images, b among them",
            "1 source image",
        ),
    ],
)
def test_reports_that_do_not_belong_together_are_refused_with_both_sides(
    tmp_path, changes, ours, theirs
):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", **changes)
    for arguments in ((a, b), (f"x={a}", f"y={a},{b}")):
        said = refusal(DataError, *arguments)
        assert said == (
            f"{a / 'report.json'} has {ours}, {b / 'report.json'} has {theirs}; "
            "such reports cannot be compared"
        )


def test_other_labels_of_the_same_images_are_refused(tmp_path):
    """As many pixels, but one of another class: relabelled, or cut otherwise."""
    sources = [
        {"name": "a", "confusion": [[6, 2], [1, 3]]},
        {"name": "b", "confusion": [[5, 0], [2, 8]]},
    ]
    a, b = write(tmp_path / "a"), write(tmp_path / "b", sources=sources)
    said = refusal(DataError, a, b)
    assert said == (
        f"{a / 'report.json'} and {b / 'report.json'} count different target pixels of b "
        "(15 and 15); evaluate both on the same labels, cut the same way"
    )


def predictions(rng, num_sources, right=0.8, num_classes=3):
    """Confusion matrices of images with the same targets whatever the share of right pixels."""
    targets = np.random.default_rng(99).integers(500, 900, size=(num_sources, num_classes))
    hits = np.rint(targets * np.clip(right + rng.normal(0, 0.03, targets.shape), 0, 1)).astype(int)
    confusions = np.zeros((num_sources, num_classes, num_classes), dtype=np.int64)
    for index in range(num_classes):
        confusions[:, index, index] = hits[:, index]
        confusions[:, index, (index + 1) % num_classes] = (targets - hits)[:, index]
    return confusions


def miou(confusions, left_out=()):
    return scores(torch.from_numpy(confusions.sum(0)), left_out).miou


def test_a_difference_by_hand():
    """Two images of two classes; the second network mends 10 pixels of class 1 in one of them."""
    first = np.array([[[[40, 10], [20, 30]], [[50, 0], [0, 50]]]])
    second = first.copy()
    second[0, 0] = [[40, 10], [10, 40]]
    found = differences(sample(first), sample(second, number=1))
    # Class 0: 90 / (100 + 110 - 90) and 90 / (100 + 100 - 90), class 1: 80 / 110 and 90 / 110.
    iou = [90 / 110 - 90 / 120, 90 / 110 - 80 / 110]
    assert [d.value for d in found] == pytest.approx([sum(iou) / 2, *iou])
    # Drawing the second image twice shows no difference, the first one twice all of it.
    once = [40 / 60 - 40 / 70, 40 / 60 - 30 / 60]
    assert [(d.low, d.high) for d in found] == [
        pytest.approx(ends) for ends in ((0, sum(once) / 2), (0, once[0]), (0, once[1]))
    ]


def test_one_seed_each_is_the_paired_bootstrap():
    rng = np.random.default_rng(0)
    first, second = predictions(rng, 7), predictions(rng, 7, 0.82)
    first[:, 1], second[:, 1] = 0, 0  # a class without target pixels, which is predicted
    expected = paired_intervals(first, second, [2])
    found = differences(sample(first[None], [2]), sample(second[None], [2], 1))
    for ours, theirs in zip(found, (expected.miou, *expected.iou), strict=True):
        assert ours.value == pytest.approx(theirs.value)
        assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_the_interval_of_one_seed_is_that_of_its_report():
    confusions = predictions(np.random.default_rng(1), 9)
    found, expected = sample(confusions[None], [0]), bootstrap(confusions, [0])
    assert found.intervals == [expected.miou, *expected.iou]
    assert found.mean[0] == pytest.approx(miou(confusions, [0]))


def test_several_seeds_equal_the_hierarchical_bootstrap_made_one_by_one():
    rng = np.random.default_rng(3)
    first = np.stack([predictions(rng, 5) for _ in range(3)])
    second = np.stack([predictions(rng, 5, 0.85) for _ in range(2)])
    images = np.random.default_rng(SEED).integers(5, size=(NUM_DRAWS, 5))
    seeds_of = [
        np.random.default_rng([SEED, number]).integers(count, size=(count, NUM_DRAWS, 1))[..., 0]
        for number, count in enumerate((3, 2))
    ]
    drawn = []
    for draw in range(NUM_DRAWS):
        means = [
            np.mean([miou(group[seed][images[draw]]) for seed in seeds[:, draw]])
            for group, seeds in zip((first, second), seeds_of, strict=True)
        ]
        drawn.append(means[1] - means[0])
    found = differences(sample(first), sample(second, number=1))[0]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    expected = np.mean([miou(run) for run in second]) - np.mean([miou(run) for run in first])
    assert found.value == pytest.approx(expected)


def test_seeds_widen_the_interval_as_far_as_they_differ():
    rng = np.random.default_rng(4)
    base = predictions(rng, 20, 0.8)
    same = np.stack([base] * 3)
    spread = np.stack([predictions(np.random.default_rng(4), 20, r) for r in (0.75, 0.8, 0.85)])
    reference = sample(predictions(rng, 20, 0.78)[None])

    def width(confusions):
        found = differences(reference, sample(confusions, number=1))[0]
        return found.high - found.low

    assert width(same) == pytest.approx(width(base[None]))
    assert width(spread) > 2 * width(base[None])


def test_a_planted_difference_is_found_and_none_where_there_is_none():
    """200 pairs: a gain of 2.5 points of right pixels, and noise alone."""
    found, wrong = 0, 0
    for number in range(200):
        rng = np.random.default_rng([5, number])
        first = sample(predictions(rng, 30, 0.8)[None])
        better = sample(predictions(rng, 30, 0.825)[None], number=1)
        equal = sample(predictions(rng, 30, 0.8)[None], number=1)
        gain = differences(first, better)[0]
        found += gain.excludes_zero and gain.value > 0
        wrong += differences(first, equal)[0].excludes_zero
    assert found > 190
    assert 2 <= wrong <= 22  # 5 % are expected, and the percentile interval is a little narrow


def test_what_no_draw_knows_is_nan():
    one_image = predictions(np.random.default_rng(6), 1)[None]
    found = sample(one_image)
    assert np.isnan(found.intervals).all() and not np.isnan(found.mean).any()
    found = differences(found, sample(one_image, number=1))
    assert found[0].value == 0 and np.isnan(found[0].low) and not found[0].excludes_zero
    lacking = predictions(np.random.default_rng(7), 4)
    lacking[:, 2], lacking[:, :, 2] = 0, 0
    found = sample(lacking[None])
    assert np.isnan(found.mean[3]) and np.isnan(found.intervals[3]).all()
    assert found.mean[0] == pytest.approx(miou(lacking))


def test_images_without_a_counted_pixel_change_nothing():
    confusions = predictions(np.random.default_rng(8), 5)[None]
    with_empty = np.concatenate([confusions, np.zeros((1, 2, 3, 3), dtype=np.int64)], axis=1)
    one, other = sample(confusions), sample(with_empty)
    assert np.array_equal(one.drawn, other.drawn) and np.array_equal(one.of_seeds, other.of_seeds)


def test_the_spread_over_seeds_is_a_standard_deviation():
    rng = np.random.default_rng(9)
    confusions = np.stack([predictions(rng, 5, right) for right in (0.7, 0.8, 0.9)])
    mious = [miou(run) for run in confusions]
    assert spread_over_seeds(sample(confusions)) == pytest.approx(np.std(mious, ddof=1))
    assert np.isnan(spread_over_seeds(sample(confusions[:1])))


def two_predictions(seed, num_sources, num_classes=4):
    """Confusion matrices of two predictions with the same target pixels."""
    rng = np.random.default_rng(seed)
    totals = rng.integers(500, 2000, size=(num_sources, num_classes))
    share = np.full(num_classes, 0.1) + 0.6 * np.eye(num_classes)
    share /= share.sum(axis=1, keepdims=True)
    return tuple(rng.multinomial(totals, share).astype(np.int64) for _ in range(2))


def test_by_hand():
    """IoU of a: 6/10 and 4/8; of b: 8/10 and 6/8; mIoU 0.55 and 0.775, whatever is drawn."""
    a = np.array([[[6, 2], [2, 4]]] * 3)
    b = np.array([[[8, 0], [2, 4]]] * 3)
    found = paired_intervals(a, b)
    assert found.num_sources == 3
    for difference, expected in zip(
        (found.miou, *found.iou),
        ((8 / 10 + 4 / 6 - 6 / 10 - 4 / 8) / 2, 8 / 10 - 6 / 10, 4 / 6 - 4 / 8),
        strict=True,
    ):
        assert difference.value == pytest.approx(expected)
        assert difference.low == pytest.approx(expected)  # equal images: no width
        assert difference.high == pytest.approx(expected)
        assert difference.excludes_zero


@pytest.mark.parametrize("left_out", [(), (3,), (0, 2)])
def test_equals_its_definition(left_out):
    """Every draw made, added and scored by itself; some draws lack a class of one image."""
    a, b = two_predictions(1, 5)
    for given in (a, b):
        given[1:, 2] = 0
        given[1:, 0, 0] += given[1:, 0, 2]
        given[1:, 1, 1] += given[1:, 1, 2]
        given[1:, 3, 3] += given[1:, 3, 2]
        given[1:, :, 2] = 0
    drawn = np.random.default_rng(SEED).integers(5, size=(NUM_DRAWS, 5))
    results = [
        [scores(torch.from_numpy(given[row].sum(0)), left_out) for given in (a, b)] for row in drawn
    ]
    found = paired_intervals(a, b, left_out)
    whole = [scores(torch.from_numpy(given.sum(0)), left_out) for given in (a, b)]
    assert found.miou.value == pytest.approx(whole[1].miou - whole[0].miou, rel=1e-12)
    ends = np.quantile([second.miou - first.miou for first, second in results], [0.025, 0.975])
    np.testing.assert_allclose((found.miou.low, found.miou.high), ends, rtol=1e-9)
    for index, difference in enumerate(found.iou):
        assert difference.value == pytest.approx(whole[1].iou[index] - whole[0].iou[index])
        each = [second.iou[index] - first.iou[index] for first, second in results]
        assert np.isnan(each).any() == (index == 2)
        ends = np.nanquantile(each, [0.025, 0.975])
        np.testing.assert_allclose((difference.low, difference.high), ends, rtol=1e-9)


def test_identical_predictions_differ_by_exactly_zero():
    a, _ = two_predictions(2, 7)
    found = paired_intervals(a, a.copy())
    assert {found.miou, *found.iou} == {Difference(value=0.0, low=0.0, high=0.0)}
    assert not found.miou.excludes_zero


def test_what_is_hard_for_both_cancels():
    """Images of very different difficulty; on each of them, b is right in 1 % more of the class."""
    right = np.random.default_rng(4).integers(300, 900, size=30)

    def matrices(more):
        hits = right + more
        return np.stack([[hits, 1000 - hits], [1000 - hits, hits]]).transpose(2, 0, 1)

    a, b = matrices(0), matrices(10)
    paired, alone = paired_intervals(a, b).miou, bootstrap(a).miou
    assert paired.excludes_zero and 0 < paired.low < paired.value < paired.high
    assert paired.high - paired.low < (alone[1] - alone[0]) / 20


@pytest.mark.parametrize("num_sources", [0, 1])
def test_fewer_than_two_images_have_no_interval(num_sources):
    a, b = two_predictions(5, num_sources)
    found = paired_intervals(a, b)
    assert found.num_sources == num_sources
    assert math.isnan(found.miou.low) and math.isnan(found.iou[0].high)
    assert not found.miou.excludes_zero
    assert math.isnan(found.miou.value) == (num_sources == 0)


def test_a_class_that_only_one_of_them_predicts():
    """No target pixel has class 2: its difference is nan, the means are those of the reports."""
    a = np.array([[[8, 2, 0], [2, 8, 0], [0, 0, 0]]] * 2)
    b = np.array([[[8, 0, 2], [2, 8, 0], [0, 0, 0]]] * 2)
    found = paired_intervals(a, b)
    assert math.isnan(found.iou[2].value) and math.isnan(found.iou[2].low)
    assert found.miou.value == pytest.approx((8 / 12 + 8 / 10 + 0) / 3 - 8 / 12)


def test_other_images_are_refused():
    a, b = two_predictions(7, 4)
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(3, 4, 4\)"):
        paired_intervals(a, b[:3])
    with pytest.raises(ValueError, match="count different target pixels"):
        paired_intervals(a, b[::-1])
