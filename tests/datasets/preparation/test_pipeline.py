"""Preparation: equal results whatever happens on the way, and nothing left after an error."""

import errno

import numpy as np
import pytest

from datasets.preparation import cutting, pipeline, sensor, writer
from datasets.preparation.archives import ArchiveFile
from datasets.preparation.check import check_tile_set
from datasets.preparation.pipeline import split_table
from datasets.tile_set import open_tile_set
from tests.datasets.fake_archives import encode, pack, potsdam
from tests.datasets.fakes import contents
from tests.datasets.preparation.conftest import prepare_once

SIZE = (32, 40)  # two tiles
SOME = ("2_Ortho_RGB", "5_Labels_all", "5_Labels_all_noBoundary", "1_DSM")


@pytest.fixture(scope="module")
def files():
    return {name: content for name, content in potsdam(SIZE).items() if name in SOME}


@pytest.fixture(scope="module")
def archives(files, tmp_path_factory):
    return pack(files, tmp_path_factory.mktemp("potsdam"), "nested")


def command(source, root, *more):
    options = ("--split", "ssrs", "--tile-size", 32, "--dsm", "--overlap", 8)
    return tuple(map(str, ("potsdam", "--source", source, "--output", root, *options, *more)))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def undisturbed(archives, tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed") / "set"
    prepare_once(*command(archives, root, "--workers", 1))
    return root


def test_the_number_of_workers_changes_nothing(run_prepare, archives, undisturbed, tmp_path):
    assert run_prepare(*command(archives, tmp_path / "set", "--workers", 3))[0] == 0
    assert contents(tmp_path / "set") == contents(undisturbed)


def test_the_histogram_and_the_maps_are_those_of_the_tiles(undisturbed):
    assert check_tile_set(open_tile_set(undisturbed))[0]["faults"] == {}


@pytest.mark.parametrize(("module", "function"), [(cutting, "write_tile"), (sensor, "write_map")])
def test_an_interrupted_run_resumes_where_it_stopped(
    run_prepare, archives, undisturbed, tmp_path, monkeypatch, module, function
):
    calls, opened = [], []
    write, open_image = getattr(module, function), ArchiveFile.open_image

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return write(*arguments)

    def watch(self, *arguments, **options):
        opened.append(self.name)
        return open_image(self, *arguments, **options)

    monkeypatch.setattr(module, function, interrupted)
    arguments = command(archives, tmp_path / "set", "--workers", 1)
    code, _, err = run_prepare(*arguments)
    assert code == 130 and err.endswith("interrupted; run the same command again to resume\n")
    assert names_in(tmp_path) == [".set.partial"]
    (tmp_path / ".set.partial/images/.half.partial").touch()
    records = tmp_path / ".set.partial/records"
    done = [path.stem for path in (records / "tiles").glob("[!.]*.json")]
    heights = [path.stem for path in (records / "dsm").glob("[!.]*.json")]
    assert 14 <= len(done) < 18 if module is cutting else len(done) == 24
    monkeypatch.setattr(ArchiveFile, "open_image", watch)
    code, _, err = run_prepare(*arguments)
    assert code == 0, err
    assert not [name for name in opened for tile in done if f"potsdam_{tile}_RGB.tif" in name]
    assert len([name for name in opened if "dsm_" in name]) == 2 * 24 - len(heights)
    assert contents(tmp_path / "set") == contents(undisturbed) and names_in(tmp_path) == ["set"]


@pytest.mark.parametrize("changed", ["archives", "settings"])
def test_other_settings_or_archives_begin_anew(
    run_prepare, files, archives, tmp_path, monkeypatch, changed
):
    def killed(*arguments):
        raise KeyboardInterrupt

    root, more = tmp_path / "set", ()
    monkeypatch.setattr(pipeline, "_prepare_sensors", killed)
    assert run_prepare(*command(archives, root))[0] == 130
    monkeypatch.setattr(pipeline, "_prepare_sensors", lambda *_: None)
    if changed == "archives":
        nine = encode(np.full((*SIZE, 3), 9, np.uint8))
        images = {**files["2_Ortho_RGB"], "2_Ortho_RGB/top_potsdam_2_12_RGB.tif": nine}
        archives = pack({**files, "2_Ortho_RGB": images}, tmp_path / "in", "nested")
    else:
        more = ("--tile-size", 36)
    assert run_prepare(*command(archives, root, *more))[0] == 0
    image = open_tile_set(root).read_image("2_12_y00000_x00000")
    assert image.shape[:2] == (32, 32 if changed == "archives" else 36)
    assert (image == 9).all() == (changed == "archives")


def test_a_full_disk_leaves_nothing(run_prepare, archives, tmp_path, monkeypatch):
    written, write_raster = [], writer.write_raster

    def full(path, array):
        written.append(path)
        if len(written) == 50:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_raster(path, array)

    monkeypatch.setattr(writer, "write_raster", full)
    code, _, err = run_prepare(*command(archives, tmp_path / "set"))
    assert code == 1 and "error: the system refused: No space left on device" in err
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_megapixels_with_and_without_labels():
    counts = {"num_sources": 1, "num_tiles": 1, "ignored_pixels": 500_000}
    train = {**counts, "num_pixels": 2_000_000, "class_pixels": [1_500_000]}
    test = {**counts, "num_pixels": 600_000, "class_pixels": [0], "ignored_pixels": 0}
    table = split_table(("sea",), {"train": train, "test": test})
    assert table.splitlines()[3].split() == ["megapixels", "2.0", "0.6"]
