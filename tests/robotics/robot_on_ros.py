"""A robot on ROS 2, run by its Python: joints that follow their commands, two cameras, and a person at the buttons.

It prints one JSON object with what it saw; `test_ros2.py` reads it. argv: the embodiment's file.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String

from kiban.robotics.embodiment import load

robot = load(sys.argv[1])
names = [*(joint.name for joint in robot.joints), "gripper"]
position = [*robot.arms[0].posture, robot.arms[0].gripper.opening[1]]
said: list[str] = []
commands: list[list[float]] = []

rclpy.init()
node = rclpy.create_node("robot")
states = node.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
pictures = {c.name: node.create_publisher(Image, f"{c.name}/image_raw", qos_profile_sensor_data) for c in robot.cameras}
button, release = node.create_publisher(Bool, "emergency_stop", 10), node.create_publisher(String, "release", 10)
latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_subscription(String, "stopped", lambda message: said.append(message.data), latched)


def obey(message: Any) -> None:
    global position
    assert list(message.name) == names
    position = list(message.position)
    commands.append(position)


node.create_subscription(JointState, "joint_commands", obey, 10)
executor = SingleThreadedExecutor()
executor.add_node(node)
rng = np.random.default_rng(0)
silent: set[str] = set()


def live(seconds: float, until: Any = lambda: False) -> None:
    """So long, or until something is so, the robot reports at 50 Hz."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        period = time.monotonic() + 0.02
        if "joints" not in silent:
            states.publish(JointState(name=names, position=position))
        for camera in robot.cameras:
            data = rng.integers(0, 256, camera.height * camera.width * 3, np.uint8).tobytes()
            shape = {"height": camera.height, "width": camera.width, "encoding": "bgr8", "step": 3 * camera.width}
            pictures[camera.name].publish(Image(data=data, **shape))
        while time.monotonic() < period:
            executor.spin_once(timeout_sec=0.005)


def moved(count: int) -> float:
    """How far the joints went in the last commands."""
    last = np.array(commands[-count:])
    return float(np.abs(last[-1, :-1] - last[0, :-1]).max())


seen: dict[str, Any] = {}
live(60, lambda: len(commands) > 40)
seen["commands"], seen["moved"], seen["said at first"] = len(commands), moved(20), list(said)
button.publish(Bool(data=True))
live(5, lambda: bool(said) and said[-1] != "")
live(1.0)
seen["after the button"], seen["said at the button"] = moved(8), said[-1]
button.publish(Bool(data=False))
live(0.6)
seen["after letting go"] = moved(8)
release.publish(String(data=""))
live(0.4)
seen["after a release without reason"] = said[-1]
release.publish(String(data="the way is clear"))
live(5, lambda: said[-1] == "")
live(1.5)
seen["after the release"], seen["said after it"] = moved(20), said[-1]
print("STOP THE SERVER", flush=True)
sys.stdin.readline()
live(5, lambda: said[-1] != "")
live(0.5)
seen["without a server"], seen["said without it"] = moved(8), said[-1]
silent.add("joints")
seen["all"] = commands
print(json.dumps(seen), flush=True)
rclpy.shutdown()
