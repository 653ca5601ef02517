"""What a recipe can ask of training besides the plain run."""

import pytest
import torch

from tests.conftest import make_config, single_process
from tests.test_train import NO_VIT, build, run_to_the_end
from train import build_run, train_one_epoch
from utils.errors import ConfigError
from utils.training.checkpoint import load_checkpoint
from utils.training.log import read_rows


def rows_of(run, kind):
    rows = read_rows(run.folder / "metrics.jsonl")
    return [row for row in rows if row["kind"] == kind]


def test_a_run_without_progress_ends_early(data_root, tmp_path):
    overrides = ["optim.num_epochs=9", "optim.lr=1e-12", "optim.ema_decay=0", "eval.patience=2"]
    config = make_config(data_root, tmp_path, *overrides, *NO_VIT)
    run = run_to_the_end(config)
    assert run.state.epoch == len(rows_of(run, "val")) < 9 and run.state.num_stale == 2
    best = load_checkpoint(run.folder / "best.pth").progress
    assert best["epoch"] == run.state.best_epoch == run.state.epoch - 2
    assert run_to_the_end(config).state.step == run.state.step


def test_the_best_is_chosen_by_the_score_and_classes_asked_for_and_copies_are_kept(
    data_root, tmp_path
):
    overrides = ["eval.metric=mf1", "optim.num_epochs=3", "run.keep_every_epochs=3"]
    overrides += ["eval.mean_without=[clutter,tree]", *NO_VIT]
    run = run_to_the_end(make_config(data_root, tmp_path, *overrides))
    copies = sorted(path.name for path in run.folder.glob("*.pth"))
    assert copies == ["best.pth", "epoch_0003.pth", "last.pth"]
    copy, last = (load_checkpoint(run.folder / name) for name in ("epoch_0003.pth", "last.pth"))
    assert copy.progress["epoch"] == 3 and copy.training is None
    bias = copy.weights["head.classify.bias"]  # averaged
    assert torch.equal(bias, last.weights["head.classify.bias"])
    assert not torch.equal(bias, last.training["weights"]["head.classify.bias"])
    best, rows = load_checkpoint(run.folder / "best.pth"), rows_of(run, "val")
    assert best.identity.selected_by == "mf1"
    assert best.progress["best_score"] == max(row["mf1"] for row in rows)
    names = [name for name in run.state.identity.classes if name not in ("clutter", "tree")]
    for row in rows:
        known = [row[f"iou/{name}"] for name in names if row[f"iou/{name}"] is not None]
        assert row["miou"] == pytest.approx(sum(known) / len(known))


def test_a_class_left_out_that_is_not_there_is_refused_before_training(data_root, tmp_path):
    with pytest.raises(ConfigError, match=r"eval.mean_without names cow; the data set has imperv"):
        build(data_root, tmp_path, "eval.mean_without=[cow]")


def test_fine_tuning_begins_with_the_weights_of_another_run(checkpoint, data_root, tmp_path):
    config = make_config(data_root, tmp_path, f"run.fine_tune={checkpoint.path}")
    run = build_run(config, single_process())
    run.log.close()
    weights = run.state.network.state_dict()
    for key, value in checkpoint.weights.items():
        assert torch.equal(weights[key], value) and torch.equal(run.state.ema.average[key], value)
    count = len(weights)
    head = f"fine-tuning {checkpoint.path}: {count} of {count} weights loaded, 0 not used"
    assert run.notes == [head] and run.state.step == 0


def test_a_dry_run_says_what_the_run_would_take_and_leaves_nothing(
    recipe_path, tmp_path, run_script
):
    arguments = ["train", "--config", recipe_path, "run.dry=true", *NO_VIT]
    code, said, _ = run_script(*arguments)
    assert code == 0
    assert "dry run: every part works, and no run was started" in said
    assert said.count("s, 6 of them") == 2  # 2 epochs of 3 steps, 2 validations of 3 images
    assert "GiB on cpu" in said
    code, _, err = run_script(*arguments, "optim.lr=1e30", "optim.warmup_epochs=0")
    assert code == 2 and "the loss is not finite at step" in err
    assert not (tmp_path / "runs").exists()


def test_bf16_trains_like_fp32(data_root, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        overrides = [f"run.precision={precision}", f"name={precision}", "optim.lr=3e-3"]
        overrides += ["optim.steps_per_epoch=10", "optim.warmup_epochs=0"]
        run = build(data_root, tmp_path, *overrides)
        train_one_epoch(run)
        run.log.close()
        losses[precision] = [row["loss"] for row in rows_of(run, "train")]
    assert len(losses["fp32"]) == 10 and losses["fp32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_a_compiled_run_keeps_the_names_of_its_weights(data_root, tmp_path):
    """Compiling itself takes minutes; the kernels are tried by hand (run.dry=true)."""
    run = build(data_root, tmp_path, "run.compile=true")
    run.state.save(run.folder)
    run.log.close()
    assert isinstance(run.state.ddp_network, torch._dynamo.OptimizedModule)
    names = load_checkpoint(run.folder / "last.pth").weights.keys()
    assert names == run.state.network.state_dict().keys() and "head.classify.bias" in names
