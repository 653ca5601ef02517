"""Potsdam at full scale, rehearsed: fake archives of 6000 x 6000 tiles, prepared. JSON lines.

::

    python benchmarks/preparation.py [--quick] [--workers N] [--method METHOD] [--folder DIR]

38 tiles of RGB, label, eroded label and surface model (``--quick``: 4, within a minute) are written
as archives with the official names, and ``prepare.py potsdam --dsm`` prepares them in a process of
its own. Peak memory is the proportional set size (PSS) of that process and all its children, looked
at every 20 ms; ``ratio`` is the limit of 3 GiB over it. There is no peer: nobody else's converters
take archives, elevation and labels in one go.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.datasets.fake_archives import COLORS, POTSDAM_TILES, Files, encode, write_zip
from utils.arguments import default_workers, positive_int

SIDE_PX, LIMIT_MIB = 6000, 3 * 1024
NUM_DISTINCT = 3  # contents; making more of them takes longer than preparing them
QUICK_TILES = ("2_10", "2_11", "2_13", "3_13")  # two of train, two of test
# prepare.py with a split of the tiles that there are.
COMMAND = """
import sys
from datasets.preparation.published import potsdam
from datasets.tile_set import NamedSplit
tiles = set(sys.argv.pop(1).split(","))
full = potsdam.SPLITS["official"]
lists = {split: tuple(t for t in ids if t in tiles) for split, ids in full.lists.items()}
potsdam.SPLITS["official"] = NamedSplit(name="official", source=full.source, lists=lists)
import prepare
from utils.errors import run_command
run_command(prepare.main)
"""


def smooth_noise(seed: int, grid_px: int) -> np.ndarray:
    """``(SIDE, SIDE)`` float32 in about -1..1 that changes over ``grid_px``."""
    num = SIDE_PX // grid_px
    coarse = np.random.default_rng(seed).standard_normal((num, num)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))


def draw(seed: int) -> dict[str, bytes]:
    """Image, labels and surface model of a made-up town, as the archives hold them."""
    rng = np.random.default_rng(seed)
    height = smooth_noise(seed, 150)
    target = np.digitize(height, (-1.0, -0.3, 0.2, 0.8, 1.6)).astype(np.uint8)
    grain = rng.integers(-12, 13, (SIDE_PX, SIDE_PX), np.int16)
    image = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    for channel in range(3):
        tone = 90 + 30 * height + 20 * smooth_noise(10 * seed + channel, 40)
        image[..., channel] = np.clip(tone + grain, 0, 255)
    colors = np.array(COLORS, np.uint8)[target]
    edges = np.zeros(target.shape, bool)
    for axis in (0, 1):
        edges |= np.roll(target, 3, axis) != np.roll(target, -3, axis)
    eroded = np.where(edges[..., None], np.uint8(0), colors)
    return {
        "image": encode(image),
        "label": encode(colors, compression="tiff_lzw"),
        "eroded": encode(eroded, compression="tiff_lzw"),
        "dsm": encode(40 + 10 * height),
    }


def write_archives(folder: Path, tiles: tuple[str, ...], method: int) -> float:
    """Write the archives of some tiles; their size in MiB."""
    contents = [draw(seed) for seed in range(min(NUM_DISTINCT, len(tiles)))]
    files: Files = {name: {} for name in ("2_Ortho_RGB", "5_Labels_all")}
    files |= {name: {} for name in ("5_Labels_all_noBoundary", "1_DSM")}
    for number, tile in enumerate(tiles):
        content, top = contents[number % len(contents)], f"top_potsdam_{tile}"
        row, column = (part.zfill(2) for part in tile.split("_"))
        files["2_Ortho_RGB"][f"2_Ortho_RGB/{top}_RGB.tif"] = content["image"]
        files["5_Labels_all"][f"{top}_label.tif"] = content["label"]
        files["5_Labels_all_noBoundary"][f"{top}_label_noBoundary.tif"] = content["eroded"]
        files["1_DSM"][f"1_DSM/dsm_potsdam_{row}_{column}.tif"] = content["dsm"]
    folder.mkdir(parents=True)
    for name, members in files.items():
        write_zip(folder / f"{name}.zip", members, method)
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


def tree_pss_kib(pid: int) -> int:
    """Proportional set size of a process and its descendants."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text().split()
            total += sum(tree_pss_kib(int(child)) for child in children)
    except (OSError, ValueError):
        pass  # it ended meanwhile
    return total


def prepare(source: Path, root: Path, tiles: tuple[str, ...], num_workers: int) -> dict[str, float]:
    """Run the command; seconds of wall and processor time, and peak memory."""
    arguments = ["potsdam", "--source", source, "--output", root, "--dsm"]
    arguments += ["--split", "official", "--workers", num_workers]
    line = [sys.executable, "-c", COMMAND, ",".join(tiles), *map(str, arguments)]
    start, before, peak = time.perf_counter(), os.times(), 0
    with subprocess.Popen(line, cwd=ROOT, stdout=sys.stderr) as process:
        while process.poll() is None:
            peak = max(peak, tree_pss_kib(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"prepare.py ended with {process.returncode}")
    after = os.times()
    cpu_s = after.children_user + after.children_system
    cpu_s -= before.children_user + before.children_system
    return {"s": time.perf_counter() - start, "cpu_s": cpu_s, "peak_mib": peak / 2**10}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="4 tiles instead of 38")
    parser.add_argument("--workers", type=positive_int, default=default_workers())
    parser.add_argument("--method", choices=("stored", "deflated"), default="stored")
    parser.add_argument("--folder", type=Path, help="where there is room for 20 GB")
    args = parser.parse_args()
    tiles = QUICK_TILES if args.quick else tuple(POTSDAM_TILES)
    method = zipfile.ZIP_STORED if args.method == "stored" else zipfile.ZIP_DEFLATED
    folder = Path(tempfile.mkdtemp(prefix="potsdam-", dir=args.folder))
    try:
        archive_mib = write_archives(folder / "in", tiles, method)
        found = prepare(folder / "in", folder / "set", tiles, args.workers)
        written = sum(p.stat().st_size for p in (folder / "set").rglob("*") if p.is_file())
    finally:
        shutil.rmtree(folder)
    megapixels = len(tiles) * SIDE_PX**2 / 1e6
    common = {
        "tiles": len(tiles),
        "workers": args.workers,
        "archives": args.method,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    name = f"prepare potsdam, {len(tiles)} tiles"
    for line in (
        {"name": f"{name}, time", "ours": found["s"] / 60, "unit": "min", "ratio": None},
        {
            "name": f"{name}, speed",
            "ours": megapixels / found["s"],
            "unit": "megapixels/s",
            "ratio": None,
            "processor_s": found["cpu_s"],
            "read_mib": archive_mib,
            "written_mib": written / 2**20,
        },
        {
            "name": f"{name}, peak PSS of all processes",
            "ours": found["peak_mib"],
            "unit": "MiB",
            "ratio": LIMIT_MIB / found["peak_mib"],
            "limit": LIMIT_MIB,
        },
    ):
        rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()}
        print(json.dumps({**rounded, "peer": None, **common}), flush=True)


if __name__ == "__main__":
    main()
