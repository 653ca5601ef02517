"""A checkpoint scored on other data sets and lists: known images by their pixels, not by names."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from datasets.tile_set import open_tile_set
from tests.conftest import evaluate, make_config, single_process, train_briefly
from tests.datasets.broken import edit_json
from tests.datasets.fakes import tile_at, write_tiles
from tests.test_train import NO_VIT
from train import build_run
from utils.errors import DataError
from utils.rasters.rendering import Rendering
from utils.training.checkpoint import load_checkpoint

BRIEF = ("structure.control=off", *NO_VIT, "optim.num_epochs=1", "optim.warmup_epochs=0")


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    """A checkpoint without ViTs and maps."""
    return train_briefly(make_config(data_root, tmp_path_factory.mktemp("runs"), *BRIEF))


@pytest.fixture
def scenes(data_root):
    return open_tile_set(data_root)


@pytest.fixture
def edited(data_root, tmp_path):
    """Make a copy of the scenes with other lists."""

    def make(**lists):
        root = Path(tempfile.mkdtemp(dir=tmp_path)) / "scenes"
        shutil.copytree(data_root, root)
        for split, ids in lists.items():
            (root / f"splits/{split}.txt").write_text("\n".join(ids))
        edit_json(root / "dataset.json", split={"name": "mine", "source": "", "unlabelled": []})
        return root

    return make


def new_picture(number):
    return np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def write_others(root, scenes, splits, **facts):
    """A set of the same classes: pictures by split, named photo00, photo01 and so on."""
    members, blank = [], np.zeros((96, 96), np.uint8)
    for split, pictures in splits.items():
        for picture in pictures:
            tile = tile_at(f"photo{len(members):02}", (96, 96))
            members.append((split, tile, picture, blank))
    facts = {"name": "others", "classes": scenes.classes, "palette": scenes.palette, **facts}
    return write_tiles(root, members, **facts)


def test_pictures_that_were_trained_on_are_refused_under_any_name(trained, scenes, tmp_path):
    known = [scenes.read_image(tile_id) for tile_id in scenes.split("train")]
    pictures = [new_picture(0), known[3], new_picture(1), known[0]]
    root = write_others(tmp_path / "b", scenes, {"val": known, "test": pictures}).root
    where = f"images of the split test of {root} were trained on"
    sentence = rf"^2 of 4 {where} \(first: 'photo08'\); score others, or make a split without them$"
    with pytest.raises(DataError, match=sentence):
        evaluate(trained, tmp_path / "out", f"data.root={root}", split="test")
    with pytest.raises(DataError, match=r"^7 of 7 images of the split val of "):
        evaluate(trained, tmp_path / "out", f"data.root={root}", split="val")
    assert not (tmp_path / "out").exists()


def test_blank_pictures_tell_nothing_and_are_no_reason_to_refuse(scenes, tmp_path):
    blank = np.full((96, 96, 3), 255, np.uint8)
    splits = {"train": [blank, new_picture(0)], "val": [new_picture(1), blank]}
    root = write_others(tmp_path / "b", scenes, splits).root
    best = train_briefly(make_config(root, tmp_path, *BRIEF, "optim.batch_size=1"))
    assert evaluate(best, tmp_path / "out")["header"]["images"] == 2


def test_a_report_names_both_sets_with_their_hashes(trained, scenes, tmp_path, capsys):
    facts = {"rendering": Rendering(bands=(3, 2, 1), stretch=((0, 3060),))}
    others = write_others(tmp_path / "b", scenes, {"test": [new_picture(0)]}, **facts)
    report = evaluate(trained, tmp_path / "out", f"data.root={others.root}", split="test")
    trained_on = f"synthetic, split train of synthetic, SHA-256 {scenes.split_sha256}"
    scored_on = f"others, split test of {others.split_name}, SHA-256 {others.split_sha256}"
    assert report["header"]["trained on"] == trained_on
    assert report["header"]["scored on"] == scored_on
    page = (tmp_path / "out" / "report.html").read_text()
    assert trained_on in page and scored_on in page
    then, now = "(bands as in the files; stretch none)", "(bands 3,2,1; stretch 0,3060)"
    warning = f"{trained} was trained on rgb images {then}, {others.root} has rgb images {now}"
    assert f"\nwarning: {warning}\n" in capsys.readouterr().out
    assert report["header"]["warning"] == warning


def test_new_lists_of_the_same_set_are_scored_if_they_hold_no_trained_image(
    trained, scenes, edited, tmp_path
):
    root = edited(
        test=(*scenes.split("test"), *scenes.split("val")[:1]), val=scenes.split("val")[1:]
    )
    report = evaluate(trained, tmp_path / "out", f"data.root={root}", split="test")
    assert report["header"]["images"] == 3 and "warning" not in report["header"]
    assert report["header"]["lists"] != f"synthetic, SHA-256 {scenes.split_sha256}"
    first, *others = scenes.split("train")
    root = edited(train=others, test=(*scenes.split("test"), first))
    with pytest.raises(DataError, match=rf"^1 of 3 images of the .* \(first: '{first}'\); score"):
        evaluate(trained, tmp_path / "new", f"data.root={root}", split="test")
    with pytest.raises(DataError, match=r"^6 of 6 images of the split train of "):  # other lists
        evaluate(trained, tmp_path / "new", f"data.root={root}", split="train")


def test_the_training_split_itself_is_scored_with_a_warning(trained, tmp_path, capsys):
    report = evaluate(trained, tmp_path / "out", split="train")
    warning = "the split train was trained on; its scores say nothing about other images"
    assert report["header"]["warning"] == warning
    assert f"\nwarning: {warning}\n" in capsys.readouterr().out


def test_a_fine_tuned_network_knows_the_images_of_both_runs(trained, scenes, tmp_path):
    splits = {"train": [new_picture(0), new_picture(1)], "val": [new_picture(2)]}
    others = write_others(tmp_path / "b", scenes, splits)
    config = make_config(others.root, tmp_path, *BRIEF, f"run.fine_tune={trained}")
    best = train_briefly(config)
    before, after = (load_checkpoint(path).identity.trained_on for path in (trained, best))
    new = [others.sources[name].sha256 for name in ("photo00", "photo01")]
    assert after == sorted([*before, *new]) and len(after) == 9
    trained_again = build_run(config, single_process()).state.identity.trained_on  # resumed
    assert trained_again == after
