"""What docs/robot-safety.md shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from kiban.robotics.embodiment import load
from kiban.robotics.safety import SafetyFilter
from kiban.robotics.simulated import SimulatedRobot
from tests.commands import error_of, kiban, kiban_json
from tests.robotics.hostile import check, hostile

PAGE = Path(__file__).parents[2] / "docs" / "robot-safety.md"


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == 1
    return found[0]


def test_the_example_file_is_a_robot(tmp_path: Path) -> None:
    """It is checked, simulated, and moved by hostile actions without passing a limit."""
    path = tmp_path / "my-robot.toml"
    path.write_text(block("toml"), encoding="utf-8")
    said = kiban("robot", "check", path).stdout
    assert "desk-arm: arm (4 joints); 25 Hz; cameras front 64x64" in said
    assert "stops   within 0.28 s of a command; by itself 0.2 s after one" in said
    robot = load(str(path))
    filtered = SafetyFilter(robot)
    filtered.reset(*robot.postures)
    commands = [filtered.command(action) for action in hostile(robot, 2000, seed=6)]
    joints, grippers = (np.array(values) for values in robot.postures)
    check(
        robot,
        np.stack([joints, *(command.joints for command in commands)]),
        np.stack([grippers, *(command.grippers for command in commands)]),
    )
    simulated = SimulatedRobot(robot)
    before = simulated.observe()
    for command in commands[:40]:
        simulated.send(command)
    after = simulated.observe()
    assert np.abs(after["state"] - before["state"]).max() > 0.05
    assert (after["front"] != before["front"]).any()
    assert (np.abs(after["efforts"]) <= [8.0, 12.0, 8.0, 3.0]).all()


def test_the_example_of_a_loop_runs(tmp_path: Path) -> None:
    patient = 'load("tabletop-arm").model_copy(update={"stale_after": 2.0})'  # the machine may be busy with other tests
    example = block("python").replace('load("tabletop-arm")', patient)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stopped=None" in done.stdout and done.stdout.endswith("the red button\n")
    assert "stop: the red button" in (tmp_path / "interventions.jsonl").read_text(encoding="utf-8")


def test_check_says_what_is_asked_and_what_is_wrong(tmp_path: Path) -> None:
    found = kiban_json("robot", "check", "bimanual-arm", "--json")
    assert found["arms"] == {"left": 6, "right": 6} and found["longest_stop_s"] == 0.2
    unsafe = tmp_path / "unsafe.toml"
    unsafe.write_text(block("toml").replace("lower = [0.10, -0.30, 0.02]", "lower = [0.45, -0.30, 0.02]"), "utf-8")
    assert "desk-arm: not safe to start: the tool of arm is outside its workspace" in error_of("robot", "check", unsafe)
