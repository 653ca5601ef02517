"""Files that lie, end early, or are not what their name says: one sentence, soon, in little memory.

libtiff prints a part of what it finds wrong itself; no test looks at that.
"""

import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.rasters.failing import read_soon
from tests.utils.rasters.png_files import chunk, png_header
from tests.utils.rasters.tiff_files import read_all, write_tiff
from utils.errors import DataError
from utils.rasters import tiff_layout
from utils.rasters import tiff_tags as tag
from utils.rasters.reading import open_scene
from utils.rasters.tiff_tags import encode_directory, encode_header

PICTURE = np.random.default_rng(2).integers(0, 256, (60, 70, 3)).astype(np.uint8)
CODECS = ["NONE", "LZW", "DEFLATE", "PACKBITS", "ZSTD", "JPEG", "WEBP"]
REPLACE = r"; replace the file$"


def crafted(path: Path, *, big: bool = False, **changes: object) -> Path:
    """A grey TIFF file of 8 x 8 pixels in one strip, some tags of which lie, or are gone."""
    entries = {
        "WIDTH": (tag.LONG, [8]),
        "HEIGHT": (tag.LONG, [8]),
        "BITS": (tag.SHORT, [8]),
        "COMPRESSION": (tag.SHORT, [1]),
        "PHOTOMETRIC": (tag.SHORT, [1]),
        "STRIP_OFFSETS": (tag.LONG, [16]),
        "SAMPLES": (tag.SHORT, [1]),
        "ROWS_PER_STRIP": (tag.LONG, [8]),
        "STRIP_BYTES": (tag.LONG, [64]),
        **changes,
    }
    numbered = {getattr(tag, name): entry for name, entry in entries.items() if entry is not None}
    header = encode_header(80, big=big).ljust(16, b"\0")
    path.write_bytes(header + bytes(range(64)) + encode_directory(numbered, 80, big=big))
    return path


@pytest.mark.parametrize("big", [False, True])
def test_the_crafted_file_itself_is_good(tmp_path: Path, big: bool):
    pixels = read_all(crafted(tmp_path / "a.tif", big=big))
    assert pixels[:, :, 0].ravel().tolist() == list(range(64))


HUGE = 1 << 31
LIES = {
    "no width": ({"WIDTH": None}, "it is 0 pixels wide and 8 high"),
    "no height": ({"HEIGHT": (tag.LONG, [0])}, "it is 8 pixels wide and 0 high"),
    "too wide": ({"WIDTH": (tag.LONG, [HUGE])}, f"it is {HUGE} pixels wide and 8 high"),
    "text as width": ({"WIDTH": (tag.DOUBLE, [8.0])}, "tag 256 is no whole number"),
    "no samples": ({"SAMPLES": (tag.SHORT, [0])}, "it has 0 samples a pixel"),
    "a million samples": ({"SAMPLES": (tag.LONG, [1 << 20])}, "it has 1048576 samples a pixel"),
    "no rows": ({"ROWS_PER_STRIP": (tag.LONG, [0])}, "its blocks are 8 pixels wide and 0 high"),
    "no tile height": (
        {"TILE_WIDTH": (tag.LONG, [16])},
        "its blocks are 16 pixels wide and 0 high",
    ),
    "no offsets": ({"STRIP_OFFSETS": None}, "it has 1 blocks, 0 offsets and 1 lengths"),
    "few lengths": (
        {"ROWS_PER_STRIP": (tag.LONG, [1])},
        "it has 8 blocks, 1 offsets and 1 lengths",
    ),
    "many blocks": (
        {"HEIGHT": (tag.LONG, [HUGE - 1]), "ROWS_PER_STRIP": (tag.LONG, [1])},
        f"it has {HUGE - 1} blocks",
    ),
    "no palette": ({"PHOTOMETRIC": (tag.SHORT, [3])}, "its palette has 0 values"),
}


@pytest.mark.parametrize(("changes", "what"), LIES.values(), ids=LIES)
def test_a_lie_in_the_directory_is_named(tmp_path: Path, changes: dict, what: str):
    error = read_soon(crafted(tmp_path / "a.tif", **changes))
    assert str(error).endswith(f"a.tif is a broken TIFF file ({what}); replace the file")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"STRIP_OFFSETS": (tag.LONG, [5000])}, r"it ends at byte 5064, the file at \d+"),
        ({"STRIP_BYTES": (tag.LONG, [63])}, "none: 63 of 64 bytes"),
        ({"HEIGHT": (tag.LONG, [9]), "ROWS_PER_STRIP": (tag.LONG, [9])}, "none: 64 of 72 bytes"),
        (
            {"COMPRESSION": (tag.SHORT, [8]), "STRIP_BYTES": (tag.LONG, [0xFFFFFFF0])},
            r"it ends at byte \d+, the file at \d+",
        ),
        ({"COMPRESSION": (tag.SHORT, [8])}, r"Deflate: Error -3 .+"),
        ({"COMPRESSION": (tag.SHORT, [7])}, r"JPEG: .+"),
        ({"COMPRESSION": (tag.SHORT, [50001])}, r"WebP: .+"),
    ],
)
def test_a_lie_about_a_block_is_named(tmp_path: Path, changes: dict, what: str):
    error = read_soon(crafted(tmp_path / "a.tif", **changes))
    sentence = rf"a\.tif is damaged: its block at row 0, column 0 cannot be decoded \({what}\)"
    assert re.search(sentence + REPLACE, str(error))


def test_a_missing_block_is_black(tmp_path: Path):
    for changes in ({"STRIP_BYTES": (tag.LONG, [0])}, {"STRIP_OFFSETS": (tag.LONG, [0])}):
        assert read_all(crafted(tmp_path / "a.tif", **changes)).max() == 0


@pytest.mark.parametrize("big", [False, True])
def test_huge_counts_cost_nothing(tmp_path: Path, big: bool):
    path = crafted(tmp_path / "a.tif", big=big)
    content = bytearray(path.read_bytes())
    width = 20 if big else 12
    first = 80 + (8 if big else 2)
    for number in range(9):
        lying = bytearray(content)
        at = first + number * width + 4
        lying[at : at + (8 if big else 4)] = struct.pack("<Q" if big else "<I", 0xFFFFFFF0)
        path.write_bytes(lying)
        assert re.search(r"tag \d+ has 4294967280 values\)" + REPLACE, str(read_soon(path)))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0), "its directory has 0 entries"),
        (b"II*\0" + struct.pack("<I", 0), r"tag .+|its directory .+"),
        (b"II*\0" + struct.pack("<I", 0xFFFFFFFE), "its directory lies beyond the end .+"),
        (b"MM\0*" + struct.pack(">IH", 8, 0xFFFF), "its directory lies beyond the end .+"),
        (b"II+\0" + struct.pack("<HHQ", 8, 0, 1 << 63), "its directory lies beyond the end .+"),
        (b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 1 << 60), r"its directory has \d+ entries"),
        (b"II*\0\x08", "the header lies beyond the end of the file, 5 bytes"),
    ],
)
def test_a_broken_directory_is_named(tmp_path: Path, content: bytes, what: str):
    (tmp_path / "a.tif").write_bytes(content)
    error = read_soon(tmp_path / "a.tif")
    assert re.search(rf"a\.tif is a broken TIFF file \(({what})\)" + REPLACE, str(error))


def test_a_directory_that_leads_back_to_itself_is_read_once(tmp_path: Path):
    path = crafted(tmp_path / "a.tif")
    content = bytearray(path.read_bytes())
    content[80 + 2 + 9 * 12 : 80 + 2 + 9 * 12 + 4] = struct.pack("<I", 80)
    path.write_bytes(content)
    assert read_all(path).max() == 63


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.95])
def test_a_truncated_tiff_file_is_named(tmp_path: Path, codec: str, share: float):
    path = tmp_path / "a.tif"
    write_tiff(path, PICTURE, compress=codec, tiled="YES", blockxsize=16, blockysize=16)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    sentence = r"a\.tif (is a broken TIFF file|is damaged:|cannot be read as an image) .*"
    sentence += REPLACE
    assert re.search(sentence, str(read_soon(path)))


@pytest.mark.parametrize("codec", CODECS)
def test_no_damaged_byte_has_other_consequences(tmp_path: Path, codec: str):
    """A byte anywhere is overwritten: the file is read, or refused in a sentence."""
    path = tmp_path / "a.tif"
    write_tiff(path, PICTURE, compress=codec, blockysize=16)
    content = path.read_bytes()
    rng = np.random.default_rng(3)
    for place in [*range(16), *rng.integers(0, len(content), 60), *range(len(content))[-40:]]:
        lying = bytearray(content)
        lying[place] = rng.integers(0, 256)
        path.write_bytes(lying)
        try:
            with open_scene(path) as scene:
                read = scene.read(slice(0, 100), slice(0, 100))
            assert read.dtype == np.uint8 and read.ndim == 3
        except DataError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    ("number", "name"),
    [(34887, "LERC"), (34712, "JPEG 2000"), (50002, "JPEG XL"), (6, "old-style JPEG"), (777, "n")],
)
def test_an_unknown_compression_is_named_with_the_remedy(tmp_path: Path, number: int, name: str):
    path = crafted(tmp_path / "a.tif", COMPRESSION=(tag.SHORT, [number]))
    name = "number 777" if name == "n" else name
    sentence = (
        rf"a\.tif is a TIFF file with compression {name}, which cannot be decoded here; convert it "
        r"to a tiled TIFF \(gdal_translate -co TILED=YES -co COMPRESS=DEFLATE\), which is read by "
        r"window$"
    )
    assert re.search(sentence, str(read_soon(path)))


def test_blocks_larger_than_memory_are_never_allocated(tmp_path: Path):
    huge = (tag.LONG, [HUGE - 16])
    changes = {"TILE_OFFSETS": (tag.LONG, [16]), "TILE_BYTES": (tag.LONG, [64])}
    changes |= {"TILE_WIDTH": huge, "TILE_HEIGHT": huge, "COMPRESSION": (tag.SHORT, [8])}
    sentence = r"blocks of 2147483632 x 2147483632 pixels, more than 80 MiB each, which cannot be"
    assert re.search(sentence, str(read_soon(crafted(tmp_path / "a.tif", **changes))))
    long = {name: (tag.LONG, [1 << 20]) for name in ("WIDTH", "HEIGHT", "ROWS_PER_STRIP")}
    sentence = (
        r"a\.tif has more than 178956970 pixels, too many to be decoded as a whole \(blocks of "
        r"1048576 x 1048576 pixels, more than 80 MiB each\); convert it to a tiled TIFF"
    )
    path = crafted(tmp_path / "a.tif", **long, COMPRESSION=(tag.SHORT, [8]))
    assert re.search(sentence, str(read_soon(path)))


def test_a_codec_that_pillow_was_built_without_is_no_damage(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tiff_layout, "is_built_in", lambda compression: False)
    path = crafted(tmp_path / "a.tif", COMPRESSION=(tag.SHORT, [50000]))
    sentence = r"a\.tif is a TIFF file with compression ZSTD, which cannot be decoded here; convert"
    assert re.search(sentence, str(read_soon(path)))


def test_a_rare_tiff_file_that_is_to_be_turned_is_refused(tmp_path: Path):
    Image.new("1", (8, 9)).save(
        tmp_path / "a.tif", compression="group4", tiffinfo={tag.ORIENTATION: 6}
    )
    sentence = (
        r"a\.tif is a TIFF file with compression CCITT fax 4 and is to be turned \(Orientation 6\),"
        r" which is not read; convert it to a tiled TIFF"
    )
    assert re.search(sentence, str(read_soon(tmp_path / "a.tif")))


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, recwarn, capfd):
    content = png_header(60000, 60000, 8, 3) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    sentence = (
        r"a\.png has more than 178956970 pixels, too many to be decoded as a whole; convert it to "
        r"a tiled TIFF \(gdal_translate .*\), which is read by window$"
    )
    assert re.search(sentence, str(read_soon(tmp_path / "a.png")))
    assert not recwarn.list and capfd.readouterr() == ("", "")


def test_below_the_limit_there_is_no_warning(tmp_path: Path, recwarn, monkeypatch):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 70 // 2 + 1)  # Pillow would warn
    np.testing.assert_array_equal(read_all(tmp_path / "a.png"), PICTURE)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 70 // 2 - 1)
    assert "has more than 4198 pixels" in str(read_soon(tmp_path / "a.png"))


def test_a_tile_that_unpacks_to_gigabytes_is_cut_off(tmp_path: Path):
    bomb = zlib.compress(bytes(64 << 20), 9)
    entries = {"COMPRESSION": (tag.SHORT, [8]), "STRIP_BYTES": (tag.LONG, [len(bomb)])}
    path = crafted(tmp_path / "a.tif", **entries, STRIP_OFFSETS=(tag.LONG, [1024]))
    path.write_bytes(path.read_bytes().ljust(1024, b"\0") + bomb)
    tracemalloc.start()
    assert read_all(path).max() == 0
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("damaged", [slice(100, 400), slice(-4, None)])  # its end: the checksum
def test_a_damaged_deflate_block_is_named_though_it_unpacks(tmp_path: Path, damaged: slice):
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    content = bytearray(zlib.compress(picture.tobytes()))
    content[damaged] = bytes(len(content[damaged]))
    path = tmp_path / "a.tif"
    entries = {
        tag.WIDTH: (tag.LONG, [400]),
        tag.HEIGHT: (tag.LONG, [300]),
        tag.BITS: (tag.SHORT, [8, 8, 8]),
        tag.COMPRESSION: (tag.SHORT, [8]),
        tag.PHOTOMETRIC: (tag.SHORT, [2]),
        tag.STRIP_OFFSETS: (tag.LONG, [8]),
        tag.SAMPLES: (tag.SHORT, [3]),
        tag.ROWS_PER_STRIP: (tag.LONG, [300]),
        tag.STRIP_BYTES: (tag.LONG, [len(content)]),
    }
    at = 8 + len(content) + len(content) % 2
    body = bytes(content).ljust(at - 8, b"\0")
    path.write_bytes(encode_header(at) + body + encode_directory(entries, at))
    with pytest.raises(DataError, match=r"block at row 0, column 0 cannot be decoded"):
        read_all(path)
