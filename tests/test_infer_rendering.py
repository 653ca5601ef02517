"""infer.py reads images as the training set was read, or as its options say, and tells so."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

from tests.conftest import make_config, train_briefly
from tests.utils.rasters.raster_files import picture, write_tiff
from utils.errors import ConfigError, DataError
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


def deep(path):
    """The picture in 16 bits, 200..2750."""
    return write_tiff(path, RGB.astype(np.uint16) * 10 + 200)


@pytest.mark.parametrize("checkpoint", [{"stretch": [[200.0, 2750.0]]}], indirect=True)
def test_the_stretch_of_the_training_set_is_used_unasked(index_of, tmp_path, capsys):
    """Case 5 of docs/trials.md: the same classes as for the picture in 8 bits."""
    shallow = write_tiff(tmp_path / "shallow.tif", RGB, photometric="RGB")
    found = index_of(deep(tmp_path / "deep.tif"))
    line = "images are read with the stretch 200,2750, as in the training set\n"
    assert capsys.readouterr().out.count(line) == 1
    expected = index_of(shallow, "--stretch", "0,255")
    assert "as in the training set" not in capsys.readouterr().out
    assert len(np.unique(expected)) > 1 and np.array_equal(found, expected)


def test_deep_values_without_a_stretch_are_refused_and_a_wrong_one_gets_a_warning(
    run_infer, tmp_path, capsys
):
    """Case 5 of docs/trials.md: nothing becomes levels 1 to 11 without a word."""
    (tmp_path / "images").mkdir()
    for name in "abcd":
        deep(tmp_path / f"images/{name}.tif")
    with pytest.raises(DataError, match=r"(?s)4 of 4 .*200 to 2750.*--stretch 200,2750"):
        run_infer(tmp_path / "images", tmp_path / "out")
    assert not [*(tmp_path / "out").rglob("*.tif")]
    capsys.readouterr()
    run_infer(tmp_path / "images", tmp_path / "out", "--write", "index", "--stretch", "0,65535")
    said = capsys.readouterr().out
    assert said.count("warning: ") == 4 and said.count("has values of 200 to 2750") == 3
    assert "warning: the same holds for 1 more image\n" in said


def write_bgrn(path, colors=None, **options):
    """Blue, green, red and near infrared, with the names of bands that a file may have."""
    bands = np.dstack([RGB[..., ::-1], RGB[..., :1] // 2])
    write_tiff(path, bands, photometric="MINISBLACK", **options)
    if colors is not None:
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [*colors, ColorInterp.undefined]
    return path


def test_red_is_the_band_that_the_file_or_the_option_says(index_of, tmp_path, capsys):
    """Case 8 of docs/trials.md."""
    expected = index_of(write_tiff(tmp_path / "rgb.tif", RGB, photometric="RGB"))
    order = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    assert np.array_equal(index_of(write_bgrn(tmp_path / "named.tif", order)), expected)
    path = write_bgrn(tmp_path / "unnamed.tif")
    assert np.array_equal(index_of(path, "--bands", "3,2,1"), expected)
    assert "more than three bands" not in capsys.readouterr().out
    assert not np.array_equal(index_of(path), expected)
    said = "1 image with more than three bands, of which neither the file nor --bands names red, "
    said += f"green and blue: the bands 1,2,3 were taken (first: {path})\n"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "checkpoint", [{"bands": [3, 2, 1], "stretch": [[0.0, 510.0]]}], indirect=True
)
def test_options_override_the_training_set_one_by_one(index_of, checkpoint, tmp_path, capsys):
    path = write_bgrn(tmp_path / "bgrn.tif")
    found = index_of(path, "--stretch", "0,255")
    assert "read with the bands 3,2,1, as in the training set\n" in capsys.readouterr().out
    repeated = index_of(path, "--stretch", "0,255")  # done, and not by another rendering
    assert "(1 of them before)" in capsys.readouterr().out and np.array_equal(repeated, found)
    index_of(path, "--bands", "1")
    said = capsys.readouterr().out
    assert "the stretch 0,510, as in the training set\n" in said and "before" not in said
    index_of(path)
    assert "the bands 3,2,1 and the stretch 0,510, as in" in capsys.readouterr().out
    rgb = write_tiff(tmp_path / "rgb.tif", RGB, photometric="RGB")
    assert np.array_equal(index_of(rgb, "--bands", "1,2,3", "--stretch", "0,255"), found)


@pytest.mark.parametrize("checkpoint", [{"stretch": [[0.0, 9.0]]}], indirect=True)
def test_tiles_of_a_prepared_set_are_read_as_they_are(run_infer, data_root, tmp_path, capsys):
    output = run_infer(data_root, tmp_path / "out", "--split", "test", "--write", "index,overlay")
    assert "as in the training set" not in capsys.readouterr().out
    assert all(np.array(Image.open(p)).mean() < 200 for p in (output / "overlay").glob("*.png"))
    with pytest.raises(ConfigError, match=r"--split\) are RGB already"):
        run_infer(data_root, tmp_path / "out", "--split", "test", "--stretch", "0,9")


def test_files_that_are_passed_over_are_counted(run_infer, tmp_path, capsys):
    """Case 23 of docs/trials.md; results of a run in the same folder do not count."""
    folder = tmp_path / "photos"
    folder.mkdir()
    write_tiff(folder / "a.tif", RGB, photometric="RGB")
    (folder / "notes.txt").touch()
    for _ in range(2):
        run_infer(folder, folder / "out", "--write", "index")
        line = f"1 file of {folder} is no image by its suffix (.txt) and was passed over\n"
        assert line in capsys.readouterr().out
