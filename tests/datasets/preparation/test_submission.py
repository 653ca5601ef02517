"""Submissions: equal bytes, and every defect named."""

import io
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.preparation.submission import check_submission, require_submission, write_submission
from utils.errors import DataError, MissingDataError

NUM_CLASSES = 7
SIZES = {"10.png": (6, 9), "11.png": (6, 9), "12.png": (4, 4)}


def labels_of(name: str) -> np.ndarray:
    return np.random.default_rng(int(name[:2])).integers(0, NUM_CLASSES, SIZES[name], np.uint8)


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(file, "PNG")
    return file.getvalue()


def pack(path: Path, contents: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in contents:
            packed.writestr(name, content)
    return path


def sound() -> dict[str, bytes]:
    return {name: png(labels_of(name)) for name in SIZES}


def problems(path: Path) -> list[tuple[str, str]]:
    return list(check_submission(path, SIZES, NUM_CLASSES))


@pytest.fixture
def written(tmp_path) -> Path:
    """A good submission."""
    files = {}
    for name, content in sound().items():
        files[name] = tmp_path / "index" / f"of {name}"
        files[name].parent.mkdir(exist_ok=True)
        files[name].write_bytes(content)
    write_submission(tmp_path / "submission.zip", files)
    return tmp_path / "submission.zip"


def test_what_is_written_passes_and_holds_the_files(written, capsys):
    require_submission(written, SIZES, NUM_CLASSES)
    assert capsys.readouterr().out == (
        "warning: 3 images; the official test set of LoveDA has 1796\n"
        f"{written} holds 3 images as the server takes them\n"
    )
    with zipfile.ZipFile(written) as packed:
        assert packed.namelist() == sorted(SIZES)
        assert {name: packed.read(name) for name in SIZES} == sound()
    assert not list(written.parent.glob(".*"))  # no temporary file


def test_equal_files_give_equal_bytes(written, tmp_path):
    before = written.read_bytes()
    files = {name: tmp_path / "index" / f"of {name}" for name in reversed(sorted(SIZES))}
    for path in files.values():
        shutil.copy(path, tmp_path / "copy")  # other times
        (tmp_path / "copy").replace(path)
    write_submission(written, files)
    assert written.read_bytes() == before


def test_the_official_number_is_no_warning(tmp_path, capsys):
    sizes = {f"{number}.png": (1, 1) for number in range(4191, 4191 + 1796)}
    dot = png(np.zeros((1, 1), np.uint8))
    path = pack(tmp_path / "s.zip", [(name, dot) for name in sizes])
    require_submission(path, sizes, NUM_CLASSES)
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"10.png": None}, "is missing"),
        ({"10.png": png(np.full((6, 9), 7, np.uint8))}, "holds the value 7; classes are 0..6"),
        ({"10.png": png(np.full((6, 9), 255, np.uint8))}, "holds the value 255; classes are 0..6"),
        ({"10.png": png(np.zeros((9, 6), np.uint8))}, "is 9 x 6, its image 6 x 9 (h x w)"),
        ({"10.png": png(np.zeros((6, 9, 3), np.uint8))}, "is not an 8-bit PNG with one channel"),
        ({"10.png": png(np.zeros((6, 9), np.uint16))}, "is not an 8-bit PNG with one channel"),
        ({"10.png": png(np.zeros((6, 9), np.uint8), "P")}, "is not an 8-bit PNG with one channel"),
        ({"10.png": png(np.zeros((6, 9), np.uint8), "1")}, "is not an 8-bit PNG with one channel"),
        ({"10.png": b"II*\0 a TIFF"}, "is not a PNG"),
        ({"10.png": b""}, "is not a PNG"),
        ({"10.png": png(labels_of("10.png"))[:-3]}, "does not end where a PNG ends"),
        ({"10.png": png(labels_of("10.png"))[:45]}, "cannot be read ("),
    ],
)
def test_a_defect_of_one_image_is_the_only_problem(tmp_path, change, problem):
    contents = {**sound(), **change}
    packed = [(name, content) for name, content in contents.items() if content is not None]
    ((name, found),) = problems(pack(tmp_path / "s.zip", packed))
    assert name == "10.png"
    assert found.startswith(problem)


def test_a_byte_that_changed_is_found(tmp_path):
    content = bytearray(sound()["10.png"])
    content[content.index(b"IDAT") + 8] ^= 1
    path = pack(tmp_path / "s.zip", list({**sound(), "10.png": bytes(content)}.items()))
    ((name, found),) = problems(path)
    assert name == "10.png" and found.startswith("cannot be read (")


def test_a_byte_of_the_zip_that_changed_is_found(written):
    content = bytearray(written.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    written.write_bytes(bytes(content))
    ((name, found),) = problems(written)
    assert name == "10.png" and found.startswith("cannot be read (Bad CRC-32")


def test_names(tmp_path):
    good = sound()
    contents = [*good.items(), ("13.png", good["10.png"]), ("legend.txt", b"")]
    assert problems(pack(tmp_path / "s.zip", contents)) == [
        ("13.png", "is not the name of a test image"),
        ("legend.txt", "is not the name of a test image"),
    ]


def test_a_folder_in_the_zip(tmp_path):
    contents = [(f"results/{name}", content) for name, content in sound().items()]
    path = pack(tmp_path / "s.zip", [("results/", b""), *contents])
    assert problems(path) == [
        *(
            (name, "lies in a folder; all images must lie at the top of the zip")
            for name in ("results/", *(f"results/{name}" for name in SIZES))
        ),
        *((name, "is missing") for name in SIZES),
    ]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(tmp_path):
    contents = [*sound().items(), ("12.png", sound()["12.png"])]
    assert problems(pack(tmp_path / "s.zip", contents)) == [("12.png", "occurs 2 times")]


@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_a_truncated_zip(written, share):
    content = written.read_bytes()
    written.write_bytes(content[: int(share * len(content))])
    ((name, found),) = problems(written)
    assert name == "submission.zip" and found.startswith("is no zip file, or a truncated one (")


def test_all_problems_are_one_table_and_an_error(tmp_path, capsys):
    contents = {**sound(), "12.png": b"", "legend.png": b""}
    del contents["11.png"]
    path = pack(tmp_path / "s.zip", list(contents.items()))
    sentence = f"{path} has 3 problems (listed above); write it again with infer.py --submission"
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        require_submission(path, SIZES, NUM_CLASSES)
    assert capsys.readouterr().out.splitlines()[:3] == [
        "legend.png  is not the name of a test image",
        "11.png      is missing",
        "12.png      is not a PNG",
    ]


def test_a_long_table_is_cut(tmp_path, capsys):
    sizes = {f"{number}.png": (1, 1) for number in range(100)}
    with pytest.raises(DataError, match="has 100 problems"):
        require_submission(pack(tmp_path / "s.zip", []), sizes, NUM_CLASSES)
    assert capsys.readouterr().out.splitlines()[30] == "and 70 more"


def test_no_file(tmp_path):
    with pytest.raises(MissingDataError, match=r"s\.zip does not exist; infer\.py --submission"):
        require_submission(tmp_path / "s.zip", SIZES, NUM_CLASSES)
