"""The digest of what decides a result: settings that change nothing repeat nothing."""

from pathlib import Path

from utils.config import config_from_dict
from utils.inference.progress import settings_digest
from utils.inference.results import OutputSettings
from utils.rasters.rendering import Rendering


def digest(checkpoint, *overrides, maps="generated", min_area=0, **rendering):
    config = config_from_dict(checkpoint.identity.recipe, "recipe", [*overrides])
    output = OutputSettings(
        folder=Path("out"), kinds=("polygons",), classes=(), palette=(), min_area=min_area
    )
    return settings_digest(checkpoint, config, Rendering(**rendering), output, maps)


def test_settings_that_do_not_decide_a_result_are_not_in_the_digest(checkpoint):
    overrides = ["eval.every_epochs=7", "eval.patience=3", "eval.metric=mf1", "eval.batch_size=1"]
    overrides += ["eval.labels=eroded", "eval.unit=tile", "eval.mean_without=[water]"]
    overrides += ["model.head_dropout=0.3", "structure.dropout=0.5", "optim.lr=1"]
    overrides += ["structure.sam.points_per_side=8"]  # not one of the modalities
    assert digest(checkpoint, *overrides) == digest(checkpoint)


def test_settings_that_decide_a_result_are_in_the_digest(checkpoint):
    overrides = [
        "eval.window_px=128",
        "eval.overlap_px=20",
        "eval.scales=[1.0,1.5]",
        "eval.turns=2",
        "run.precision=bf16",
        "structure.control=off",
        "structure.superpixels.segment_size_px=20",
        "structure.superpixels.encodings=[boundary]",
        "model.fe_branches=[global_context]",
        "model.structure_vit.join=depth_to_space",
    ]
    found = [digest(checkpoint), *(digest(checkpoint, override) for override in overrides)]
    found += [digest(checkpoint, maps="stored"), digest(checkpoint, min_area=2.0)]
    found += [digest(checkpoint, bands=(3, 2, 1))]
    found += [digest(checkpoint, stretch=((0.0, 9.0),)), digest(checkpoint, alpha_is_data=True)]
    assert len(set(found)) == len(found)
