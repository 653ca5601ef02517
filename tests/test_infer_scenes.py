"""infer.py on large georeferenced images: in place, without a seam, shared, killed, hostile."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import transform_geom

import infer
from tests.conftest import make_config, train_briefly
from tests.processes import exit_code_of
from tests.utils.rasters.raster_files import picture, write_tiff
from utils.errors import DataError
from utils.inference import chunks, results
from utils.inference import run as run_module
from utils.inference.inputs import find_inputs
from utils.inference.results import OutputSettings
from utils.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
SIZE = (400, 300)
PLACE = Affine(0.3, 0, 271000, 0, -0.3, 5040000)
GEOTIFF = {"crs": "EPSG:32188", "transform": PLACE, "photometric": "RGB"}
GEOTIFF |= {"tiled": True, "blockxsize": 128, "blockysize": 128}
GEOTIFF |= {"compress": "deflate", "predictor": 2}


@pytest.fixture(scope="module")
def checkpoint(data_root, tmp_path_factory):
    """A network without structure maps: its predictions do not depend on chunks."""
    folder = tmp_path_factory.mktemp("runs")
    return load_checkpoint(train_briefly(make_config(data_root, folder, "structure.control=off")))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A tiled, compressed GeoTIFF on Montreal's grid (EPSG 32188, metres)."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return write_tiff(path, picture(*SIZE), **GEOTIFF)


def pixels(path):
    with rasterio.open(path) as file:
        return file.read()


def test_a_geotiff_comes_back_in_its_place_and_equals_the_image_in_memory(
    run_infer, checkpoint, scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(chunks, "CHUNK_PX", 150)
    monkeypatch.setattr(results, "_STRIP_PX", 20_000)
    kinds = ("index", "color", "overlay", "confidence")
    output = run_infer(scene, tmp_path / "out", "--write", ",".join([*kinds, "polygons"]))
    image = pixels(scene).transpose(1, 2, 0)
    labels = infer.load_predictor(checkpoint.path, device="cpu")(image)
    assert len(np.unique(labels)) > 1
    for kind in kinds:
        with rasterio.open(output / kind / "scene.tif") as file:
            assert file.crs.to_epsg() == 32188 and file.transform == PLACE
            assert (file.height, file.width) == SIZE
    assert np.array_equal(pixels(output / "index/scene.tif")[0], labels)
    palette = checkpoint.identity.palette
    with rasterio.open(output / "index/scene.tif") as file:
        shown = [file.colormap(1)[index][:3] for index in range(len(palette))]
    assert np.array_equal(shown, palette)
    with (output / "areas.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    counts = np.bincount(labels.ravel(), minlength=len(palette)).tolist()
    assert [int(row["pixels"]) for row in rows] == counts
    assert [float(row["area_m2"]) for row in rows] == pytest.approx([0.09 * n for n in counts])
    shapes = []
    for feature in json.loads((output / "polygons/scene.geojson").read_text())["features"]:
        in_place = transform_geom("EPSG:4326", "EPSG:32188", feature["geometry"])
        shapes.append((in_place, feature["properties"]["class"]))
    back = rasterize(shapes, out_shape=SIZE, transform=PLACE, fill=255, dtype="uint8")
    assert np.array_equal(back, labels)


def infer_together(dist, checkpoint, source, output):
    """Segment a folder, all ranks sharing the rows of every image; return the error."""
    segmenter = infer.load_predictor(checkpoint, device="cpu")  # must leave the group open
    identity = load_checkpoint(checkpoint).identity
    settings = OutputSettings(
        folder=output,
        kinds=("index", "overlay", "confidence"),
        classes=tuple(identity.classes),
        palette=tuple(map(tuple, identity.palette)),
    )
    images = find_inputs(source, output, None)
    with (
        mock.patch.object(run_module, "SHARED_FROM_PX", 1),
        mock.patch.object(chunks, "CHUNK_PX", 150),
        pytest.raises(DataError) as error,
    ):
        run_module.infer_images(segmenter, images, settings, dist, digest="")
    return str(error.value)


def test_ranks_that_share_the_rows_write_what_one_writes(
    run_infer, checkpoint, scene, tmp_path, ranks
):
    """An image that breaks on one rank is a failure of all, and another one is not lost."""
    folder, together = tmp_path / "photos", tmp_path / "together"
    folder.mkdir()
    whole = scene.read_bytes()
    shutil.copy(scene, folder / "good.tif")
    (folder / "broken.tif").write_bytes(whole[:100_000] + b"\xff" * 50_000 + whole[150_000:])
    errors = ranks(infer_together, checkpoint.path, folder, together)
    assert errors[0] == errors[1]
    assert "1 of 2 images could not be segmented" in errors[0] and "broken.tif" in errors[0]
    assert not [*together.rglob(".*.partial")] and not (together / "index/broken.tif").exists()
    kinds = ("index", "overlay", "confidence")
    alone = run_infer(folder / "good.tif", tmp_path / "alone", "--write", ",".join(kinds))
    for kind in kinds:
        paths = [output / kind / "good.tif" for output in (alone, together)]
        assert np.array_equal(*map(pixels, paths)), kind


def test_ranks_take_images_in_turn(run_infer, checkpoint, photos, tmp_path, ranks):
    together = tmp_path / "together"
    line = ["--checkpoint", checkpoint.path, "--input", photos, "--output", together]
    assert [code for code, *_ in ranks.script("infer", *line)] == [0, 0]
    alone = run_infer(photos, tmp_path / "alone")
    names = [p.relative_to(alone) for p in alone.rglob("*") if p.suffix in (".png", ".tif", ".csv")]
    assert len(names) == 17  # three kinds of five images, the legend, the areas
    for name in names:
        assert (alone / name).read_bytes() == (together / name).read_bytes()


def die_at_the_third_strip(*line):
    """Run infer.py, which kills itself while it writes results."""
    strips, overlay = itertools.count(1), results.overlay

    def overlay_or_die(*arguments):
        if next(strips) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return overlay(*arguments)

    results._STRIP_PX, results.overlay = 20_000, overlay_or_die
    sys.argv = ["infer.py", *map(str, line)]
    infer.main()


def test_a_kill_between_strips_leaves_nothing_that_looks_finished(
    run_infer, checkpoint, scene, tmp_path, monkeypatch
):
    """Repeated, the command leaves the results of a run in an empty folder."""
    monkeypatch.setattr(results, "_STRIP_PX", 20_000)
    line = ("--checkpoint", checkpoint.path, "--input", scene, "--output", tmp_path / "out")
    assert exit_code_of(die_at_the_third_strip, *line) == -signal.SIGKILL
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left and all(path.name.endswith(".partial") for path in left)
    again, fresh = (run_infer(scene, tmp_path / name) for name in ("out", "fresh"))
    assert not [*again.rglob(".*.partial")]
    for kind in ("index", "color", "overlay"):
        assert np.array_equal(*(pixels(output / kind / "scene.tif") for output in (again, fresh)))
    assert (again / "areas.csv").read_text() == (fresh / "areas.csv").read_text()


def test_odd_files_are_done_and_a_damaged_one_is_named(run_infer, tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "folder.png").mkdir(parents=True)
    rgb = Image.fromarray(picture(30, 40))
    good = {
        "column.png": rgb.resize((1, 2000)),
        "Größe – 大きさ.png": rgb,
        f"{'a very long name ' * 14}.png": rgb,
        "folder.png/inside.bmp": rgb,
        "plain.tif": rgb,
    }
    for name, image in good.items():
        image.save(folder / name)
    (folder / "truncated.tif").write_bytes((folder / "plain.tif").read_bytes()[:900])
    reason = r"truncated\.tif.* rows 0 to 29, columns 0 to 39 cannot be decoded"
    with pytest.raises(DataError, match=rf"1 of 6 images could not be segmented:\n.*{reason}"):
        run_infer(folder, tmp_path / "out")
    assert "5 of 6 images segmented" in capsys.readouterr().out
    for name, image in good.items():
        (found,) = (tmp_path / "out/index").rglob(f"{Path(name).stem}*[fg]")  # .tif or .png
        assert Image.open(found).size == image.size, name


@pytest.mark.slow
def test_a_scene_of_20000_x_20000_with_the_tiny_network_within_2_3_gib(data_root, tmp_path):
    """With superpixels; about a quarter of an hour on two cores."""
    config = make_config(data_root, tmp_path / "runs", "eval.window_px=512", "eval.overlap_px=128")
    checkpoint = load_checkpoint(train_briefly(config))
    side, scene = 20_000, tmp_path / "scene.tif"
    write_tiff(scene, np.tile(picture(2000, 2000), (side // 2000, side // 2000, 1)), **GEOTIFF)
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    code = "import re, infer; infer.main(); status = open('/proc/self/status').read(); "
    code += "print('peak', re.search('VmHWM: *(.*) kB', status)[1])"
    line = [sys.executable, "-c", code, "--checkpoint", checkpoint.path, "--input", scene]
    line += ["--output", tmp_path / "out", "--write", "index"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.check_output(line, cwd=ROOT, env=environment, text=True)
    peak_mib = int(out.split("peak ")[1]) / 1024
    print(f"{out}peak memory {peak_mib:.0f} MiB")
    assert peak_mib < 2.3 * 1024
