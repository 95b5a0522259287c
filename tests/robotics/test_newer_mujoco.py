"""Everything but Meta-World works with a newer MuJoCo than the one that Meta-World pins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import mujoco, numpy
from kiban.robotics.suites import SUITES
from kiban.robotics.mesh_camera import MeshCamera, Triangles
env = SUITES["tabletop"].environment("pick")
observation, _ = env.reset(seed=3)
ours = MeshCamera(env.embodiment.cameras[0], env.model, Triangles(env.model)).image(env.data)
assert len(numpy.unique(observation["front"].reshape(-1, 3), axis=0)) > 20
edges = [numpy.abs(numpy.diff(image.astype(int), axis=1)).sum(axis=2) > 60 for image in (ours, observation["front"])]
assert (edges[0] & edges[1]).sum() > 0.5 * edges[1].sum()
success = False
while not success:
    _, _, success, truncated, _ = env.step(env.expert_action())
    assert not truncated
print(mujoco.__version__)
"""


def fetch(folder: Path, *packages: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *packages]
    fetched = subprocess.run(command, capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"no newer MuJoCo can be had here: {fetched.stderr.strip().splitlines()[-1]}")


@pytest.mark.slow
def test_the_tabletop_and_its_cameras_work_with_the_newest_mujoco(tmp_path: Path) -> None:
    """The newest release, laid before the installed one on the path; nothing of the environment is changed."""
    fetch(tmp_path / "alone", "mujoco>3.3.0")
    [version] = [path.name.split("-")[1].removesuffix(".dist") for path in (tmp_path / "alone").glob("mujoco-*")]
    core = [f"mujoco-core=={version}"] if int(version.split(".")[0]) > 3 else []  # apart from version 4 on
    fetch(tmp_path / "whole", f"mujoco=={version}", *core)
    path = os.pathsep.join([str(tmp_path / "whole"), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == version
