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
    read_json,
    read_rgb,
    remembered,
    remove_partial,
    remove_partial_of,
    sha256_of,
    to_json,
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


def test_only_temporary_files_of_the_named_files_are_removed(tmp_path: Path):
    def partial(name: str) -> Path:
        path = tmp_path / f".{name}.{'0' * 12}.partial"
        path.touch()
        return path

    mine, begins, other, foreign = map(partial, ["a.tif", "b_1.tif", "c.tif", "a.tif.more"])
    remove_partial_of([tmp_path / "a.tif"], [tmp_path / "b_"])
    assert [path.exists() for path in (mine, begins, other, foreign)] == [False, False, True, True]
    remove_partial(tmp_path)
    assert not list(tmp_path.iterdir())


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


def test_json_values_become_plain():
    value = {1: (np.float32(0.5), float("nan"), np.int64(3)), "b": [Path("x"), None, True, "y"]}
    value["c"] = {"d": -float("inf"), "e": np.bool_(True)}
    expected = {"1": [0.5, None, 3], "b": ["x", None, True, "y"], "c": {"d": None, "e": True}}
    assert to_json(value) == expected
    assert type(to_json(value)["c"]["e"]) is bool


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_png_keeps_every_value(tmp_path: Path, shape: tuple):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    write_png(tmp_path / "a.png", array)
    rgb = array if len(shape) == 3 else np.repeat(array[..., None], 3, -1)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), rgb)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("RGB" if len(shape) == 3 else "L")


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path):
    path = tmp_path / "a.png"
    with pytest.raises(MissingDataError, match=r"a\.png does not exist"):
        read_rgb(path)
    write_png(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    content = path.read_bytes()
    for broken in (content[:20], content[: len(content) // 2], b"hello"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.png cannot be read as an image \(.+\); replace"):
            read_rgb(path)


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
