"""A submission to the LoveDA server: a zip of class indices, and what the server would refuse.

The server (Codabench competition 13030) takes one PNG for each test image, under the image's own
name, with class indices from 0; nothing in folders.
"""

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.errors import DataError, MissingDataError
from utils.files import atomic_path

SUBMISSION = "submission.zip"
NUM_OFFICIAL = 1796  # test images of LoveDA
_NUM_SHOWN = 30
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_DEPTH, _COLOR = 24, 25  # where a PNG says bits a channel, and its kind of colour
# What zipfile raises: NotImplementedError for a way of packing it does not know, RuntimeError for a
# password.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)

Size = tuple[int, int]  # height, width


def submit(
    output: Path, results: Mapping[str, Path], sizes: Mapping[Path, Size], num_classes: int
) -> None:
    """Write ``OUTPUT/submission.zip`` from the label maps in ``OUTPUT/index``, and check it.

    Args:
        output: where infer.py wrote its results.
        results: the results' names by those in the submission.
        sizes: size of the images by the results' names.
        num_classes: values are 0..num_classes-1.

    Raises:
        DataError: as ``require_submission``.
    """
    files = {name: output / "index" / result for name, result in results.items()}
    write_submission(output / SUBMISSION, files)
    expected = {name: sizes[result] for name, result in results.items()}
    require_submission(output / SUBMISSION, expected, num_classes)


def write_submission(path: Path, files: Mapping[str, Path]) -> None:
    """Pack label maps, atomically; equal files give equal bytes.

    Args:
        path: the zip to write.
        files: 8-bit greyscale PNG of class indices, by name in the zip.
    """
    with atomic_path(path) as partial, zipfile.ZipFile(partial, "w") as packed:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _FIRST_DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # on every system the same
            packed.writestr(entry, files[name].read_bytes())  # a PNG is compressed already


def require_submission(path: Path, sizes: Mapping[str, Size], num_classes: int) -> None:
    """Check a submission and print what is wrong with it.

    Args:
        path: the zip.
        sizes: of every image that must be in it, by name.
        num_classes: values are 0..num_classes-1.

    Raises:
        MissingDataError: there is no such file.
        DataError: the server would refuse it, or score it wrongly.
    """
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist; infer.py --submission writes one")
    problems = list(check_submission(path, sizes, num_classes))
    if problems:
        width = max(len(name) for name, _ in problems[:_NUM_SHOWN])
        print("\n".join(f"{name:<{width}}  {problem}" for name, problem in problems[:_NUM_SHOWN]))
        if len(problems) > _NUM_SHOWN:
            print(f"and {len(problems) - _NUM_SHOWN} more")
    if len(sizes) != NUM_OFFICIAL:
        print(f"warning: {len(sizes)} images; the official test set of LoveDA has {NUM_OFFICIAL}")
    if problems:
        number = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DataError(
            f"{path} has {number} (listed above); write it again with infer.py --submission"
        )
    print(f"{path} holds {len(sizes)} images as the server takes them")


def check_submission(
    path: Path, sizes: Mapping[str, Size], num_classes: int
) -> Iterator[tuple[str, str]]:
    """Name and problem of everything that is wrong with a submission; arguments as above."""
    try:
        with zipfile.ZipFile(path) as packed:
            entries = packed.infolist()
            yield from _check_names([entry.filename for entry in entries], sizes)
            for entry in tqdm(entries, desc="checking", unit="image"):
                if entry.filename in sizes:
                    problem = _read_problem(packed, entry, sizes[entry.filename], num_classes)
                    if problem is not None:
                        yield entry.filename, problem
    except zipfile.BadZipFile as error:
        yield path.name, f"is no zip file, or a truncated one ({error})"


def _check_names(names: list[str], sizes: Mapping[str, Size]) -> Iterator[tuple[str, str]]:
    for name, count in sorted(Counter(names).items()):
        if "/" in name or "\\" in name:
            yield name, "lies in a folder; all images must lie at the top of the zip"
        elif name not in sizes:
            yield name, "is not the name of a test image"
        elif count > 1:
            yield name, f"occurs {count} times"
    for name in sorted(sizes.keys() - set(names)):
        yield name, "is missing"


def _read_problem(
    packed: zipfile.ZipFile, entry: zipfile.ZipInfo, size: Size, num_classes: int
) -> str | None:
    """What is wrong with one file, if anything."""
    try:
        content = packed.read(entry)
    except _BROKEN as error:
        return f"cannot be read ({error})"
    if not content.startswith(_PNG_START):
        return "is not a PNG"
    if content[_DEPTH : _COLOR + 1] != b"\x08\x00":
        return "is not an 8-bit PNG with one channel"
    try:
        Image.open(io.BytesIO(content)).verify()  # checksums
        labels = np.array(Image.open(io.BytesIO(content)))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read ({error})"
    if not content.endswith(_PNG_END):
        return "does not end where a PNG ends"
    if labels.shape != size:
        return f"is {labels.shape[0]} x {labels.shape[1]}, its image {size[0]} x {size[1]} (h x w)"
    if labels.max() >= num_classes:
        return f"holds the value {labels.max()}; classes are 0..{num_classes - 1}"
    return None
