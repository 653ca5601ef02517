"""infer.py on large georeferenced images: in place, without a seam, shared, killed, hostile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import Affine

import infer
from tests.conftest import make_config, train_briefly
from tests.hostile_images import BAD, GOOD, write_hostile_images
from utils.errors import ConfigError
from utils.evaluation.evaluate import classes_of
from utils.inference.run import chunks as pieces
from utils.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data" / "geotiff-samples" / "images"
SIZE = (700, 500)
PLACE = Affine(0.3, 0, 271000, 0, -0.3, 5040000)
SMALL_PIECES = "import utils.pieces; utils.pieces.PIECE_PX = 150; "
SHARE_ALL = SMALL_PIECES + "import utils.inference; utils.inference.SHARED_FROM_PX = 1; "


@pytest.fixture(scope="module")
def checkpoint(data_root, tmp_path_factory):
    """One that looks at the RGB picture alone: what it predicts does not depend on pieces."""
    overrides = ["structure.control=off", "optim.num_epochs=2"]
    config = make_config(data_root, tmp_path_factory.mktemp("runs"), *overrides)
    return load_checkpoint(train_briefly(config))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A tiled, compressed GeoTIFF of Montreal's grid (EPSG 32188, metres)."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    write_geotiff(path, image)
    return path


def write_geotiff(path, image):
    height, width = image.shape[:2]
    with rasterio.open(
        *(path, "w"),
        driver="GTiff",
        height=height,
        width=width,
        count=3,
        dtype="uint8",
        crs="EPSG:32188",
        transform=PLACE,
        tiled=True,
        blockxsize=128,
        blockysize=128,
        compress="deflate",
        predictor=2,
        photometric="RGB",
    ) as target:
        target.write(image.transpose(2, 0, 1))


def command(checkpoint, source, output, *arguments, before="", launcher=()):
    """infer.py in another process, with other constants."""
    code = before + "import infer; from utils.errors import run_command; run_command(infer.main)"
    script = Path(f"{output}.py")
    script.write_text(code)
    return subprocess.Popen(
        [
            *(sys.executable, *launcher, script, "--checkpoint", checkpoint.path),
            *("--input", source, "--output", output, *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pixels(path):
    with rasterio.open(path) as file:
        return file.read()


def test_a_geotiff_comes_back_in_its_place_and_equals_the_image_in_memory(
    checkpoint, scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(pieces, "PIECE_PX", 150)
    output = tmp_path / "out"
    run(monkeypatch, checkpoint, scene, output, "--write", "index,color,overlay,confidence")
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


def run(monkeypatch, checkpoint, source, output, *arguments):
    line = ["infer.py", "--checkpoint", checkpoint.path, "--input", source, "--output", output]
    monkeypatch.setattr(sys, "argv", [*map(str, [*line, *arguments])])
    infer.main()


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not at hand")
def test_the_real_geotiffs_come_back_in_their_place(checkpoint, tmp_path, monkeypatch):
    output = tmp_path / "out"
    run(monkeypatch, checkpoint, SHARED, output)
    sources = sorted(SHARED.iterdir())
    assert len(sources) == 2
    for source in sources:
        for kind in ("index", "color", "overlay"):
            with rasterio.open(source) as one, rasterio.open(output / kind / source.name) as other:
                assert one.crs is not None and one.crs == other.crs
                assert one.transform == other.transform and one.shape == other.shape


def test_a_world_file_goes_with_a_png(checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "a.jpg")
    (folder / "a.jgw").write_text("0.5\n0\n0\n-0.5\n100.25\n199.75\n")
    run(monkeypatch, checkpoint, folder, tmp_path / "out")
    with rasterio.open(tmp_path / "out/index/a.png") as file:
        assert file.transform == Affine(0.5, 0, 100, 0, -0.5, 200)


def test_ranks_that_share_the_rows_write_what_one_writes(checkpoint, scene, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3")
    outputs = [tmp_path / "one", tmp_path / "three"]
    for output, launcher in zip(outputs, ((), torchrun), strict=True):
        done = command(checkpoint, scene, output, before=SHARE_ALL, launcher=launcher)
        assert done.wait() == 0, done.stderr.read()[-2000:]
    names = ["index/scene.tif", "color/scene.tif", "overlay/scene.tif", "legend.png"]
    for name in names:
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    assert not [*outputs[1].rglob(".*.partial")]


def test_a_shared_image_that_breaks_on_one_rank_is_a_failure_of_all(checkpoint, scene, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = scene.read_bytes()
    shutil.copy(scene, folder / "good.tif")
    (folder / "broken.tif").write_bytes(whole[:200_000] + bytes(100_000) + whole[300_000:])
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    output = tmp_path / "out"
    done = command(checkpoint, folder, output, before=SHARE_ALL, launcher=torchrun)
    out, err = done.communicate()
    assert done.returncode != 0
    assert "1 of 2 images segmented" in out and "broken.tif" in err
    assert [path.name for path in (output / "index").iterdir()] == ["good.tif"]


@pytest.mark.parametrize("moment", ["predicting", "writing"])
def test_a_kill_leaves_nothing_that_looks_finished(checkpoint, scene, tmp_path, moment):
    output = tmp_path / "out"
    slow = SMALL_PIECES
    if moment == "writing":
        slow += "import time, utils.raster_writers as w; old = w.TiffWriter.write\n"
        slow += "w.TiffWriter.write = lambda self, rows: (time.sleep(5), old(self, rows))\n"
    done = command(checkpoint, scene, output, before=slow)
    wanted = ".*.index.partial" if moment == "predicting" else ".scene.tif.*.partial"
    begun = lambda: any(path.stat().st_size for path in output.rglob(wanted))  # noqa: E731
    while not begun():
        assert done.poll() is None, done.stderr.read()[-2000:]
        time.sleep(0.01)
    done.send_signal(signal.SIGKILL)
    done.wait()
    left = [path for path in output.rglob("*") if path.is_file()]
    assert left and all(path.name.endswith(".partial") for path in left)
    again = command(checkpoint, scene, output, before=SMALL_PIECES)
    assert again.wait() == 0
    assert not [*output.rglob(".*.partial")]
    assert pixels(output / "index/scene.tif").shape == (1, *SIZE)


def test_hostile_files_are_done_or_named(checkpoint, tmp_path):
    folder = tmp_path / "photos"
    write_hostile_images(folder)
    done = command(checkpoint, folder, tmp_path / "out")
    out, err = done.communicate()
    assert done.returncode == 2 and "Traceback" not in err
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
    watch += "re.search('VmHWM: *(.*) kB', open('/proc/self/status').read())[1])); "
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


def test_polygons_lie_where_the_image_lies(checkpoint, scene, tmp_path, monkeypatch):
    output = tmp_path / "out"
    run(monkeypatch, checkpoint, scene, output, "--write", "index,polygons")
    labels = pixels(output / "index/scene.tif")[0]
    found = json.loads((output / "polygons/scene.geojson").read_text())
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32188"
    shapes = [(f["geometry"], f["properties"]["class"]) for f in found["features"]]
    back = rasterize(shapes, out_shape=SIZE, transform=PLACE, fill=255, dtype="uint8")
    assert np.array_equal(back, labels)
    areas = Counter()
    for feature in found["features"]:
        facts = feature["properties"]
        areas[facts["class"]] += facts["area_px"]
        assert facts["area_m2"] == pytest.approx(0.09 * facts["area_px"])
        assert facts["name"] == checkpoint.identity.classes[facts["class"]]
    assert areas == Counter(labels.ravel().tolist())


@pytest.mark.parametrize("name", ["net.pt2", "net.onnx"])
def test_the_network_is_exported_and_explains_itself(
    checkpoint, tmp_path, monkeypatch, capsys, name
):
    path = tmp_path / name
    line = ["infer.py", "--checkpoint", checkpoint.path, "--export", path]
    monkeypatch.setattr(sys, "argv", [*map(str, line)])
    infer.main()
    assert f"{path}: logits of image (N, 3, H, W)" in capsys.readouterr().out
    if name == "net.pt2":
        found = {"metadata.json": ""}
        torch.export.load(path, extra_files=found)
        text = found["metadata.json"]
    else:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map["metadata.json"]
    assert json.loads(text)["classes"] == checkpoint.identity.classes


def test_without_images_and_export_it_says_what_is_missing(checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["infer.py", "--checkpoint", str(checkpoint.path)])
    with pytest.raises(ConfigError, match=r"say what to segment, and where to: --input PATH --out"):
        infer.main()
