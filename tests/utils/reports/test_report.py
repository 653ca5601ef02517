"""Files of an evaluation against hand-computed scores."""

import csv

import pytest

from tests.utils.reports.findings import (
    CLASSES,
    CONFUSION,
    ERODED_ONLY,
    FINDINGS,
    NOTHING,
    evaluation,
    find,
)
from tests.utils.reports.readers import read_json
from utils.reports.report import write_report


def written(folder, **changes):
    write_report(folder, evaluation(**changes))
    return read_json(folder / "report.json")


def test_report_json_holds_fractions_counts_and_header(tmp_path):
    report = written(tmp_path / "new" / "folder")
    header = {"checkpoint": "runs/<a>/best.pth", "split": "val", "window": [640, 640]}
    assert report["header"] == header
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    pictures = {"confusion.png", "confidence.png"}
    assert names == {"report.html", "report.json", "per_class.csv"} | pictures
    assert report["confusion"] == CONFUSION.tolist()
    assert report["confusion_axes"] == ["target", "prediction"]
    assert report["miou"] == FINDINGS.scores.miou == pytest.approx((6 / 9 + 11 / 14) / 2)
    assert report["kappa"] == FINDINGS.scores.kappa and report["num_pixels"] == 20
    entry = report["classes"][0]
    assert (entry["name"], entry["color"]) == ("building", [60, 16, 152])
    assert (entry["num_pixels"], entry["in_mean"]) == (8, True)
    for key, value in (("iou", 6 / 9), ("f1", 0.8), ("precision", 6 / 7), ("recall", 6 / 8)):
        assert entry[key] == pytest.approx(value)
    settings = {"level": 0.95, "draws": 1000, "seed": 0, "num_sources": 2}
    assert report["interval"] == {**settings, "miou": list(FINDINGS.intervals.miou)}
    boundaries, objects = report["boundaries"], report["objects"]
    assert boundaries["widths_px"] == [1, 2, 4, 8]
    assert boundaries["iou"] == pytest.approx(
        [(1 / 6 + 1 / 4) / 2, (2 / 9 + 1 / 4) / 2, (6 / 9 + 1 / 4) / 2, (6 / 9 + 1 / 4) / 2]
    )
    assert boundaries["f1"] == pytest.approx([(0.75 + 0.8) / 2, 1, 1, 1])
    assert objects["num_objects"] == [3, 0, 0, 0, 0]
    assert objects["detected"] == [1.0, None, None, None, None]
    assert objects["pixel_recall"][0] == pytest.approx(17 / 20)
    assert sum(report["calibration"]["bin_pixels"]) == 20
    protocols = report["protocols"]
    names = [(protocol["name"], protocol["labels"]) for protocol in protocols]
    assert names == [("mmsegmentation", "full"), ("without borders", "eroded")]
    assert protocols[0]["miou"] == report["miou"] and report["impossible_protocols"] == []
    assert protocols[0]["sentence"].endswith("not ignored; two images; windows of 640 px")
    assert [source["name"] for source in report["sources"]] == ["tile0", "tile1"]
    assert report["sources"][1]["confusion"] == [[0, 0, 0], [0, 10, 0], [0, 0, 0]]
    assert report["classes"][2]["iou"] is None
    sizes = {"num_trainable": 2_350_000, "num_frozen": 9, "window_px": [64, 48], "flops": 83**5}
    assert report["cost"] == sizes


def test_report_json_has_null_and_the_reason_for_what_was_not_measured(tmp_path):
    report = written(tmp_path / "nothing", findings=NOTHING)
    assert report["miou"] is None and report["calibration"]["error"] is None
    assert report["interval"]["why"].startswith("No intervals: they need at least two")
    classes = ("building", "land", "clutter")
    findings = find(classes=classes, plan=ERODED_ONLY)
    report = written(tmp_path / "eroded", findings=findings, classes=classes)
    assert report["protocols"][1]["left_out"] == ["clutter"]
    why = "not computed: needs full labels, which the data set does not have"
    impossible = [{"name": name, "why": why} for name in ("VSGNet config", "all classes")]
    assert report["impossible_protocols"] == impossible
    assert report["boundaries"]["iou"] is None
    assert "need full labels" in report["boundaries"]["why"]


def test_per_class_csv_has_a_row_for_each_class(tmp_path):
    written(tmp_path, findings=find(left_out=["land (unpaved)"]))
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert [row["in_mean"] for row in rows] == ["True", "False", "True"]
    assert [float(rows[1][key]) for key in ("iou_low", "iou_high")] == [0.25, 1.0]
    assert rows[1]["objects <256px"] == "2" and rows[1]["objects_detected <256px"] == "1.0"
    assert float(rows[1]["pixel_recall <256px"]) == pytest.approx(11 / 12)
    assert rows[2]["iou"] == rows[2]["iou_low"] == rows[2]["boundary_iou_1px"] == ""
    assert float(rows[0]["boundary_iou_8px"]) == FINDINGS.boundaries.iou[3, 0]
    assert [float(row["boundary_f1_1px"]) for row in rows[:2]] == pytest.approx([0.75, 0.8])
