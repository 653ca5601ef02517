"""Files in folders and archives, and what can be wrong with these."""

import io
import zipfile

import numpy as np
import pytest

from datasets.preparation.archives import open_archives
from tests.datasets.fake_archives import encode, image_of, pack
from utils.errors import DataError, MissingDataError

IMAGE = image_of(0, 90, 70)
FILES = {
    "One": {"One/a.tif": encode(IMAGE), "One/B.PNG": encode(255 - IMAGE, "PNG")},
    "Two": {"c.tif": encode(IMAGE[:5])},
}
NAMES = {"first": "a.tif", "second": "b.png", "third": "c.tif"}
both_methods = pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


@pytest.fixture
def scratch(tmp_path):
    """The folder for what is extracted, with a file that a killed run left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "0.zip").write_bytes(b"old")
    return folder


def packed(tmp_path, how="zips", method=zipfile.ZIP_DEFLATED):
    return pack(FILES, tmp_path / "in", how, method)


def pixels(file):
    with file.open_image() as image:
        return image.read_rgb(slice(None), slice(None))


@both_methods
@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("zips", "in/One.zip/One/a.tif"),
        ("folders", "in/One/One/a.tif"),
        ("nested", "All.zip/All/One.zip/One/a.tif"),
    ],
)
def test_files_are_found_and_read_wherever_they_lie(tmp_path, scratch, how, name, method):
    with open_archives([packed(tmp_path, how, method)], scratch) as archives:
        found = archives.require("image", NAMES, "One.zip")
        inner = how == "nested" and method == zipfile.ZIP_DEFLATED
        assert scratch.exists() == inner  # a stored archive is read in place
        assert found["first"].name == name
        assert [file.image_size() for file in found.values()] == [(90, 70), (90, 70), (5, 70)]
        np.testing.assert_array_equal(pixels(found["first"]), IMAGE)
        np.testing.assert_array_equal(pixels(found["second"]), 255 - IMAGE)
    assert not scratch.exists()


def test_an_unpacked_file_is_preferred_and_a_place_can_be_asked_for(tmp_path, scratch):
    source = packed(tmp_path)
    (source / "a.tif").write_bytes(encode(IMAGE[:1]))
    with open_archives([source], scratch) as archives:
        assert archives.find(NAMES)["first"].image_size() == (1, 70)
        assert archives.find(NAMES, below="one")["first"].image_size() == (90, 70)
        assert archives.find(NAMES, below="on") == {}
        places = archives.require("image", {"first": "a.tif"}, "-", places=["Two", "One", "in"])
        assert places["first"].image_size() == (90, 70)
        matches = {file.name: match[1] for file, match in archives.matching(r"one/(\w)\.(?:\w+)")}
        assert matches == {"in/One.zip/One/a.tif": "a", "in/One.zip/One/B.PNG": "B"}


def test_archives_can_be_left_out(tmp_path, scratch):
    stored = packed(tmp_path / "stored", "nested", zipfile.ZIP_STORED)
    deflated = packed(tmp_path / "deflated", "nested")
    for source, left_out, found in (
        (packed(tmp_path), {"skip": ["two.zip"]}, ["first", "second"]),
        (deflated, {"in_place": ["two.zip"]}, ["first", "second"]),
        (stored, {"in_place": ["two.zip"]}, ["first", "second", "third"]),
    ):
        with open_archives([source], scratch, **left_out) as archives:
            assert sorted(archives.find(NAMES)) == found


def test_missing_files_are_counted_and_named(tmp_path, scratch):
    names, source = {i: f"{i}.tif" for i in "abcdefg"}, packed(tmp_path)
    with open_archives([source], scratch) as archives, pytest.raises(MissingDataError) as error:
        archives.require("image", names, "One.zip")
    assert str(error.value) == (
        f"not in {source}: 5 of 7 images (first: b.tif, d.tif, e.tif); add One.zip, or the "
        "folder it was unpacked to, with --source"
    )


@both_methods
def test_a_truncated_inner_archive_is_one_sentence_and_nothing_is_left(tmp_path, scratch, method):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.tif", encode(IMAGE))
    with zipfile.ZipFile(tmp_path / "All.zip", "w", method) as archive:
        archive.writestr("Two.zip", content.getvalue())
        archive.writestr("One.zip", content.getvalue()[:-30])
    with pytest.raises(DataError, match=r"^All\.zip/One\.zip is truncated or not a zip archive \("):
        open_archives([tmp_path / "All.zip"], scratch).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["All.zip"]


@both_methods
def test_a_damaged_member_is_found_by_its_checksum(tmp_path, scratch, method):
    path = packed(tmp_path, method=method) / "One.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    with open_archives([path], scratch) as archives:
        with pytest.raises(DataError, match=r"^One\.zip/One/a\.tif is damaged \(.*\); get the arc"):
            pixels(archives.find(NAMES)["first"])
        assert not list(scratch.iterdir())


def refuse(path, scratch, sentence):
    """Neither the size nor the pixels of the first file can be read."""
    with open_archives([path], scratch) as archives:
        file = archives.find(NAMES)["first"]
        for read in (file.image_size, lambda: pixels(file)):
            with pytest.raises(DataError, match=sentence):
                read()


def test_an_encrypted_member_says_what_to_do(tmp_path, scratch):
    path = packed(tmp_path) / "One.zip"
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + offset] = 1
    path.write_bytes(content)
    remedy = "unpack its archive and give the folder instead"
    sentence = rf"a\.tif cannot be unpacked here \(.* is encrypted, .*\); {remedy}$"
    refuse(path, scratch, rf"^One\.zip/One/{sentence}")


def test_a_file_that_is_no_image_is_named_by_its_path_in_the_archive(tmp_path, scratch):
    source = pack({"One": {"a.tif": b"text"}}, tmp_path / "in", "zips")
    refuse(source / "One.zip", scratch, r"^One\.zip/a\.tif cannot be read as an image \(")
