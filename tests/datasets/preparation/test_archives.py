"""Files in folders and archives, and what can be wrong with these."""

import io
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from datasets.preparation.archives import Archives
from tests.datasets.fake_archives import encode, image_of, pack
from utils.errors import DataError, MissingDataError

IMAGE = image_of(0, 90, 70)
FILES = {
    "One": {"One/a.tif": encode(IMAGE), "One/B.PNG": encode(255 - IMAGE, "PNG")},
    "Two": {"c.tif": encode(IMAGE[:5])},
}
NAMES = {"first": "a.tif", "second": "b.png", "third": "c.tif"}


def packed(tmp_path, how="zips", method=zipfile.ZIP_DEFLATED):
    return pack(FILES, tmp_path / "in", how, method)


def opened(tmp_path, *sources, **more):
    return Archives(sources, tmp_path / "scratch", **more)


def pixels(file):
    with file.open_image() as image:
        return image.read_rgb(slice(None), slice(None))


def sentence(error):
    return str(error.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("how", ["zips", "folders", "nested"])
def test_files_are_found_and_read_wherever_they_lie(tmp_path, how, method):
    with opened(tmp_path, packed(tmp_path, how, method)) as archives:
        found = archives.require("image", NAMES, "One.zip")
        inner = how == "nested" and method == zipfile.ZIP_DEFLATED
        assert (tmp_path / "scratch").exists() == inner  # a stored archive is read in place
        assert [file.image_size() for file in found.values()] == [(90, 70), (90, 70), (5, 70)]
        np.testing.assert_array_equal(pixels(found["first"]), IMAGE)
        np.testing.assert_array_equal(pixels(found["second"]), 255 - IMAGE)
    assert not (tmp_path / "scratch").exists()


def test_a_member_is_called_by_the_way_to_it(tmp_path):
    with opened(tmp_path, packed(tmp_path, "nested")) as archives:
        assert archives.find(NAMES)["first"].name == "All.zip/All/One.zip/One/a.tif"
    with opened(tmp_path, packed(tmp_path / "x", "folders")) as archives:
        assert archives.find(NAMES)["first"].name == "in/One/One/a.tif"


def test_an_unpacked_file_is_preferred_and_a_place_can_be_asked_for(tmp_path):
    source = packed(tmp_path)
    (source / "a.tif").write_bytes(encode(IMAGE[:1]))
    with opened(tmp_path, source) as archives:
        assert archives.find(NAMES)["first"].image_size() == (1, 70)
        assert archives.find(NAMES, below="one")["first"].image_size() == (90, 70)
        assert archives.find(NAMES, below="on") == {}
        places = archives.require("image", {"first": "a.tif"}, "-", places=["Two", "One", "in"])
        assert places["first"].image_size() == (90, 70)


def test_patterns_give_what_they_match(tmp_path):
    with opened(tmp_path, packed(tmp_path)) as archives:
        found = {file.name: match[1] for file, match in archives.matching(r"one/(\w)\.(?:\w+)")}
    assert found == {"in/One.zip/One/a.tif": "a", "in/One.zip/One/B.PNG": "B"}


def test_archives_can_be_left_out(tmp_path):
    with opened(tmp_path, packed(tmp_path), skip=["two.zip"]) as archives:
        assert sorted(archives.find(NAMES)) == ["first", "second"]
    nested = packed(tmp_path / "deflated", "nested")
    with opened(tmp_path, nested, in_place=["two.zip"]) as archives:
        assert sorted(archives.find(NAMES)) == ["first", "second"]
    nested = packed(tmp_path / "stored", "nested", zipfile.ZIP_STORED)
    with opened(tmp_path, nested, in_place=["two.zip"]) as archives:
        assert sorted(archives.find(NAMES)) == ["first", "second", "third"]


def test_what_is_missing_is_counted_and_named(tmp_path):
    names = {i: f"{i}.tif" for i in "abcdefg"}
    source = packed(tmp_path)
    with opened(tmp_path, source) as archives, pytest.raises(MissingDataError) as error:
        archives.require("image", names, "One.zip")
    assert sentence(error) == (
        f"5 of 7 images are not in {source} (first: b.tif, d.tif, e.tif); add One.zip, or the "
        "folder it was unpacked to, with --source"
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_archive_is_one_sentence(tmp_path, share):
    path = packed(tmp_path) / "One.zip"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"^One\.zip is truncated or not a zip archive \("):
        opened(tmp_path, path).__enter__()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_truncated_inner_archive_is_one_sentence_and_nothing_is_left(tmp_path, method):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.tif", encode(IMAGE))
    inner = content.getvalue()[:-30]
    with zipfile.ZipFile(tmp_path / "All.zip", "w", method) as archive:
        archive.writestr("One.zip", inner)
    with pytest.raises(DataError, match=r"^All\.zip/One\.zip is truncated or not a zip archive"):
        opened(tmp_path, tmp_path / "All.zip").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["All.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_found_by_its_checksum(tmp_path, method):
    path = packed(tmp_path, method=method) / "One.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    with opened(tmp_path, path) as archives:
        file = archives.find(NAMES)["first"]
        with pytest.raises(DataError, match=r"^One\.zip/One/a\.tif is damaged \(.*\); get the arc"):
            pixels(file)
        assert not list((tmp_path / "scratch").iterdir())


def change(path, signature, offset, value):
    """Change the two bytes at an offset of the first record with a signature."""
    content = bytearray(path.read_bytes())
    place = content.index(signature) + offset
    content[place : place + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("local", "central", "value", "reason"),
    [(8, 10, 97, "That compression method is not supported"), (6, 8, 1, ".* is encrypted, .*")],
)
def test_what_cannot_be_unpacked_here_says_what_to_do(tmp_path, local, central, value, reason):
    path = packed(tmp_path) / "One.zip"
    change(path, b"PK\3\4", local, value)
    change(path, b"PK\1\2", central, value)
    with opened(tmp_path, path) as archives:
        file = archives.find(NAMES)["first"]
        for read in (file.image_size, lambda: pixels(file)):
            with pytest.raises(DataError) as error:
                read()
            assert re.fullmatch(
                rf"One\.zip/One/a\.tif cannot be unpacked here \({reason}\); unpack its archive "
                "and give the folder instead",
                sentence(error),
            )


def test_a_file_that_is_no_image_is_named_by_its_path_in_the_archive(tmp_path):
    pack({"One": {"a.tif": b"text"}}, tmp_path / "in", "zips")
    with opened(tmp_path, tmp_path / "in" / "One.zip") as archives:
        file = archives.find(NAMES)["first"]
        for read in (file.image_size, lambda: pixels(file)):
            with pytest.raises(DataError, match=r"^One\.zip/a\.tif cannot be read as an image \("):
                read()


def test_threads_read_one_archive_at_the_same_time(tmp_path):
    images = [image_of(index, 60, 50) for index in range(12)]
    names = {str(index): f"{index}.tif" for index in range(12)}
    inner = {name: encode(images[int(index)]) for index, name in names.items()}
    source = pack({**FILES, "One": inner}, tmp_path / "in", "nested", zipfile.ZIP_STORED)
    with opened(tmp_path, source) as archives, ThreadPoolExecutor(4) as pool:
        files = archives.require("image", names, "-")
        for index, found in zip(names, pool.map(pixels, files.values()), strict=True):
            np.testing.assert_array_equal(found, images[int(index)])


@pytest.mark.parametrize("in_archive", [False, True])
def test_a_turned_image_has_the_size_it_is_seen_in(tmp_path, in_archive):
    exif = Image.Exif()
    exif[274] = 6
    content = encode(IMAGE, "JPEG", exif=exif, quality=95)
    source = pack({"One": {"a.tif": content}}, tmp_path / "in", "zips" if in_archive else "folders")
    with opened(tmp_path, source) as archives:
        file = archives.find(NAMES)["first"]
        assert file.image_size() == pixels(file).shape[:2] == (70, 90)


def test_a_size_that_stands_behind_the_pixels_is_found(tmp_path, recwarn):
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (700, 800, 3)).astype(np.uint8)  # more than one block
    content = bytearray(encode(large))
    (start,) = np.frombuffer(content, "<u4", 1, 4)  # move the directory of tags to the end
    tags = content[start : start + 2 + 12 * int(content[start]) + 4]
    moved = content + b"\0" * (len(content) % 2)
    moved[4:8] = len(moved).to_bytes(4, "little")
    pack({"One": {"a.tif": bytes(moved + tags)}}, tmp_path / "in", "zips")
    with opened(tmp_path, tmp_path / "in") as archives:
        assert archives.find(NAMES)["first"].image_size() == (700, 800)
        np.testing.assert_array_equal(pixels(archives.find(NAMES)["first"]), large)
    assert not [warning for warning in recwarn.list if "Truncated" in str(warning.message)]


def test_what_a_killed_run_unpacked_goes(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "0.zip").write_bytes(b"old")
    with opened(tmp_path, packed(tmp_path)):
        assert not (tmp_path / "scratch").exists()
