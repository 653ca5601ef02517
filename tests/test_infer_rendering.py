"""infer.py reads images as the training set was read, or as its options say, and tells so."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from PIL import Image

from tests.conftest import make_config, train_briefly
from tests.utils.rasters.raster_files import picture, write_tiff
from utils.errors import ConfigError
from utils.training.checkpoint import load_checkpoint, save_checkpoint

RGB = picture(70, 90)
AS_STORED = {"bands": [], "stretch": [], "alpha_is_data": False}


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    """A network without structure maps."""
    folder = tmp_path_factory.mktemp("runs")
    return load_checkpoint(train_briefly(make_config(data_root, folder, "structure.control=off")))


@pytest.fixture
def checkpoint(trained, tmp_path, request):
    """The same, as if trained on a set of another rendering."""
    rendering = {**AS_STORED, **getattr(request, "param", {})}
    identity = replace(trained.identity, rendering=rendering)
    path = tmp_path / "best.pth"
    save_checkpoint(
        path, identity=identity, weights=trained.weights, progress=trained.progress, training=None
    )
    return load_checkpoint(path)


@pytest.fixture
def index_of(run_infer, tmp_path):
    """Run infer.py on a file; its label map."""

    def run(path, *arguments):
        output = run_infer(path, tmp_path / f"out_{path.stem}", "--write", "index", *arguments)
        with rasterio.open(output / "index" / path.with_suffix(".tif").name) as file:
            return file.read(1)

    return run


def test_a_wrong_stretch_gets_a_warning(run_infer, tmp_path, capsys):
    """Case 5 of docs/trials.md: nothing becomes levels 1 to 11 without a word."""
    (tmp_path / "images").mkdir()
    for name in "abcd":
        write_tiff(tmp_path / f"images/{name}.tif", RGB.astype(np.uint16) * 10 + 200)
    run_infer(tmp_path / "images", tmp_path / "out", "--write", "index", "--stretch", "0,65535")
    said = capsys.readouterr().out
    assert said.count("warning: ") == 4 and said.count("has values of 200 to 2750") == 3
    assert "warning: the same holds for 1 more image\n" in said


@pytest.mark.parametrize(
    "checkpoint", [{"bands": [3, 2, 1], "stretch": [[0.0, 510.0]]}], indirect=True
)
def test_options_override_the_training_set_one_by_one(index_of, checkpoint, tmp_path, capsys):
    bands = np.dstack([RGB[..., ::-1], RGB[..., :1] // 2])
    path = write_tiff(tmp_path / "bgrn.tif", bands, photometric="MINISBLACK")
    found = index_of(path, "--stretch", "0,255")
    said = capsys.readouterr().out
    assert said.count("read with the bands 3,2,1, as in the training set\n") == 1
    assert "more than three bands" not in said
    repeated = index_of(path, "--stretch", "0,255")  # done, and not by another rendering
    assert "(1 of them before)" in capsys.readouterr().out and np.array_equal(repeated, found)
    index_of(path, "--bands", "1")
    said = capsys.readouterr().out
    assert "the stretch 0,510, as in the training set\n" in said and "before" not in said
    index_of(path)
    assert "the bands 3,2,1 and the stretch 0,510, as in" in capsys.readouterr().out
    rgb = write_tiff(tmp_path / "rgb.tif", RGB, photometric="RGB")
    assert np.array_equal(index_of(rgb, "--bands", "1,2,3", "--stretch", "0,255"), found)
    assert "as in the training set" not in capsys.readouterr().out


@pytest.mark.parametrize("checkpoint", [{"stretch": [[0.0, 9.0]]}], indirect=True)
def test_tiles_of_a_prepared_set_are_read_as_they_are(run_infer, data_root, tmp_path, capsys):
    output = run_infer(data_root, tmp_path / "out", "--split", "test", "--write", "index,overlay")
    assert "as in the training set" not in capsys.readouterr().out
    assert all(np.array(Image.open(p)).mean() < 200 for p in (output / "overlay").glob("*.png"))
    with pytest.raises(ConfigError, match=r"--split\) are RGB already"):
        run_infer(data_root, tmp_path / "out", "--split", "test", "--stretch", "0,9")
