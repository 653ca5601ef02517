from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.utils.training.test_checkpoint import IDENTITY
from utils.errors import DataError
from utils.precision import Precision
from utils.training.checkpoint import load_checkpoint
from utils.training.state import Ema, NonFiniteGuard, TrainState

NAN, INF = float("nan"), float("inf")


def two_ranks(other_losses, other_tiles):
    """This rank, and another one whose part of every meeting is known."""
    return SimpleNamespace(
        sum=lambda tensor: tensor + torch.tensor(other_losses),
        gather=lambda value: [value, other_tiles],
    )


def note(guard, *losses):
    for step, loss in enumerate(losses, 11):
        guard.note(step, torch.tensor(loss), (f"left_{step}", f"right_{step}"))


@pytest.mark.parametrize("bad", [NAN, -INF])
def test_the_first_bad_step_is_named_with_its_tiles(dist, bad):
    guard = NonFiniteGuard(dist)
    guard.check_losses()
    note(guard, 1.0, 2.0)
    guard.check_losses()  # what was read is not read again
    note(guard, 1.0, bad, NAN)
    with pytest.raises(DataError, match=r"at step 12 \(tiles: left_12, right_12\), and nothing"):
        guard.check_losses()


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_weight_that_is_not_finite_is_named(dist, bad):
    guard = NonFiniteGuard(dist)
    weights = {"a": torch.ones(3), "count": torch.tensor(5), "half": torch.ones(2).bfloat16()}
    guard.check_weights(weights, 7)
    weights |= {"b": torch.tensor([1.0, bad]), "c": torch.tensor(bad)}
    message = r"2 of 5 weights are not finite after step 7 \(first: b\), and they were not saved"
    with pytest.raises(DataError, match=message):
        guard.check_weights(weights, 7)


def test_tiles_and_weights_of_another_rank_are_named_here():
    guard = NonFiniteGuard(two_ranks([1.0, NAN], ("theirs",)))
    note(guard, 1.0, 2.0)
    with pytest.raises(DataError, match=r"at step 12 \(tiles: theirs\)"):
        guard.check_losses()
    with pytest.raises(DataError, match=r"1 of 1 weights .* \(first: norm.running_var\)"):
        NonFiniteGuard(two_ranks([], ["norm.running_var"])).check_weights({"a": torch.ones(3)}, 7)


def test_average_by_hand():
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0.0)
    ema = Ema(net, decay=0.5)
    for step, value in ((1, 1.0), (100, 2.0)):
        net.weight.data.fill_(value)
        ema.update(net, step)
    first = 1 - 2 / 11  # early on the decay is (1 + step) / (10 + step)
    assert torch.allclose(ema.average["weight"], torch.tensor(0.5 * first + 0.5 * 2.0))


def make_state(dist, ema_decay=0.5):
    net = nn.BatchNorm1d(2)
    return TrainState(
        network=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        precision=Precision("fp32", dist.device),
        ema=Ema(net, ema_decay) if ema_decay else None,
        identity=IDENTITY,
        dist=dist,
    )


@pytest.mark.parametrize("ema_decay", [0, 0.5])
def test_evaluation_weights_are_left_also_after_an_error(dist, ema_decay):
    state = make_state(dist, ema_decay)
    state.network.weight.data.fill_(7.0)
    state.network.num_batches_tracked.fill_(3)
    with pytest.raises(ZeroDivisionError), state.evaluation_weights():
        assert not state.network.training
        assert state.network.weight.tolist() == ([1, 1] if ema_decay else [7, 7])
        assert state.network.num_batches_tracked == (0 if ema_decay else 3)
        raise ZeroDivisionError
    assert state.network.training and state.network.weight.tolist() == [7, 7]
    assert state.network.num_batches_tracked == 3


def test_restore_takes_the_counters_of_a_checkpoint_and_no_more(dist, tmp_path):
    state = make_state(dist)
    state.step, state.epoch, state.step_in_epoch, state.num_stale = 9, 2, 1, 3
    assert state.is_best(0.5) and not state.is_best(float("nan"))
    state.save(tmp_path)
    resumed = make_state(dist)
    checkpoint = load_checkpoint(tmp_path / "last.pth")
    checkpoint.progress["network"] = None
    resumed.restore(checkpoint, seed=0)
    counters = {"epoch": 2, "step_in_epoch": 1, "step": 9}
    best = {"best_score": 0.5, "best_epoch": 2, "num_stale": 1}
    assert resumed.progress() == state.progress() == {**counters, **best}
    assert resumed.network is not None
    del checkpoint.progress["step"]
    with pytest.raises(DataError, match=r"last\.pth lacks step; restore the file, or delete"):
        resumed.restore(checkpoint, seed=0)
