"""The content of drawn scenes: roads, parcels, buildings, trees, cars, construction sites, ponds.

Objects are painted from the ground upwards, each at a random place that suits it. Lengths and
positions are metres.
"""

import math
from dataclasses import dataclass

import numpy as np

from datasets.preparation.synthetic_canvas import Canvas, Spot, Texture

PAVED, BUILDING, GRASS, TREE, CAR, CLUTTER = range(6)  # as in datasets.synthetic.CLASSES

_ASPHALT = ((98, 98, 102), (121, 120, 119), (79, 80, 85), (146, 142, 135), (134, 119, 109))
_GREENS = ((94, 118, 62), (116, 130, 72), (78, 102, 56), (148, 141, 94), (129, 114, 88))
_CROWNS = ((60, 84, 46), (74, 98, 52), (50, 71, 47), (95, 103, 54), (116, 97, 58))
_TILES = ((150, 86, 64), (122, 77, 62), (94, 86, 83), (74, 76, 82), (134, 98, 80))
_FLAT_ROOFS = (*_ASPHALT[:4], (178, 176, 170), (196, 198, 200), *_GREENS[:3])
_SOILS = ((157, 134, 105), (141, 126, 108), (174, 158, 130), (118, 111, 104))
_WATERS = ((46, 66, 68), (60, 80, 70), (84, 160, 178))
_CRATES = ((160, 72, 52), (52, 92, 142), (72, 122, 84), (198, 199, 195), (188, 150, 64))
_LACQUERS = (*_ASPHALT[:2], (206, 208, 211), (32, 33, 36), (146, 40, 40), (44, 66, 120))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Town:
    """The street grid: turned by ``angle``, its u axis shifted by ``bend_m * sin(v / wave_m)``."""

    canvas: Canvas
    angle: float
    bend_m: float
    wave_m: float
    roads: tuple[tuple[float, float, bool], ...]  # position, half width, across the u axis?

    def beside_road(self, gap_m: float) -> tuple[float, float, float]:
        """A random place ``gap_m`` from the edge of a road: x, y and the road's direction."""
        rng = self.canvas.rng
        position, half_width, bends = self.roads[rng.integers(len(self.roads))]
        along = rng.uniform(-0.6, 0.6) * self.canvas.view_m
        off = position + rng.choice((-1, 1)) * (half_width + gap_m)
        u, v, turn = along, off, 0.0
        if bends:
            u, v = off - self.bend_m * math.sin(along / self.wave_m), along
            turn = math.atan2(1, -self.bend_m / self.wave_m * math.cos(along / self.wave_m))
        c, s = math.cos(self.angle), math.sin(self.angle)
        return c * u - s * v, s * u + c * v, self.angle + turn

    def find_spot(
        self,
        half_u_m: float,
        half_v_m: float,
        *,
        on: tuple[int, ...] = (GRASS,),
        gap_m: float | None = None,
        margin_m: float = 1.0,
        num_tries: int = 1,
    ) -> Spot | None:
        """Try random places for a rectangle, which shrinks to half its size meanwhile.

        Args:
            half_u_m: half its length.
            half_v_m: half its width.
            on: the classes it may cover.
            gap_m: distance of its middle line to a road's edge; None: anywhere.
            margin_m: how far around it these classes must reach; negative: only its core counts.
            num_tries: places to try; None is the answer if all fail.
        """
        canvas = self.canvas
        for shrink in np.linspace(1, 0.5, num_tries).tolist():
            x, y, angle = *(canvas.rng.uniform(-0.5, 0.5, 2) * canvas.view_m), self.angle
            if gap_m is not None:
                x, y, angle = self.beside_road(gap_m)
            spot = canvas.spot(x, y, angle, half_u_m * shrink, half_v_m * shrink)
            if spot and canvas.lies_on(spot, spot.outline() > -margin_m, *on):
                return spot
        return None


def _draw_ground(canvas: Canvas) -> _Town:
    """Parcels of low vegetation, pavements and roads."""
    rng = canvas.rng
    angle, bend_m, wave_m = rng.uniform((0, 0, 18), (math.pi, 5, 30)).tolist()
    c, s = math.cos(angle), math.sin(angle)
    v = c * canvas.y_m - s * canvas.x_m
    u = c * canvas.x_m + s * canvas.y_m + bend_m * np.sin(v / wave_m)
    _draw_parcels(canvas, u, v)
    roads = []
    for bends in (True, False):
        first, step = rng.uniform(-0.2, 0.2) * canvas.view_m, rng.uniform(38, 64)
        for index in range(-int(canvas.view_m / step), int(canvas.view_m / step) + 1):
            roads.append((first + index * step, rng.uniform(2.6, 4.6), bends))
    everywhere = (slice(None), slice(None))
    for pavement_m in (1.6, 0.0):  # all pavements first: roads interrupt them
        for position, half_width, bends in roads:
            off, along = (np.abs(u - position), v) if bends else (np.abs(v - position), u)
            mask = off < half_width + pavement_m
            if pavement_m:
                canvas.paint(everywhere, mask, PAVED, _ASPHALT[3:])
            else:
                dashes = (off < 0.12) & (along % 5 < 2.5)
                shade = 1 + np.float32(0.6) * dashes
                canvas.paint(everywhere, mask, PAVED, _ASPHALT[:3], shade=shade)
    return _Town(canvas=canvas, angle=angle, bend_m=bend_m, wave_m=wave_m, roads=tuple(roads))


def _draw_parcels(canvas: Canvas, u_m: np.ndarray, v_m: np.ndarray) -> None:
    """Strips along u, each cut into parcels of one width; some are lined by mower or plough."""
    rng = canvas.rng
    strip = np.floor((v_m + rng.uniform(0, 20)) / rng.uniform(16, 24)).astype(np.int32)
    width_m, shift_m = rng.uniform((13, 0), 26, (997, 2)).astype(np.float32).T
    column = np.floor((u_m + shift_m[strip % 997]) / width_m[strip % 997]).astype(np.int32)
    parcel = strip * 101 + column
    parcel -= rng.random(997)[parcel % 997] < 0.3  # these join their neighbour
    names, ids = np.unique(parcel, return_inverse=True)
    canvas.ids[:] = ids.reshape(parcel.shape)
    canvas.target[:] = GRASS
    for _ in names:
        coarse, middle, fine = rng.uniform(0.04, 0.14, 3)
        canvas.new_object(_GREENS, (coarse, middle, fine))
    lines = rng.choice((0, 0, 0, 0.05, 0.09), len(names)).astype(np.float32)
    canvas.shade += lines[canvas.ids] * np.sin(u_m * rng.uniform(3, 6))


def _draw_lot(town: _Town) -> None:
    """A parking lot at a road: bays along both long sides, most of them taken."""
    canvas, rng = town.canvas, town.canvas.rng
    spot = town.find_spot(
        rng.uniform(9, 16), rng.uniform(7, 9), on=(GRASS, PAVED), gap_m=8, margin_m=0, num_tries=40
    )
    if spot is None:
        return
    half_u, half_v = spot.half_u_m, spot.half_v_m
    lines = (np.abs(spot.v_m) > half_v - 5) & (spot.u_m % 2.7 < 0.15)
    shade = 1 + np.float32(0.5) * lines
    canvas.paint(spot.where, spot.outline() > 0, PAVED, _ASPHALT, shade=shade)
    for u in np.arange(2.7 * math.ceil(-half_u / 2.7) + 1.42, half_u - 1.3, 2.7):
        for v in (2.6 - half_v, half_v - 2.6):
            if rng.random() < 0.6:
                _draw_car(canvas, spot, u, v + rng.uniform(-0.3, 0.3), across=True)


def _draw_car(canvas: Canvas, spot: Spot, u_m: float, v_m: float, *, across: bool) -> None:
    """A car, if the place is paved and free; the windows are dark."""
    half_u, half_v = canvas.rng.uniform((2.0, 0.85), (2.5, 1.0)).tolist()
    if across:
        half_u, half_v = half_v, half_u
    edge = spot.inside(half_u, half_v, u_m, v_m)
    if canvas.lies_on(spot, edge > -0.3, PAVED):
        ahead = spot.v_m - v_m if across else spot.u_m - u_m
        glass = (np.abs(np.abs(ahead + 0.2) - 1.1) < 0.35) & (edge > 0.12)
        shade, height = np.where(glass, 0.45, 1.08), canvas.rng.uniform(1.3, 1.8)
        canvas.paint(spot.where, edge > 0, CAR, _LACQUERS, height_m=height, shade=shade)


def _draw_site(town: _Town) -> None:
    """A construction site: bare soil with heaps and containers."""
    canvas, rng = town.canvas, town.canvas.rng
    spot = town.find_spot(rng.uniform(7, 12), rng.uniform(5, 8), num_tries=80)
    if spot is None:
        return
    middle, fine = (noise[spot.where] for noise in canvas.noise[1:])
    soil = spot.outline() + 0.5 * np.minimum(middle, 0) > 0
    canvas.paint(spot.where, soil, CLUTTER, _SOILS, texture=(0.1, 0.12, 0.06))
    for u, v in rng.uniform(-0.7, 0.7, (rng.integers(2, 6), 2)) * (spot.half_u_m, spot.half_v_m):
        if rng.random() < 0.6:
            half_u, half_v = rng.permutation((1.2, rng.choice((3, 6)))).tolist()
            mask = spot.inside(half_u, half_v, u, v) > 0
            ribs = 1 + 0.12 * (spot.u_m % 0.9 < 0.45)
            canvas.paint(spot.where, mask & soil, CLUTTER, _CRATES, height_m=2.6, shade=ribs)
        else:
            dome = 1 - ((spot.u_m - u) ** 2 + (spot.v_m - v) ** 2) / rng.uniform(5, 20)
            heap = np.maximum(2 * dome + 0.15 * fine, 0.1)
            canvas.paint(spot.where, soil & (dome > 0), CLUTTER, _SOILS, height_m=heap)


def _draw_pond(town: _Town) -> None:
    """A pond, smooth and a little irregular."""
    half = town.canvas.rng.uniform(2, 7)
    spot = town.find_spot(half, half * town.canvas.rng.uniform(0.5, 1), num_tries=5)
    if spot:
        off = np.hypot(spot.u_m / spot.half_u_m, spot.v_m / spot.half_v_m)
        mask = off + 0.1 * np.abs(town.canvas.noise[0][spot.where]) < 1
        town.canvas.paint(spot.where, mask, CLUTTER, _WATERS, texture=(0.06, 0.02, 0.0))


def _draw_building(town: _Town, *, tall: bool) -> None:
    """A house or a block, some L-shaped, half of them with a paved yard."""
    canvas, rng = town.canvas, town.canvas.rng
    half_u = rng.uniform(9, 16) if tall else rng.uniform(3.5, 7.5)
    half_v = rng.uniform(0.55, 0.9) * half_u
    gap_m = half_v + rng.uniform(3, 7) if rng.random() < 0.7 else None
    spot = town.find_spot(half_u, half_v, gap_m=gap_m, num_tries=12)
    if spot is None:
        return
    half_u, half_v = spot.half_u_m, spot.half_v_m
    if rng.random() < 0.5:
        yard = spot.inside(half_u + rng.uniform(0, 3), half_v, 0, rng.uniform(-4, 4)) > 0
        free = canvas.target[spot.where] == GRASS
        canvas.paint(spot.where, yard & free, PAVED, _ASPHALT)
    edge = spot.outline()
    if rng.random() < 0.4:
        missing = spot.inside(rng.uniform(0.7, 1.2) * half_u, 1.1 * half_v, half_u, half_v)
        edge = np.minimum(edge, -missing)
    if tall or rng.random() < 0.3:
        _draw_flat_roof(canvas, spot, edge, rng.uniform(6, 16) if tall else rng.uniform(3, 6))
    else:
        _draw_pitched_roof(canvas, spot, edge)


def _draw_flat_roof(canvas: Canvas, spot: Spot, edge: np.ndarray, height_m: float) -> None:
    """A roof with a bright rim and a superstructure; ``edge`` is above 0 inside the outline."""
    rng = canvas.rng
    at_u, at_v = rng.uniform(-0.4, 0.4, 2) * (spot.half_u_m, spot.half_v_m)
    unit = (spot.inside(rng.uniform(0.8, 2), rng.uniform(0.8, 2), at_u, at_v) > 0) & (edge > 1)
    coarse, middle, fine = rng.uniform(0.02, 0.1, 3)
    canvas.paint(
        spot.where,
        edge > 0,
        BUILDING,
        _FLAT_ROOFS,
        height_m=np.where(unit, height_m + 1.5, height_m).astype(np.float32),
        shade=np.where(unit, 1.25, 1 + 0.18 * (edge < 0.5)),
        texture=(coarse, middle, fine),
    )


def _draw_pitched_roof(canvas: Canvas, spot: Spot, edge: np.ndarray) -> None:
    """A hipped or a gabled roof; ``edge`` is the distance to the outline in metres."""
    rng = canvas.rng
    gabled = rng.random() < 0.5
    rise = spot.half_v_m - np.abs(spot.v_m) if gabled else edge
    height = rng.uniform(3, 6) + rng.uniform(0.5, 1) * rise
    courses = 1 + 0.05 * (rise % 0.8 < 0.4)
    canvas.paint(spot.where, edge > 0, BUILDING, _TILES, height_m=height, shade=courses)


def _draw_shrub(town: _Town) -> None:
    """Low vegetation in the colours of trees, without height or shadow."""
    canvas, rng = town.canvas, town.canvas.rng
    half = rng.uniform(0.8, 2.6)
    spot = town.find_spot(half, half * rng.uniform(0.4, 1), margin_m=0)
    if spot:
        mask = np.hypot(spot.u_m / spot.half_u_m, spot.v_m / spot.half_v_m) < 1
        canvas.paint(spot.where, mask, GRASS, _CROWNS, texture=(0.1, 0.14, 0.14))


def _draw_tree(town: _Town, gap_m: float | None, *, in_groups: bool = False) -> None:
    """A tree that stands on low vegetation; its crown may hang over anything lower."""
    canvas, rng = town.canvas, town.canvas.rng
    radius = rng.uniform(1.3, 4.5)
    spot = town.find_spot(radius, radius, on=(GRASS, TREE), gap_m=gap_m, margin_m=0.5 - radius)
    if spot is None or (in_groups and canvas.noise[0][spot.where].mean() < 0.5):
        return
    fine = canvas.noise[2][spot.where]
    lobes = 0.08 * np.sin(rng.integers(4, 8) * np.arctan2(spot.v_m, spot.u_m) + rng.uniform(0, 6))
    off = np.hypot(spot.u_m, spot.v_m) / radius + lobes + 0.08 * fine
    dome = np.sqrt(np.clip(1 - off**2, 0.02, 1)) if rng.random() < 0.75 else 1.2 - off
    height = np.maximum(radius * rng.uniform(1.6, 2.6) * (0.5 + 0.5 * dome) + 0.3 * fine, 0.5)
    texture: Texture = (0.1, 0.12, 0.14)
    canvas.paint(spot.where, off < 1, TREE, _CROWNS, height_m=height, texture=texture)


def draw_town(canvas: Canvas) -> None:
    """Fill an empty canvas. The numbers of objects follow from the area."""
    town, rng, area_m2 = _draw_ground(canvas), canvas.rng, canvas.view_m**2
    _draw_site(town)
    for _ in range(math.ceil(area_m2 / 8000)):
        _draw_lot(town)
    for index in range(math.ceil(area_m2 / 250)):
        _draw_building(town, tall=index < area_m2 / 5000)
    for _ in range(math.ceil(area_m2 / 2500)):
        _draw_pond(town)
    for _ in range(math.ceil(area_m2 / 300)):
        spot = town.find_spot(2.5, 1, on=(PAVED,), gap_m=-rng.uniform(1.2, 2), margin_m=0)
        if spot:
            _draw_car(canvas, spot, 0, 0, across=False)
    for _ in range(math.ceil(area_m2 / 300)):
        _draw_shrub(town)
        _draw_tree(town, None)
        _draw_tree(town, rng.uniform(2.5, 4))
        for _ in range(3):
            _draw_tree(town, None, in_groups=True)
