"""infer.py --submission: from images to what the LoveDA server takes."""

import sys
import zipfile

import pytest

import prepare
from datasets.tile_set import open_tile_set
from utils.errors import DataError


def test_a_submission_of_a_split_is_written_and_passes_the_check(
    run_infer, data_root, tmp_path, monkeypatch, capsys
):
    """From a prepared data set to a zip that prepare.py check takes, twice the same bytes."""
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output in outputs:
        run_infer(data_root, output, "--split", "test", "--submission")
    path = outputs[0] / "submission.zip"
    assert f"{path} holds 2 images as the server takes them" in capsys.readouterr().out
    assert path.read_bytes() == (outputs[1] / "submission.zip").read_bytes()
    tile_set = open_tile_set(data_root)
    with zipfile.ZipFile(path) as packed:
        names = {f"{tile_set.tiles[tile_id].source}.png" for tile_id in tile_set.split("test")}
        assert set(packed.namelist()) == names
        for name in names:
            assert packed.read(name) == (outputs[0] / "index" / name).read_bytes()
    monkeypatch.setattr(
        sys, "argv", ["prepare.py", "check", "--data", str(data_root), "--submission", str(path)]
    )
    prepare.main()
    assert f"{path} holds 2 images" in capsys.readouterr().out


def test_names_that_clash_in_a_submission_are_refused_before_anything_is_computed(
    run_infer, photos, tmp_path
):
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png would both be a\.png in the sub"):
        run_infer(photos, tmp_path / "out", "--submission")
    assert not (tmp_path / "out").exists()
    (photos / "a.jpg").unlink()
    run_infer(photos, tmp_path / "out", "--submission")
    with zipfile.ZipFile(tmp_path / "out/submission.zip") as packed:
        assert packed.namelist() == ["a.png", "b.png", "c.png", "grey.png"]


def test_no_submission_is_written_of_a_part_of_the_images(run_infer, photos, tmp_path):
    (photos / "a.jpg").write_bytes(b"")
    (photos / "a.jpg").rename(photos / "broken.jpg")
    with pytest.raises(DataError, match="1 of 5 images could not be segmented"):
        run_infer(photos, tmp_path / "out", "--submission")
    assert not (tmp_path / "out/submission.zip").exists()
