"""Result rasters as Pillow and rasterio read them; errors and full disks leave no file."""

import resource
import signal
import struct
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from tests.utils.rasters.raster_files import picture
from tests.utils.rasters.test_placement import seen_by_gdal
from utils.errors import ConfigError
from utils.rasters import writing
from utils.rasters.placement import Placement
from utils.rasters.writing import BandTags, open_writer

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


def ifd_offsets(path: Path) -> list[int]:
    """Offsets of the image directories of a TIFF file, by the letter of the format."""
    content = path.read_bytes()
    assert content[:4] == b"II*\0"
    found, (offset,) = [], struct.unpack_from("<I", content, 4)
    while offset:
        found.append(offset)
        (count,) = struct.unpack_from("<H", content, offset)
        (offset,) = struct.unpack_from("<I", content, offset + 2 + 12 * count)
    return found


def first_block(path: Path, image: int) -> int:
    with rasterio.open(f"GTIFF_DIR:{image}:{path}") as file:
        return int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))


@pytest.mark.parametrize("is_small", [True, False])
def test_a_class_map_has_overviews_and_is_cloud_optimized_if_small(
    tmp_path: Path, monkeypatch, is_small: bool
):
    path, size = tmp_path / "a <&> #1.tif", (1300, 2100)
    monkeypatch.setattr(writing, "CLOUD_OPTIMIZED_PX", size[0] * size[1] - (not is_small))
    labels = np.kron(picture(325, 525, 1)[:, :, 0] % 4, np.ones((4, 4), np.uint8))
    labels[:200] = 255
    tags = BandTags(names=("class",), no_data=255, items={"class_0": 'Gebäude & "<x>"'})
    with open_writer(path, size, 1, palette=PALETTE, tags=tags, overviews=True) as writer:
        for rows in strips(labels, [1, 600]):
            writer.write(rows)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), labels)
        assert np.array_equal(file.dataset_mask() != 0, labels != 255)
        assert file.overviews(1) == [2, 4, 8] and file.compression.value == "DEFLATE"
        assert (file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG") == is_small
        assert file.nodata == 255 and file.descriptions == ("class",)
        assert file.tags(1) == {"class_0": 'Gebäude & "<x>"'}
        assert [file.colormap(1)[index][:3] for index in range(4)] == PALETTE
        assert file.colormap(1)[255][3] == 0  # transparent
        reduced = file.read(1, out_shape=(163, 263))
    assert {*np.unique(reduced)} == {0, 1, 2, 3, 255}  # no mean of classes
    assert [*tmp_path.iterdir()] == [path]
    for image in range(1, 5):
        with rasterio.open(f"GTIFF_DIR:{image}:{path}") as file:
            assert file.shape == tuple(-(-side // 2 ** (image - 1)) for side in size)
            assert file.block_shapes == [(512, 512)]
    # Cloud Optimized: directories before pixels, and those of the smallest overview first.
    directories, blocks = ifd_offsets(path), [first_block(path, image) for image in range(1, 5)]
    is_optimized = directories == sorted(directories) and blocks == sorted(blocks, reverse=True)
    assert (is_optimized and directories[-1] < blocks[-1]) == is_small
    assert (path.read_bytes()[8:38] == b"GDAL_STRUCTURAL_METADATA_SIZE=") == is_small


RPCS = RPC(
    **{
        f"{name}_{part}": 2.5
        for name in ("height", "lat", "line", "long", "samp")
        for part in ("off", "scale")
    },
    **{
        f"{name}_coeff": [0.5 + n for n in range(20)]
        for name in ("line_den", "line_num", "samp_den", "samp_num")
    },
    err_bias=0.25,
    err_rand=0.75,
)
CORNERS = tuple(GroundControlPoint(r, c, 9 + c, 50 - r, 0) for r, c in ((0, 0), (0, 30), (20, 0)))
UTM = CRS.from_epsg(32633)


@pytest.mark.parametrize(
    "placement",
    [
        Placement(crs=UTM, transform=Affine(0.3, 0, 5e5, 0, -0.3, 5e6), area_or_point="Point"),
        Placement(crs=UTM, transform=Affine(0.3, 0.1, 5e5, 0.05, -0.3, 5e6), rpcs=RPCS),
        Placement(crs=UTM, transform=Affine(0.3, 0, 5e5, 0, 0.3, 5e6), area_or_point="Area"),
        Placement(transform=Affine(0.3, 0, 5, 0, -0.3, 7)),
        Placement(gcps=CORNERS, gcps_crs=CRS.from_epsg(4326)),
        Placement(rpcs=RPCS, area_or_point="Point"),
    ],
)
def test_the_cloud_optimized_layout_keeps_the_placement(tmp_path: Path, placement: Placement):
    """Case 22 of docs/trials.md; a system is not invented either."""
    for name, overviews in (("a", False), ("b", True)):
        with open_writer(
            tmp_path / name / "a.tif", (20, 30), 1, placement, overviews=overviews
        ) as file:
            file.write(np.zeros((20, 30), np.uint8))
    plain, optimized = (seen_by_gdal(tmp_path / name / "a.tif") for name in "ab")
    assert plain == optimized
    crs, transform, _, points, rpcs, point = optimized
    assert crs == (placement.crs or placement.gcps_crs)
    assert placement.transform is None or transform.almost_equals(placement.transform)
    assert len(points) == len(placement.gcps) and bool(rpcs) == (placement.rpcs is not None)
    assert crs is None or point == (placement.area_or_point or "Area")


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_a_mask_within_the_file_tells_pixels_without_data(tmp_path: Path, bands: int):
    path, values = tmp_path / "a.tif", picture(700, 600, bands)
    valid = picture(700, 600, 1)[:, :, 0] > 100
    valid[:30], valid[30:60] = True, False
    tags = BandTags(names=("a", "b", "é", "d"), scale=0.5) if bands == 4 else BandTags()
    with open_writer(path, (700, 600), bands, tags=tags, masked=True) as writer:
        writer.write(values[:30])
        for top in range(30, 700, 67):
            writer.write(values[top : top + 67], valid[top : top + 67])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), values)
        assert np.array_equal(file.dataset_mask() != 0, valid)
        assert file.descriptions == (tags.names or (None,) * bands)
        assert file.scales == (tags.scale or 1,) * bands
        assert file.block_shapes == [(512, 512)] * bands
    assert [*tmp_path.iterdir()] == [path]


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


@pytest.mark.parametrize(
    ("suffix", "limit", "options"),
    [
        (".png", 0, {}),
        (".tif", 0, {}),
        (".tif", 0, {"masked": True}),
        (".tif", 0, {"overviews": True}),
        (".tif", 1 << 30, {"overviews": True}),
    ],
)
def test_a_full_disk_leaves_no_file_wherever_it_strikes(
    tmp_path: Path, monkeypatch, suffix: str, limit: int, options: dict
):
    """By a limit on the size of files; GDAL is silent about the last writes of a file."""
    monkeypatch.setattr(writing, "CLOUD_OPTIMIZED_PX", limit)
    noise = RNG.integers(0, 256, (600, 700)).astype(np.uint8)
    valid = noise > RNG.integers(0, 256, noise.shape)
    path, limits = tmp_path / f"a{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)

    def write() -> None:
        with open_writer(path, noise.shape, 1, **options) as writer:
            writer.write(noise, valid if options.get("masked") else None)

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
