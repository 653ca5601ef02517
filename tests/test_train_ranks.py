"""Training on two ranks: the same as on one, and resuming with another number of ranks."""

import json
import os
import signal

import pytest
import torch

import train
from tests.conftest import make_config, single_process
from tests.test_train import NO_VIT
from train import build_run, train_one_epoch
from utils.errors import Interrupted
from utils.files import read_rgb
from utils.training.checkpoint import load_checkpoint
from utils.training.log import read_rows
from utils.training.signals import StopRequest

NO_DROPOUT = ["model.drop_path=0", "model.head_dropout=0"]

# Batch norm sees a part of the batch on each rank and in each micro-batch, so it is fixed by eval
# mode. The optimiser is SGD: Adam divides by tiny second moments, and turns rounding into steps.
# Double precision, because steps in single precision add up to 2e-6 of rounding.
STEPS = ["optim.optimizer=sgd", "optim.lr=0.02", "optim.warmup_epochs=0", "optim.ema_decay=0"]
STEPS += ["optim.batch_size=6", "optim.steps_per_epoch=5", *NO_DROPOUT, *NO_VIT]
STEPS += ["optim.class_weights=[1, 9, 1, 3, 1, 5]"]  # the ranks' parts weigh differently


def train_steps(dist, config):
    """Train five steps of six samples; weights before and after."""
    inputs, build = train.prepare_inputs, train.build_network

    def in_double(*given):
        images, target = inputs(*given)
        return [x.double() for x in images], target

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "prepare_inputs", in_double)
        patch.setattr(
            train, "build_network", lambda *given, **named: build(*given, **named).double()
        )
        run = build_run(config, dist)
        for module in run.state.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval().train = lambda mode=True: None
        start = {k: v.clone() for k, v in run.state.network.state_dict().items()}
        train_one_epoch(run)
    run.log.close()
    return start, {k: v.clone() for k, v in run.state.network.state_dict().items()}


def test_two_ranks_and_micro_batches_train_like_one_rank(data_root, tmp_path, ranks):
    def config(name, *more):
        return make_config(data_root, tmp_path / name, *STEPS, *more)

    start, end = train_steps(single_process(), config("one"))
    assert sum(not torch.equal(start[key], end[key]) for key in end) > 100
    others = [train_steps(single_process(), config("parts", "optim.accumulate=2"))]
    others += ranks(train_steps, config("both", "optim.accumulate=3"))
    for other_start, other_end in others:
        for key, value in start.items():
            assert torch.equal(value, other_start[key])
        for key, value in end.items():
            torch.testing.assert_close(other_end[key], value, rtol=0, atol=1e-6)
    rows = [read_rows(tmp_path / name / "run/metrics.jsonl") for name in ("one", "parts", "both")]
    one, parts, both = ([row["loss"] for row in each] for each in rows)
    assert one == pytest.approx(parts) and one == pytest.approx(both) and len(one) == 5


def train_until_signal(dist, config, step):
    """Train until the second rank gets SIGTERM in a step; the number of steps taken."""
    with StopRequest(dist, config.run.log_every_steps) as stop:
        run = build_run(config, dist, stop)
        real = run.loss.forward

        def forward(*given):
            if dist.rank == 1 and run.state.step + 1 == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(*given)

        run.loss.forward = forward
        try:
            train.train(run)
        except Interrupted:
            return run.state.step
        finally:
            run.log.close()


def restored_random_state(dist, config):
    run = build_run(config, dist)
    run.log.close()
    return torch.get_rng_state()


def test_a_signal_to_one_rank_saves_and_one_rank_resumes(data_root, tmp_path, ranks):
    """The ranks exchange requests every second step; the third one is not the last."""
    overrides = ["optim.num_epochs=20", "eval.every_epochs=20", "run.log_every_steps=2"]
    config = make_config(data_root, tmp_path, *overrides, *NO_DROPOUT, *NO_VIT)
    assert ranks(train_until_signal, config, 3) == [4, 4]
    last = tmp_path / "run" / "last.pth"
    assert load_checkpoint(last).progress["step"] == 4
    states = [saved["cpu"] for saved in load_checkpoint(last).training["random_states"]]
    for own, saved in zip(ranks(restored_random_state, config), states, strict=True):
        assert torch.equal(own, saved)
    assert not torch.equal(*states)
    run = build_run(config, single_process())
    assert (run.state.step, run.state.step_in_epoch) == (4, 1)
    train_one_epoch(run)
    run.log.close()
    assert run.state.step == 6


def first_numbers(dist, config):
    run = build_run(config, dist)
    run.log.close()
    return run.state.network.head.classify.weight.sum().item(), torch.rand(1).item()


def test_ranks_start_alike_and_draw_different_dropout_masks(data_root, tmp_path, ranks):
    (weight, number), other = ranks(first_numbers, make_config(data_root, tmp_path, *NO_VIT))
    assert weight == other[0] and number != other[1]


def validate(dist, config):
    run = build_run(config, dist)
    assert run.validation()
    run.log.close()
    return run.folder


def test_the_worst_tiles_of_two_ranks_are_those_of_one(data_root, tmp_path, ranks):
    """Four of seven, by a network that has learnt nothing."""

    def config(name):
        overrides = ["data.val_split=train", "optim.batch_size=6", f"name={name}", *NO_VIT]
        return make_config(data_root, tmp_path, *overrides)

    folders = [validate(single_process(), config("one")), ranks(validate, config("two"))[0]]
    one, two = (read_rgb(folder / "pictures" / "worst.png") for folder in folders)
    assert (one == two).all() and one.shape[0] > 4 * 216
    rows = [(folder / "metrics.jsonl").read_text() for folder in folders]
    assert rows[0] == rows[1] and '"val"' in rows[0]
    environment = json.loads((folders[1] / "environment.json").read_text())
    assert len(environment["devices"]) == environment["world_size"] == 2
    assert environment["batch"]["per_rank"] == 3
