"""Result rasters as Pillow and rasterio read them; errors and full disks leave no file."""

import resource
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rasterio
from PIL import Image

from tests.utils.rasters.raster_files import picture
from utils.errors import ConfigError
from utils.rasters.writing import open_writer

PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 8, 7)]
RNG = np.random.default_rng(6)


def strips(array: np.ndarray, heights: list[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(heights).clip(max=len(array)))


@pytest.mark.parametrize("size", [(1, 1), (1, 1300), (513, 511), (700, 1100)])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_every_reader_sees_what_was_written(tmp_path: Path, suffix: str, bands: int, size):
    path, array = tmp_path / f"a{suffix}", picture(*size)
    array = array if bands == 3 else array[:, :, 0]
    with open_writer(path, size, bands) as writer:
        for rows in strips(array, [1, 0, 7, 504, 130, 2]):
            writer.write(rows)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1).reshape(array.shape), array)
    image = Image.open(path)
    assert image.mode == {1: "L", 3: "RGB"}[bands]
    np.testing.assert_array_equal(np.asarray(image), array)
    assert list(tmp_path.iterdir()) == [path]
    if suffix == ".tif":
        with rasterio.open(path) as file:
            assert file.block_shapes == [(512, 512)] * bands
            assert file.compression.value == "DEFLATE"
            predictor = file.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR")
            assert predictor == {1: None, 3: "2"}[bands]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_palette_gives_classes_their_colours(tmp_path: Path, suffix: str):
    path, labels = tmp_path / f"a{suffix}", picture(600, 70, 1)[:, :, 0] % 4
    labels[0, :2] = 4, 255
    with open_writer(path, labels.shape, 1, palette=PALETTE) as writer:
        writer.write(labels)
    colors = np.zeros((256, 3), np.uint8)  # a value without a colour is black
    colors[:4] = PALETTE
    image = Image.open(path)
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), labels)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colors[labels])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), labels)
        assert [file.colormap(1)[index][:3] for index in range(4)] == PALETTE


def test_a_file_that_might_exceed_4_gib_is_a_bigtiff_file(tmp_path: Path):
    rows = np.zeros((512, 70_000), np.uint8)
    with open_writer(tmp_path / "a.tif", (65_536, 70_000), 1) as writer:
        writer._num_rows = 65_536 - 512  # the rest stays empty
        writer.write(rows)
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    with open_writer(tmp_path / "b.tif", (512, 70_000), 1) as writer:
        writer.write(rows)
    assert (tmp_path / "b.tif").read_bytes()[:4] == b"II*\0"


@pytest.mark.parametrize("heights", [[700], [1] * 700, [0, 100, 411, 1, 188]])
def test_strips_are_written_by_whole_rows_of_blocks(tmp_path: Path, monkeypatch, heights):
    """GDAL compresses a block as often as it gets rows of it: slow, and files with holes."""
    with open_writer(tmp_path / "a.tif", (700, 30), 1) as writer:
        dataset = mock.Mock(wraps=writer._dataset)
        monkeypatch.setattr(writer, "_dataset", dataset)
        for rows in strips(np.zeros((700, 30), np.uint8), heights):
            writer.write(rows)
    windows = [call.kwargs["window"] for call in dataset.write.mock_calls]
    assert windows == [((0, 512), (0, 30)), ((512, 700), (0, 30))]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize(
    ("num_rows", "sentence"),
    [
        (20, "^an error of the caller$"),
        (19, r"19 of 20 rows of \S+ were written"),
        (21, "21 rows for an image of 20"),
    ],
)
def test_errors_and_missing_or_surplus_rows_leave_the_old_file(
    tmp_path: Path, suffix: str, num_rows: int, sentence: str
):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=sentence), open_writer(path, (20, 30), 1) as writer:
        writer.write(np.zeros((num_rows, 30), np.uint8))
        if num_rows == 20:
            raise ValueError("an error of the caller")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_full_disk_leaves_no_file_wherever_it_strikes(tmp_path: Path, suffix: str):
    """By a limit on the size of files; GDAL is silent about the last writes of a file."""
    noise = RNG.integers(0, 256, (600, 700)).astype(np.uint8)
    path, limits = tmp_path / f"a{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)

    def write() -> None:
        with open_writer(path, noise.shape, 1) as writer:
            writer.write(noise)

    write()
    whole = path.read_bytes()
    path.unlink()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for missing in (1, 7, 100, 2000, 100_000, len(whole) - 20):
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - missing, limits[1]))
            with pytest.raises(OSError):
                write()
            assert list(tmp_path.iterdir()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    write()
    assert path.read_bytes() == whole


def test_other_formats_are_refused(tmp_path: Path):
    sentence = r"a\.jpg cannot be written; results are \.tif or \.png files$"
    with pytest.raises(ConfigError, match=sentence), open_writer(tmp_path / "a.jpg", (1, 1), 1):
        pass
    assert not list(tmp_path.iterdir())
