"""prepare.py check: every fault is found once, named in one line, and a sound set has none."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from datasets.preparation.check import check_tile_set
from datasets.tile_set import FORMAT_VERSION
from tests.conftest import make_config
from tests.datasets.broken import PALETTE, edit_json, rewrite_list, target_of, texts, truncate


def test_a_sound_set_has_no_fault_and_the_right_numbers(toy):
    findings = check_tile_set(toy)
    assert findings.faults == []
    assert texts(findings.warnings) == [
        "no pixel of train is of class 'water'; its score there cannot be computed"
    ]
    train, val = findings.splits["train"], findings.splits["val"]
    assert list(findings.splits) == ["train", "val", "test"]
    assert (train.num_sources, train.num_tiles) == (2, 2)
    assert train.class_pixels == (32 + 48, 32, 0) and train.ignored_pixels == 16
    # Frequencies: ground 80/(64+48), roof 32/64; their median is 0.6071.
    assert train.class_weights == (0.85, 1.214, 0.0)
    assert val.class_pixels == (32, 24, 8) and val.ignored_pixels == 0
    assert val.class_weights == (0.75, 1.0, 3.0)


def test_the_command_writes_what_it_shows(toy, run_prepare):
    code, out, err = run_prepare("check", "--data", toy.root)
    assert code == 0 and "error" not in err
    found = json.loads((toy.root / "check/check.json").read_text())
    rows = {line.split("  ")[0].strip(): line.split()[-3:] for line in out.splitlines() if line}
    splits = found["splits"].values()
    assert rows["images"] == [str(split["num_sources"]) for split in splits] == ["2", "1", "1"]
    assert rows["tiles"] == [str(split["num_tiles"]) for split in splits]
    shares, weights = out.partition("share of the pixels")[2].partition("class weights")[::2]
    for index, name in enumerate(found["classes"]):
        totals = [sum(split["class_pixels"]) + split["ignored_pixels"] for split in splits]
        pairs = zip(splits, totals, strict=True)
        line = "  ".join(f"{split['class_pixels'][index] / total:9.2%}" for split, total in pairs)
        assert re.search(rf"{name} +{re.escape(line.strip())}", shares)
        line = "  ".join(f"{split['class_weights'][index]:9.4f}" for split in splits)
        assert re.search(rf"{name} +{re.escape(line.strip())}", weights)
    for name, facts in found["stores"].items():
        line = [*facts["kind"].split(), "4", f"{facts['empty_share']:.2%}", str(facts["num_flat"])]
        assert re.search(rf"{name}.* +{' +'.join(line)}$", out, re.MULTILINE)
    assert "split 'own', SHA-256 " + found["split"]["sha256"][:16] in out
    assert "4 tiles in splits, 3 classes, bands rgb" in out
    assert "'optim.class_weights=[0.85,1.214,0]'" in out
    assert out.endswith(
        f"no fault found; see {toy.root}/check/check.json and {toy.root}/check/check.png\n"
    )


def test_the_weights_are_what_a_recipe_takes(toy, run_prepare, tmp_path):
    _, out, _ = run_prepare("check", "--data", toy.root)
    (override,) = re.findall(r"'(optim\.class_weights=.*)'", out)
    config = make_config(toy.root, tmp_path, override)
    assert config.optim.class_weights == (0.85, 1.214, 0.0)


def test_the_picture_shows_all_members_of_some_tiles_of_every_split(toy, run_prepare, tmp_path):
    run_prepare("check", "--data", toy.root, "--output", tmp_path / "out")
    picture = np.array(Image.open(tmp_path / "out/check.png"))
    for name in "abcd":
        assert (picture == target_color(name)).all(-1).any()
    assert picture.shape[1] > 5 * 256  # image, target and three stores
    assert not (toy.root / "check").exists()


def target_color(name: str) -> tuple[int, int, int]:
    return PALETTE[target_of(name)[-1, -1]]


def test_faults_are_counted_and_the_exit_code_says_so(toy, run_prepare):
    for name in "abcd":
        toy.target_path(name).unlink()
    truncate(toy.image_path("a"))
    code, out, err = run_prepare("check", "--data", toy.root)
    assert code == 2
    assert err.splitlines()[-1] == (
        f"error: {toy.root} has 5 faults; all are listed in {toy.root}/check/check.json"
    )
    assert "fault: missing files (4)" in out and "\n  and 1 more, see check.json" in out
    assert "fault: files that cannot be read (1)" in out
    found = json.loads((toy.root / "check/check.json").read_text())
    assert len(found["faults"]) == 5
    assert (toy.root / "check/check.png").is_file()  # of what can be read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tiles.csv", "id,source,top_px,left_px,height_px,width_px\na,a,zero,0,8,8\n"),
        ("tiles.csv", "id,source,top_px\na,a,0\n"),
        ("dataset.json", '{"format_version": VERSION}'),
        ("dataset.json", "[]"),
        ("splits/val.txt", b"\xff\xfe"),
    ],
)
def test_a_set_that_cannot_be_opened_gets_one_sentence(toy, run_prepare, name, content):
    if isinstance(content, str):
        content = content.replace("VERSION", str(FORMAT_VERSION)).encode()
    (toy.root / name).write_bytes(content)
    code, _, err = run_prepare("check", "--data", toy.root)
    assert code == 2 and len(err.splitlines()) == 1
    assert re.fullmatch(
        rf"error: {toy.root}: dataset\.json, tiles\.csv or a list in splits is damaged \(.*\); "
        r"prepare the data set again\n",
        err,
    )


def test_a_source_in_two_splits_is_refused(toy, run_prepare):
    rewrite_list(toy, "val", "a\nc\n")
    code, _, err = run_prepare("check", "--data", toy.root)
    assert code == 2
    assert err.startswith(f"error: {toy.root}: source image 'a' is in the splits ")


def test_lists_that_are_not_those_of_the_split_are_refused(toy, run_prepare):
    (toy.root / "splits/train.txt").write_text("a\n")
    code, _, err = run_prepare("check", "--data", toy.root)
    assert code == 2 and len(err.splitlines()) == 1
    assert "are not those of the split 'own' any more" in err


def test_a_split_with_hidden_labels(toy, run_prepare):
    split = json.loads((toy.root / "dataset.json").read_text())["split"]
    edit_json(toy.root / "dataset.json", split={**split, "unlabelled": ["test"]})
    hidden = toy.target_path("d")
    code, _, _ = run_prepare("check", "--data", toy.root)
    found = json.loads((toy.root / "check/check.json").read_text())
    assert code == 2
    assert [fault["text"] for fault in found["faults"]] == [
        f"{toy.root}/histogram.csv lists 'd'; prepare the data set again",
        f"no list names {hidden}; delete it or prepare the data set again",
    ]
    hidden.unlink()
    rows = (toy.root / "histogram.csv").read_text().splitlines()
    (toy.root / "histogram.csv").write_text("\n".join(rows[:-1]))
    code, out, _ = run_prepare("check", "--data", toy.root)
    assert code == 0
    assert re.search(r"^  ground .* hidden$", out, re.MULTILINE)
    found = json.loads((toy.root / "check/check.json").read_text())
    assert found["splits"]["test"] == {
        "is_labelled": False,
        "num_sources": 1,
        "num_tiles": 1,
        "num_pixels": 64,
        "class_pixels": [0, 0, 0],
        "ignored_pixels": 0,
        "class_weights": None,
    }
