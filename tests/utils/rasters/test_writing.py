"""Result rasters as Pillow and rasterio read them; errors, full disks and kills leave no file."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.rasters.raster_files import by_gdal
from utils.errors import ConfigError
from utils.files import atomic_path
from utils.rasters import writing
from utils.rasters.writing import open_writer

ROOT = Path(__file__).parents[3]
PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 8, 7)]
RNG = np.random.default_rng(6)
SIZES = [(1, 1), (1, 1300), (1300, 1), (512, 512), (513, 511), (700, 1100)]


def picture(size: tuple[int, int], bands: int) -> np.ndarray:
    if bands == 3:
        return RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
    return RNG.integers(0, len(PALETTE), size).astype(np.uint8)


def strips(array: np.ndarray, heights: list[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(heights).clip(max=len(array)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_every_reader_sees_what_was_written(tmp_path: Path, suffix: str, bands: int, size):
    path, array = tmp_path / f"a{suffix}", picture(size, bands)
    with open_writer(path, size, bands) as writer:
        for rows in strips(array, [1, 0, 7, 504, 130, 2]):
            writer.write(rows)
    with by_gdal(path) as file:
        np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1).reshape(array.shape), array)
    image = Image.open(path)
    assert image.mode == {1: "L", 3: "RGB"}[bands]
    np.testing.assert_array_equal(np.asarray(image), array)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_palette_gives_classes_their_colours(tmp_path: Path, suffix: str):
    path, labels = tmp_path / f"a{suffix}", picture((600, 70), 1)
    labels[0, :2] = 4, 255
    with open_writer(path, labels.shape, 1, palette=PALETTE) as writer:
        writer.write(labels)
    colors = np.zeros((256, 3), np.uint8)  # a value without a colour is black
    colors[:4] = PALETTE
    image = Image.open(path)
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), labels)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colors[labels])
    with by_gdal(path) as file:
        np.testing.assert_array_equal(file.read(1), labels)
        assert [file.colormap(1)[index][:3] for index in range(4)] == PALETTE


@pytest.mark.parametrize(("bands", "predictor"), [(1, None), (3, "2")])
def test_a_tiff_file_is_tiled_and_compressed(tmp_path: Path, bands: int, predictor: str | None):
    path = tmp_path / "a.tif"
    with open_writer(path, (700, 1100), bands) as writer:
        writer.write(np.zeros((700, 1100, 3)[: 2 if bands == 1 else 3], np.uint8))
    with by_gdal(path) as file:
        assert file.block_shapes == [(512, 512)] * bands
        assert file.compression.value == "DEFLATE"
        assert file.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR") == predictor
    assert path.stat().st_size < 700 * 1100 * bands / 50


def test_a_file_that_might_exceed_4_gib_is_a_bigtiff_file(tmp_path: Path):
    rows = np.zeros((512, 70_000), np.uint8)
    with open_writer(tmp_path / "a.tif", (65_536, 70_000), 1) as writer:
        writer._num_rows = 65_536 - 512  # the rest stays empty
        writer.write(rows)
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    with open_writer(tmp_path / "b.tif", (512, 70_000), 1) as writer:
        writer.write(rows)
    assert (tmp_path / "b.tif").read_bytes()[:4] == b"II*\0"


@pytest.mark.parametrize("heights", [[700], [1] * 700, [0, 100, 411, 1, 188], [512, 188]])
def test_strips_are_written_by_whole_rows_of_blocks(tmp_path: Path, monkeypatch, heights):
    """GDAL compresses a block as often as it gets rows of it: slow, and files with holes."""
    written = []
    with open_writer(tmp_path / "a.tif", (700, 30), 1) as writer:
        write = writer._dataset.write

        class Dataset:
            def write(self, array: np.ndarray, window: tuple) -> None:
                written.append((array.shape, window))
                write(array, window=window)

        monkeypatch.setattr(writer, "_dataset", Dataset())
        for rows in strips(picture((700, 30), 1), heights):
            writer.write(rows)
    assert written == [((1, 512, 30), ((0, 512), (0, 30))), ((1, 188, 30), ((512, 700), (0, 30)))]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str, error):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(error), open_writer(path, (20, 30), 3) as writer:
        writer.write(np.zeros((20, 30, 3), np.uint8))
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_missing_and_surplus_rows_leave_no_file(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    with (
        pytest.raises(ValueError, match=r"19 of 20 rows of \S+ were written"),
        open_writer(path, (20, 30), 1) as writer,
    ):
        writer.write(np.zeros((19, 30), np.uint8))
    with (
        pytest.raises(ValueError, match="21 rows for an image of 20"),
        open_writer(path, (20, 30), 1) as writer,
    ):
        writer.write(np.zeros((21, 30), np.uint8))
    assert not list(tmp_path.iterdir())


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


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from utils.rasters.writing import open_writer

with open_writer(Path(sys.argv[1]), (2048, 2048), 3) as writer:
    writer.write(np.zeros((1500, 2048, 3), np.uint8))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_kill_leaves_nothing_that_looks_finished(tmp_path: Path, suffix: str):
    command = [sys.executable, "-c", KILLED, str(tmp_path / f"a{suffix}")]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".a{suffix}.") and left.suffix == ".partial"


@pytest.mark.parametrize("name", ["x" * 251 + ".tif", "東" * 83 + ".png", "🛰" * 60 + ".tif"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str):
    with open_writer(tmp_path / name, (2, 3), 1) as writer:
        writer.write(np.zeros((2, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with atomic_path(tmp_path / name) as partial:
        assert len(partial.name.encode()) <= 255
        partial.touch()


def test_what_cannot_be_written_is_refused(tmp_path: Path):
    sentence = r"a\.jpg cannot be written; results are \.tif or \.png files$"
    with pytest.raises(ConfigError, match=sentence), open_writer(tmp_path / "a.jpg", (1, 1), 1):
        pass
    for bands, palette in ((2, None), (4, None), (3, PALETTE)):
        with (
            pytest.raises(ValueError, match="an image has 3 bands, or 1"),
            open_writer(tmp_path / "a.tif", (1, 1), bands, palette=palette),
        ):
            pass
    with (
        pytest.raises(ValueError, match="an image of 0 x 5 pixels holds nothing"),
        open_writer(tmp_path / "a.png", (0, 5), 1),
    ):
        pass
    for rows in (np.zeros((1, 4, 3), np.uint8), np.zeros((1, 5), np.uint8), np.zeros((1, 5, 3))):
        with (
            pytest.raises(ValueError, match=r"rows are \(n, 5, 3\) uint8, not"),
            open_writer(tmp_path / "a.png", (2, 5), 3) as writer,
        ):
            writer.write(rows)
    assert not list(tmp_path.iterdir())
    assert writing.BLOCK_PX % 16 == 0  # as TIFF wants it
