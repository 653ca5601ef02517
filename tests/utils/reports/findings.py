"""An evaluation of two tiny images, whose scores are known by hand."""

from pathlib import Path
from types import SimpleNamespace

import torch

from tests.conftest import single_process
from utils.evaluation.measurements import Measurements
from utils.evaluation.metrics import confusion_matrix
from utils.evaluation.morphology import erode
from utils.evaluation.protocols import plan_labels
from utils.reports.cost import Cost
from utils.reports.report import Evaluation

CLASSES = ("building", "land (unpaved)", "car")
PALETTE = ((60, 16, 152), (132, 41, 246), (255, 255, 0))
CONFUSION = torch.tensor([[6, 2, 0], [1, 11, 0], [0, 0, 0]])
# Two images whose sum is this matrix.
TARGETS = ([[0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
PREDICTIONS = ([[0, 0, 0, 0, 1], [0, 0, 1, 1, 0]], [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
FULL = plan_labels(["full"], "full", ["eroded"])
ERODED_ONLY = plan_labels(["eroded"], "eroded", ["full", "eroded"])
CONDITIONS = "two images; windows of 640 px"


def find(targets=TARGETS, predictions=PREDICTIONS, classes=CLASSES, left_out=(), plan=FULL):
    names = [f"tile{number}" for number in range(len(targets))]
    measurements = Measurements(classes, names, plan)
    for name, target, prediction in zip(names, targets, predictions, strict=True):
        t, p = (torch.tensor(labels, dtype=torch.uint8) for labels in (target, prediction))
        logits = torch.nn.functional.one_hot(p.long(), len(classes)).movedim(-1, 0).float()
        kinds = {"full": t, "eroded": torch.from_numpy(erode(t.numpy()))}
        image = SimpleNamespace(
            source=name,
            target=kinds[plan.headline],
            targets=kinds,
            prediction=p,
            confusions={k: confusion_matrix(kinds[k], p, len(classes)) for k in plan.kinds},
        )
        measurements.add_strip(image.target, logits, p)
        measurements.add(image)
    return measurements.findings(single_process(), left_out, CONDITIONS)


FINDINGS = find()
NOTHING = find([[[255] * 4] * 4], [[[0] * 4] * 4])


def evaluation(**changes):
    arguments = {
        "findings": FINDINGS,
        "classes": CLASSES,
        "palette": PALETTE,
        "header": {"checkpoint": Path("runs/<a>/best.pth"), "split": "val", "window": (640, 640)},
        "cost": Cost(num_trainable=2_350_000, num_frozen=9, window_px=(64, 48), flops=83**5),
    }
    return Evaluation(**{**arguments, **changes})
