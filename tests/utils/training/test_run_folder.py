import json
from dataclasses import replace
from types import SimpleNamespace

import torch

from configs.schema import OptimConfig
from datasets.structure_maps import MapRecipe
from tests.utils.training.test_checkpoint import IDENTITY
from utils.precision import Precision
from utils.training.run_folder import record_environment

RECIPE = {"generator": "superpixels", "settings": {"segment_size_px": 8}, "weights_sha256": None}


def test_an_environment_states_software_devices_batch_and_data(dist, tmp_path):
    several = SimpleNamespace(
        device=dist.device, world_size=2, gather=lambda value: [value, "another"], is_main=True
    )
    identity = replace(IDENTITY, maps={"mine": RECIPE})
    state = SimpleNamespace(
        dist=several, identity=identity, precision=Precision("fp32", dist.device)
    )
    record_environment(tmp_path, state, OptimConfig(batch_size=24, accumulate=3))
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["world_size"] == 2
    assert environment["devices"][0] and environment["devices"][1:] == ["another"]
    assert environment["precision"] == "fp32"
    assert environment["tf32"] == {"matmul": False, "cudnn": False}
    batch = {"samples": 24, "per_rank": 12, "micro_batches_per_rank": 3, "per_micro_batch": 4}
    assert environment["batch"] == batch
    data = environment["data"]
    assert (data["dataset"], data["selected_on"]) == ("scenes", "val")
    assert data["frozen"] == IDENTITY.frozen and not {"recipe", "palette"} & data.keys()
    assert data["maps"]["mine"] == {**RECIPE, "digest": MapRecipe(**RECIPE).digest()}
