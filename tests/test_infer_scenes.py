"""infer.py on large georeferenced images: in place, without a seam, shared, killed, hostile."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import transform_geom

import infer
from tests.conftest import make_config, train_briefly
from tests.hostile_images import BAD, GOOD, write_hostile_images
from utils.errors import DataError, run_command
from utils.evaluation.evaluate import classes_of
from utils.inference import chunks
from utils.inference import run as run_module
from utils.inference.inputs import find_inputs
from utils.inference.results import OutputSettings
from utils.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data" / "geotiff-samples" / "images"
SIZE = (400, 300)
PLACE = Affine(0.3, 0, 271000, 0, -0.3, 5040000)
# In another process: small chunks and strips, and a kill at the third strip that is written.
KILL = """
import os, signal
from utils.inference import chunks, results
chunks.CHUNK_PX, results._STRIP_PX, overlay, calls = 150, 20_000, results.overlay, []
def kill(*arguments):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return overlay(*arguments)
results.overlay = kill
"""


@pytest.fixture(scope="module")
def checkpoint(data_root, tmp_path_factory):
    """A network without structure maps: its predictions do not depend on chunks."""
    overrides = ["structure.control=off", "optim.num_epochs=2"]
    config = make_config(data_root, tmp_path_factory.mktemp("runs"), *overrides)
    return load_checkpoint(train_briefly(config))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A tiled, compressed GeoTIFF on Montreal's grid (EPSG 32188, metres)."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    write_geotiff(path, np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    return path


def write_geotiff(path, image):
    profile = {
        **{"driver": "GTiff", "count": 3, "dtype": "uint8", "photometric": "RGB"},
        **{"height": image.shape[0], "width": image.shape[1]},
        **{"crs": "EPSG:32188", "transform": PLACE},
        **{"tiled": True, "blockxsize": 128, "blockysize": 128},
        **{"compress": "deflate", "predictor": 2},
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(image.transpose(2, 0, 1))


def pixels(path):
    with rasterio.open(path) as file:
        return file.read()


def command(checkpoint, source, output, *arguments, before=""):
    """Start infer.py in another process after some lines of code."""
    code = f"{before}\nimport infer; from utils.errors import run_command; run_command(infer.main)"
    line = ["-c", code, "--checkpoint", checkpoint.path, "--input", source, "--output", output]
    return subprocess.Popen(
        [sys.executable, *map(str, [*line, *arguments])],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_geotiff_comes_back_in_its_place_and_equals_the_image_in_memory(
    run_infer, checkpoint, scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(chunks, "CHUNK_PX", 150)
    output = run_infer(scene, tmp_path / "out", "--write", "index,color,overlay,confidence")
    image = pixels(scene).transpose(1, 2, 0)
    labels = infer.load_predictor(checkpoint.path, device="cpu")(image)
    assert len(np.unique(labels)) > 1
    for kind in ("index", "color", "overlay", "confidence"):
        with rasterio.open(output / kind / "scene.tif") as file:
            assert file.crs.to_epsg() == 32188 and file.transform == PLACE
            assert (file.height, file.width) == SIZE
    assert np.array_equal(pixels(output / "index/scene.tif")[0], labels)
    palette = np.array(checkpoint.identity.palette, np.uint8)
    color = pixels(output / "color/scene.tif").transpose(1, 2, 0)
    assert np.array_equal(color, palette[labels])
    with rasterio.open(output / "index/scene.tif") as file:
        shown = [file.colormap(1)[index][:3] for index in range(len(palette))]
    assert np.array_equal(shown, palette)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not at hand")
def test_the_real_geotiffs_come_back_in_their_place(run_infer, tmp_path):
    output = run_infer(SHARED, tmp_path / "out", "--write", "index,overlay")
    sources = sorted(SHARED.iterdir())
    assert len(sources) == 2
    for source in sources:
        for kind in ("index", "overlay"):
            with rasterio.open(source) as one, rasterio.open(output / kind / source.name) as other:
                assert one.crs is not None and one.crs == other.crs
                assert one.transform == other.transform and one.shape == other.shape


def test_a_world_file_goes_with_a_png(run_infer, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "a.jpg")
    (folder / "a.jgw").write_text("0.5\n0\n0\n-0.5\n100.25\n199.75\n")
    run_infer(folder, tmp_path / "out")
    with rasterio.open(tmp_path / "out/index/a.png") as file:
        assert file.transform == Affine(0.5, 0, 100, 0, -0.5, 200)


def test_polygons_lie_where_the_image_lies(run_infer, checkpoint, scene, tmp_path):
    output = run_infer(scene, tmp_path / "out", "--write", "index,polygons")
    labels = pixels(output / "index/scene.tif")[0]
    features = json.loads((output / "polygons/scene.geojson").read_text())["features"]
    shapes, areas = [], Counter()
    for feature in features:
        facts = feature["properties"]
        in_place = transform_geom("EPSG:4326", "EPSG:32188", feature["geometry"])
        shapes.append((in_place, facts["class"]))
        areas[facts["class"]] += facts["area_px"]
        assert facts["area_m2"] == pytest.approx(0.09 * facts["area_px"])
        assert facts["name"] == checkpoint.identity.classes[facts["class"]]
    back = rasterize(shapes, out_shape=SIZE, transform=PLACE, fill=255, dtype="uint8")
    assert np.array_equal(back, labels)
    assert areas == Counter(labels.ravel().tolist())


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


def test_a_kill_leaves_nothing_that_looks_finished(run_infer, checkpoint, scene, tmp_path):
    killed = command(checkpoint, scene, tmp_path / "out", before=KILL)
    assert killed.wait() == -signal.SIGKILL, killed.stderr.read()[-2000:]
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left and all(path.name.endswith(".partial") for path in left)
    check_repeated(run_infer, scene, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_kill_at_any_moment(run_infer, checkpoint, scene, tmp_path, seed):
    process = command(checkpoint, scene, tmp_path / "out")
    while not (tmp_path / "out").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 3))
    process.kill()
    process.wait()
    check_repeated(run_infer, scene, tmp_path)


def check_repeated(run_infer, scene, folder):
    """Repeat the killed command; the results are those of a run in an empty folder."""
    again, fresh = (run_infer(scene, folder / name) for name in ("out", "fresh"))
    assert not [*again.rglob(".*.partial")]
    for kind in ("index", "color", "overlay"):
        assert np.array_equal(*(pixels(output / kind / "scene.tif") for output in (again, fresh)))
    assert (again / "areas.csv").read_text() == (fresh / "areas.csv").read_text()


def test_hostile_files_are_done_or_named(run_infer, tmp_path, capsys):
    folder = tmp_path / "photos"
    write_hostile_images(folder)
    with pytest.raises(SystemExit) as end:
        run_command(lambda: run_infer(folder, tmp_path / "out"))
    out, err = capsys.readouterr()
    assert end.value.code == 2 and "Traceback" not in err
    assert f"{len(GOOD)} of {len(GOOD) + len(BAD)} images segmented" in out
    assert f"{len(BAD)} of {len(GOOD) + len(BAD)} images could not be segmented" in err
    lines = err.split("could not be segmented:\n")[1].splitlines()
    for name, reason in BAD.items():
        (line,) = [line for line in lines if str(folder / name) in line]
        assert reason in line
    for name, size in GOOD.items():
        found = [*(tmp_path / "out/index").rglob(f"{Path(name).stem}*")]
        assert found, name
        assert Image.open(found[0]).size == size, name


@pytest.mark.slow
def test_a_scene_of_20000_x_20000_with_the_tiny_network_within_3_gib(data_root, tmp_path):
    """With superpixels; about a quarter of an hour on two cores."""
    config = make_config(data_root, tmp_path / "runs", "eval.window_px=512", "eval.overlap_px=128")
    checkpoint = load_checkpoint(train_briefly(config))
    side, scene, output = 20_000, tmp_path / "scene.tif", tmp_path / "out"
    part = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    write_geotiff(scene, np.tile(part, (side // 2000, side // 2000, 1)))
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    watch = "import atexit, re; atexit.register(lambda: print('peak', "
    watch += "re.search('VmHWM: *(.*) kB', open('/proc/self/status').read())[1]))"
    done = command(checkpoint, scene, output, "--write", "index", before=watch)
    out, err = done.communicate()
    assert done.returncode == 0, err[-2000:]
    peak_mib = int(out.split("peak ")[1]) / 1024
    print(f"{out}peak memory {peak_mib:.0f} MiB")
    assert peak_mib < 3 * 1024
    with rasterio.open(output / "index/scene.tif") as file:
        assert file.crs.to_epsg() == 32188 and file.transform == PLACE
        assert file.shape == (side, side)
        rows = slice(9000, 9040)
        written = file.read(1, window=((rows.start, rows.stop), (0, side)))
    image = pixels(scene).transpose(1, 2, 0)
    segmenter = infer.load_predictor(checkpoint.path, device="cpu")
    strips = segmenter.strips(None, (side, side), lambda r, c: image[r, c], rows)
    labels = torch.cat([classes_of(logits) for _, logits in strips]).numpy()
    assert np.array_equal(written, labels)
