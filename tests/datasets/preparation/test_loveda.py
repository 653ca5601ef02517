"""LoveDA from fake archives with the official names to a prepared set, and its submission."""

import itertools
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from datasets.preparation.published.loveda import submit
from datasets.tile_set import open_tile_set
from tests.datasets.fake_archives import LOVEDA_IMAGES, encode, image_of, loveda, pack, target_of
from tests.datasets.preparation.conftest import nothing_is_left
from utils.errors import DataError, MissingDataError

SIZE = (9, 9)
CLASSES = [
    *(("background", (255, 255, 255)), ("building", (255, 0, 0)), ("road", (255, 255, 0))),
    *(("water", (0, 0, 255)), ("barren", (159, 129, 183)), ("forest", (0, 255, 0))),
    ("agriculture", (255, 195, 128)),
]


@pytest.fixture
def prepare(prepare_archives, tmp_path):
    """Prepare archives, given as their files."""

    def prepare(files, *more):
        return prepare_archives("loveda", pack(files, tmp_path / "in", "zips"), *more)

    return prepare


def test_town_and_country_and_a_test_set_without_labels(prepare):
    files = loveda(SIZE)
    every_value = encode([[0, 1, 2, 3, 4, 5, 6, 7, 0]] * 9, "PNG")
    files["Train"]["Train/Urban/masks_png/1366.png"] = every_value
    root, code, out, _ = prepare(files)
    tiles = open_tile_set(root)
    assert code == 0 and tiles.split("train") == ("0", "1", "1366", "1367", "2")
    assert tiles.split("val") == ("2522", "2523", "3514")
    assert tiles.split("test") == ("4191", "4192", "5167")
    assert (tiles.split_name, tiles.unlabelled, tiles.channels) == ("official", ("test",), "rgb")
    for number in itertools.chain(*LOVEDA_IMAGES.values()):
        np.testing.assert_array_equal(tiles.read_image(str(number)), image_of(number, *SIZE))
        if str(number) in tiles.split("test"):
            assert not tiles.target_path(str(number)).exists()
        elif number != 1366:
            raw = target_of(number, *SIZE, num_classes=8)
            expected = np.where(raw == 0, 255, raw.astype(int) - 1)
            np.testing.assert_array_equal(tiles.read_target(str(number)), expected)
    assert tiles.read_target("1366")[1].tolist() == [255, 0, 1, 2, 3, 4, 5, 6, 255]
    with pytest.raises(MissingDataError, match=r"of the split test of .*set are hidden: infer.py"):
        tiles.read_target("4191")
    assert list(zip(tiles.classes, tiles.palette, strict=True)) == CLASSES
    lines = out.splitlines()
    assert ["images", "5", "3", "3"] in [line.split() for line in lines]
    assert next(line for line in lines if line.startswith("barren")).endswith("hidden")
    assert "labels of 11 images: full of 8" in lines
    for split, found, official in (("train", 5, 2522), ("val", 3, 1669), ("test", 3, 1796)):
        assert f"warning: {found} images of {split}, officially there are {official}" in lines


def test_one_domain_of_several_sources_without_a_test_archive(prepare_archives, tmp_path):
    folder = pack(loveda(SIZE), tmp_path / "in", "zips")
    more = ("--source", folder / "Val.zip", "--domain", "rural")
    root, code, out, _ = prepare_archives("loveda", folder / "Train.zip", *more)
    tiles = open_tile_set(root)
    assert code == 0 and tiles.split("train") == ("0", "1", "2")
    assert tiles.split_name == "official-rural" and "officially" not in out
    assert tiles.unlabelled == () and not tiles.splits.get("test")


def test_archives_that_are_incomplete_or_wrong(prepare):
    files = loveda(SIZE)
    root, code, _, err = prepare({**files, "Val": {}})
    sentence = "--source has no image of Val (rural and urban); add Val.zip, or the folder Val it "
    assert code == 2 and sentence in err
    del files["Train"]["Train/Rural/masks_png/1.png"]
    root, code, _, err = prepare(files)
    assert code == 2
    assert "1 of 5 images of train have no mask (first: 1); get the archive again" in err
    files["Train"]["Train/Rural/masks_png/1.png"] = encode([[1, 8] * 4 + [9]] * 9, "PNG")
    root, code, _, err = prepare(files)
    assert code == 2 and nothing_is_left(root)
    assert "the masks hold 2 colours or values that no class of this data set" in err
    assert "  8: 36 pixels" in err and "Train.zip/Train/Rural/masks_png/1.png" in err


SIZES = {"10.png": (6, 9), "11.png": (6, 9), "12.png": (4, 4)}
LABELS = {
    name: encode(np.random.default_rng(i).integers(0, 7, size, np.uint8), "PNG")
    for i, (name, size) in enumerate(SIZES.items())
}


@pytest.fixture
def output(tmp_path):
    """An output folder of infer.py with the label maps of three images."""
    (tmp_path / "index").mkdir()
    for name, content in LABELS.items():
        (tmp_path / "index" / f"of {name}").write_bytes(content)
    return tmp_path


def pack_submission(output):
    results = {name: Path(f"of {name}") for name in reversed(SIZES)}
    submit(output, results, {Path(f"of {name}"): size for name, size in SIZES.items()}, 7)
    return output / "submission.zip"


def test_a_submission_holds_the_label_maps_and_is_the_same_every_time(output, capsys):
    path = pack_submission(output)
    assert capsys.readouterr().out == (
        "warning: 3 images; the official test set of LoveDA has 1796\n"
        f"{path} holds 3 images in the format of the LoveDA server\n"
    )
    with zipfile.ZipFile(path) as packed:
        assert packed.namelist() == sorted(SIZES)
        assert {name: packed.read(name) for name in SIZES} == LABELS
    before = path.read_bytes()
    os.utime(output / "index" / "of 10.png", (0, 0))
    assert pack_submission(output).read_bytes() == before


NO_CLASS = encode(np.full((6, 9), 255, np.uint8), "PNG")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (encode(np.full((6, 9), 7, np.uint8), "PNG"), "L, 6 x 9, 0..7"),
        (encode(np.zeros((9, 6), np.uint8), "PNG"), "L, 9 x 6, 0..0"),
        (encode(np.zeros((6, 9, 3), np.uint8), "PNG"), "RGB, 6 x 9, 0..0"),
        (NO_CLASS, "pixels without data"),
        (encode(np.zeros((6, 9)), "TIFF"), None),
        (LABELS["10.png"][:45], None),
    ],
)
def test_a_label_map_that_the_server_would_refuse_is_named(output, content, found):
    (output / "index" / "of 10.png").write_bytes(content)
    problem = f"(found: {found}; wanted: L, 6 x 9, 0..6); run infer.py again with --overwrite"
    if content == NO_CLASS:  # which no other run of infer.py changes
        problem = "without a class: those without data in its image; submit complete images"
    with pytest.raises(DataError) as error:
        pack_submission(output)
    assert str(error.value).startswith(f"{output / 'index' / 'of 10.png'} ")
    assert (problem if found else "cannot be read as PNG (") in str(error.value)
    assert not list(output.glob("*submission*"))
