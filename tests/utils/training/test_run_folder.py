import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import torch

from configs.schema import OptimConfig
from datasets.structure_maps import MapRecipe
from tests.conftest import single_process
from utils.precision import Precision
from utils.training.checkpoint import Identity
from utils.training.run_folder import describe_environment

RECIPE = {"generator": "superpixels", "settings": {"segment_size_px": 8}, "weights_sha256": None}


def describe(world_size=1, **optim):
    dist = replace(single_process(), world_size=world_size)
    if world_size > 1:
        several = {"world_size": world_size, "gather": lambda value: [value, "another"]}
        dist = SimpleNamespace(device=dist.device, **several)
    identity = Identity(
        recipe={"name": "x"},
        dataset="scenes",
        classes=["a", "b"],
        palette=[[1, 2, 3], [4, 5, 6]],
        maps={"mine": RECIPE},
        frozen={"rgb_vit": {"name": "test_vit", "sha256": "0"}},
        split={"name": "own", "sha256": "ab" * 32},
        selected_on="val",
        selected_by="oa",
    )
    precision = Precision("fp32", torch.device("cpu"))
    state = SimpleNamespace(dist=dist, identity=identity, precision=precision)
    environment = describe_environment(state, OptimConfig(**optim))
    assert json.loads(json.dumps(environment)) == environment  # plain
    return environment


def test_versions_and_command():
    environment = describe()
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["world_size"] == 1 and len(environment["devices"]) == 1
    assert environment["devices"][0]
    assert environment["precision"] == "fp32"
    assert environment["tf32"] == {"matmul": False, "cudnn": False}


def test_the_batch_is_told_as_it_is_divided():
    environment = describe(world_size=2, batch_size=24, accumulate=3)
    assert environment["batch"] == {
        "samples": 24,
        "per_rank": 12,
        "micro_batches_per_rank": 3,
        "per_micro_batch": 4,
    }
    assert environment["devices"][1] == "another"


def test_the_data_are_what_the_identity_knows_without_recipe_and_palette():
    data = describe()["data"]
    assert data["dataset"] == "scenes" and data["selected_on"] == "val"
    assert data["frozen"]["rgb_vit"]["name"] == "test_vit"
    assert not {"recipe", "palette"} & data.keys()


def test_the_digest_of_a_store_is_that_of_its_maps():
    found = describe()["data"]["maps"]["mine"]
    assert found == {**RECIPE, "digest": MapRecipe(**RECIPE).digest()}
    assert len(found["digest"]) == hashlib.sha256().digest_size * 2
