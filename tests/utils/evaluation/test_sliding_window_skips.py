"""Windows that are not wanted: neither computed nor held, and no other pixel changes."""

import pytest
import torch

from utils.boxes import Box
from utils.evaluation.sliding_window import predict_strips

SIZE = (300, 170)


@pytest.fixture
def forward():
    """A network whose logits depend on the window and on the pixel; it records its windows."""
    logits, windows = torch.randn(3, *SIZE), []

    def predict(batch):
        windows.extend(batch)
        return torch.stack([logits[(..., *w.slices)] * (w.top_px + w.left_px + 1) for w in batch])

    predict.windows = windows
    return predict


def touches(mask):
    return lambda box: bool(mask[box.slices].any())


@pytest.mark.parametrize("overlap", [0, 16, 50])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("part", [slice(None), slice(90, 251)])
def test_pixels_that_hold_data_have_the_logits_of_a_run_that_skips_nothing(
    forward, overlap, batch_size, part
):
    """Bit for bit: at two places far apart, and in the corner of a window."""
    settings = {"size": SIZE, "window_px": 64, "overlap_px": overlap, "batch_size": batch_size}
    whole = torch.zeros(3, *SIZE)
    for rows, logits in predict_strips(forward, **settings):
        whole[:, rows] = logits
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[20:23, 5:9] = mask[250:260, 100:170] = mask[260, :] = True
    forward.windows.clear()
    found, covered = torch.full((3, *SIZE), torch.nan), []
    for rows, logits in predict_strips(forward, **settings, part=part, is_wanted=touches(mask)):
        found[:, rows] = logits
        covered += range(rows.start, rows.stop)
    assert all(mask[window.slices].any() for window in forward.windows)
    assert covered == sorted({*covered}) and not {*covered} - {*range(300)[part]}
    inside = torch.zeros_like(mask)
    inside[part] = mask[part]
    assert torch.equal(found[:, inside], whole[:, inside])
    touched = {row for window in forward.windows for row in range(300)[window.slices[0]]}
    assert {*covered} == touched & {*range(300)[part]}


def test_rows_without_a_wanted_window_are_neither_yielded_nor_allocated():
    """One window at the top of a column of 400,000 rows and one at the bottom, in one batch."""

    def forward(windows):
        return torch.zeros(len(windows), 3, 64, 64)

    size = (400_000, 64)
    settings = {"window_px": 64, "overlap_px": 16, "batch_size": 8}
    tracked = []

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dim() == 3:
                tracked.append(result.shape[1])
            return result

    def is_wanted(window: Box) -> bool:
        return window.top_px == 0 or window.bottom_px == size[0]

    with Watched():
        strips = predict_strips(forward, size=size, **settings, is_wanted=is_wanted)
        rows = [rows for rows, _ in strips]
    assert rows == [slice(0, 64), slice(399_936, 400_000)]
    assert max(tracked) <= 64


def test_nothing_wanted_gives_nothing(forward):
    settings = {"size": SIZE, "window_px": 64, "overlap_px": 16, "batch_size": 2}
    assert [*predict_strips(forward, **settings, is_wanted=lambda window: False)] == []
    assert forward.windows == []
