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


class Ranks:
    """The sum over ranks that are measured one after the other."""

    device = torch.device("cpu")

    def __init__(self, parts):
        self.parts, self.place = parts, 0
        self.tables = [[] for _ in parts]

    def sum_of(self, left_out):
        """Findings of every rank: each is given the sums of all."""
        for rank, part in enumerate(self.parts):
            part.findings(SimpleNamespace(sum=self._keep(rank), device=self.device), left_out)
        totals = [sum(tables) for tables in zip(*self.tables, strict=True)]
        given = iter(totals)
        return self.parts[-1].findings(
            SimpleNamespace(sum=lambda _: next(given), device=self.device), left_out
        )

    def _keep(self, rank):
        def keep(table):
            assert table.dtype == torch.int64
            self.tables[rank].append(table)
            return table

        return keep


def image(name):
    """Full and eroded targets of what is scored at once, and its logits."""
    generator = torch.Generator().manual_seed(NAMES.index(name))
    blocks = torch.randint(0, 3, (6, 5), generator=generator)
    target = blocks.repeat_interleave(9, 0).repeat_interleave(9, 1).to(torch.uint8)
    logits = torch.nn.functional.one_hot(target.long(), 3).movedim(-1, 0).float()
    logits += 0.6 * torch.randn(logits.shape, generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.05] = 255
    return {"full": target, "eroded": torch.from_numpy(erode(target.numpy()))}, logits


def measured(names, plan=PLAN):
    measurements = Measurements(CLASSES, SOURCE_OF.values(), plan)
    for name in names:
        targets, logits = image(name)
        prediction = logits.argmax(0).to(torch.uint8)
        target = targets[plan.headline]
        for rows in (slice(0, 10), slice(10, None)):
            measurements.add_strip(target[rows], logits[:, rows], prediction[rows])
        confusions = {kind: confusion_matrix(targets[kind], prediction, 3) for kind in plan.kinds}
        measurements.add(
            SimpleNamespace(
                source=SOURCE_OF[name],
                target=target,
                targets=targets,
                prediction=prediction,
                confusions=confusions,
            )
        )
    return measurements


def plain(findings):
    """Everything as text, for arrays and nan."""
    return {key: repr(value) for key, value in asdict(findings).items()}


def pairs_of(kind):
    images = map(image, NAMES)
    return [(t[kind].numpy(), z.argmax(0).to(torch.uint8).numpy()) for t, z in images]


def matrices_of(kind):
    return [confusion_matrix(*map(torch.from_numpy, pair), 3) for pair in pairs_of(kind)]


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
    borders = boundary_scores(sum(boundary_counts(*pair, 3) for pair in pairs_of("full")))
    np.testing.assert_array_equal(found.boundaries.iou, borders.iou)
    np.testing.assert_array_equal(found.boundaries.f1, borders.f1)
    counts = sum(object_counts(*pair, 3) for pair in pairs_of(headline))
    np.testing.assert_array_equal(found.objects.detected, object_scores(counts).detected)
    number = object_scores(counts).num_objects.sum(0)
    np.testing.assert_array_equal(found.all_objects.num_objects[0], number)
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
    assert [scored.sentence[:26] for scored in found.protocols] == [
        "labels eroded, computed fr",
        "labels eroded, computed fr",
        "labels full; target pixels",
        "labels full; means over al",
    ]


def test_a_data_set_of_eroded_labels_has_no_protocol_that_needs_full_ones():
    plan = plan_labels(["eroded"], "eroded", ["full", "eroded"])
    found = measured(NAMES, plan).findings(single_process())
    assert [p.protocol.name for p in found.protocols] == ["mmsegmentation", "GeoSeg, SSRS"]
    assert [protocol.name for protocol in found.impossible] == ["VSGNet config", "all classes"]
    assert found.boundaries is None and found.objects.num_objects.any()


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_find_together_what_one_finds(num_ranks):
    """Also where a source image is on two ranks, in another order."""
    parts = [measured(NAMES[rank::num_ranks][::-1]) for rank in range(num_ranks)]
    together = Ranks(parts).sum_of(["clutter"])
    assert plain(together) == plain(measured(NAMES).findings(single_process(), ["clutter"]))


def test_a_rank_without_an_image_adds_nothing():
    together = Ranks([measured(NAMES), measured([])]).sum_of([])
    assert plain(together) == plain(measured(NAMES).findings(single_process()))
