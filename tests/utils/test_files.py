import errno
import hashlib
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.errors import DataError, MissingDataError
from utils.files import (
    atomic_path,
    list_content,
    list_images,
    passed_over_line,
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


def test_a_file_appears_with_its_folder_and_readers_see_the_old_one_until_the_block_ends(
    tmp_path: Path,
):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "Straße\n")
    assert path.read_bytes() == "Straße\n".encode()
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_bytes() == "Straße\n".encode()
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_the_first_of_several_writers_is_kept_if_asked_for(tmp_path: Path):
    path = tmp_path / "a.txt"
    for text in ("first", "second"):
        with atomic_path(path, keeps_first=True) as partial:
            partial.write_text(text)
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


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


def refuse(descriptor: int) -> None:
    """Fail where a disk with delayed allocation says that it is full."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch, error: type):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic_path(path) as partial:
        partial.write_text("half of the n")
        if error is KeyboardInterrupt:
            raise error
        monkeypatch.setattr(os, "fsync", refuse)
    assert path.read_text() == "old"
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
    plain = {"1": [0.5, None, 3], "b": ["x", None, True, "y"], "c": {"d": None, "e": True}}
    assert json.dumps(to_json(value)) == json.dumps(plain)


def test_pictures_keep_every_value_and_broken_ones_are_named(tmp_path: Path):
    path, rgb = tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(MissingDataError, match=r"a\.png does not exist"):
        read_rgb(path)
    write_png(path, rgb[..., 0])
    np.testing.assert_array_equal(read_rgb(path), np.repeat(rgb[..., :1], 3, -1))
    with Image.open(path) as image:
        assert image.mode == "L"
    write_png(path, rgb)
    np.testing.assert_array_equal(read_rgb(path), rgb)
    content = path.read_bytes()
    for broken in (content[:20], content[: len(content) // 2], b"hello"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.png cannot be read as an image \(.+\); replace"):
            read_rgb(path)


def test_images_are_listed_sorted_at_any_depth_without_hidden_ones(tmp_path: Path):
    folder = tmp_path / ".cache"  # hidden itself
    wanted = ["a.JPG", "b/c.tif", "b/d.png"]
    for name in [*wanted, "notes.txt", ".x.png", ".a.partial/e.png", "b/.thumbs/f.png"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "folder.png").mkdir()
    assert [path.relative_to(folder).as_posix() for path in list_images(folder)] == wanted


def touch_all(folder: Path, names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names.split():
        (folder / name).touch()


def test_files_that_are_no_images_are_counted_but_not_those_that_belong_to_one(tmp_path: Path):
    """Case 23 of docs/trials.md: files of a folder were passed over without a word."""
    sidecars = "a.tfw a.prj a.aux.xml a.tif.aux.xml a.tif.msk a.tif.ovr a.xml a.qml a.TFWX .x.txt"
    touch_all(tmp_path, f"a.tif {sidecars} b.v1.tif b.v1.tfw")
    content = list_content(tmp_path)
    assert [path.name for path in content.images] == ["a.tif", "b.v1.tif"]
    assert content.passed_over == []
    assert passed_over_line(tmp_path, content.passed_over) is None
    touch_all(tmp_path, "b.TXT")
    assert passed_over_line(tmp_path, list_content(tmp_path).passed_over) == (
        f"1 file of {tmp_path} is no image by its suffix (.txt) and was passed over"
    )
    touch_all(tmp_path, "c.txt b.prj style.qml README a.json")
    assert passed_over_line(tmp_path, list_content(tmp_path).passed_over) == (
        f"6 files of {tmp_path} are no images by their suffix (.txt, none, .json, .prj, .qml) and "
        "were passed over"
    )


def test_rasters_of_other_formats_are_found(tmp_path: Path):
    """Case 23 of docs/trials.md: folders of JPEG 2000, ERDAS, VRT or ENVI held no image."""
    wanted = "a.jp2 b.IMG c.vrt d.ntf e.pix f.ers g.dat h.bil i.bsq"
    touch_all(tmp_path, f"{wanted} f g.hdr h.hdr i.bsq.hdr other.dat notes.hdr heights.asc")
    content = list_content(tmp_path)
    assert [path.name for path in content.images] == wanted.split()
    passed_over = [path.name for path in content.passed_over]
    assert passed_over == ["heights.asc", "notes.hdr", "other.dat"]


def test_a_folder_without_images_is_named(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"holds no image \(\.png, \.jpg.*\)$"):
        list_images(tmp_path)
    with pytest.raises(MissingDataError, match="no does not exist"):
        list_images(tmp_path / "no")
    touch_all(tmp_path, "a.txt")
    with pytest.raises(MissingDataError, match=r"\), only \.txt$"):
        list_images(tmp_path)


def test_hash_is_the_sha256_of_all_bytes(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(content := b"a" * 1_100_000)  # more than a block
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_a_value_is_remembered_where_a_path_says_so(tmp_path: Path):
    numbers = itertools.count(1)
    path = tmp_path / "value.json"
    assert [remembered(path, lambda: next(numbers)) for _ in range(2)] == [1, 1]
    assert [remembered(None, lambda: next(numbers)) for _ in range(2)] == [2, 3]
