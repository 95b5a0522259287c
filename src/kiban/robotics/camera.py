"""A camera that casts rays: no GL, no window, the same pixels everywhere.

`mujoco.mj_multiRay` finds what each pixel sees; the surface's normal follows from the geom's type; shading is Lambert's
law with a fixed light. 64x64 pixels take about a millisecond.
"""

import mujoco
import numpy as np
from numpy.typing import NDArray

from kiban.robotics.embodiment import Camera

LIGHT = np.array([0.45, -0.30, 0.84]) / np.linalg.norm([0.45, -0.30, 0.84])  # direction towards the light, world frame
AMBIENT = 0.45
BACKGROUND = (0.62, 0.70, 0.78)

_GEOM = mujoco.mjtGeom
_FAR = 10.0  # m

# Newer releases of MuJoCo can return the normals and take one argument more for them.
_NORMAL_ARGUMENT = "normal:" in (mujoco.mj_multiRay.__doc__ or "")


def look_at(position: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns: right, up and backward of a camera at `position` that looks at `target`, with x or z up."""
    backward = position - target
    backward /= np.linalg.norm(backward)
    up = np.array([0.0, 0.0, 1.0]) if abs(backward[2]) < 0.95 else np.array([1.0, 0.0, 0.0])
    right = np.cross(up, backward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(backward, right), backward], axis=1)


class RayCamera:
    """`camera` in the scene `model`; `light` scales what the surfaces reflect."""

    def __init__(self, camera: Camera, model: mujoco.MjModel, light: float = 1.0) -> None:
        self.camera, self._model, self._light = camera, model, light
        self._body = 0 if camera.mount == "world" else model.body(camera.mount).id
        self._position = np.array(camera.position)
        # Rays through the pixels' centres, row by row from the top left, in the mount's frame.
        half = np.tan(np.radians(camera.field_of_view) / 2)
        y, x = np.meshgrid(
            half * (1 - 2 * (np.arange(camera.height) + 0.5) / camera.height),
            half * camera.width / camera.height * (2 * (np.arange(camera.width) + 0.5) / camera.width - 1),
            indexing="ij",
        )
        rays = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        self._rays = rays @ look_at(self._position, np.array(camera.target)).T
        self._geom = np.empty(len(rays), np.int32)
        self._distance = np.empty(len(rays))

    def pixel_of(self, data: mujoco.MjData, point: NDArray[np.float64]) -> tuple[float, float]:
        """Where `point` (world, m) appears: (column, row) in pixels, the top left corner being (0, 0)."""
        rotation = data.xmat[self._body].reshape(3, 3)
        axes = rotation @ look_at(self._position, np.array(self.camera.target))
        right, up, backward = (point - data.xpos[self._body] - rotation @ self._position) @ axes
        scale = self.camera.height / 2 / np.tan(np.radians(self.camera.field_of_view) / 2) / -backward
        return self.camera.width / 2 + scale * right, self.camera.height / 2 - scale * up

    def image(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """The picture now, uint8 [height, width, 3]; the same bits for the same `data`."""
        rotation = data.xmat[self._body].reshape(3, 3)
        origin = data.xpos[self._body] + rotation @ self._position
        rays = self._rays @ rotation.T
        normal = (None,) if _NORMAL_ARGUMENT else ()
        mujoco.mj_multiRay(
            self._model, data, origin, rays.ravel(), None, 1, -1, self._geom, self._distance, *normal, len(rays), _FAR
        )
        colours = np.empty((len(rays), 3))
        colours[:] = BACKGROUND
        for geom in np.unique(self._geom):
            if geom < 0:
                continue
            seen = np.nonzero(self._geom == geom)[0]
            frame = data.geom_xmat[geom].reshape(3, 3)
            points = (origin + rays[seen] * self._distance[seen, None] - data.geom_xpos[geom]) @ frame
            brightness = self._normals(geom, points) @ (frame.T @ LIGHT)
            shade = self._light * (AMBIENT + (1 - AMBIENT) * np.maximum(brightness, 0.0))
            colours[seen] = shade[:, None] * self._model.geom_rgba[geom, :3]
        image = (np.minimum(colours, 1.0) * 255 + 0.5).astype(np.uint8)
        return image.reshape(self.camera.height, self.camera.width, 3)

    def _normals(self, geom: int, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Outward unit normals of `geom` at `points` on its surface, both in the geom's frame."""
        kind, size = _GEOM(int(self._model.geom_type[geom])), self._model.geom_size[geom]
        normals = np.zeros_like(points)
        if kind == _GEOM.mjGEOM_PLANE:
            normals[:, 2] = 1.0
        elif kind == _GEOM.mjGEOM_BOX:
            axis = np.argmax(np.abs(points) / size, axis=1)
            rows = np.arange(len(points))
            normals[rows, axis] = np.sign(points[rows, axis])
        elif kind == _GEOM.mjGEOM_CYLINDER:
            on_cap = np.abs(points[:, 2]) > size[1] * (1 - 1e-6)
            normals[:, :2] = np.where(on_cap[:, None], 0.0, points[:, :2] / size[0])
            normals[on_cap, 2] = np.sign(points[on_cap, 2])
        else:
            assert kind in (_GEOM.mjGEOM_CAPSULE, _GEOM.mjGEOM_SPHERE)
            half_length = size[1] if kind == _GEOM.mjGEOM_CAPSULE else 0.0
            normals[:] = points
            normals[:, 2] -= np.clip(points[:, 2], -half_length, half_length)
            normals /= size[0]
        return normals
