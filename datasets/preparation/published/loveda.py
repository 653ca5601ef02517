"""LoveDA: 5987 images of 1024 x 1024 pixels of 0.3 m, urban and rural, of three Chinese cities.

Read from ``Train.zip``, ``Val.zip`` and ``Test.zip``, packed or unpacked. The labels of the test
images are hidden; a server (Codabench competition 13030) scores predictions of them. It accepts one
PNG of class indices from 0 per test image, under the name of the image, at the top of a zip. ::

    Train/Urban/images_png/1366.png    8-bit RGB
    Train/Urban/masks_png/1366.png     0 no data, 1 background, 2 building ... 7 agriculture
    Train/Rural/images_png ...         and so on
"""

import argparse
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.schema import IGNORE_INDEX
from datasets.preparation.archives import ArchiveFile, Archives
from datasets.preparation.arguments import add_source, add_tiles, prepare_published
from datasets.preparation.classes import ClassFile
from datasets.preparation.pipeline import Plan, Source
from datasets.tile_set import NamedSplit
from utils.errors import DataError, MissingDataError
from utils.files import atomic_path

CLASSES = ClassFile(
    names=("background", "building", "road", "water", "barren", "forest", "agriculture"),
    colors=(
        (255, 255, 255),
        (255, 0, 0),
        (255, 255, 0),
        (0, 0, 255),
        (159, 129, 183),
        (0, 255, 0),
        (255, 195, 128),
    ),
    values=(1, 2, 3, 4, 5, 6, 7),
    ignore_colors=(),
    ignore_values=(0,),
)
OFFICIAL_COUNTS = {"train": 2522, "val": 1669, "test": 1796}  # images of both domains
_SOURCE = "the authors' own splits of the images (github.com/Junjue-Wang/LoveDA)"
_UNLABELLED = "test"
_DOMAINS = ("urban", "rural")
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_NUM_NAMED = 3  # images in an error; the rest is counted


def add_arguments(add: Callable[..., Any]) -> None:
    """Add the arguments of ``prepare.py loveda``."""
    add_source(add)
    add(
        "--domain", nargs="+", choices=_DOMAINS, default=list(_DOMAINS), help="urban, rural or both"
    )
    add_tiles(add, size_px=None, overlap_px=0, whole=())


def run(args: argparse.Namespace) -> None:
    """Run ``prepare.py loveda``."""
    args.domain = sorted(set(args.domain))

    def plan_of(archives: Archives, shared: dict[str, Any]) -> Plan:
        sources = _find_sources(archives, args.domain)
        lists = {split: tuple(s.id for s in members) for split, members in sources.items()}
        whole = len(args.domain) == len(_DOMAINS)
        notes = tuple(
            f"warning: {num_found} images of {split}, officially there are {official}"
            for split, official in OFFICIAL_COUNTS.items()
            if (num_found := len(lists.get(split, ()))) != official
        )
        named = NamedSplit(
            name="official" if whole else f"official-{args.domain[0]}",
            source=_SOURCE,
            lists=lists,
            unlabelled=(_UNLABELLED,) if _UNLABELLED in lists else (),
        )
        return Plan(
            name="loveda",
            origin="LoveDA",
            classes={"full": CLASSES},
            sources=sources,
            split=named,
            mask_kind="index",
            notes=notes if whole else (),
            **shared,
        )

    prepare_published(args, "loveda", plan_of)


def _find_sources(archives: Archives, domains: list[str]) -> dict[str, list[Source]]:
    """Return the images of every split with their masks, by number."""
    images, masks = (_find(archives, domains, what) for what in ("images_png", "masks_png"))
    found: dict[str, list[Source]] = {}
    for split in OFFICIAL_COUNTS:
        numbers = [number for other, number in images if other == split]
        if not numbers and split != _UNLABELLED:
            name = split.capitalize()
            raise MissingDataError(
                f"--source has no image of {name} ({' and '.join(domains)}); add "
                f"{name}.zip, or the folder {name} it was unpacked to"
            )
        bare = [number for number in numbers if (split, number) not in masks]
        if bare and split != _UNLABELLED:
            first = ", ".join(bare[:_NUM_NAMED])
            raise MissingDataError(
                f"{len(bare)} of {len(numbers)} images of {split} have no mask (first: {first}); "
                "get the archive again"
            )
        found[split] = [
            Source(
                id=number,
                image=images[split, number],
                labels={} if split == _UNLABELLED else {"full": masks[split, number]},
            )
            for number in sorted(numbers, key=int)
        ]
    return {split: members for split, members in found.items() if members}


def _find(
    archives: Archives, domains: list[str], folder: str
) -> dict[tuple[str, str], ArchiveFile]:
    """Return the files of one kind, by split and number."""
    splits, chosen = "|".join(OFFICIAL_COUNTS), "|".join(domains)
    pattern = rf"({splits})(?:\.zip)?/(?:{chosen})/{folder}/(\d+)\.png"
    found: dict[tuple[str, str], ArchiveFile] = {}
    for file, match in archives.matching(pattern):
        found.setdefault((match[1].lower(), match[2]), file)
    return found


def submit(
    output: Path,
    results: Mapping[str, Path],
    sizes: Mapping[Path, tuple[int, int]],
    num_classes: int,
) -> None:
    """Pack the label maps in ``OUTPUT/index`` into ``OUTPUT/submission.zip``, atomically.

    Equal label maps give equal bytes. Every map is checked before it is packed.

    Args:
        output: output folder of infer.py.
        results: path of every label map below ``OUTPUT/index``, by its name in the submission.
        sizes: height and width of the images, by the same paths.
        num_classes: label maps hold the class indices 0..num_classes-1.

    Raises:
        DataError: a label map cannot be read, or the server would refuse it or score it wrongly.
    """
    path = output / "submission.zip"
    with atomic_path(path) as partial, zipfile.ZipFile(partial, "w") as packed:
        for name in sorted(results):
            file = output / "index" / results[name]
            content = file.read_bytes()
            if problem := _label_map_problem(content, sizes[results[name]], num_classes):
                raise DataError(f"{file} {problem}")
            entry = zipfile.ZipInfo(name, _FIRST_DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # the same on every system
            packed.writestr(entry, content)  # a PNG is compressed already
    official = OFFICIAL_COUNTS[_UNLABELLED]
    if len(results) != official:
        print(f"warning: {len(results)} images; the official test set of LoveDA has {official}")
    print(f"{path} holds {len(results)} images in the format of the LoveDA server")


_REPEAT = "run infer.py again with --overwrite"


def _label_map_problem(content: bytes, size: tuple[int, int], num_classes: int) -> str | None:
    """Return a predicate that says why the server would not accept a label map, or None."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read as PNG ({error}); {_REPEAT}"
    found = f"{mode}, {values.shape[0]} x {values.shape[1]}, 0..{values.max()}"
    wanted = f"L, {size[0]} x {size[1]}, 0..{num_classes - 1}"
    if mode == "L" and values.shape == size and values.max() < num_classes:
        return None
    if values.max() == IGNORE_INDEX and mode == "L" and values.shape == size:
        return "has pixels without a class: those without data in its image; submit complete images"
    text = f"is a PNG of another mode, height x width or range (found: {found}; wanted: {wanted})"
    return f"{text}; {_REPEAT}"
