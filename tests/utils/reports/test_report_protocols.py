"""Protocols in the report: side by side, each with its labels and its sentence."""

from tests.utils.reports.test_report import find, read_json, write
from utils.evaluation.protocols import plan_labels
from utils.reports.tables import summary


def test_protocols_stand_side_by_side_with_their_labels():
    classes = ("building", "land", "clutter")
    lines = summary(find(classes=classes), classes).split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("protocol "))
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in lines[start:]]
    assert rows[0] == ["protocol", "labels", "mIoU", "mF1", "OA", "95% of mIoU"]
    assert [row[:3] for row in rows[2:6]] == [
        ["mmsegmentation", "eroded", "100.00"],
        ["GeoSeg, SSRS", "eroded", "100.00"],
        ["VSGNet config", "full", "72.62"],
        ["all classes", "full", "72.62"],
    ]
    text = " ".join(line.strip() for line in lines[start + 6 :])
    for sentence in (
        "mmsegmentation: labels eroded, computed from the full ones with a disc of 3 px; means over all",
        "GeoSeg, SSRS: labels eroded, computed from the full ones with a disc of 3 px; means over all "
        "classes but clutter, whose pixels stay in the confusion matrix",
        "VSGNet config: labels full; target pixels of clutter are ignored",
        "all classes: labels full; means over all classes that occur",
        "all of them: two images; windows of 640 px",
    ):
        assert sentence in text


def test_protocols_that_need_other_labels_are_left_out_with_a_sentence(tmp_path):
    classes = ("building", "land", "clutter")
    plan = plan_labels(["eroded"], "eroded", ["full", "eroded"])
    found = find(classes=classes, plan=plan)
    why = (
        "left out, for they need full labels and the data set has none: VSGNet config; all classes"
    )
    assert summary(found, classes).split("\n")[-1] == why
    write(tmp_path, findings=found, classes=classes)
    report = read_json(tmp_path / "report.json")
    assert [protocol["name"] for protocol in report["protocols"]] == [
        "mmsegmentation",
        "GeoSeg, SSRS",
    ]
    assert report["impossible_protocols"] == [
        {"name": "VSGNet config", "why": why},
        {"name": "all classes", "why": why},
    ]
