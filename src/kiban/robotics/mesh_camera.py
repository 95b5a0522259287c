"""A camera that casts rays at triangles: no GL, no window, the same bits everywhere, scenes of 70,000 faces.

`camera.RayCamera` asks MuJoCo what each ray meets, which takes about 10 ms for 64x64 rays among Meta-World's meshes.
Here every surface is triangles, and a triangle is only offered to the rays within its bounding box on the screen; what
does not move is drawn once a scene. A ray d meets the triangle a, b, c (seen from the camera) where the volumes
d.(a x b), d.(b x c), d.(c x a) have one sign; edges that two triangles share give the same numbers, so nothing leaks
(Moeller and Trumbore 1997; the screen-space form is Olano and Greer 1997). Shading is Lambert's law, face by face,
with the scene's own lights. Not drawn: shadows, reflections, gloss, the pattern of textures (their mean colour is),
and what is nearly transparent.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from kiban.artifacts.kernel import kernel
from kiban.robotics.camera import look_at
from kiban.robotics.embodiment import Camera

Array = NDArray[np.float64]

BACKGROUND = (0.0, 0.0, 0.0)
VISIBLE_GROUPS = 3  # MuJoCo's viewers show groups 0 to 2
OPAQUE = 0.5  # alpha from which a surface is drawn
SIDES, RINGS = 24, 8  # of round primitives
FAR_PLANE = 10.0  # m: half the side of a plane without size
NEAR = 1e-3  # m

_GEOM = mujoco.mjtGeom
_DEFAULT_RGBA = (0.5, 0.5, 0.5, 1.0)  # a geom that says no colour has its material's


@dataclass(frozen=True)
class Drawn:
    """A ball that only cameras see: `centre` in the world and `radius` in m, RGB in 0..1."""

    centre: tuple[float, float, float]
    radius: float
    colour: tuple[float, float, float]


class Triangles:
    """Every visible surface of `model` as triangles, each part's in the part's own frame. Parts are geoms, then sites.

    Attributes:
        vertices: float64 [vertices, 3], m.
        owner: the part of each vertex, int32 [vertices].
        faces: vertices of each face, counter-clockwise seen from outside, int32 [faces, 3].
        colours: of each part, RGB in 0..1, float64 [parts, 3].
        moving: whether the part can move against the world, bool [parts].
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self.colours = np.zeros((model.ngeom + model.nsite, 3))
        self.moving = np.ones(model.ngeom + model.nsite, bool)
        vertices, faces, owner, count = [], [], [], 0
        for part in range(model.ngeom + model.nsite):
            rgba = _rgba(model, part)
            if rgba is None:
                continue
            self.colours[part] = rgba[:3]
            points, triangles = _surface(model, part)
            if part < model.ngeom:
                self.moving[part] = model.body_weldid[model.geom_bodyid[part]] != 0
            vertices.append(points)
            faces.append(triangles + count)
            owner.append(np.full(len(points), part))
            count += len(points)
        self.vertices = np.ascontiguousarray(np.concatenate(vertices), np.float64)
        self.faces = np.ascontiguousarray(np.concatenate(faces), np.int32)
        self.owner = np.ascontiguousarray(np.concatenate(owner), np.int32)

    def plus(self, balls: list[Drawn]) -> "Triangles":
        """With `balls` as further parts, which stand in the world's frame."""
        if not balls:
            return self
        more = copy(self)
        for ball in balls:
            profile = _arc() * ball.radius
            points = _of_profile(profile, SIDES, 0.0) + ball.centre
            triangles = _faces(len(profile), SIDES) + len(more.vertices)
            more.owner = np.concatenate([more.owner, np.full(len(points), len(more.colours), np.int32)])
            more.vertices = np.concatenate([more.vertices, points])
            more.faces = np.concatenate([more.faces, triangles.astype(np.int32)])
            more.colours = np.concatenate([more.colours, [ball.colour]])
            more.moving = np.append(more.moving, False)
        return more


def _rgba(model: mujoco.MjModel, part: int) -> Array | None:
    """The colour of geom or site `part`; None if it is not to be seen."""
    if part >= model.ngeom:
        site = part - model.ngeom
        seen = model.site_group[site] < VISIBLE_GROUPS and model.site_rgba[site, 3] >= OPAQUE
        return np.array(model.site_rgba[site], np.float64) if seen else None
    rgba, material = np.array(model.geom_rgba[part], np.float64), int(model.geom_matid[part])
    if material >= 0:
        if np.allclose(rgba, _DEFAULT_RGBA):
            rgba = np.array(model.mat_rgba[material], np.float64)
        texture = int(max(model.mat_texid[material]))
        if texture >= 0:
            rgba[:3] *= _mean_colour(model, texture)
    return rgba if model.geom_group[part] < VISIBLE_GROUPS and rgba[3] >= OPAQUE else None


def _mean_colour(model: mujoco.MjModel, texture: int) -> Array:
    size = int(model.tex_height[texture]) * int(model.tex_width[texture])
    channels, start = int(model.tex_nchannel[texture]), int(model.tex_adr[texture])
    pixels = model.tex_data[start : start + size * channels].reshape(size, channels)
    return pixels[:, :3].mean(axis=0, dtype=np.float64) / 255.0


def _surface(model: mujoco.MjModel, part: int) -> tuple[Array, NDArray[np.int32]]:
    """Vertices and faces of a part, in its frame."""
    is_site = part >= model.ngeom
    index = part - model.ngeom if is_site else part
    kind = _GEOM(int((model.site_type if is_site else model.geom_type)[index]))
    size = np.array((model.site_size if is_site else model.geom_size)[index], np.float64)
    if kind == _GEOM.mjGEOM_MESH:
        mesh = int(model.geom_dataid[index])
        first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
        face, faces = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
        return model.mesh_vert[first : first + count].astype(np.float64), model.mesh_face[face : face + faces]
    if kind == _GEOM.mjGEOM_PLANE:
        half = np.where(size[:2] > 0, size[:2], FAR_PLANE)
        corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * [*half, 0.0]
        return corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    if kind == _GEOM.mjGEOM_BOX:
        return _of_profile(np.array([[0, -1], [2**0.5, -1], [2**0.5, 1], [0, 1]]), 4, np.pi / 4) * size, _faces(4, 4)
    if kind == _GEOM.mjGEOM_CYLINDER:
        profile = np.array([[0, -size[1]], [size[0], -size[1]], [size[0], size[1]], [0, size[1]]])
        return _of_profile(profile, SIDES, 0.0), _faces(4, SIDES)
    assert kind in (_GEOM.mjGEOM_SPHERE, _GEOM.mjGEOM_CAPSULE, _GEOM.mjGEOM_ELLIPSOID), kind
    profile = _arc()
    if kind == _GEOM.mjGEOM_ELLIPSOID:
        return _of_profile(profile, SIDES, 0.0) * size, _faces(len(profile), SIDES)
    profile = profile * size[0]
    if kind == _GEOM.mjGEOM_CAPSULE:
        profile[:, 1] += np.where(profile[:, 1] > 0, size[1], -size[1])
    return _of_profile(profile, SIDES, 0.0), _faces(len(profile), SIDES)


def _arc() -> Array:
    """Half a circle of radius 1 as a profile, with as many rings above the equator as below."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 2 * RINGS)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _of_profile(profile: Array, sides: int, turn: float) -> Array:
    """A profile of (radius, height), bottom to top, turned around the z axis: [len(profile) * sides, 3]."""
    angles = turn + 2 * np.pi * np.arange(sides) / sides
    x, y = (np.outer(profile[:, 0], f(angles)).ravel() for f in (np.cos, np.sin))
    return np.stack([x, y, np.repeat(profile[:, 1], sides)], axis=1)


def _faces(rings: int, sides: int) -> NDArray[np.int32]:
    """Faces between neighbouring rings; those without area at the poles draw nothing."""
    faces = []
    for ring in range(rings - 1):
        for side in range(sides):
            a, b = ring * sides + side, ring * sides + (side + 1) % sides
            faces += [[a, b, b + sides], [a, b + sides, a + sides]]
    return np.array(faces, np.int32)


class MeshCamera:
    """`camera` in the scene `model`, whose unmoving parts are drawn at the first picture and then stand.

    `axes` are the camera's right, up and backward in its mount's frame, as columns; without them, they follow from its
    target. `light` scales the scene's lights. `samples` rays a pixel along each side are averaged.
    """

    def __init__(
        self,
        camera: Camera,
        model: mujoco.MjModel,
        triangles: Triangles,
        axes: Array | None = None,
        light: float = 1.0,
        samples: int = 1,
    ) -> None:
        self.camera, self.triangles, self._model, self._samples = camera, triangles, model, samples
        self._body = 0 if camera.mount == "world" else model.body(camera.mount).id
        self._position = np.array(camera.position)
        self.axes = look_at(self._position, np.array(camera.target)) if axes is None else axes
        self._height, self._width = camera.height * samples, camera.width * samples
        self._focal = self._height / 2 / np.tan(np.radians(camera.field_of_view) / 2)  # in rays
        self._background: tuple[Array, Array] | None = None
        head = model.vis.headlight
        self._ambient = float(np.mean(head.ambient)) * light
        self._head = float(np.mean(head.diffuse)) * light
        self._lights = model.light_diffuse.mean(axis=1).astype(np.float64) * light
        face_moves = triangles.moving[triangles.owner[triangles.faces[:, 0]]]
        self._still, self._moving = (np.ascontiguousarray(triangles.faces[face_moves == m]) for m in (False, True))

    def image(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """The picture now, uint8 [height, width, 3]; the same bits for the same `data`."""
        rotation = data.xmat[self._body].reshape(3, 3)
        origin, axes = data.xpos[self._body] + rotation @ self._position, rotation @ self.axes
        seen = self._seen(data, origin, axes)
        if self._background is None or self.camera.mount != "world":
            depth = np.full((self._height, self._width), np.inf)
            colour = np.empty((self._height, self._width, 3))
            colour[:] = BACKGROUND
            self._draw(self._still, seen, axes, depth, colour)
            self._background = depth, colour
        depth, colour = (array.copy() for array in self._background)
        self._draw(self._moving, seen, axes, depth, colour)
        n = self._samples
        pixels = colour.reshape(self.camera.height, n, self.camera.width, n, 3).sum(axis=(1, 3)) / (n * n)
        return (np.minimum(pixels, 1.0) * 255 + 0.5).astype(np.uint8)

    def _seen(self, data: mujoco.MjData, origin: Array, axes: Array) -> Array:
        """Vertices from the camera: right, up, and ahead, m."""
        extra = len(self.triangles.colours) - len(data.geom_xpos) - len(data.site_xpos)
        places = np.concatenate([data.geom_xpos, data.site_xpos, np.zeros((extra, 3))])
        turns = np.concatenate([data.geom_xmat, data.site_xmat, np.tile(np.eye(3).ravel(), (extra, 1))])
        seen = np.empty_like(self.triangles.vertices)
        _transform(self.triangles.vertices, self.triangles.owner, places, turns.reshape(-1, 3, 3), origin, axes, seen)
        return seen

    def _draw(self, faces: NDArray[np.int32], seen: Array, axes: Array, depth: Array, colour: Array) -> None:
        lights = -np.ascontiguousarray(self._model.light_dir.astype(np.float64) @ axes) * [1.0, 1.0, -1.0]
        _draw(
            faces, seen, self.triangles.owner, self.triangles.colours, self._focal,
            self._ambient, self._head, lights, self._lights, depth, colour,
        )  # fmt: skip


@kernel
def _transform(vertices: Any, owner: Any, places: Any, turns: Any, origin: Any, axes: Any, seen: Any) -> None:
    for v in range(len(vertices)):
        place, turn, point = places[owner[v]], turns[owner[v]], vertices[v]
        x = turn[0, 0] * point[0] + turn[0, 1] * point[1] + turn[0, 2] * point[2] + place[0] - origin[0]
        y = turn[1, 0] * point[0] + turn[1, 1] * point[1] + turn[1, 2] * point[2] + place[1] - origin[1]
        z = turn[2, 0] * point[0] + turn[2, 1] * point[1] + turn[2, 2] * point[2] + place[2] - origin[2]
        seen[v, 0] = x * axes[0, 0] + y * axes[1, 0] + z * axes[2, 0]
        seen[v, 1] = x * axes[0, 1] + y * axes[1, 1] + z * axes[2, 1]
        seen[v, 2] = -(x * axes[0, 2] + y * axes[1, 2] + z * axes[2, 2])


@kernel
def _draw(
    faces: Any, seen: Any, owner: Any, colours: Any, focal: float, ambient: float, head: float, lights: Any,
    strengths: Any, depth: Any, colour: Any,
) -> None:  # fmt: skip
    """Draws `faces` into `depth` (m along the view) and `colour`. Rays run through the cells' middles."""
    height, width = depth.shape
    screen = np.empty((len(seen), 2))
    for v in range(len(seen)):
        if seen[v, 2] > NEAR:
            screen[v, 0] = width / 2 + focal * seen[v, 0] / seen[v, 2] - 0.5
            screen[v, 1] = height / 2 - focal * seen[v, 1] / seen[v, 2] - 0.5
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        left, right, top, bottom = 0, width - 1, 0, height - 1
        if seen[i, 2] > NEAR and seen[j, 2] > NEAR and seen[k, 2] > NEAR:
            u0, u1, u2, v0, v1, v2 = screen[i, 0], screen[j, 0], screen[k, 0], screen[i, 1], screen[j, 1], screen[k, 1]
            left = max(left, int(np.ceil(min(u0, u1, u2))))
            right = min(right, int(np.floor(max(u0, u1, u2))))
            top = max(top, int(np.ceil(min(v0, v1, v2))))
            bottom = min(bottom, int(np.floor(max(v0, v1, v2))))
        elif seen[i, 2] <= NEAR and seen[j, 2] <= NEAR and seen[k, 2] <= NEAR:
            continue
        if left > right or top > bottom:
            continue
        a, b, c = seen[i], seen[j], seen[k]
        bcx, bcy, bcz = b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]
        cax, cay, caz = c[1] * a[2] - c[2] * a[1], c[2] * a[0] - c[0] * a[2], c[0] * a[1] - c[1] * a[0]
        abx, aby, abz = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
        # The face's normal; with depth pointing ahead the frame is left-handed, so outward is the other way round.
        nx, ny, nz = -(bcx + cax + abx), -(bcy + cay + aby), -(bcz + caz + abz)
        volume = -(nx * a[0] + ny * a[1] + nz * a[2])
        if volume <= 0.0:  # seen from behind, or without area
            continue
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        for row in range(top, bottom + 1):
            y = (height / 2 - 0.5 - row) / focal
            for column in range(left, right + 1):
                x = (column + 0.5 - width / 2) / focal
                e0, e1, e2 = x * bcx + y * bcy + bcz, x * cax + y * cay + caz, x * abx + y * aby + abz
                if e0 < 0.0 or e1 < 0.0 or e2 < 0.0:
                    continue
                total = e0 + e1 + e2
                if total <= 0.0:
                    continue
                distance = volume / total
                if distance <= NEAR or distance >= depth[row, column]:
                    continue
                depth[row, column] = distance
                facing = total / (length * np.sqrt(x * x + y * y + 1.0))
                shade = ambient + head * facing
                for light in range(len(strengths)):
                    shade += strengths[light] * max(
                        0.0, (nx * lights[light, 0] + ny * lights[light, 1] + nz * lights[light, 2]) / length
                    )
                part = owner[i]
                for channel in range(3):
                    colour[row, column, channel] = shade * colours[part, channel]
