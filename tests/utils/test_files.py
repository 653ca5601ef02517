import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.errors import DataError, MissingDataError
from utils.files import (
    atomic_path,
    list_images,
    open_image,
    read_json,
    read_rgb,
    remembered,
    sha256_of,
    write_json,
    write_png,
    write_text,
)


def test_a_written_file_appears_with_its_folder(tmp_path: Path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "Straße\n")
    assert path.read_bytes() == "Straße\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_block_ends(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic_path(path) as partial:
        partial.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.png"
    write_png(path, np.zeros((2, 2), np.uint8))
    before = path.read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)  # where a disk with delayed allocation says it
    with pytest.raises(OSError, match="No space left on device"):
        write_png(path, np.ones((2, 2), np.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip_and_its_errors(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "Straße", "values": [1, 0.1, None]})
    assert read_json(path) == {"name": "Straße", "values": [1, 0.1, None]}
    assert "Straße" in path.read_text(encoding="utf-8")  # readable, not \\u escapes
    with pytest.raises(MissingDataError, match=r"no\.json does not exist"):
        read_json(tmp_path / "no.json")
    for content in (b'{"a": ', b"\xff"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json is not valid JSON \(.+\); restore or delete"):
            read_json(path)


@pytest.mark.parametrize(
    ("shape", "dtype", "mode"), [((5, 7, 3), "uint8", "RGB"), ((5, 7), "uint8", "L")]
)
def test_png_keeps_every_value(tmp_path: Path, shape: tuple, dtype: str, mode: str):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    write_png(tmp_path / "a.png", array)
    image = open_image(tmp_path / "a.png")
    assert image.mode == mode
    np.testing.assert_array_equal(np.array(image), array)


def test_16_bit_png_keeps_every_value(tmp_path: Path):
    ids = np.array([[0, 1, 256, 65535]], np.uint16)
    write_png(tmp_path / "a.png", ids)
    np.testing.assert_array_equal(np.array(open_image(tmp_path / "a.png")), ids)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.9])
def test_a_truncated_image_is_named(tmp_path: Path, share: float):
    path = tmp_path / "a.png"
    write_png(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image \(.+\); replace"):
        read_rgb(path)


def test_a_file_that_is_no_image_is_named(tmp_path: Path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image \(.+\); replace"):
        read_rgb(tmp_path / "a.png")


def test_a_missing_image_is_named(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"a\.png does not exist"):
        read_rgb(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("mode", "name"), [("I;16", "a.png"), ("I;16B", "a.tif"), ("I", "a.tif"), ("F", "a.tif")]
)
def test_more_than_8_bits_are_refused_not_clipped(tmp_path: Path, mode: str, name: str):
    Image.new(mode, (4, 4), 1000).save(tmp_path / name)
    with pytest.raises(DataError, match=r"a\.... has more than 8 bits a channel .* to 8-bit RGB"):
        read_rgb(tmp_path / name)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_8_bit_images_become_rgb(tmp_path: Path, mode: str):
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(tmp_path / "a.png")
    image = read_rgb(tmp_path / "a.png")
    assert (image.shape, image.dtype, image.min()) == ((4, 6, 3), np.uint8, 255)


def test_images_are_listed_sorted_at_any_depth_without_hidden_ones(tmp_path: Path):
    wanted = ["a.JPG", "b/c.tif", "b/d.png"]
    for name in [*wanted, "notes.txt", ".x.png", ".a.partial/e.png", "b/.thumbs/f.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == wanted


def test_images_below_a_hidden_folder_are_listed(tmp_path: Path):
    folder = tmp_path / ".cache" / "images"
    folder.mkdir(parents=True)
    (folder / "a.png").touch()
    assert list_images(folder) == [folder / "a.png"]


def test_a_folder_without_images_is_named(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"holds no image \(\.png, \.jpg"):
        list_images(tmp_path)
    with pytest.raises(MissingDataError, match="no is not a folder"):
        list_images(tmp_path / "no")


def test_hash_is_the_sha256_of_the_bytes(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")  # the example of FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_hash_takes_in_files_larger_than_a_block(tmp_path: Path):
    for name, last in (("a", b"0"), ("b", b"1")):
        (tmp_path / name).write_bytes(bytes(1 << 20) + last)
    assert sha256_of(tmp_path / "a") != sha256_of(tmp_path / "b")


def test_a_value_is_remembered_where_a_path_says_so(tmp_path: Path):
    computed = []

    def compute():
        computed.append(1)
        return {"number": len(computed)}

    for _ in range(2):
        assert remembered(tmp_path / "value.json", compute) == {"number": 1}
    assert [remembered(None, compute)["number"] for _ in range(2)] == [2, 3]
