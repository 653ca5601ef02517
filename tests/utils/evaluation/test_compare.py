"""Reports that are to be compared: how they are found and named, and which belong together."""

import json

import numpy as np
import pytest

from utils.errors import ConfigError, DataError, MissingDataError
from utils.evaluation.compare import read_settings

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
