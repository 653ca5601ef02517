"""Archives of the published sets with official names and made-up, tiny content.

A builder gives the files by archive, so that a test can damage what it likes; ``pack`` writes them
as a user may have them.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Files = dict[str, dict[str, bytes]]  # content by archive and by name in it

# As ISPRS publishes them: impervious, building, low vegetation, tree, car, clutter; boundary.
COLORS = [
    [255, 255, 255],
    [0, 0, 255],
    [0, 255, 255],
    [0, 255, 0],
    [255, 255, 0],
    [255, 0, 0],
]
BLACK = [0, 0, 0]
POTSDAM_TILES = [
    *("2_10", "2_11", "2_12", "2_13", "2_14", "3_10", "3_11", "3_12", "3_13", "3_14", "4_10"),
    *("4_11", "4_12", "4_13", "4_14", "4_15", "5_10", "5_11", "5_12", "5_13", "5_14", "5_15"),
    *("6_7", "6_8", "6_9", "6_10", "6_11", "6_12", "6_13", "6_14", "6_15"),
    *("7_7", "7_8", "7_9", "7_10", "7_11", "7_12", "7_13"),
]
VAIHINGEN_AREAS = [
    *(1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 23, 24, 26, 27, 28),
    *(29, 30, 31, 32, 33, 34, 35, 37, 38),
]
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
    if not isinstance(array, np.ndarray):
        array = np.array(array, np.uint8)
    content = io.BytesIO()
    Image.fromarray(array).save(content, format=format, **options)
    return content.getvalue()


def image_of(index: int, height: int, width: int) -> np.ndarray:
    """RGB or IRRG that is different for every index."""
    rng = np.random.default_rng(index)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def target_of(index: int, height: int, width: int, num_classes: int = 6) -> np.ndarray:
    """Class indices, all of them in every row."""
    return ((np.add.outer(np.arange(height), np.arange(width)) + index) % num_classes).astype(
        np.uint8
    )


def height_of(index: int, height: int, width: int) -> np.ndarray:
    """A surface model, in metres."""
    return np.add.outer(np.arange(height), np.arange(width)).astype(np.float32) / 8 + index


def paint(target: np.ndarray, eroded: bool = False) -> np.ndarray:
    """The colours of class indices; the first row is boundary in eroded labels."""
    colors = np.array(COLORS, np.uint8)[target]
    if eroded:
        colors[0] = BLACK
    return colors


def potsdam(size: tuple[int, int] = (10, 12)) -> Files:
    """All archives of Potsdam, with the known faults of three of their files."""
    files: Files = {
        name: {}
        for name in (
            *("2_Ortho_RGB", "3_Ortho_IRRG", "5_Labels_all", "5_Labels_for_participants"),
            *("5_Labels_all_noBoundary", "5_Labels_for_participants_no_Boundary"),
            *("1_DSM", "1_DSM_normalisation"),
        )
    }
    train = [tile for tile in POTSDAM_TILES if int(tile.split("_")[1]) <= 12]
    for index, tile in enumerate(POTSDAM_TILES):
        image, target = image_of(index, *size), target_of(index, *size)
        height = height_of(index, *size)
        full, eroded = paint(target), paint(target, eroded=True)
        if tile == "6_7":
            for label in (full, eroded):
                label[(label == [255, 255, 0]).all(-1)] = [252, 255, 0]
        if tile == "4_12":
            full = np.where(full > 127, full - 3, full + 3).astype(np.uint8)
        if tile == "3_13":
            height = height[:, :-1]
        row, column = (part.zfill(2) for part in tile.split("_"))
        top = f"top_potsdam_{tile}"
        files["2_Ortho_RGB"][f"2_Ortho_RGB/{top}_RGB.tif"] = encode(image)
        irrg = encode(np.ascontiguousarray(255 - image))
        files["3_Ortho_IRRG"][f"3_Ortho_IRRG/{top}_IRRG.tif"] = irrg
        plain, border = encode(full), encode(eroded)
        files["5_Labels_all"][f"{top}_label.tif"] = plain
        files["5_Labels_all_noBoundary"][f"{top}_label_noBoundary.tif"] = border
        if tile in train:
            files["5_Labels_for_participants"][f"5_Labels_for_participants/{top}_label.tif"] = plain
            name = f"5_Labels_for_participants_no_Boundary/{top}_label_noBoundary.tif"
            files["5_Labels_for_participants_no_Boundary"][name] = border
        files["1_DSM"][f"1_DSM/dsm_potsdam_{row}_{column}.tif"] = encode(height)
        name = f"1_DSM_normalisation/dsm_potsdam_{row}_{column}_normalized_lastools.jpg"
        grey = np.full(height.shape, index, np.uint8)
        files["1_DSM_normalisation"][name] = encode(grey, "JPEG", quality=95)
    return files


def potsdam_rgbir(size: tuple[int, int] = (10, 12)) -> Files:
    """The archive of the images with four bands: red, green, blue, infrared."""
    files: dict[str, bytes] = {}
    for index, tile in enumerate(POTSDAM_TILES):
        image = image_of(index, *size)
        four = np.concatenate([image, image[..., :1] // 2], -1)
        files[f"4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif"] = encode(four)
    return {"4_Ortho_RGBIR": files}


def vaihingen_size(area: int) -> tuple[int, int]:
    """Every area has a size of its own."""
    return 8 + area % 5, 9 + area % 7


def vaihingen() -> Files:
    """All archives of Vaihingen."""
    complete = f"{VAIHINGEN}_ground_truth_COMPLETE"
    eroded = f"{VAIHINGEN}_ground_truth_eroded_COMPLETE"
    files: Files = {VAIHINGEN: {}, complete: {}, eroded: {}}
    for area in VAIHINGEN_AREAS:
        size = vaihingen_size(area)
        name, target = f"top_mosaic_09cm_area{area}", target_of(area, *size)
        label = encode(paint(target))
        files[VAIHINGEN][f"top/{name}.tif"] = encode(image_of(area, *size))
        dsm = f"dsm/dsm_09cm_matching_area{area}.tif"
        files[VAIHINGEN][dsm] = encode(height_of(area, *size))
        files[complete][f"{name}.tif"] = label
        files[eroded][f"{name}_noBoundary.tif"] = encode(paint(target, eroded=True))
        if area in VAIHINGEN_PARTICIPANTS:
            files[VAIHINGEN][f"gts_for_participants/{name}.tif"] = label
    return files


def loveda(size: tuple[int, int] = (9, 9)) -> Files:
    """The three archives of LoveDA; masks hold 0 (no data) to 7."""
    files: Files = {"Train": {}, "Val": {}, "Test": {}}
    for (split, domain), numbers in LOVEDA_IMAGES.items():
        for number in numbers:
            folder = f"{split}/{domain}"
            image = encode(image_of(number, *size), "PNG")
            files[split][f"{folder}/images_png/{number}.png"] = image
            if split != "Test":
                mask = target_of(number, *size, num_classes=8)
                files[split][f"{folder}/masks_png/{number}.png"] = encode(mask, "PNG")
    return files


def pack(files: Files, folder: Path, how: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write archives.

    Args:
        files: what they hold.
        folder: where to.
        how: ``zips``: each by itself; ``folders``: unpacked, each into a folder of its name;
            ``nested``: all in one archive, ``All.zip``.
        method: of all members; what lies in the inner archives of ``nested`` is always deflated.

    Returns:
        What to give to ``--source``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if how == "folders":
        for archive, members in files.items():
            for name, content in members.items():
                path = folder / archive / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return folder
    if how == "zips":
        for archive, members in files.items():
            write_zip(folder / f"{archive}.zip", members, method)
        return folder
    inner: dict[str, bytes] = {}
    for archive, members in files.items():
        packed = io.BytesIO()
        write_zip(packed, members, zipfile.ZIP_DEFLATED)
        inner[f"All/{archive}.zip"] = packed.getvalue()
    write_zip(folder / "All.zip", inner, method)
    return folder / "All.zip"


def write_zip(file: Path | io.BytesIO, members: dict[str, bytes], method: int) -> None:
    """Write one archive."""
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
