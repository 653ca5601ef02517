"""What is never saved, however a run goes wrong."""

import pytest
import torch

from tests.conftest import make_config, single_process
from tests.test_train import NO_VIT
from train import build_run, train
from utils.errors import DataError
from utils.training.checkpoint import load_checkpoint

EARLY = ["optim.num_epochs=4", "run.log_every_steps=1000", "eval.every_epochs=1"]


def build(data_root, tmp_path, *overrides):
    return build_run(
        make_config(data_root, tmp_path, *EARLY, *NO_VIT, *overrides), single_process()
    )


def saved_steps(folder):
    steps = {path.name: load_checkpoint(path).progress["step"] for path in folder.glob("*.pth")}
    for path in folder.glob("*.pth"):
        assert all(value.isfinite().all() for value in load_checkpoint(path).weights.values())
    return steps


@pytest.mark.parametrize(
    ("bad_step", "save_every", "last"),
    [(5, 2, 4), (6, 1000, 3), (1, 1000, None)],
)
def test_a_loss_that_is_nan_is_in_no_checkpoint(data_root, tmp_path, bad_step, save_every, last):
    """Epochs of three steps: all are saved, and the rate of reports does not matter."""
    run = build(data_root, tmp_path, f"run.save_every_steps={save_every}")
    real, names = run.loss.forward, []

    def forward(*given):
        terms = real(*given)
        broken = run.state.step + 1 == bad_step
        return {key: term * (torch.nan if broken else 1.0) for key, term in terms.items()}

    run.loss.forward = forward
    note = run.state.guard.note
    run.state.guard.note = lambda *given: (names.append(given), note(*given))
    with pytest.raises(DataError, match=f"the loss is not finite at step {bad_step} ") as caught:
        train(run)
    run.log.close()
    (tiles,) = [tile_ids for step, _, tile_ids in names if step == bad_step]
    assert f"(tiles: {', '.join(tiles)})" in str(caught.value)
    expected = {} if last is None else {"last.pth": last, "best.pth": 3}
    assert saved_steps(run.folder) == expected


@pytest.mark.parametrize("clip_norm", [0, 1])
def test_a_gradient_that_is_nan_is_in_no_checkpoint(data_root, tmp_path, clip_norm):
    """The loss of that step is finite; the weights after it are not."""
    run = build(data_root, tmp_path, f"optim.clip_norm={clip_norm}", "run.save_every_steps=1")
    weight = run.state.network.head.classify.bias
    weight.register_hook(lambda grad: grad * (torch.nan if run.state.step + 1 == 5 else 1.0))
    with pytest.raises(DataError, match=r"weights are not finite after step 5 "):
        train(run)
    run.log.close()
    assert saved_steps(run.folder) == {"last.pth": 4, "best.pth": 3}
