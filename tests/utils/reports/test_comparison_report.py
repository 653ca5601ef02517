import json
import math

import numpy as np
import pytest
from PIL import Image

from tests.utils.evaluation.test_compare import predictions
from tests.utils.evaluation.test_compared import content
from tests.utils.reports.test_html import Reader
from utils.evaluation.compare import read_settings
from utils.reports.comparison_report import compare, comparison_text, write_comparison
from utils.reports.tables import percent, points

FILES = {"compare.txt", "compare.json", "compare.html", "compare.png"}


def write(folder, confusions, structure="on", left_out=()):
    """A report of images with these confusion matrices."""
    folder.mkdir()
    names = ("roof", "road", "<tree>")[: confusions.shape[1]]
    report = content(
        classes=[{"name": name} for name in names],
        mean_without=list(left_out),
        sources=[{"name": f"s{i}", "confusion": c.tolist()} for i, c in enumerate(confusions)],
    )
    report["header"] = {**report["header"], "structure": structure}
    (folder / "report.json").write_text(json.dumps(report))
    return str(folder)


def runs(tmp_path, *rights, num_sources=12, **options):
    return [
        write(
            tmp_path / f"run{number}",
            predictions(np.random.default_rng(number), num_sources, right),
            f"kind {number}",
            **options,
        )
        for number, right in enumerate(rights)
    ]


def read_json(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name}: no JSON"))


def test_files_and_the_numbers_in_them(tmp_path):
    settings = read_settings(runs(tmp_path, 0.8, 0.9, 0.8))
    comparison = compare(settings)
    write_comparison(tmp_path / "out", comparison)
    write_comparison(tmp_path / "out", comparison)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    found = read_json(tmp_path / "out" / "compare.json")
    assert [run["name"] for run in found["runs"]] == ["run0", "run1", "run2"]
    assert found["reference"] == "run0" and found["num_sources"] == 12
    miou = [run["miou"]["value"] for run in found["runs"]]
    better, equal = found["differences"]
    assert better["miou"]["value"] == pytest.approx(miou[1] - miou[0])
    assert better["miou"]["excludes_zero"] and better["to"] == "run0"
    assert equal["miou"]["low"] < 0 < equal["miou"]["high"]
    assert [entry["name"] for entry in better["classes"]] == ["roof", "road", "<tree>"]
    assert found["differs"] == {"structure": {f"run{n}": f"kind {n}" for n in range(3)}}
    assert found["runs"][0]["spread_over_seeds"] is None
    assert Image.open(tmp_path / "out" / "compare.png").mode == "RGB"


def test_the_console_shows_scores_differences_and_marks(tmp_path):
    comparison = compare(read_settings(runs(tmp_path, 0.8, 0.9)))
    blocks = comparison_text(comparison).split("\n\n")
    assert "nan" not in "".join(blocks)
    first = comparison.samples[0]
    low, high = map(percent, first.intervals[0])
    row = [percent(first.mean[0]), f"{low} to {high}", "-", "60.00", "70.00", "40.00"]
    assert blocks[0].split("\n")[2].split("  ")[0] == "run0"
    assert " ".join(row) in " ".join(blocks[0].split("\n")[2].split())
    lines = blocks[1].split("\n")
    assert lines[0] == "difference to run0, in points"
    assert lines[1].split() == ["IoU", "run0", "run1", "difference", "95%", "interval"]
    gain = comparison.differences[0][0]
    assert lines[3].startswith("mIoU ") and lines[3].endswith(" *")
    assert f"{points(gain.value)}  {points(gain.low)} to {points(gain.high)}" in lines[3]
    assert blocks[2] == "structure\n  run0  kind 0\n  run1  kind 1"
    assert blocks[3].startswith("* the 95% interval of the difference excludes zero.")
    assert "1000 draws of the 12 source images" in blocks[4]
    assert "nothing of\nother training seeds" in blocks[4]


def test_equal_reports_differ_by_nothing_and_are_not_marked(tmp_path):
    (place,) = runs(tmp_path, 0.8)
    comparison = compare(read_settings([f"a={place}", f"b={place}"]))
    lines = comparison_text(comparison).split("\n\n")[1].split("\n")
    table = [line for line in lines[3:] if "---" not in line]
    assert len(table) == 4
    assert all(line.endswith("0.00  0.00 to 0.00") for line in table)


def test_several_seeds_are_one_row_and_the_method_says_so(tmp_path):
    places = runs(tmp_path, 0.8, 0.85, 0.9, 0.92)
    comparison = compare(
        read_settings([f"off={places[0]},{places[1]}", f"on={','.join(places[2:])}"])
    )
    write_comparison(tmp_path / "out", comparison)
    found = read_json(tmp_path / "out" / "compare.json")
    off = found["runs"][0]
    assert off["miou"]["value"] == pytest.approx(sum(off["miou_of_seeds"]) / 2)
    assert off["spread_over_seeds"] == pytest.approx(np.std(off["miou_of_seeds"], ddof=1))
    assert off["reports"] == [f"{place}/report.json" for place in places[:2]]
    assert found["differs"]["structure"] == {"off": "kind 0, kind 1", "on": "kind 2, kind 3"}
    text = (tmp_path / "out" / "compare.txt").read_text()
    assert f"+-{percent(off['spread_over_seeds'])}" in text
    assert "Intervals: hierarchical percentile bootstrap" in text
    assert "Of a setting with one seed" not in text
    mixed = compare(read_settings([f"off={places[0]},{places[1]}", f"on={places[2]}"]))
    assert "Of a setting with one seed they know nothing" in " ".join(
        comparison_text(mixed).split()
    )


def test_means_without_a_class_are_named(tmp_path):
    settings = read_settings(runs(tmp_path, 0.8, 0.9, left_out=["<tree>"]))
    comparison = compare(settings)
    assert comparison.rows == ["mIoU without <tree>", "roof", "road", "<tree>"]
    assert comparison.samples[0].mean[0] == pytest.approx(comparison.samples[0].mean[1:3].mean())


def test_one_image_has_differences_without_intervals(tmp_path):
    comparison = compare(read_settings(runs(tmp_path, 0.8, 0.9, num_sources=1)))
    write_comparison(tmp_path / "out", comparison)
    gain = read_json(tmp_path / "out" / "compare.json")["differences"][0]["miou"]
    assert gain["low"] is None and gain["excludes_zero"] is False and gain["value"] > 0
    text = (tmp_path / "out" / "compare.txt").read_text()
    assert "nan" not in text and "No intervals: they take two source images or more." in text


def test_the_page_holds_table_differences_and_picture(tmp_path):
    comparison = compare(read_settings(runs(tmp_path, 0.8, 0.9)))
    write_comparison(tmp_path / "out", comparison)
    read = Reader((tmp_path / "out" / "compare.html").read_text())
    text = "|".join(read.texts)
    assert "|Comparison of run0, run1 on val|" in text and "|<tree>|" in text
    gain = comparison.differences[0][0]
    ends = f"{points(gain.low)} to {points(gain.high)}"
    assert f"|{points(gain.value)}|{ends}|*|" in text
    assert "|structure|" in text and "|kind 1|" in text
    assert [value[:22] for value in read.loaded if value[0] != "#"] == ["data:image/png;base64,"]


def test_a_report_without_a_figure_is_compared_all_the_same(tmp_path):
    """Kappa is null where one class is everywhere in both."""
    places = runs(tmp_path, 0.8, 0.9)
    path = tmp_path / "run1" / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kappa": None}))
    comparison = compare(read_settings(places))
    write_comparison(tmp_path / "out", comparison)
    assert read_json(tmp_path / "out" / "compare.json")["runs"][1]["kappa"] is None
    assert "nan" not in comparison_text(comparison)
    assert not math.isnan(comparison.samples[1].mean[0])
