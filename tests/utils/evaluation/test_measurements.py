"""Counts of tiles, of source images and of ranks add up to the same findings."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import single_process
from utils.evaluation.bootstrap import bootstrap
from utils.evaluation.boundary import boundary_counts, boundary_scores
from utils.evaluation.measurements import Measurements
from utils.evaluation.metrics import confusion_matrix, scores
from utils.evaluation.morphology import erode
from utils.evaluation.objects import object_counts, object_scores
from utils.evaluation.protocols import WITH_CLUTTER, plan_labels

CLASSES = ("ground", "car", "clutter")
SOURCE_OF = {"a_0": "a", "a_1": "a", "b_0": "b", "c_0": "c", "d_0": "d"}
NAMES = list(SOURCE_OF)
PLAN = plan_labels(["full"], "full", ["eroded"])


def image(name):
    """Full and eroded targets of an image, its logits and its prediction."""
    generator = torch.Generator().manual_seed(NAMES.index(name))
    blocks = torch.randint(0, 3, (6, 5), generator=generator)
    target = blocks.repeat_interleave(9, 0).repeat_interleave(9, 1).to(torch.uint8)
    logits = torch.nn.functional.one_hot(target.long(), 3).movedim(-1, 0).float()
    logits += 0.6 * torch.randn(logits.shape, generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.05] = 255
    targets = {"full": target, "eroded": torch.from_numpy(erode(target.numpy()))}
    return targets, logits, logits.argmax(0).to(torch.uint8)


def measured(names, plan=PLAN):
    measurements = Measurements(CLASSES, SOURCE_OF.values(), plan)
    for name in names:
        targets, logits, prediction = image(name)
        target = targets[plan.headline]
        for rows in (slice(0, 10), slice(10, None)):
            measurements.add_strip(target[rows], logits[:, rows], prediction[rows])
        confusions = {k: confusion_matrix(targets[k], prediction, 3) for k in plan.kinds}
        assembled = {"source": SOURCE_OF[name], "target": target, "targets": targets}
        assembled |= {"prediction": prediction, "confusions": confusions}
        measurements.add(SimpleNamespace(**assembled))
    return measurements


def sum_of_ranks(parts, left_out):
    """Findings of the last of several ranks, measured one after the other."""
    tables = [[] for _ in parts]
    for part, kept in zip(parts, tables, strict=True):
        record = lambda table, kept=kept: kept.append(table) or table  # noqa: E731
        part.findings(SimpleNamespace(sum=record, device="cpu"), left_out)
    assert {table.dtype for kept in tables for table in kept} == {torch.int64}
    totals = map(sum, zip(*tables, strict=True))
    return parts[-1].findings(SimpleNamespace(sum=lambda _: next(totals), device="cpu"), left_out)


def plain(findings):
    """Everything as text, for arrays and nan."""
    return {key: repr(value) for key, value in asdict(findings).items()}


def matrices_of(kind):
    return [confusion_matrix(targets[kind], p, 3) for targets, _, p in map(image, NAMES)]


@pytest.mark.parametrize("headline", ["full", "eroded"])
def test_findings_are_those_of_the_single_measures(headline):
    plan = plan_labels(["full"], headline, ["full", "eroded"])
    found = measured(NAMES, plan).findings(single_process(), ["clutter"])
    matrices = matrices_of(headline)
    assert torch.equal(found.confusion, sum(matrices))
    assert found.scores == scores(sum(matrices), [2])
    sources = torch.stack([matrices[0] + matrices[1], *matrices[2:]])
    assert torch.equal(found.source_confusions, sources)
    assert found.intervals == bootstrap(sources.numpy(), [2])
    assert found.intervals.num_sources == 4
    images = [image(name) for name in NAMES]
    full, own = ([(t[k].numpy(), p.numpy()) for t, _, p in images] for k in ("full", headline))
    borders = boundary_scores(sum(boundary_counts(*pair, 3) for pair in full))
    np.testing.assert_array_equal(found.boundaries.iou, borders.iou)
    np.testing.assert_array_equal(found.boundaries.f1, borders.f1)
    objects = object_scores(sum(object_counts(*pair, 3) for pair in own))
    np.testing.assert_array_equal(found.objects.detected, objects.detected)
    np.testing.assert_array_equal(found.all_objects.num_objects[0], objects.num_objects.sum(0))
    assert sum(found.calibration.bin_pixels) == sum(matrices).sum()
    assert found.calibration.accuracy == pytest.approx(found.scores.oa)


def test_every_protocol_has_the_scores_of_its_labels():
    found = measured(NAMES).findings(single_process(), conditions="one pass")
    assert [scored.protocol for scored in found.protocols] == list(WITH_CLUTTER)
    assert found.impossible == () and found.conditions == "one pass"
    by_kind = {kind: sum(matrices_of(kind)) for kind in ("full", "eroded")}
    assert 0 < by_kind["eroded"].sum() < by_kind["full"].sum()
    for scored in found.protocols:
        protocol = scored.protocol
        counted = protocol.apply(by_kind[protocol.labels], CLASSES)
        assert scored.scores == scores(counted, protocol.not_in_mean(CLASSES))
        assert scored.sentence.startswith(f"labels {protocol.labels}")


def test_a_data_set_of_eroded_labels_has_no_protocol_that_needs_full_ones():
    plan = plan_labels(["eroded"], "eroded", ["full", "eroded"])
    found = measured(NAMES, plan).findings(single_process())
    assert [p.protocol.name for p in found.protocols] == ["mmsegmentation", "GeoSeg, SSRS"]
    assert [protocol.name for protocol in found.impossible] == ["VSGNet config", "all classes"]
    assert found.boundaries is None and found.objects.num_objects.any()


@pytest.mark.parametrize("parts", [[NAMES[::2], NAMES[1::2][::-1]], [NAMES[1:], NAMES[:1], []]])
def test_ranks_find_together_what_one_finds(parts):
    """Also where a source image is on two ranks, in another order, or a rank has none."""
    names = sorted(name for part in parts for name in part)
    together = sum_of_ranks([measured(part) for part in parts], ["clutter"])
    assert plain(together) == plain(measured(names).findings(single_process(), ["clutter"]))
