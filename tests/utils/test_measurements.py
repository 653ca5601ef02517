"""Counts of tiles, of source images and of ranks add up to the same findings."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import single_process
from utils.bootstrap import bootstrap
from utils.boundaries import boundary_counts, boundary_scores
from utils.measurements import Measurements
from utils.metrics import confusion_matrix, scores
from utils.objects import object_counts, object_scores

CLASSES = ("ground", "car", "clutter")
SOURCE_OF = {"a_0": "a", "a_1": "a", "b_0": "b", "c_0": "c", "d_0": "d"}
NAMES = list(SOURCE_OF)


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


def tile(name):
    """A batch of one tile, and its logits."""
    generator = torch.Generator().manual_seed(NAMES.index(name))
    blocks = torch.randint(0, 3, (6, 5), generator=generator)
    target = blocks.repeat_interleave(7, 0).repeat_interleave(9, 1).to(torch.uint8)
    logits = torch.nn.functional.one_hot(target.long(), 3).movedim(-1, 0).float()
    logits += 0.6 * torch.randn(logits.shape, generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.05] = 255
    return SimpleNamespace(tile_ids=(name,), target=target[None]), logits


def measured(names, *, has_borders=True):
    measurements = Measurements(CLASSES, SOURCE_OF, has_borders=has_borders)
    for name in names:
        batch, logits = tile(name)
        prediction = logits.argmax(0).to(torch.uint8)
        counts = confusion_matrix(batch.target[0], prediction, 3)
        for rows in (slice(0, 10), slice(10, None)):
            measurements.add_strip(batch, rows, logits[:, rows], prediction[rows])
        measurements.add(batch, prediction, counts)
    return measurements


def plain(findings):
    """Everything as text, for arrays and nan."""
    return {key: repr(value) for key, value in asdict(findings).items()}


def test_findings_are_those_of_the_single_measures():
    found = measured(NAMES).findings(single_process(), ["clutter"])
    pairs = [
        (b.target[0].numpy(), z.argmax(0).to(torch.uint8).numpy()) for b, z in map(tile, NAMES)
    ]
    matrices = [confusion_matrix(*map(torch.from_numpy, pair), 3) for pair in pairs]
    assert torch.equal(found.confusion, sum(matrices))
    assert found.scores == scores(sum(matrices), [2])
    sources = torch.stack([matrices[0] + matrices[1], *matrices[2:]])
    assert found.intervals == bootstrap(sources.numpy(), [2])
    assert found.intervals.num_sources == 4
    borders = boundary_scores(sum(boundary_counts(*pair, 3) for pair in pairs))
    np.testing.assert_array_equal(found.boundaries.iou, borders.iou)
    np.testing.assert_array_equal(found.boundaries.f1, borders.f1)
    counts = sum(object_counts(*pair, 3) for pair in pairs)
    np.testing.assert_array_equal(found.objects.found, object_scores(counts).found)
    number = object_scores(counts).num_objects.sum(0)
    np.testing.assert_array_equal(found.all_objects.num_objects[0], number)
    assert sum(found.calibration.bin_pixels) == sum(matrices).sum()
    assert found.calibration.accuracy == pytest.approx(found.scores.oa)
    assert [protocol.protocol.name for protocol in found.protocols] == [
        "mmsegmentation",
        "GeoSeg, SSRS",
        "VSGNet config",
    ]
    assert found.protocols[1].scores == found.scores


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_find_together_what_one_finds(num_ranks):
    """Also where a source image is on two ranks, in another order."""
    parts = [measured(NAMES[rank::num_ranks][::-1]) for rank in range(num_ranks)]
    together = Ranks(parts).sum_of(["clutter"])
    assert plain(together) == plain(measured(NAMES).findings(single_process(), ["clutter"]))


def test_a_rank_without_an_image_adds_nothing():
    together = Ranks([measured(NAMES), measured([])]).sum_of([])
    assert plain(together) == plain(measured(NAMES).findings(single_process()))


def test_labels_without_borders_have_no_boundary_scores():
    found = measured(NAMES, has_borders=False).findings(single_process())
    assert found.boundaries is None and found.objects.num_objects.any()
