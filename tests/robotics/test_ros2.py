"""The ROS 2 package: what is written, and the node at work in a real ROS 2.

ROS 2 (Kilted's rclpy with Fast DDS) is on PyPI as wheels; the slow test puts them into `.venv-ros` beside this
repository's files, and says so loudly where they cannot be had.
"""

import ast
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kiban.artifacts.errors import KibanError
from kiban.robotics.embodiment import Embodiment, load
from kiban.robotics.ros2 import generate
from tests.commands import kiban
from tests.robotics.serving import serving
from tests.robotics.test_driver import Sideways

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ("ros-rclpy[fastrtps]", "ros-sensor-msgs", "ros-std-msgs", "setuptools<81", "wheel", "mypy")
OURS = ("msgpack", "numba", "numpy", "pydantic", "websockets")


@pytest.mark.parametrize("name", ["tabletop-arm", "bimanual-arm"])
def test_the_package_is_whole_and_speaks_of_its_robot(name: str, tmp_path: Path) -> None:
    package = generate(name, tmp_path / "package")
    robot, folder = load(name), tmp_path / "package"
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {"package.xml", "setup.py", "README.md", f"resource/{package}", f"{package}/node.py"} <= files
    assert not any("{{" in (folder / file).read_text() or "{%" in (folder / file).read_text() for file in files)
    for file in files:
        if file.endswith(".py"):
            compile((folder / file).read_text(), file, "exec")
    assert ET.parse(folder / "package.xml").findtext("name") == package
    parameters = yaml.safe_load((folder / "config" / "parameters.yaml").read_text())["/**"]["ros__parameters"]
    assert len(parameters["joint_names"]) == len(robot.joints) and len(parameters["gripper_names"]) == len(robot.arms)
    declared = {
        node.args[0].value
        for node in ast.walk(ast.parse((folder / package / "node.py").read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "self._parameter"
        and isinstance(node.args[0], ast.Constant)
    }
    assert declared == set(parameters)
    readme = (folder / "README.md").read_text()
    assert all(f"`{camera.name}/image_raw`" in readme for camera in robot.cameras)
    assert load(str(folder / "config" / "embodiment.toml")) == robot
    style = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", folder],
        capture_output=True,
        text=True,
    )
    assert style.returncode == 0, style.stdout


def test_what_cannot_be_driven_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KibanError, match="moved by a simulator"):
        generate("meta-world", tmp_path / "a")
    with pytest.raises(KibanError, match="there is no such robot"):
        generate("asimo", tmp_path / "a")
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    with pytest.raises(KibanError, match="is there already"):
        generate("tabletop-arm", tmp_path / "there")
    assert "package kiban_tabletop_arm" in kiban("robot", "ros2", "tabletop-arm", "--out", tmp_path / "b").stdout


def ros() -> Path:
    """The interpreter of an environment with ROS 2."""
    folder = ROOT / ".venv-ros"
    python, wanted = folder / "bin" / "python", "\n".join([*WHEELS, *OURS])
    if not (folder / "installed").is_file() or (folder / "installed").read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *WHEELS, *OURS]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"NOT TESTED in ROS 2: it cannot be installed ({done.stderr.splitlines()[-1]})")
        (folder / "installed").write_text(wanted)
    return python


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    """ROS's interpreter, the package's folder, and the environment in which the package is installed."""
    python, home = ros(), tmp_path_factory.mktemp("ros")
    folder, prefix = home / "package", home / "install"
    generate("tabletop-arm", folder)
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--prefix", prefix, folder]
    subprocess.run(pip, check=True)
    (site,) = prefix.glob("lib/python*/site-packages")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("ROS_", "AMENT_"))},
        "PYTHONPATH": f"{site}:{ROOT / 'src'}",
        "AMENT_PREFIX_PATH": str(prefix),
        "ROS_DOMAIN_ID": str(os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(home / "log"),
        "NUMBA_CACHE_DIR": str(home / "numba"),
    }
    return python, folder, environment


@pytest.mark.slow
def test_the_node_uses_ros_as_its_types_say(installed: tuple[Path, Path, dict[str, str]]) -> None:
    python, folder, environment = installed
    check = [python, "-m", "mypy", "--ignore-missing-imports", "--check-untyped-defs", "--cache-dir", folder / ".mypy"]
    done = subprocess.run(
        [*check, folder / "kiban_tabletop_arm" / "node.py"],
        env={**environment, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_node_drives_a_robot_stops_it_and_lets_it_go(
    installed: tuple[Path, Path, dict[str, str]], embodiment: Embodiment, tmp_path: Path
) -> None:
    python, folder, environment = installed
    policy = Sideways(embodiment, 0.004)
    plain = policy.chunk

    def to_and_fro(observation: dict[str, Any]) -> Any:  # or the workspace's wall ends it
        return plain(observation) * np.array([1.0, 1.0 if policy.asked // 6 % 2 else -1.0, 1.0, 1.0])

    policy.chunk = to_and_fro  # type: ignore[method-assign]
    with serving(policy) as address:
        node = subprocess.Popen(
            [python, "-m", "kiban_tabletop_arm.node", "--ros-args", "-p", f"server:={address}"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        robot = subprocess.Popen(
            [python, Path(__file__).with_name("robot_on_ros.py"), folder / "config" / "embodiment.toml"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert robot.stdout and robot.stdin and node.stderr
        line = robot.stdout.readline()
    robot.stdin.write("stopped\n")
    robot.stdin.close()
    told = robot.stdout.read()
    node.send_signal(signal.SIGINT)
    assert robot.wait(30) == 0 and line == "STOP THE SERVER\n" and node.wait(30) == 0, node.stderr.read()
    seen, log = json.loads(told), node.stderr.read()
    assert "Traceback" not in log, log
    assert log.count("there is no policy server") == 1  # said once, not every period
    assert seen["commands"] > 40 and seen["moved"] > 0.01 and seen["said at first"] == [""]
    assert seen["said at the button"] == "emergency stop" and seen["after the button"] == 0.0
    assert seen["after letting go"] == 0.0 and seen["after a release without reason"] == "emergency stop"
    assert seen["said after it"] == "" and seen["after the release"] > 0.01
    assert seen["said without it"] == "no actions for 1 s" and seen["without a server"] == 0.0
    steps = np.abs(np.diff(np.array(seen["all"])[:, :-1], axis=0))
    fastest = np.array([joint.velocity for joint in embodiment.joints]) * embodiment.control_period
    assert (steps <= fastest * (1 + 1e-6)).all()
