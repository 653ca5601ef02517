"""Streamed TIFF and PNG files as Pillow and rasterio (GDAL) read them; kills leave no file."""

import signal
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from utils.errors import ConfigError
from utils.files import atomic_path
from utils.rasters import writing as raster_writers
from utils.rasters.reading import open_scene
from utils.rasters.writing import PngWriter, TiffWriter, open_writer

ROOT = Path(__file__).parents[3]
PALETTE = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 8, 7)]
RNG = np.random.default_rng(6)
SIZES = [(1, 1), (1, 1300), (1300, 1), (512, 512), (513, 511), (700, 1100)]


def picture(size: tuple[int, int], channels: int) -> np.ndarray:
    if channels == 3:
        return RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
    return RNG.integers(0, len(PALETTE), size).astype(np.uint8)


def parts(array: np.ndarray, heights: list[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(heights).clip(max=len(array)))


def by_gdal(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            pixels = file.read()
            return pixels[0] if file.count == 1 else pixels.transpose(1, 2, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_every_reader_sees_what_was_written(tmp_path: Path, suffix: str, channels: int, size):
    path, array = tmp_path / f"a{suffix}", picture(size, channels)
    with open_writer(path, size, channels) as writer:
        for rows in parts(array, [1, 0, 7, 504, 130, 2]):
            writer.write(rows)
    np.testing.assert_array_equal(by_gdal(path), array)
    image = Image.open(path)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    np.testing.assert_array_equal(np.asarray(image), array)
    with open_scene(path) as scene:
        ours = scene.read(slice(None), slice(None))
    np.testing.assert_array_equal(ours if channels == 3 else ours[:, :, 0], array)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_palette_gives_classes_their_colours(tmp_path: Path, suffix: str):
    path, labels = tmp_path / f"a{suffix}", picture((600, 70), 1)
    with open_writer(path, labels.shape, 1, palette=PALETTE) as writer:
        writer.write(labels)
    image = Image.open(path)
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), labels)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.array(PALETTE)[labels])
    np.testing.assert_array_equal(by_gdal(path), labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            colors = file.colormap(1)
    assert [colors[index][:3] for index in range(4)] == PALETTE
    with open_scene(path) as scene:
        rgb = scene.read(slice(None), slice(None))
    np.testing.assert_array_equal(rgb, np.array(PALETTE)[labels])


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_value_without_a_colour_is_black(tmp_path: Path, suffix: str):
    labels = np.array([[0, 255]], np.uint8)
    with open_writer(tmp_path / f"a{suffix}", (1, 2), 1, palette=PALETTE) as writer:
        writer.write(labels)
    image = Image.open(tmp_path / f"a{suffix}").convert("RGB")
    assert np.asarray(image).tolist() == [[[255, 0, 0], [0, 0, 0]]]


def test_a_tiff_file_is_tiled_and_compressed(tmp_path: Path):
    for channels, predictor in ((1, None), (3, "2")):
        path = tmp_path / f"{channels}.tif"
        with TiffWriter(path, (700, 1100), channels) as writer:
            writer.write(np.zeros((700, 1100, 3)[: 2 if channels == 1 else 3], np.uint8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path) as file:
                assert file.block_shapes == [(512, 512)] * channels
                assert file.compression.value == "DEFLATE"
                assert file.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR") == predictor
        assert path.stat().st_size < 700 * 1100 * channels / 50


def test_no_classic_file_may_exceed_32_bits(tmp_path: Path):
    """By the bound for tiles that cannot be compressed at all."""
    for size, channels, big in [
        ((65536, 65024), 1, False),
        ((65536, 65536), 1, True),
        ((20000, 20000), 3, False),
        ((40000, 40000), 3, True),
        ((400_000, 400_000), 1, True),
    ]:
        assert TiffWriter(tmp_path / "a.tif", size, channels).big == big
    noise = RNG.integers(0, 256, (512, 512)).astype(np.uint8)
    with TiffWriter(tmp_path / "a.tif", (512, 512), 1) as writer:
        writer.write(noise)
    assert (tmp_path / "a.tif").stat().st_size < noise.size + noise.size // 1000 + 1000


@pytest.mark.parametrize("channels", [1, 3])
def test_a_big_file_is_a_bigtiff_file_from_its_first_byte(tmp_path: Path, monkeypatch, channels):
    monkeypatch.setattr(raster_writers, "CLASSIC_BYTES", 1 << 20)
    path, array = tmp_path / "a.tif", picture((1200, 1100), channels)
    palette = PALETTE if channels == 1 else None
    with TiffWriter(path, array.shape[:2], channels, palette=palette) as writer:
        for rows in parts(array, [600, 600]):
            writer.write(rows)
    assert path.read_bytes()[:8] == b"II+\0\x08\0\0\0"
    np.testing.assert_array_equal(by_gdal(path), array)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), array)


def test_offsets_beyond_4_gib_are_kept(tmp_path: Path, monkeypatch):
    """The real thing without its time: the file has a hole of 4.5 GiB after its first tiles."""
    monkeypatch.setattr(raster_writers, "CLASSIC_BYTES", 1 << 20)
    path, array = tmp_path / "a.tif", picture((1536, 600), 3)
    with TiffWriter(path, (1536, 600), 3) as writer:
        writer.write(array[:512])
        writer._file.seek(int(4.5 * (1 << 30)))
        writer.write(array[512:])
    assert path.stat().st_size > 4.5 * (1 << 30)
    assert path.stat().st_blocks * 512 < 10 << 20
    np.testing.assert_array_equal(by_gdal(path), array)
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(slice(None), slice(None)), array)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_memory_does_not_grow_with_the_height(tmp_path: Path, suffix: str):
    rows = np.zeros((200, 1000, 3), np.uint8)
    peaks = []
    for height in (2000, 20000):
        with open_writer(tmp_path / f"a{suffix}", (height, 1000), 3) as writer:
            tracemalloc.start()
            for _ in range(height // len(rows)):
                writer.write(rows)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + (64 << 10)


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


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from utils.rasters.writing import open_writer

with open_writer(Path(sys.argv[1]), (2048, 2048), 3) as writer:
    writer.write(np.zeros((1500, 2048, 3), np.uint8))
    writer._file.flush()
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_kill_leaves_nothing_that_looks_finished(tmp_path: Path, suffix: str):
    command = [sys.executable, "-c", KILLED, str(tmp_path / f"a{suffix}")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".a{suffix}.") and left.suffix == ".partial"
    assert left.stat().st_size > 0
    with pytest.raises(OSError), Image.open(left) as image:
        image.load()


@pytest.mark.parametrize("name", ["x" * 251 + ".tif", "東" * 83 + ".png", "🛰" * 60 + ".tif"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str):
    with open_writer(tmp_path / name, (2, 3), 1) as writer:
        writer.write(np.zeros((2, 3), np.uint8))
    with atomic_path(tmp_path / name) as partial:
        assert len(partial.name.encode()) <= 255
        partial.touch()


def test_what_cannot_be_written_is_refused(tmp_path: Path):
    sentence = r"a\.jpg cannot be written; results are \.tif or \.png files$"
    with pytest.raises(ConfigError, match=sentence), open_writer(tmp_path / "a.jpg", (1, 1), 1):
        pass
    for channels, palette in ((2, None), (4, None), (3, PALETTE)):
        with pytest.raises(ValueError, match="an image has 3 channels, or 1"):
            TiffWriter(tmp_path / "a.tif", (1, 1), channels, palette=palette)
    with pytest.raises(ValueError, match="an image of 0 x 5 pixels holds nothing"):
        PngWriter(tmp_path / "a.png", (0, 5), 1)
    for rows in (np.zeros((1, 4, 3), np.uint8), np.zeros((1, 5), np.uint8), np.zeros((1, 5, 3))):
        with (
            pytest.raises(ValueError, match=r"rows are \(n, 5, 3\) uint8, not"),
            open_writer(tmp_path / "a.png", (2, 5), 3) as writer,
        ):
            writer.write(rows)
    assert not list(tmp_path.iterdir())
