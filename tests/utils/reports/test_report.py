import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tests.conftest import single_process
from utils.evaluation.measurements import Measurements
from utils.evaluation.metrics import confusion_matrix, scores
from utils.evaluation.morphology import erode
from utils.evaluation.protocols import plan_labels
from utils.precision import Precision
from utils.reports.cost import measure_cost
from utils.reports.report import write_report
from utils.reports.tables import score_table, summary

CLASSES = ("building", "land (unpaved)", "car")
PALETTE = ((60, 16, 152), (132, 41, 246), (255, 255, 0))
CONFUSION = torch.tensor([[6, 2, 0], [1, 11, 0], [0, 0, 0]])
# Two images that make this matrix together.
TARGETS = ([[0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
PREDICTIONS = ([[0, 0, 0, 0, 1], [0, 0, 1, 1, 0]], [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]])


PLAN = plan_labels(["full"], "full", ["eroded"])
CONDITIONS = "two images; windows of 640 px"


def find(targets=TARGETS, predictions=PREDICTIONS, classes=CLASSES, left_out=(), plan=PLAN):
    names = [f"tile{number}" for number in range(len(targets))]
    measurements = Measurements(classes, names, plan)
    for name, target, prediction in zip(names, targets, predictions, strict=True):
        t, p = (torch.tensor(labels, dtype=torch.uint8) for labels in (target, prediction))
        logits = torch.nn.functional.one_hot(p.long(), len(classes)).movedim(-1, 0).float()
        kinds = {"full": t, "eroded": torch.from_numpy(erode(t.numpy()))}
        canvas = SimpleNamespace(
            source=name,
            target=kinds[plan.headline],
            targets=kinds,
            prediction=p,
            confusions={k: confusion_matrix(kinds[k], p, len(classes)) for k in plan.kinds},
        )
        measurements.add_strip(canvas.target, logits, p)
        measurements.add(canvas)
    return measurements.findings(single_process(), left_out, CONDITIONS)


FINDINGS = find()
NOTHING = find([[[255] * 4] * 4], [[[0] * 4] * 4])


def write(folder, **changes):
    arguments = {
        "findings": FINDINGS,
        "classes": CLASSES,
        "palette": PALETTE,
        "header": {"checkpoint": Path("runs/a/best.pth"), "split": "val", "window": (640, 640)},
    }
    write_report(folder, **{**arguments, **changes})


def read_json(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name}: no JSON"))


def test_the_images_make_the_matrix():
    assert torch.equal(FINDINGS.confusion, CONFUSION)


def test_table_to_the_letter():
    assert score_table(scores(CONFUSION), CLASSES).split("\n") == [
        "class                 IoU         F1  precision     recall      share",
        "---------------------------------------------------------------------",
        "building            66.67      80.00      85.71      75.00      40.00",
        "land (unpaved)      78.57      88.00      84.62      91.67      60.00",
        "car                     -          -          -          -          -",
        "---------------------------------------------------------------------",
        "mean                72.62      84.00      85.16      83.33",
        "",
        "mIoU 72.62   mF1 84.00   OA 85.00   kappa 68.09   (%, over 20 pixels)",
    ]


def test_table_names_what_the_mean_leaves_out():
    table = score_table(scores(CONFUSION, [1]), CLASSES, [CLASSES[1]])
    assert table.split("\n")[6].startswith("mean without land (unpaved)      66.67")


def test_table_of_nothing_has_only_dashes():
    lines = score_table(scores(torch.zeros(3, 3)), CLASSES).split("\n")
    assert "nan" not in "".join(lines)
    assert lines[-1] == "mIoU -   mF1 -   OA -   kappa -   (%, over 0 pixels)"


def test_predicted_class_without_target_pixels_has_share_zero():
    table = score_table(scores(torch.tensor([[4, 1], [0, 0]])), ("a", "b"))
    assert table.split("\n")[3].split() == ["b", "0.00", "0.00", "0.00", "0.00", "0.00"]


def test_summary_to_the_letter():
    # Drawing the first image twice gives 6 / 9 and 1 / 4, the second has one class, all right.
    text = summary(FINDINGS, CLASSES)
    table = score_table(scores(CONFUSION), CLASSES)
    assert text.startswith(table + "\nmIoU 95% interval ")
    assert text[len(table) :].split("\n")[1:] == [
        "mIoU 95% interval 45.83 to 100.00 (bootstrap over 2 source images)",
        "",
        "borders, mean of classes       1 px       2 px       4 px       8 px",
        "--------------------------------------------------------------------",
        "boundary IoU                  20.83      23.61      45.83      45.83",
        "boundary F1                   77.50     100.00     100.00     100.00",
        "",
        "objects, by area in px         <256   256-1023  1024-4095  4096-16383    >=16384",
        "--------------------------------------------------------------------------------",
        "number                            3          0          0           0          0",
        "found (half of it right)     100.00          -          -           -          -",
        "pixels right                  85.00          -          -           -          -",
        "",
        "calibration error 27.39: mean confidence 57.61, right 85.00",
        "",
        "protocol            labels       mIoU        mF1         OA       95% of mIoU",
        "-----------------------------------------------------------------------------",
        "mmsegmentation        full      72.62      84.00      85.00   45.83 to 100.00",
        "without borders     eroded     100.00     100.00     100.00  100.00 to 100.00",
        "mmsegmentation: labels full; means over all classes that occur; OA over all pixels that "
        "are not",
        "  ignored",
        "without borders: labels eroded, computed from the full ones with a disc of 3 px; means over all "
        "classes",
        "  that occur; OA over all pixels that are not ignored",
        "all of them: two images; windows of 640 px",
    ]


def test_summary_of_nothing_has_only_dashes():
    text = summary(NOTHING, CLASSES)
    assert "nan" not in text
    assert "no interval of the mIoU: it takes two source images or more" in text
    assert "calibration error -: mean confidence -, right -" in text


def test_summary_says_why_there_are_no_boundary_scores():
    text = summary(find(plan=plan_labels(["eroded"], "eroded", ["full", "eroded"])), CLASSES)
    assert "boundary scores need full labels: eroded ones leave out the borders of obj" in text


def test_report_refuses_too_few_names(tmp_path):
    with pytest.raises(ValueError, match="2 class names for 3 classes; they must agree"):
        write(tmp_path, classes=CLASSES[:2])
    assert not list(tmp_path.iterdir())


def test_report_json_holds_fractions_counts_and_header(tmp_path):
    write(tmp_path / "new" / "folder")
    report = read_json(tmp_path / "new/folder/report.json")
    assert report["header"] == {
        "checkpoint": "runs/a/best.pth",
        "split": "val",
        "window": [640, 640],
    }
    assert report["confusion"] == CONFUSION.tolist()
    assert report["miou"] == FINDINGS.scores.miou == pytest.approx((6 / 9 + 11 / 14) / 2)
    assert report["kappa"] == FINDINGS.scores.kappa
    assert report["num_pixels"] == 20
    entry = report["classes"][0]
    assert {key: entry[key] for key in ("name", "color", "num_pixels", "in_mean")} == {
        "name": "building",
        "color": [60, 16, 152],
        "num_pixels": 8,
        "in_mean": True,
    }
    for key in ("iou", "f1", "precision", "recall"):
        assert entry[key] == getattr(FINDINGS.scores, key)[0]
    assert report["interval"] == {
        "level": 0.95,
        "draws": 1000,
        "seed": 0,
        "num_sources": 2,
        "miou": list(FINDINGS.intervals.miou),
    }
    assert report["boundaries"]["widths_px"] == [1, 2, 4, 8]
    assert report["boundaries"]["iou"] == pytest.approx(
        [(1 / 6 + 1 / 4) / 2, (2 / 9 + 1 / 4) / 2, (6 / 9 + 1 / 4) / 2, (6 / 9 + 1 / 4) / 2]
    )
    assert report["boundaries"]["f1"] == pytest.approx([(0.75 + 0.8) / 2, 1, 1, 1])
    assert report["objects"]["num_objects"] == [3, 0, 0, 0, 0]
    assert report["objects"]["found"] == [1.0, None, None, None, None]
    assert sum(report["calibration"]["bin_pixels"]) == 20
    names = [(protocol["name"], protocol["labels"]) for protocol in report["protocols"]]
    assert names == [("mmsegmentation", "full"), ("without borders", "eroded")]
    assert report["protocols"][0]["miou"] == report["miou"]
    assert report["protocols"][0]["sentence"] == (
        "labels full; means over all classes that occur; OA over all pixels that are not ignored; "
        "two images; windows of 640 px"
    )
    assert report["impossible_protocols"] == []


def test_report_json_has_null_for_what_is_not_finite(tmp_path):
    write(tmp_path, header={"best": float("inf"), "nested": {"losses": [1.5, float("nan")]}})
    report = read_json(tmp_path / "report.json")
    assert report["header"] == {"best": None, "nested": {"losses": [1.5, None]}}
    assert report["classes"][2]["iou"] is None


def test_report_of_nothing_is_written(tmp_path):
    write(tmp_path, findings=NOTHING)
    report = read_json(tmp_path / "report.json")
    assert report["miou"] is None and report["calibration"]["error"] is None
    assert report["interval"]["why"].startswith("no interval of the mIoU")


def test_per_class_csv_has_a_line_for_each_class(tmp_path):
    write(tmp_path, findings=find(left_out=["land (unpaved)"]))
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert [row["in_mean"] for row in rows] == ["True", "False", "True"]
    assert float(rows[0]["iou"]) == FINDINGS.scores.iou[0]
    assert rows[1]["objects <256px"] == "2" and rows[1]["objects_found <256px"] == "1.0"
    assert rows[2]["iou"] == rows[2]["iou_low"] == rows[2]["boundary_iou_1px"] == ""
    assert float(rows[0]["boundary_iou_8px"]) == FINDINGS.boundaries.iou[3, 0]


def test_report_text_is_header_summary_and_details(tmp_path):
    write(tmp_path)
    text = (tmp_path / "report.txt").read_text()
    assert text.startswith("checkpoint  runs/a/best.pth\nsplit       val\nwindow      (640, 640)\n")
    before, after = text.split("\n\n" + summary(FINDINGS, CLASSES) + "\n\n")
    assert before.endswith("window      (640, 640)")
    for title in (
        "boundary IoU ",
        "boundary F1 ",
        "objects found, ",
        "pixel recall, ",
    ):
        assert [line for line in after.split("\n") if line.startswith(title)]
    assert "nan" not in text


def test_report_without_header_starts_with_the_table(tmp_path):
    write(tmp_path, header={})
    assert (tmp_path / "report.txt").read_text().startswith("class ")


def test_report_leaves_its_files_and_nothing_else(tmp_path):
    write(tmp_path)
    write(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    texts = {"report.txt", "report.html", "report.json", "per_class.csv"}
    assert names == texts | {"confusion.png", "confidence.png"}
    assert Image.open(tmp_path / "confusion.png").mode == "RGB"


def test_the_cost_is_the_only_part_that_differs_from_run_to_run(tmp_path):
    cost = measure_cost(
        torch.nn.Bilinear(3, 3, 2).eval(),
        channels=(4, 4),
        window_px=(5, 3),
        batch_size=2,
        precision=Precision("fp32", torch.device("cpu")),
        device=torch.device("cpu"),
    )
    write(tmp_path / "a", cost=cost)
    write(tmp_path / "b", cost=replace(cost, latency_s=99.0))
    write(tmp_path / "c")
    first, second, without = (read_json(tmp_path / name / "report.json") for name in "abc")
    assert first.pop("cost") != second.pop("cost")
    assert first == second == without
    text = (tmp_path / "b" / "report.txt").read_text()
    assert text.startswith((tmp_path / "c" / "report.txt").read_text())
    assert "\n\ncost of the network alone\nparameters   0.00 M trainable" in text
    assert "\nlatency      99000.0 ms" in text


def test_report_refuses_too_few_colors_before_it_writes(tmp_path):
    with pytest.raises(ValueError, match="2 palette colours for 3 classes; they must agree"):
        write(tmp_path, palette=PALETTE[:2])
    assert not list(tmp_path.iterdir())
