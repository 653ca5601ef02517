"""Which reports belong together: names, places, and a sentence for each refusal."""

import json

import numpy as np
import pytest

from utils.errors import ConfigError, DataError, MissingDataError
from utils.evaluation.compare import read_settings

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
        f"{a / 'report.json'} and {b / 'report.json'} count different target pixels of b (15 and 15); "
        "evaluate both on the same labels, cut the same way"
    )
