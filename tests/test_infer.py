"""infer.py: any sizes, folders kept, broken images named, nothing but images needed."""

import errno
import json
import os
import shutil
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

import infer
from datasets.tile_set import open_tile_set
from models.structure.superpixels import Superpixels
from utils.errors import ConfigError, DataError
from utils.inference import export, results
from utils.training.checkpoint import load_checkpoint


def never(self, image):
    raise AssertionError("a stored map is generated again")


def files(folder):
    """All files but the styles beside class indices."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".qml")
    return {str(path.relative_to(folder)) for path in paths}


def test_zoomed_and_turned_windows_of_any_size(checkpoint):
    overrides = ["eval.scales=[0.5, 1.5]", "eval.turns=8"]
    segmenter = infer.load_predictor(checkpoint.path, *overrides, device="cpu")
    for size in ((1, 1), (1, 150), (65, 64)):
        index = segmenter(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
        assert index.shape == size and index.dtype == np.uint8 and index.max() < 6


NAMES = {"a.png.png", "a.jpg.png", "north/b.tif", "north/far/c.png", "grey.png"}


def test_every_image_gets_three_files_of_its_size_in_its_folder(
    run_infer, checkpoint, photos, tmp_path
):
    (photos / "a.jgw").write_text("0.5\n0\n0\n-0.5\n100.25\n199.75\n")
    output = run_infer(photos, tmp_path / "out")
    names = {*NAMES, "a.jpg.pgw"}
    expected = {f"{kind}/{name}" for kind in ("index", "color", "overlay") for name in names}
    found = {name for name in files(output) if not name.startswith("done/")}
    assert found == expected | {"legend.png", "index.html", "areas.csv"}
    with rasterio.open(output / "index/a.jpg.png") as file:
        assert file.transform == rasterio.Affine(0.5, 0, 100, 0, -0.5, 200)
    index = np.array(Image.open(output / "index/north/far/c.png"))
    color = np.array(Image.open(output / "color/north/far/c.png"))
    assert index.shape == (131, 40) and index.dtype == np.uint8 and index.max() < 6
    assert np.array_equal(color, np.array(checkpoint.identity.palette, np.uint8)[index])


@pytest.mark.parametrize("stretch", [None, (90, 110)])
def test_results_are_those_of_the_predictor_in_python(
    run_infer, checkpoint, photos, tmp_path, stretch
):
    option = [] if stretch is None else ["--stretch", f"{stretch[0]},{stretch[1]}"]
    overlap = "eval.overlap_px=20"
    kinds = ("--write", "index,confidence")
    output = run_infer(photos / "a.png", tmp_path / "out", *kinds, *option, overlap)
    assert {name for name in files(output) if "/a" in name} == {"index/a.png", "confidence/a.png"}
    labels, confidence = (
        np.array(Image.open(output / kind / "a.png")) for kind in ("index", "confidence")
    )
    image = np.array(Image.open(photos / "a.png"))
    predict = infer.load_predictor(checkpoint.path, overlap, device="cpu")
    if stretch is not None:
        assert not np.array_equal(labels, predict(image))
        levels = (image.astype(float) - stretch[0]) / (stretch[1] - stretch[0])
        image = np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    assert np.array_equal(labels, predict(image))
    strips = predict.strips(None, (96, 96), lambda rows, columns: image[rows, columns])
    best = np.concatenate([x.softmax(0).max(0).values.numpy() for _, x in strips])
    assert np.abs(confidence - 255 * best).max() <= 0.51


def test_what_is_done_is_skipped_until_something_changes(run_infer, photos, tmp_path, capsys):
    output = run_infer(photos, tmp_path / "out")
    old = {name: (output / name).stat().st_mtime_ns for name in files(output)}

    def again(*arguments):
        capsys.readouterr()
        run_infer(photos, output, *arguments)
        line = capsys.readouterr().out.splitlines()[0]
        new = {name: (output / name).stat().st_mtime_ns for name in files(output)}
        changed = {name for name in new if new[name] != old.get(name)}
        old.update(new)
        return line, {name.partition("/")[2] for name in changed if name.startswith("index/")}

    done = f"5 of 5 images segmented (5 of them before); results in {output}, overview in "
    done += f"{output}/index.html"
    assert again() == (done, set())
    (output / "overlay/grey.png").unlink()
    assert again() == (done.replace("(5", "(4"), {"grey.png"})
    os.utime(photos / "north/b.tif", ns=(1, 1))
    assert again() == (done.replace("(5", "(4"), {"north/b.tif"})
    assert again("--overwrite") == (done.replace(" (5 of them before)", ""), NAMES)
    assert again("--write", "index")[1] == set()  # fewer files than are there
    assert again("--write", "index,confidence")[1] == NAMES
    assert again("--write", "index,confidence", "eval.batch_size=1")[1] == set()
    assert again("--write", "index,confidence", "eval.turns=2")[1] == NAMES  # other results
    for kinds in ("index", "index,confidence"):  # the old confidence is that of two turns
        assert again("--write", kinds)[1] == NAMES


def test_maps_are_kept_and_used_again(run_infer, photos, tmp_path, monkeypatch):
    output = run_infer(photos, tmp_path / "out", "--keep-maps")
    index = (output / "index/grey.png").read_bytes()
    kept = {name for name in files(output) if name.startswith("maps/")}
    assert "maps/superpixels/north/far/c_y00000_x00000_131x40.tif" in kept and len(kept) == 5

    monkeypatch.setattr(Superpixels, "generate", never)
    run_infer(photos, output, "--keep-maps", "--overwrite")
    assert (output / "index/grey.png").read_bytes() == index
    Image.new("RGB", (20, 33)).save(photos / "grey.png")
    with pytest.raises(AssertionError, match="generated again"):  # of another image
        run_infer(photos, output, "--keep-maps")


def test_maps_of_a_data_set_are_used_where_they_fit(
    run_infer, checkpoint, data_root, tmp_path, monkeypatch, capsys
):
    bare = tmp_path / "set"
    shutil.copytree(data_root, bare, ignore=shutil.ignore_patterns("modalities"))
    made = run_infer(bare, tmp_path / "made", "--split", "test", "--keep-maps")
    assert "note: structure maps are generated from the images: " in capsys.readouterr().out

    monkeypatch.setattr(Superpixels, "generate", never)
    stored = run_infer(data_root, tmp_path / "stored", "--split", "test", "--submission")
    said = capsys.readouterr().out
    assert "note" not in said and f"{stored / 'submission.zip'} holds 2 images" in said
    tile_set = open_tile_set(data_root)
    for tile_id in tile_set.split("test"):
        name = tile_set.tiles[tile_id].source
        one, other = (output / f"index/{name}.png" for output in (made, stored))
        assert one.read_bytes() == other.read_bytes()
        kept = np.array(Image.open(made / f"maps/superpixels/{name}_y00000_x00000_96x96.tif"))
        given = np.array(Image.open(data_root / f"modalities/superpixels/{tile_id}.tif"))
        assert np.array_equal(kept, given)
        with zipfile.ZipFile(stored / "submission.zip") as packed:
            assert packed.read(f"{name}.png") == other.read_bytes()


def test_broken_images_are_named_and_the_others_done(run_infer, photos, tmp_path):
    output = tmp_path / "out"
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:900])
    with pytest.raises(DataError, match=r"1 of 6 images could not be segmented:\n.*broken\.png"):
        run_infer(photos, output)
    assert len([name for name in files(output) if name.startswith("index/")]) == 5
    page = (output / "index.html").read_text()
    assert "Not segmented" in page and "5 images segmented" in page and "broken.png" in page
    (photos / "a.png").write_bytes(b"")  # done before, and broken since
    with pytest.raises(DataError, match=r"2 of 6 images could not be segmented"):
        run_infer(photos, output)
    assert "4 images segmented" in (output / "index.html").read_text()


def test_a_full_disk_leaves_no_half_written_file(run_infer, photos, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "overlay", full)  # the files of an image are open by then
    with pytest.raises(OSError, match="No space left"):
        run_infer(photos, tmp_path / "out")
    assert files(tmp_path / "out") == set()


def test_only_the_temporary_files_of_the_images_are_removed(run_infer, photos, tmp_path):
    """Files that other programs, or infer.py on other images, write there are not touched."""
    output, tail = tmp_path / "out", "0123456789ab.partial"
    ours = [
        *(f"index/.grey.png.{tail}", f"polygons/north/.b.geojson.{tail}", f".index.html.{tail}"),
        f"maps/superpixels/north/far/.c_y00000_x00000_131x40.tif.{tail}",
    ]
    others = [f"index/.other.png.{tail}", f".model.onnx.{tail}", ".notes.partial"]
    for name in [*ours, *others]:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).touch()
    (output / f"index/.a.png.png.{tail}").mkdir()
    run_infer(photos, output)
    left = [path for path in output.rglob(".*.partial")]
    assert {*left} == {output / name for name in [*others, f"index/.a.png.png.{tail}"]}


@pytest.mark.parametrize(
    ("override", "error", "sentence"),
    [
        ("control=shuffled", ConfigError, r"experiment; infer with structure\.control=on"),
        ("superpixels.segment_size_px=20", DataError, r"settings\.segment_size_px: 20 \| 8"),
    ],
)
def test_other_maps_than_in_training_are_refused(checkpoint, override, error, sentence):
    with pytest.raises(error, match=sentence):
        infer.load_predictor(checkpoint.path, f"structure.{override}", device="cpu")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "name the images and a folder for the results: --input PATH --output DIR"),
        (f"--input . --output {__file__}", "test_infer.py is a file; name a folder"),
        ("--input . --output o --submission --write color", "--submission packs the class indices"),
        ("--input . --output o --sensor a=b --sensor a=c", "names a sensor twice: a=b, a=c; leave"),
    ],
)
def test_arguments_that_make_no_run(run_script, checkpoint, line, sentence):
    code, _, err = run_script("infer", "--checkpoint", checkpoint.path, *line.split())
    assert code == 2 and sentence in err


def test_an_exported_network_is_described(checkpoint, tmp_path, monkeypatch, capsys):
    """The command line alone; ``tests/models/test_export.py`` checks the files."""
    calls = []

    def export_network(network, shapes, path, metadata):
        calls.append((network.training, shapes, path, metadata))
        return 1e-6

    monkeypatch.setattr(export, "export_network", export_network)
    path = tmp_path / "net.onnx"
    line = ["infer.py", "--checkpoint", str(checkpoint.path), "--export", str(path)]
    monkeypatch.setattr(sys, "argv", line)
    infer.main()
    ((training, shapes, written, metadata),) = calls
    assert (training, written, shapes[0]) == (False, path, (3, 64, 64))
    text = f"{path}: logits of image (N, 3, 64, 64) and structure (N, {shapes[1][0]}, 64, 64)"
    assert text in capsys.readouterr().out
    assert metadata["classes"] == checkpoint.identity.classes
    assert metadata["maps"]["superpixels"]["settings"]["segment_size_px"] == 8
    assert metadata["structure"]["superpixels"]["encodings"]


def test_a_shared_checkpoint_is_small_and_predicts_alike(photos, checkpoint, tmp_path, capsys):
    shared = tmp_path / "shared.pth"
    export.export_checkpoint(checkpoint, None, shared)
    assert f"{shared}: {shared.stat().st_size / 1e6:.1f} MB" in capsys.readouterr().out
    small = load_checkpoint(shared)
    assert small.training is None and small.identity == checkpoint.identity
    assert small.weights.keys() == checkpoint.weights.keys()
    num_bytes = [sum(w.nbytes for w in c.weights.values()) for c in (small, checkpoint)]
    assert num_bytes[0] < 0.6 * num_bytes[1]
    for name, weight in small.weights.items():  # variances, norms and biases to the bit
        assert weight.ndim > 1 or torch.equal(weight, checkpoint.weights[name])
    picture = np.array(Image.open(photos / "a.png"))
    both = [infer.load_predictor(path)(picture) for path in (shared, checkpoint.path)]
    assert (both[0] == both[1]).mean() > 0.99
    with pytest.raises(ConfigError, match="would replace the checkpoint; name another file"):
        export.export_checkpoint(checkpoint, None, checkpoint.path)
    weights = {name: 1e5 + weight for name, weight in checkpoint.weights.items()}
    with pytest.raises(DataError, match=r"was not written: \S+ of .* has values above 65504"):
        export.export_checkpoint(replace(checkpoint, weights=weights), None, tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()


def test_a_submission_needs_other_names_and_all_images(run_infer, photos, tmp_path):
    """Names that clash are refused before anything is computed."""
    output = tmp_path / "out"
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png would both be a\.png in the sub"):
        run_infer(photos, output, "--submission")
    assert not output.exists()
    (photos / "a.jpg").write_bytes(b"")
    (photos / "a.jpg").rename(photos / "broken.jpg")
    with pytest.raises(DataError, match="1 of 5 images could not be segmented"):
        run_infer(photos, output, "--submission")
    assert not (output / "submission.zip").exists()
    (photos / "broken.jpg").unlink()
    run_infer(photos, output, "--submission")
    with zipfile.ZipFile(output / "submission.zip") as packed:
        assert packed.namelist() == ["a.png", "b.png", "c.png", "grey.png"]
        assert packed.read("c.png") == (output / "index/north/far/c.png").read_bytes()


def test_small_polygons_are_left_out_with_a_line(run_infer, photos, tmp_path, capsys):
    """Case 22 of docs/trials.md: no coordinates in pixels without a word."""
    output = run_infer(
        photos / "a.png",
        tmp_path / "out",
        "--write",
        "index,polygons",
        "--min-area",
        9,
    )
    said = capsys.readouterr().out
    line = "1 image without a transform to the earth: polygons are in pixels, rows downwards"
    assert f"{line} (first: {photos / 'a.png'})" in said
    features = json.loads((output / "polygons/a.geojson").read_text())["features"]
    areas = [feature["properties"]["area_px"] for feature in features]
    assert min(areas) >= 9 and sum(areas) < 96 * 96 and " smaller than --min-area left out" in said
