"""A ROS 2 package for an embodiment: a thin rclpy node between its topics and the policy server.

The node turns messages into arrays and back; what it sends has passed `driver.py`, and so the safety filter.
"""

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kiban import __version__
from kiban.artifacts.errors import KibanError
from kiban.robotics import embodiment as embodiments

TEMPLATES = Path(__file__).with_name("ros2_package")
INSTRUCTION = "赤い箱に手を伸ばしてください。"
EXECUTE_SECONDS = 0.2  # of a chunk, before it is asked again


def generate(embodiment: str, out: Path) -> str:
    """Writes the package into `out`, which must not exist. Gives its name.

    Raises:
        KibanError: if `out` exists, there is no such embodiment, or it moves what no motor moves.
    """
    from jinja2 import Environment, StrictUndefined

    source = embodiments.file_of(embodiment)
    robot = embodiments.load(embodiment)
    if out.exists():
        raise KibanError(f"{out}: is there already; name a folder that is not")
    if robot.action.kind == "mocap":
        raise KibanError(
            f"embodiment '{robot.name}': its hand is moved by a simulator, no motor does that; take another"
        )
    if any(arm.gripper.control == "effort" for arm in robot.arms):
        raise KibanError(
            f"embodiment '{robot.name}': joint_commands has no efforts of grippers; take one with openings"
        )
    package = "kiban_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in robot.name.lower())
    several = len(robot.arms) > 1
    words: dict[str, Any] = {
        "robot": robot,
        "package": package,
        "node": "policy_node",
        "version": __version__,
        "joints": [robot.prefix(arm) + joint.name for arm in robot.arms for joint in arm.joints],
        "grippers": [f"{arm.name}.gripper" if several else "gripper" for arm in robot.arms],
        "instruction": INSTRUCTION,
        "execute": max(1, math.ceil(EXECUTE_SECONDS / robot.control_period)),
        "deadline_ms": round(1e3 * robot.stale_after, 1),
    }
    files = {
        "package.xml": "package.xml",
        "setup.py": "setup.py",
        "setup.cfg": "setup.cfg",
        "README.md": "README.md",
        f"{package}/node.py": "node.py",
        "config/parameters.yaml": "parameters.yaml",
        "launch/policy.launch.py": "policy.launch.py",
    }
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        whole = Path(scratch) / "package"
        for target, template in files.items():
            content = environment.from_string((TEMPLATES / f"{template}.jinja").read_text("utf-8")).render(words)
            (whole / target).parent.mkdir(parents=True, exist_ok=True)
            (whole / target).write_text(content, encoding="utf-8")
        (whole / package / "__init__.py").touch()
        (whole / "resource").mkdir()
        (whole / "resource" / package).touch()
        shutil.copy(source, whole / "config" / "embodiment.toml")
        whole.rename(out)
    return package
