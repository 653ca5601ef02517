import errno
import hashlib

import numpy as np
import pytest
from PIL import Image

from utils import files
from utils.errors import DataError, MissingDataError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_error_while_writing_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(OSError, match="No space left"), files.atomic_path(path) as partial:
        partial.write_text("half of the n")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_the_new_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.atomic_path(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new" and names(path.parent) == ["a.txt"]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.array([[0, 65535], [256, 1]], np.uint16),
    ],
)
def test_png_keeps_pixels_and_text(tmp_path, array):
    files.write_png(tmp_path / "a.png", array, {"key": "value"})
    image = files.open_image(tmp_path / "a.png")
    assert np.array_equal(np.array(image), array) and image.info["key"] == "value"


def test_json_round_trip_and_errors(tmp_path):
    files.write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert files.read_json(tmp_path / "a.json") == {"ä": [1, None]}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(DataError, match=r"b\.json is not valid JSON"):
        files.read_json(tmp_path / "b.json")
    with pytest.raises(MissingDataError, match=r"c\.json does not exist"):
        files.read_json(tmp_path / "c.json")


def test_rgb_comes_from_grey_palette_and_alpha(tmp_path):
    for mode, color, expected in (
        ("L", 7, [7, 7, 7]),
        ("RGBA", (1, 2, 3, 4), [1, 2, 3]),
        ("P", 0, [0, 0, 0]),
    ):
        Image.new(mode, (2, 2), color).save(tmp_path / f"{mode}.png")
        assert files.read_rgb(tmp_path / f"{mode}.png")[1, 1].tolist() == expected


def test_files_that_cannot_be_read_are_named(tmp_path):
    files.write_png(tmp_path / "a.png", np.zeros((50, 50, 3), np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    for name in ("cut.png", "text.png"):
        with pytest.raises(DataError, match=rf"{name} cannot be read as an image \(.*replace"):
            files.read_rgb(tmp_path / name)
    with pytest.raises(MissingDataError, match=r"none\.png does not exist"):
        files.read_rgb(tmp_path / "none.png")
    files.write_png(tmp_path / "deep.png", np.zeros((2, 2), np.uint16))
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits a channel.*convert it"):
        files.read_rgb(tmp_path / "deep.png")


def test_images_are_listed_in_order_below_all_folders(tmp_path):
    for name in ("b.PNG", "a/c.jpg", "a/notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in files.list_images(tmp_path)]
    assert found == ["a/c.jpg", "b.PNG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDataError, match=r"empty holds no image \(\.png, "):
        files.list_images(tmp_path / "empty")
    with pytest.raises(MissingDataError, match="none is not a folder"):
        files.list_images(tmp_path / "none")


def test_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert files.sha256_of(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
