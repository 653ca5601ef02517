"""``load_predictor`` in Python: beside packages of the same names, and its arguments."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import infer

PROJECT = """
import sys
from utils import helper  # one is imported before, the other after
sys.path.append(sys.argv[1])
from infer import load_predictor

predict = load_predictor(sys.argv[2], device="cpu")
import numpy as np
np.save("labels.npy", predict(np.load("image.npy")))
import datasets, utils
from utils.more import NUMBER
assert (helper(), utils.helper, NUMBER, datasets.NAME) == (7, helper, 8, "theirs")
"""


def test_a_project_with_packages_of_the_same_names_keeps_them(checkpoint, tmp_path):
    """Case 17 of docs/trials.md: its own ``utils`` is imported first, and ``datasets`` later."""
    for name, text in (
        ("project.py", PROJECT),
        ("utils/__init__.py", "def helper():\n    return 7\n"),
        ("utils/more.py", "from utils import helper\n\nNUMBER = helper() + 1\n"),
        ("datasets.py", "NAME = 'theirs'\n"),
        ("models/__init__.py", ""),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    root = Path(infer.__file__).parent
    command = [sys.executable, "project.py", str(root), str(checkpoint.path)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    labels = infer.load_predictor(checkpoint.path, device="cpu")(image)
    assert np.array_equal(np.load(tmp_path / "labels.npy"), labels)


def test_a_predictor_takes_any_layout_of_8_bit_rgb(checkpoint):
    predict = infer.load_predictor(checkpoint.path, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    flipped = image[::-1, ::-1]
    flipped.flags.writeable = False
    assert np.array_equal(predict(flipped), predict(flipped.copy()))
