"""The lineage as a picture: a layered drawing of what was made from what.

The steps of Sugiyama, Tagawa and Toda (1981, IEEE Trans. SMC 11:109-125): layers, bends where an arrow passes a layer,
order within a layer by barycentres, then places. Sources of the same artifact stand together in one frame. An arrow
that follows from others (corpus to tokens, where the tokenizer lies between) is left out; titles and the table below
the drawing name every input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from kiban.artifacts.store import Artifact
from kiban.console.figures import key_figure, title
from kiban.console.words import Both

WIDTH, HEIGHT = 236, 58  # of a box
GAP_X, GAP_Y = 22, 38
BEND = 12  # the width that a passing arrow takes
PER_ROW = 4  # boxes side by side in a frame
INSET = 8  # of a frame around its boxes
SWEEPS = 24

Inputs = Mapping[str, set[str]]  # address -> addresses of its inputs


@dataclass(frozen=True)
class Unit:
    """What the layout places: the boxes of one frame, or nothing where an arrow passes (`towards` says to where)."""

    addresses: tuple[str, ...]
    towards: "Unit | None" = None
    layer: int = 0

    @property
    def columns(self) -> int:
        return min(len(self.addresses), PER_ROW)

    @property
    def width(self) -> int:
        if not self.addresses:
            return BEND
        frame = 2 * INSET if len(self.addresses) > 1 else 0
        return self.columns * (WIDTH + INSET) - INSET + frame

    @property
    def height(self) -> int:
        if len(self.addresses) <= 1:
            return HEIGHT
        return -(-len(self.addresses) // PER_ROW) * (HEIGHT + INSET) + INSET


@dataclass(frozen=True)
class Layout:
    """Centres in x and tops in y, the ways of the arrows, and the size of the whole, in px."""

    x: dict[Unit, float]
    y: dict[Unit, float]
    ways: list[list[Unit]]
    width: float
    height: float


def draw(artifacts: Sequence[Artifact]) -> Markup:
    """The drawing, one box an artifact. Boxes carry `data-up`: the numbers of all boxes that they were made from."""
    known = {artifact.address: artifact for artifact in artifacts}
    inputs = {
        address: {parent for parent in artifact.manifest.inputs.values() if parent in known}
        for address, artifact in known.items()
    }
    number = {address: str(i) for i, address in enumerate(known)}
    layout = _laid_out(_units(inputs), inputs)
    parts = [_arrow(way, layout, number) for way in layout.ways]
    for unit in layout.x:
        if len(unit.addresses) > 1:
            parts.append(
                Markup('<rect class="frame" x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="7"/>').format(
                    layout.x[unit] - unit.width / 2, layout.y[unit], unit.width, unit.height
                )
            )
        frame = INSET if len(unit.addresses) > 1 else 0
        for i, address in enumerate(unit.addresses):
            row, column = divmod(i, PER_ROW)
            x = layout.x[unit] - unit.width / 2 + frame + column * (WIDTH + INSET)
            y = layout.y[unit] + frame + row * (HEIGHT + INSET)
            up = " ".join(number[parent] for parent in sorted(_above(address, inputs), key=lambda a: int(number[a])))
            parts.append(_box(known[address], x, y, number[address], up))
    return Markup(
        '<svg class="lineage" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" height="{h:.0f}" role="group" '
        'aria-labelledby="lineage-caption">{parts}</svg>'
    ).format(w=layout.width, h=layout.height, parts=Markup().join(parts))


# Layout


def _above(address: str, inputs: Inputs) -> set[str]:
    """Everything that `address` was made from."""
    found: set[str] = set()
    waiting = [address]
    while waiting:
        for parent in inputs[waiting.pop()] - found:
            found.add(parent)
            waiting.append(parent)
    return found


def _units(inputs: Inputs) -> list[Unit]:
    """Boxes in layers: each below its inputs, and those without inputs just above what is made from them first."""
    depth: dict[str, int] = {}

    def depth_of(address: str) -> int:
        if address not in depth:
            depth[address] = 1 + max((depth_of(parent) for parent in inputs[address]), default=-1)
        return depth[address]

    for address in inputs:
        depth_of(address)
    frames: dict[tuple[str, ...], list[str]] = {}
    for address, parents in inputs.items():
        users = [child for child, its in inputs.items() if address in its]
        nearest = min(users, key=lambda child: depth[child], default=None)
        if parents or nearest is None:
            frames[(address,)] = [address]
        else:
            depth[address] = depth[nearest] - 1
            frames.setdefault(("of", nearest), []).append(address)
    return [Unit(tuple(addresses), None, depth[addresses[0]]) for addresses in frames.values()]


def _laid_out(units: Sequence[Unit], inputs: Inputs) -> Layout:
    of = {address: unit for unit in units for address in unit.addresses}
    levels = sorted({unit.layer for unit in units})
    rows: dict[int, list[Unit]] = {level: [unit for unit in units if unit.layer == level] for level in levels}
    ways = []
    for child, parents in inputs.items():
        implied = set().union(*(_above(parent, inputs) for parent in parents))
        for parent in {of[parent]: None for parent in inputs if parent in parents - implied}:
            bends = [Unit((), of[child], level) for level in levels if parent.layer < level < of[child].layer]
            for bend in bends:  # arrows to the same box share their bends, like wires in a cable
                if bend not in rows[bend.layer]:
                    rows[bend.layer].append(bend)
            ways.append([parent, *bends, of[child]])
    above: dict[Unit, list[Unit]] = {unit: [] for row in rows.values() for unit in row}
    below: dict[Unit, list[Unit]] = {unit: [] for unit in above}
    for upper, lower in {pair: None for way in ways for pair in pairwise(way)}:
        above[lower].append(upper)
        below[upper].append(lower)
    x = {unit: 0.0 for unit in above}
    for sweep in range(SWEEPS):  # downwards by what lies above, then upwards by what lies below
        neighbours = below if sweep % 2 else above
        for level in reversed(levels) if sweep % 2 else levels:
            row = rows[level]
            wanted = {unit: _mean([x[other] for other in neighbours[unit]] or [x[unit]]) for unit in row}
            row.sort(key=lambda unit: wanted[unit])
            x.update(zip(row, _packed(row, [wanted[unit] for unit in row]), strict=True))
    left = min(x[unit] - unit.width / 2 for unit in x) - 2
    y: dict[Unit, float] = {}
    top = 2.0
    for level in levels:
        y |= {unit: top for unit in rows[level]}
        top += max(unit.height for unit in rows[level]) + GAP_Y
    right = max(x[unit] + unit.width / 2 for unit in x) + 2
    return Layout({unit: x[unit] - left for unit in x}, y, ways, right - left, top - GAP_Y + 2)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _packed(row: Sequence[Unit], wanted: Sequence[float]) -> list[float]:
    """Centres in the order of `row`, without overlap, near to `wanted`: units that would overlap become a block, which
    stands where its units would like it on average."""
    blocks: list[tuple[list[float], list[float]]] = []  # of each block: offsets of its units, and their wishes

    def start(block: tuple[list[float], list[float]]) -> float:
        return _mean([wish - offset for offset, wish in zip(*block, strict=True)])

    for num_placed, wish in enumerate(wanted, 1):
        blocks.append(([0.0], [wish]))
        while len(blocks) > 1:
            (offsets, wishes), (more_offsets, more_wishes) = blocks[-2:]
            right = num_placed - len(more_offsets)  # the first unit of the last block
            reach = offsets[-1] + (row[right - 1].width + row[right].width) / 2 + GAP_X
            if start(blocks[-2]) + reach <= start(blocks[-1]):
                break
            blocks[-2:] = [(offsets + [reach + offset for offset in more_offsets], wishes + more_wishes)]
    return [start(block) + offset for block in blocks for offset in block[0]]


# Drawing


def _arrow(way: Sequence[Unit], layout: Layout, number: Mapping[str, str]) -> Markup:
    """From the foot of the first unit to the head of the last, straight down past the layers between."""
    x, y = layout.x[way[0]], layout.y[way[0]] + way[0].height
    path = f"M{x:.1f} {y:.1f}"
    for unit in way[1:]:
        to_x, to_y = layout.x[unit], layout.y[unit]
        middle = to_y - GAP_Y / 2
        path += f"V{to_y - GAP_Y:.1f}C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
        x, y = to_x, to_y
    origins = " ".join(number[address] for address in way[0].addresses)
    return Markup('<path class="edge" data-from="{}" data-to="{}" d="{}"/>').format(
        origins, number[way[-1].addresses[0]], path
    )


def _box(artifact: Artifact, x: float, y: float, number: str, up: str) -> Markup:
    rights = artifact.rights
    told = [
        f"{artifact.name} ({artifact.kind})",
        artifact.address,
        key_figure(artifact).en,
        f"uses: {', '.join(sorted(rights.uses)) or 'none'}",
        f"residency: {', '.join(sorted(rights.residency))}",
        f"expires: {rights.expires or 'never'}",
        f"obligations: {', '.join(sorted(rights.obligations)) or 'none'}",
        f"inputs: {', '.join(sorted(artifact.manifest.inputs)) or 'none'}",
    ]
    return Markup(
        '<g class="box kind-{kind}" data-n="{number}" data-up="{up}" tabindex="0" role="img"><title>{told}</title>'
        '<rect x="{x:.1f}" y="{y:.1f}" width="{w}" height="{h}" rx="5"/>{name}{figure}'
        '<text class="address" x="{right:.1f}" y="{line:.1f}" text-anchor="end">{address}</text></g>'
    ).format(
        kind=artifact.kind,
        number=number,
        up=up,
        told="\n".join(told),
        x=x,
        y=y,
        w=WIDTH,
        h=HEIGHT,
        name=_text("name", x + 12, y + 23, title(artifact), 19),
        figure=_text("figure", x + 12, y + 44, key_figure(artifact), 33),
        right=x + WIDTH - 10,
        line=y + 22,
        address=artifact.address.removeprefix("sha256:")[:7],
    )


def _text(kind: str, x: float, y: float, text: Both, most: int) -> Markup:
    return Markup().join(
        Markup('<text class="{}" data-lang="{}" lang="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
            kind, language, language, x, y, _cut(words, most)
        )
        for language, words in zip(("ja", "en"), text, strict=True)
    )


def _cut(text: str, most: int) -> str:
    """At most `most` columns, a full-width character taking two."""
    columns, kept = 0, ""
    for character in text:
        columns += 1 if character.isascii() else 2
        if columns > most:
            return kept.rstrip("、, ") + "…"
        kept += character
    return text
