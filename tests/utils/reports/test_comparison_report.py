"""Report of a comparison: the same differences on the console, on the page and in the file."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.utils.evaluation.test_bootstrap import predictions
from tests.utils.evaluation.test_compare import HEADER, content
from tests.utils.reports.readers import Reader, read_json
from utils.console import percent, points
from utils.evaluation.compare import read_settings
from utils.reports.comparison_report import compare, comparison_text, write_comparison


def runs(tmp_path, *rights, num_sources=12, **changes):
    """Write a report for each fraction of right pixels."""
    folders = [tmp_path / f"run{number}" for number in range(len(rights))]
    for number, (folder, right) in enumerate(zip(folders, rights, strict=True)):
        matrices = predictions(np.random.default_rng(number), num_sources, right).tolist()
        report = content(
            header={**HEADER, "structure": f"kind {number}"},
            classes=[{"name": name} for name in ("roof", "road", "<tree>")],
            sources=[{"name": f"s{i}", "confusion": matrix} for i, matrix in enumerate(matrices)],
        )
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps({**report, **changes}))
    return [str(folder) for folder in folders]


def test_files_hold_scores_and_paired_differences(tmp_path):
    comparison = compare(read_settings(runs(tmp_path, 0.8, 0.9, 0.8)))
    for folder in ("a", "a", "b"):
        write_comparison(tmp_path / folder, comparison)
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files.keys() == {"compare.json", "compare.html", "compare.png"}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    found = read_json(tmp_path / "a" / "compare.json")
    assert [run["name"] for run in found["runs"]] == ["run0", "run1", "run2"]
    assert found["reference"] == "run0" and found["num_sources"] == 12
    miou = [run["miou"]["value"] for run in found["runs"]]
    better, equal = found["differences"]
    assert better["miou"]["value"] == pytest.approx(miou[1] - miou[0])
    assert better["miou"]["excludes_zero"] is True and better["to"] == "run0"
    assert equal["miou"]["low"] < 0 < equal["miou"]["high"]
    assert [entry["name"] for entry in better["classes"]] == ["roof", "road", "<tree>"]
    assert found["differs"] == {"structure": {f"run{n}": f"kind {n}" for n in range(3)}}
    assert found["runs"][0]["spread_over_seeds"] is None
    assert Image.open(tmp_path / "a" / "compare.png").mode == "RGB"
    read = Reader((tmp_path / "a" / "compare.html").read_text())
    assert "Comparison of run0, run1, run2 on val" in read.texts
    gain, first, second = comparison.differences[0][0], *comparison.samples[:2]
    ends = f"{points(gain.low)} to {points(gain.high)}"
    means = [percent(found.mean[0]) for found in (first, second)]
    assert ["mIoU", *means, points(gain.value), ends, "*"] in read.rows
    assert "structure" in read.texts and "kind 1" in read.texts
    assert [source[:22] for source in read.loaded] == ["data:image/png;base64,"]


def test_console_shows_scores_differences_and_marks(tmp_path):
    comparison = compare(read_settings(runs(tmp_path, 0.8, 0.9, 0.5)))
    blocks = comparison_text(comparison).split("\n\n")
    assert "nan" not in "".join(blocks)
    caption, head, _, row, *_ = blocks[0].split("\n")
    assert caption == "Scores in %, means over the classes"
    assert head.split()[:5] == ["run", "seeds", "mIoU", "95%", "interval"]
    first = comparison.samples[0]
    low, high = map(percent, first.intervals[0])
    mean = percent(first.mean[0])
    assert row.split() == f"run0 1 {mean} {low} to {high} - 60.00 70.00 40.00".split()
    lines = blocks[1].split("\n")
    assert lines[0] == "run1 against run0: IoU in %, difference in percentage points"
    assert lines[1].split() == ["IoU", "run0", "run1", "difference", "95%", "interval"]
    gain = comparison.differences[0][0]
    assert lines[3].startswith("mIoU ") and lines[3].endswith(" *")
    assert f"{points(gain.value)}  {points(gain.low)} to {points(gain.high)}" in lines[3]
    assert max(map(len, lines)) <= 100
    assert "run2 against run0" in blocks[2]
    assert f"{points(comparison.differences[1][0].value)}  " in blocks[2].split("\n")[3]
    assert blocks[3] == "structure\n  run0  kind 0\n  run1  kind 1\n  run2  kind 2"
    assert blocks[4].startswith("* the 95% interval of the difference excludes zero.")
    assert "1000 draws of the 12 source images" in blocks[5]
    assert "not that of the training seed" in " ".join(blocks[5].split())


def test_equal_reports_differ_by_nothing_and_means_without_a_class_are_named(tmp_path):
    (place,) = runs(tmp_path, 0.8, mean_without=["<tree>"])
    comparison = compare(read_settings([f"a={place}", f"b={place}"]))
    assert comparison.rows == ["mIoU without <tree>", "roof", "road", "<tree>"]
    assert comparison.samples[0].mean[0] == pytest.approx(comparison.samples[0].mean[1:3].mean())
    text = comparison_text(comparison)
    assert "means over the classes without <tree>" in text
    table = [line for line in text.split("\n\n")[1].split("\n")[3:] if "---" not in line]
    assert len(table) == 4 and all(line.endswith("0.00  0.00 to 0.00") for line in table)
    write_comparison(tmp_path / "out", comparison)
    assert "None of those that the reports state." in (tmp_path / "out/compare.html").read_text()


def test_several_seeds_are_one_row_and_the_method_says_so(tmp_path):
    places = runs(tmp_path, 0.8, 0.85, 0.9, 0.92)
    off = f"off={places[0]},{places[1]}"
    comparison = compare(read_settings([off, f"on={','.join(places[2:])}"]))
    write_comparison(tmp_path / "out", comparison)
    found = read_json(tmp_path / "out" / "compare.json")
    run = found["runs"][0]
    assert run["miou"]["value"] == pytest.approx(sum(run["miou_of_seeds"]) / 2)
    assert run["spread_over_seeds"] == pytest.approx(np.std(run["miou_of_seeds"], ddof=1))
    assert run["reports"] == [f"{place}/report.json" for place in places[:2]]
    assert found["differs"]["structure"] == {"off": "kind 0, kind 1", "on": "kind 2, kind 3"}
    text = " ".join(comparison_text(comparison).split())
    assert f" {percent(run['spread_over_seeds'])} 60.00 " in text
    assert "Intervals: hierarchical percentile bootstrap" in text
    assert "For a setting with one seed" not in text
    text = comparison_text(compare(read_settings([off, f"on={places[2]}"])))
    assert "For a setting with one seed they do not cover" in " ".join(text.split())


def test_one_image_has_differences_without_intervals(tmp_path):
    """Kappa is null, as where one class is everywhere in target and prediction."""
    comparison = compare(read_settings(runs(tmp_path, 0.8, 0.9, num_sources=1, kappa=None)))
    write_comparison(tmp_path / "out", comparison)
    found = read_json(tmp_path / "out" / "compare.json")
    gain = found["differences"][0]["miou"]
    assert gain["low"] is None and gain["excludes_zero"] is False and gain["value"] > 0
    assert found["runs"][1]["kappa"] is None and found["runs"][1]["miou"]["value"] > 0.5
    text = comparison_text(comparison)
    assert "nan" not in text and "No intervals: they need at least two source images." in text
