import errno

import pytest
import torch
from torch import nn

from utils.errors import DataError, MissingDataError
from utils.training.checkpoint import (
    Identity,
    begin_with,
    check_split,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)

IDENTITY = Identity(
    recipe={"name": "x", "optim": {"lr": 0.1}},
    dataset="scenes",
    classes=["a", "b"],
    palette=[[0, 0, 0], [255, 0, 0]],
    maps={},
    frozen={"rgb_vit": {"name": "v", "sha256": "1"}},
    split={"name": "own", "sha256": "0" * 64},
    trained_on=["1" * 64],
    channels="rgb",
    rendering={"bands": [], "stretch": [], "alpha_is_data": False},
    selected_on="val",
    selected_by="miou",
)


def save(path, net):
    progress = {"epoch": 1}
    save_checkpoint(path, identity=IDENTITY, weights=net.state_dict(), progress=progress)


def test_weights_come_back_and_another_network_or_frozen_vit_is_refused(tmp_path):
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    save(tmp_path / "a.pth", net)
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    assert checkpoint.identity == IDENTITY
    assert checkpoint.progress == {"epoch": 1} and checkpoint.training is None
    load_weights(other, checkpoint, IDENTITY.frozen)
    assert torch.equal(other.weight, net.weight)
    with pytest.raises(
        DataError, match=r"a\.pth does not fit .*: 2 of another shape \(first: weight"
    ):
        load_weights(nn.Linear(2, 4), checkpoint, IDENTITY.frozen)
    with pytest.raises(DataError, match=r"trained with rgb_vit .*'1'.*this network has .*'2'"):
        load_weights(nn.Linear(2, 3), checkpoint, {"rgb_vit": {"name": "v", "sha256": "2"}})


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(MissingDataError, match=r"the checkpoint .*none\.pth does not exist"):
        load_checkpoint(tmp_path / "none.pth")
    path = tmp_path / "a.pth"
    for content, message in (
        ({"format_version": 99}, "has format 99, this program reads 5"),
        (
            {"format_version": 4},
            "has format 4, this program reads 5; use a checkpoint that its own",
        ),
        ({"format_version": 5, "identity": {"recipe": {}}}, r"a\.pth is not a complete checkpoint"),
        ({"state_dict": {}}, "has no format version, this program reads 5"),
    ):
        torch.save(content, path)
        with pytest.raises(DataError, match=message):
            load_checkpoint(path)
    save(path, nn.Linear(20, 30))
    whole = path.read_bytes()
    for content in (b"text", *(whole[: int(share * len(whole))] for share in (0.1, 0.5, 0.99))):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as a checkpoint; it is damaged, or of"):
            load_checkpoint(path)


def test_a_run_is_not_resumed_with_other_split_lists_of_its_data_set(tmp_path):
    save(tmp_path / "a.pth", nn.Linear(2, 3))
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    same, other = {"name": "own", "sha256": "0" * 64}, {"name": "own", "sha256": "1" * 64}
    check_split(checkpoint, {"dataset": "scenes", "split": {**same, "name": "renamed"}}, "data/x")
    check_split(checkpoint, {"dataset": "another", "split": other}, "data/x")
    sentence = r"split 'own' \(00000000\) of scenes, data/x has 'own' \(11111111\), so images may"
    with pytest.raises(DataError, match=sentence):
        check_split(checkpoint, {"dataset": "scenes", "split": other}, "data/x")


def network(width=2, num_classes=2):
    head = nn.ModuleDict({"classify": nn.Linear(2, num_classes)})
    return nn.ModuleDict({"stem": nn.Linear(2, width), "head": head})


@pytest.mark.parametrize(
    ("classes", "reason"), [("abc", "2x2 there"), ("ba", "of other classes there (a, b)")]
)
def test_fine_tuning_loads_no_classifier_of_other_classes_and_says_so(tmp_path, classes, reason):
    old, new = network(), network(num_classes=len(classes))
    start = {key: value.clone() for key, value in new.state_dict().items()}
    save(path := tmp_path / "a.pth", old)
    (head, *lines), trained_on = begin_with(str(path), new, list(classes))
    assert trained_on == IDENTITY.trained_on
    for key, value in new.state_dict().items():
        expected = start if key.startswith("head.classify.") else old.state_dict()
        assert torch.equal(value, expected[key])
    assert head == f"fine-tuning {path}: 2 of 4 weights loaded, 0 not used" and len(lines) == 2
    assert lines[0] == f"  not loaded: head.classify.weight, {len(classes)}x2 here, {reason}"


def test_fine_tuning_from_nothing_is_refused(tmp_path):
    assert begin_with(None, network(), ["a", "b"]) == ([], [])
    save(tmp_path / "a.pth", nn.Linear(2, 2))
    with pytest.raises(DataError, match=r"no weight of .*a\.pth fits .* of the same model\.size"):
        begin_with(str(tmp_path / "a.pth"), network(), ["a", "b"])


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path / "a.pth", nn.Linear(2, 3))
    before = (tmp_path / "a.pth").read_bytes()

    def full(content, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left on device"):
        save(tmp_path / "a.pth", nn.Linear(2, 3))
    assert (tmp_path / "a.pth").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
