"""Pictures of Meta-World's scenes a second: our rays among triangles, MuJoCo's own rays, and OpenGL.

python benchmarks/cameras.py                     # six tasks, 64, 96 and 128 pixels, five rounds
python benchmarks/cameras.py --rounds 1          # a rough rate

All run in one process, in turns, on one core. OpenGL is MuJoCo's renderer with MUJOCO_GL (egl if not set), once as it
comes and once without shadows, reflections, sky, haze and multisampling, the setting that --renderer gl uses; where
it cannot be had, its column is empty. MuJoCo's rays are timed alone, without any shading.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco  # noqa: E402
import numpy as np  # noqa: E402
import record  # noqa: E402

from kiban.robotics.camera import RayCamera  # noqa: E402
from kiban.robotics.embodiment import load  # noqa: E402
from kiban.robotics.mesh_camera import MeshCamera, Triangles  # noqa: E402
from kiban.robotics.meta_world import MetaWorldEnv  # noqa: E402

TASKS = ("reach-v3", "pick-place-v3", "coffee-push-v3", "shelf-place-v3", "basketball-v3", "door-open-v3")
OFF = ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG")
PICTURES = {"rays": 40, "rays, 4 a pixel": 20, "MuJoCo's rays": 10, "gl, fast": 10, "gl": 5}


def gl(model: mujoco.MjModel, data: mujoco.MjData, pixels: int, fast: bool) -> Callable[[], Any]:
    model.vis.quality.offsamples = 0 if fast else 4
    renderer = mujoco.Renderer(model, pixels, pixels)

    def picture() -> None:
        renderer.update_scene(data, "corner2")
        for flag in OFF if fast else ():
            renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        renderer.render()

    picture.close = renderer.close  # type: ignore[attr-defined]
    return picture


def contestants(env: MetaWorldEnv, pixels: int) -> dict[str, Callable[[], Any]]:
    model, data, triangles = env.model, env.data, Triangles(env.model)
    camera = env.embodiment.cameras[0].model_copy(update={"width": pixels, "height": pixels})
    ours, sampled = (MeshCamera(camera, model, triangles, samples=samples) for samples in (1, 2))
    rays = RayCamera(camera, model)
    normal = (None,) if "normal:" in (mujoco.mj_multiRay.__doc__ or "") else ()
    groups, origin = np.array([1, 1, 1, 0, 0, 0], np.uint8), np.array(camera.position)
    count, geoms, distances = len(rays._rays), np.empty(len(rays._rays), np.int32), np.empty(len(rays._rays))
    found: dict[str, Callable[[], Any]] = {
        "rays": lambda: ours.image(data),
        "rays, 4 a pixel": lambda: sampled.image(data),
        "MuJoCo's rays": lambda: mujoco.mj_multiRay(
            model, data, origin, rays._rays.ravel(), groups, 1, -1, geoms, distances, *normal, count, 10.0
        ),
    }
    try:
        found |= {"gl, fast": gl(model, data, pixels, True), "gl": gl(model, data, pixels, False)}
    except Exception as error:  # no GL here
        print(f"no OpenGL: {error}")
    return found


def seconds(picture: Callable[[], Any], count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        picture()
    return (time.perf_counter() - begun) / count


def measure(pixels: int, rounds: int) -> dict[str, float]:
    """Pictures a second of each contestant: the median over rounds of the mean over tasks."""
    robot = load("meta-world")
    taken: dict[str, list[list[float]]] = {}
    for task in TASKS:
        env = MetaWorldEnv(robot, task)
        env.reset(seed=3)
        racers = contestants(env, pixels)
        for picture in racers.values():
            picture()  # kernels are compiled, what stands is drawn
        for turn in range(rounds):
            for name, picture in racers.items():
                taken.setdefault(name, [[] for _ in range(rounds)])[turn].append(seconds(picture, PICTURES[name]))
        for picture in racers.values():
            getattr(picture, "close", lambda: None)()
    return {name: float(1 / np.median([np.mean(turn) for turn in turns])) for name, turns in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pixels", type=int, nargs="*", default=[64, 96, 128])
    parser.add_argument("--rough", action="store_true", help="say in the record that the machine was not quiet")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    arguments = parser.parse_args()
    rates = {pixels: measure(pixels, arguments.rounds) for pixels in arguments.pixels}
    backend = os.environ["MUJOCO_GL"]
    found = record.circumstances() | {"rough": arguments.rough, "gl": backend, "pictures_per_s": rates}
    columns = [name for name in PICTURES if any(name in rate for rate in rates.values())]
    rows = [[f"{p}x{p}", *(f"{rate[c]:.0f}" if c in rate else "-" for c in columns)] for p, rate in rates.items()]
    lines = [
        *record.head("Pictures of Meta-World's scenes a second", found),
        f"One core; mean over {len(TASKS)} tasks, median of {arguments.rounds} rounds in turns; OpenGL: {backend}.",
        *(["", "Rough: other work ran on the machine."] if arguments.rough else []),
        "",
        *record.table(["pixels", *columns], rows),
    ]
    print(record.write("cameras", found, "\n".join(lines), arguments.results))


if __name__ == "__main__":
    main()
