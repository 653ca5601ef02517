"""Archives of the published sets with official names and made-up, tiny content.

A builder gives the files by archive, so that a test can damage what it likes; ``pack`` writes them
as a user may have them.
"""

import io
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Files = dict[str, dict[str, bytes]]  # content by archive and by name in it

# As ISPRS publishes them: impervious, building, low vegetation, tree, car, clutter; boundary.
COLORS = [[255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]]
BLACK = [0, 0, 0]
_COLUMNS = {2: (10, 15), 3: (10, 15), 4: (10, 16), 5: (10, 16), 6: (7, 16), 7: (7, 14)}  # by row
POTSDAM_TILES = [f"{row}_{column}" for row, ends in _COLUMNS.items() for column in range(*ends)]
VAIHINGEN_AREAS = [area for area in range(1, 39) if area not in (9, 18, 19, 25, 36)]
VAIHINGEN_PARTICIPANTS = [1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37]
VAIHINGEN = "ISPRS_semantic_labeling_Vaihingen"
LOVEDA_IMAGES = {
    ("Train", "Urban"): (1366, 1367),
    ("Train", "Rural"): (0, 1, 2),
    ("Val", "Urban"): (3514,),
    ("Val", "Rural"): (2522, 2523),
    ("Test", "Urban"): (5167,),
    ("Test", "Rural"): (4191, 4192),
}


def encode(array: Any, format: str = "TIFF", **options: Any) -> bytes:
    """An image file of an array (lists are taken as 8-bit)."""
    content = io.BytesIO()
    array = array if isinstance(array, np.ndarray) else np.array(array, np.uint8)
    Image.fromarray(array).save(content, format=format, **options)
    return content.getvalue()


def image_of(index: int, height: int, width: int) -> np.ndarray:
    """RGB or IRRG that is different for every index."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3)).astype(np.uint8)


def target_of(index: int, height: int, width: int, num_classes: int = 6) -> np.ndarray:
    """Class indices, all of them in every row."""
    return ((np.indices((height, width)).sum(0) + index) % num_classes).astype(np.uint8)


def height_of(index: int, height: int, width: int) -> np.ndarray:
    """A surface model, in metres."""
    return np.indices((height, width)).sum(0).astype(np.float32) / 8 + index


def paint(target: np.ndarray, eroded: bool = False) -> np.ndarray:
    """The colours of class indices; the first row is boundary in eroded labels."""
    colors = np.array(COLORS, np.uint8)[target]
    if eroded:
        colors[0] = BLACK
    return colors


def potsdam(size: tuple[int, int] = (10, 12)) -> Files:
    """All archives of Potsdam, with the known faults of three of their files."""
    files: Files = defaultdict(dict)
    for index, tile in enumerate(POTSDAM_TILES):
        image, target = image_of(index, *size), target_of(index, *size)
        height = height_of(index, *size)
        full, eroded = paint(target), paint(target, eroded=True)
        if tile == "6_7":
            for colors in (full, eroded):
                colors[(colors == [255, 255, 0]).all(-1)] = [252, 255, 0]
        if tile == "4_12":
            full = np.where(full > 127, full - 3, full + 3).astype(np.uint8)
        if tile == "3_13":
            height = height[:, :-1]
        top, label = f"top_potsdam_{tile}", f"top_potsdam_{tile}_label.tif"
        files["2_Ortho_RGB"][f"2_Ortho_RGB/{top}_RGB.tif"] = encode(image)
        files["3_Ortho_IRRG"][f"3_Ortho_IRRG/{top}_IRRG.tif"] = encode(255 - image)
        four = np.concatenate([image, image[..., :1] // 2], -1)
        files["4_Ortho_RGBIR"][f"4_Ortho_RGBIR/{top}_RGBIR.tif"] = encode(four)
        files["5_Labels_all"][label] = encode(full)
        files["5_Labels_all_noBoundary"][f"{top}_label_noBoundary.tif"] = encode(eroded)
        if int(tile.split("_")[1]) <= 12:
            files["5_Labels_for_participants"][f"5_Labels_for_participants/{label}"] = encode(full)
        name = "dsm_potsdam_" + "_".join(part.zfill(2) for part in tile.split("_"))
        files["1_DSM"][f"1_DSM/{name}.tif"] = encode(height)
        name = f"1_DSM_normalisation/{name}_normalized_lastools.jpg"
        grey = np.full(height.shape, index, np.uint8)
        files["1_DSM_normalisation"][name] = encode(grey, "JPEG", quality=95)
    return files


def vaihingen_size(area: int) -> tuple[int, int]:
    """Every area has a size of its own."""
    return 8 + area % 5, 9 + area % 7


def vaihingen() -> Files:
    """All archives of Vaihingen."""
    files: Files = defaultdict(dict)
    for area in VAIHINGEN_AREAS:
        size = vaihingen_size(area)
        name, target = f"top_mosaic_09cm_area{area}", target_of(area, *size)
        label = encode(paint(target))
        files[VAIHINGEN][f"top/{name}.tif"] = encode(image_of(area, *size))
        dsm = f"dsm/dsm_09cm_matching_area{area}.tif"
        files[VAIHINGEN][dsm] = encode(height_of(area, *size))
        files[f"{VAIHINGEN}_ground_truth_COMPLETE"][f"{name}.tif"] = label
        border = encode(paint(target, eroded=True))
        files[f"{VAIHINGEN}_ground_truth_eroded_COMPLETE"][f"{name}_noBoundary.tif"] = border
        if area in VAIHINGEN_PARTICIPANTS:
            files[VAIHINGEN][f"gts_for_participants/{name}.tif"] = label
    return files


def loveda(size: tuple[int, int] = (9, 9)) -> Files:
    """The three archives of LoveDA; masks hold 0 (no data) to 7."""
    files: Files = defaultdict(dict)
    for (split, domain), numbers in LOVEDA_IMAGES.items():
        for number in numbers:
            members, folder = files[split], f"{split}/{domain}"
            members[f"{folder}/images_png/{number}.png"] = encode(image_of(number, *size), "PNG")
            if split != "Test":
                mask = target_of(number, *size, num_classes=8)
                members[f"{folder}/masks_png/{number}.png"] = encode(mask, "PNG")
    return files


def pack(files: Files, folder: Path, how: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write archives, and return what to give to ``--source``.

    Args:
        files: what they hold.
        folder: where to.
        how: ``zips``: each by itself; ``folders``: unpacked, each into a folder of its name;
            ``nested``: all in one archive, ``All.zip``.
        method: of all members; what lies in the inner archives of ``nested`` is always deflated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inner: dict[str, bytes] = {}
    for archive, members in files.items():
        if how == "zips":
            write_zip(folder / f"{archive}.zip", members, method)
        elif how == "nested":
            packed = io.BytesIO()
            write_zip(packed, members, zipfile.ZIP_DEFLATED)
            inner[f"All/{archive}.zip"] = packed.getvalue()
        for name, content in members.items() if how == "folders" else ():
            path = folder / archive / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    if how != "nested":
        return folder
    write_zip(folder / "All.zip", inner, method)
    return folder / "All.zip"


def write_zip(file: Path | io.BytesIO, members: dict[str, bytes], method: int) -> None:
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
