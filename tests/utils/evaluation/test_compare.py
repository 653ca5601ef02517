"""Comparison: reports that belong together, and paired differences against their definition."""

import json

import numpy as np
import pytest
import torch

from utils.errors import ConfigError, DataError, MissingDataError
from utils.evaluation.bootstrap import NUM_DRAWS, SEED, bootstrap
from utils.evaluation.compare import (
    Difference,
    differences,
    read_settings,
    sample,
    spread_over_seeds,
)
from utils.evaluation.metrics import scores

HEADER = {"checkpoint": "best.pth", "split": "val", "lists": "ab", "labels": "full"}
CLASSES = [{"name": "roof"}, {"name": "road"}]
CONFUSIONS = {"a": [[6, 2], [1, 3]], "b": [[4, 0], [2, 9]]}
MORE = "source images"


def sources(names="ab", **confusions):
    matrices = {**CONFUSIONS, **confusions}
    return [{"name": name, "confusion": matrices.get(name, [[1]])} for name in names]


def content(**changes):
    report = {
        "header": HEADER,
        "miou": 0.5,
        "mf1": 0.6,
        "oa": 0.7,
        "kappa": 0.4,
        "mean_without": [],
        "classes": CLASSES,
        "sources": sources(),
    }
    return {key: value for key, value in {**report, **changes}.items() if value is not None}


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
        write(tmp_path / "off" / "eval_val", sources=sources(a=[[8, 0], [1, 3]])),
        write(tmp_path / "shuffled" / "eval_val") / "report.json",
        write(tmp_path / "lr=1,2"),
    ]
    settings = read_settings([str(place) for place in places])
    assert [setting.name for setting in settings] == ["on", "off", "shuffled", "lr=1,2"]
    assert np.array_equal(settings[0].confusions, [list(CONFUSIONS.values())])
    assert settings[0].reports[0].path == tmp_path / "on" / "eval_val" / "report.json"


def test_names_are_given_or_those_of_folders_where_runs_have_one_name(tmp_path):
    a, b = (str(write(tmp_path / "on" / f"eval_{name}")) for name in ("a", "b"))
    for arguments, names, num_reports in (
        ([a, b], [a, b], [1, 1]),
        ([f"on={a}", b], ["on", b], [1, 1]),
        ([f"this={a}", f"that={a}"], ["this", "that"], [1, 1]),
        ([f"both={a},{b}", f"one={a}"], ["both", "one"], [2, 1]),
    ):
        settings = read_settings(arguments)
        assert [setting.name for setting in settings] == names
        assert [len(setting.confusions) for setting in settings] == num_reports


A, B = "{tmp_path}/a", "{tmp_path}/b"
TWICE = "x lists the same report twice; name each seed once"
UNNAMED = f"several seeds of one setting need a name; write NAME={A},{B}"
EMPTY = "'x=' has an empty report name after '=' or ','; write NAME=A,B"
NO_REPORT = "{tmp_path}/run holds no report.json; run eval.py on its checkpoint first"
TWO = "{tmp_path}/two holds several evaluations (eval_test, eval_val); name one of them"
LACKING = "{tmp_path}/old/report.json has no field 'sources'; run eval.py again to rewrite it"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([A], ConfigError, "compare needs two or more runs; the first one is the reference"),
        ([f"x={A}", f"x={B}"], ConfigError, "two runs are named x; name them with NAME=RUN"),
        ([A, A], ConfigError, f"two runs are named {A}; name them with NAME=RUN"),
        ([f"x={A},{B},{A}", B], ConfigError, TWICE),
        ([f"{A},{B}", B], ConfigError, UNNAMED),
        (["x=", B], ConfigError, EMPTY),
        ([A, "{tmp_path}/run"], MissingDataError, NO_REPORT),
        ([A, "{tmp_path}/two"], MissingDataError, TWO),
        ([A, "{tmp_path}/no"], MissingDataError, "{tmp_path}/no does not exist"),
        ([A, "{tmp_path}/old"], DataError, LACKING),
    ],
)
def test_reports_that_cannot_be_read_are_refused(tmp_path, arguments, error, message):
    for name in ("a", "b", "two/eval_test", "two/eval_val"):
        write(tmp_path / name)
    (tmp_path / "run").mkdir()
    write(tmp_path / "old", sources=None)
    said = refusal(error, *(argument.format(tmp_path=tmp_path) for argument in arguments))
    assert said == message.format(tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("changes", "ours", "theirs"),
    [
        ({"classes": CLASSES[::-1]}, "the classes roof, road", "the classes road, roof"),
        ({"header": {**HEADER, "split": "test"}}, "the split val", "the split test"),
        ({"header": {**HEADER, "lists": "cd"}}, "the lists ab", "the lists cd"),
        ({"header": {**HEADER, "labels": "eroded"}}, "full labels", "eroded labels"),
        ({"mean_without": ["road"]}, "means over all classes", "means without road"),
        ({"sources": sources("acd")}, f"2 {MORE}, b among them", f"3 {MORE}, c among them"),
        ({"sources": sources("a")}, f"2 {MORE}, b among them", "1 source image"),
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
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", sources=sources(b=[[5, 0], [2, 8]]))
    assert refusal(DataError, a, b) == (
        f"{a / 'report.json'} and {b / 'report.json'} count different target pixels of b "
        "(15 and 15); evaluate both on the same labels, cut the same way"
    )


def predictions(rng, num_sources, right=0.8, num_classes=3):
    """Confusion matrices with the same targets, whatever the fraction of right pixels."""
    targets = np.random.default_rng(99).integers(500, 900, size=(num_sources, num_classes))
    hits = np.rint(targets * np.clip(right + rng.normal(0, 0.03, targets.shape), 0, 1)).astype(int)
    confusions = np.zeros((num_sources, num_classes, num_classes), dtype=np.int64)
    for index in range(num_classes):
        confusions[:, index, index] = hits[:, index]
        confusions[:, index, (index + 1) % num_classes] = (targets - hits)[:, index]
    return confusions


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


def test_a_class_that_only_one_of_them_predicts():
    """No target pixel has class 2: its difference is nan, the means are those of the reports."""
    a = np.array([[[[8, 2, 0], [2, 8, 0], [0, 0, 0]]] * 2])
    b = np.array([[[[8, 0, 2], [2, 8, 0], [0, 0, 0]]] * 2])
    miou, *_, last = differences(sample(a), sample(b))
    assert np.isnan([last.value, last.low]).all()
    assert miou.value == pytest.approx((8 / 12 + 8 / 10 + 0) / 3 - 8 / 12)


def all_scores(confusions, left_out):
    """mIoU and the IoU of each class of summed confusion matrices."""
    found = scores(torch.from_numpy(confusions.sum(0)), left_out)
    return [found.miou, *found.iou]


@pytest.mark.parametrize(("num_seeds", "left_out"), [((1, 1), [2]), ((3, 2), [])])
def test_differences_equal_the_hierarchical_bootstrap_made_one_by_one(num_seeds, left_out):
    """Some draws lack a class."""
    rng = np.random.default_rng(3)
    groups = [
        np.stack([predictions(rng, 5, right) for _ in range(number)])
        for number, right in zip(num_seeds, (0.8, 0.85), strict=True)
    ]
    for group in groups:
        group[:, 1:, 1], group[:, 1:, 0] = 0, [600, 0, 100]
    images = np.random.default_rng(SEED).integers(5, size=(NUM_DRAWS, 5))
    means = []
    for number, group in enumerate(groups):
        size = (len(group), NUM_DRAWS, 1)
        seeds = np.random.default_rng([SEED, number]).integers(len(group), size=size)
        of_seeds = np.array([[all_scores(run[d], left_out) for d in images] for run in group])
        means.append(np.take_along_axis(of_seeds, seeds, axis=0).mean(0))
    assert np.isnan(means[0]).any()
    first, second = (sample(group, left_out, number) for number, group in enumerate(groups))
    found = differences(first, second)
    for drawn, ends in (
        (means[1] - means[0], [(d.low, d.high) for d in found]),
        (means[0], first.intervals),
    ):
        expected = np.nanquantile(drawn, [0.025, 0.975], axis=0).T
        np.testing.assert_allclose(ends, expected, rtol=1e-9, atol=1e-12)
    mious = [[all_scores(run, left_out)[0] for run in group] for group in groups]
    assert found[0].value == pytest.approx(np.mean(mious[1]) - np.mean(mious[0]))
    expected = np.std(mious[0], ddof=1) if num_seeds[0] > 1 else np.nan
    assert spread_over_seeds(first) == pytest.approx(expected, nan_ok=True)


def test_the_interval_of_one_seed_is_that_of_its_report():
    """Also with an image that has no counted pixel."""
    confusions = predictions(np.random.default_rng(1), 9)
    found, expected = sample(confusions[None], [0]), bootstrap(confusions, [0])
    assert found.intervals == [expected.miou, *expected.iou]
    assert found.mean == pytest.approx(all_scores(confusions, [0]))
    with_empty = np.concatenate([confusions, np.zeros((2, 3, 3), dtype=np.int64)])
    assert np.array_equal(sample(with_empty[None], [0]).drawn, found.drawn)


def test_identical_predictions_differ_by_exactly_zero():
    confusions = predictions(np.random.default_rng(2), 7)[None]
    found = differences(sample(confusions), sample(confusions.copy(), number=1))
    assert {*found} == {Difference(value=0.0, low=0.0, high=0.0)}
    assert not found[0].excludes_zero


@pytest.mark.parametrize(("low", "high", "excludes"), [(1, 2, 1), (-2, -1, 1), (-1, 1, 0)])
def test_an_interval_on_one_side_excludes_zero(low, high, excludes):
    assert Difference(value=0.0, low=low, high=high).excludes_zero == excludes


def test_unknown_scores_are_nan():
    """One image has no interval; a class that does not occur has no score."""
    one_image = sample(predictions(np.random.default_rng(6), 1)[None])
    assert np.isnan(one_image.intervals).all() and not np.isnan(one_image.mean).any()
    found = differences(one_image, one_image)[0]
    assert found.value == 0 and np.isnan(found.low) and not found.excludes_zero
    lacking = predictions(np.random.default_rng(7), 4)
    lacking[:, 2], lacking[:, :, 2] = 0, 0
    sampled = sample(lacking[None])
    assert np.isnan(sampled.mean[3]) and np.isnan(sampled.intervals[3]).all()
    assert sampled.mean[0] == pytest.approx(all_scores(lacking, [])[0])
    nothing = sample(np.zeros((1, 2, 3, 3), dtype=np.int64))
    assert np.isnan(nothing.mean).all()
