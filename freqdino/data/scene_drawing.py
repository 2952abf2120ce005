"""Drawing of one sample scene: textured shapes that overlap before one or two textured backgrounds.

Each class has an outline and a fine or coarse texture of its own; colour tells nothing, and both low and high spatial
frequencies matter. Everything is computed with numpy from uniform random numbers, so a seed gives the same picture
everywhere.

Shape key: S: edge of the square picture in pixels, P: outline points.
"""
import colorsys
from dataclasses import dataclass

import numpy as np

SIZE = 128
STUFF_TEXTURES = ("gradient", "grain", "blotches")
_MOST_OBJECTS = 3
_LEAST_VISIBLE = 0.4  # of an object's area
_PIXEL_X, _PIXEL_Y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)


@dataclass(frozen=True)
class Shape:
    """A thing class: a polygon whose every second corner is ``inner`` times as far from the centre, the range of its
    radius in pixels, and the period (pixels) of its stripes, or of its checks.
    """

    corners: int
    inner: float
    radius: tuple[float, float]
    period: float
    checked: bool


@dataclass(frozen=True)
class Things:
    """What is drawn before a background: the classes, and the ranges of their colours' saturation and brightness."""

    shapes: tuple[Shape, ...]
    saturation: tuple[float, float]
    brightness: tuple[float, float]


THINGS = Things((  # in the order of categories/freqdino_scenes.json
    Shape(corners=48, inner=1.0, radius=(16, 30), period=4, checked=False),
    Shape(corners=4, inner=1.0, radius=(18, 32), period=12, checked=False),
    Shape(corners=3, inner=1.0, radius=(24, 40), period=5, checked=True),
    Shape(corners=10, inner=0.5, radius=(22, 38), period=12, checked=True),
), saturation=(0.35, 1.0), brightness=(0.75, 1.0))
# Other outlines, textures and colours, to learn after those; in the order of categories/freqdino_held_back.json.
HELD_BACK = Things((
    Shape(corners=6, inner=1.0, radius=(18, 32), period=8, checked=False),
    Shape(corners=8, inner=0.4, radius=(24, 40), period=8, checked=True),
    Shape(corners=24, inner=0.75, radius=(18, 32), period=3, checked=False),
), saturation=(0.0, 0.25), brightness=(0.5, 0.75))


@dataclass
class SceneObject:
    """An object of a scene: index into the shapes, outline (P, 2) in (x, y), visible mask (S, S) bool.

    It is whole when nothing hides a part of it and it does not reach beyond the picture.
    """

    category: int
    outline: np.ndarray
    visible: np.ndarray
    whole: bool


@dataclass
class Scene:
    """A picture (S, S, 3) uint8, its objects, and per pixel the index into STUFF_TEXTURES behind them (S, S)."""

    image: np.ndarray
    objects: list[SceneObject]
    stuff: np.ndarray


class _Random:
    """Uniform numbers from one bit generator: the only source of chance, stable across numpy versions."""

    def __init__(self, seed: list[int]):
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def below(self, count: int) -> int:
        return int(self._generator.random() * count)

    def field(self, *shape: int) -> np.ndarray:
        return self._generator.random(shape)


def _color(random: _Random, saturation: tuple[float, float], brightness: tuple[float, float]) -> np.ndarray:
    """A random RGB colour, 0..255."""
    hue = random.uniform(0, 1)
    return 255 * np.array(colorsys.hsv_to_rgb(hue, random.uniform(*saturation), random.uniform(*brightness)))


def _mix(weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Weights (rows, columns) of the second of two colours."""
    return first + weight[..., None] * (second - first)


def _smooth_noise(random: _Random, cells: int) -> np.ndarray:
    """(S, S) noise 0..1 that varies over S / cells pixels: a bilinearly enlarged grid."""
    grid = random.field(cells + 1, cells + 1)
    position = (np.arange(SIZE) + 0.5) * cells / SIZE
    index, weight = position.astype(int), position % 1
    rows = grid[index] + weight[:, None] * (grid[index + 1] - grid[index])
    return rows[:, index] + weight * (rows[:, index + 1] - rows[:, index])


def _stuff_texture(random: _Random, texture: str) -> np.ndarray:
    """A background (S, S, 3): a smooth gradient, grain of single pixels, or blotches of about 16 pixels."""
    base = _color(random, (0.1, 0.5), (0.35, 0.85))
    if texture == "gradient":
        angle = random.uniform(0, 2 * np.pi)
        ramp = (np.cos(angle) * (_PIXEL_X / SIZE - 0.5) + np.sin(angle) * (_PIXEL_Y / SIZE - 0.5)) / 1.5 + 0.5
        return _mix(ramp, base * 0.75, np.minimum(base * 1.25, 255))
    if texture == "grain":
        return base + 110 * (random.field(SIZE, SIZE)[..., None] - 0.5)
    edges = np.clip((_smooth_noise(random, 9) - 0.5) * 12 + 0.5, 0, 1)
    return _mix(edges, base * 0.7, np.minimum(base * 1.3, 255))


def _background(random: _Random) -> tuple[np.ndarray, np.ndarray]:
    """One texture, or two on the sides of a wavy line: picture (S, S, 3) and texture index (S, S)."""
    first = random.below(3)
    picture, stuff = _stuff_texture(random, STUFF_TEXTURES[first]), np.full((SIZE, SIZE), first)
    if random.uniform(0, 1) < 0.35:
        return picture, stuff
    second = (first + 1 + random.below(2)) % 3
    angle, wave = random.uniform(0, 2 * np.pi), random.uniform(0, 2 * np.pi)
    x, y = _PIXEL_X - SIZE * random.uniform(0.3, 0.7), _PIXEL_Y - SIZE * random.uniform(0.3, 0.7)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    beyond = across + 5 * np.sin(along / 11 + wave) > 0
    picture[beyond] = _stuff_texture(random, STUFF_TEXTURES[second])[beyond]
    stuff[beyond] = second
    return picture, stuff


def _outline(shape: Shape, radius: float, angle: float) -> np.ndarray:
    """Corner points (P, 2) round the origin."""
    corner = np.arange(shape.corners)
    turn = angle + 2 * np.pi * corner / shape.corners
    length = radius * np.where(corner % 2, shape.inner, 1.0)
    return length[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _window(points: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of the picture that a polygon (P, 2) can touch."""
    (left, top), (right, bottom) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    return slice(max(int(top), 0), int(bottom)), slice(max(int(left), 0), int(right))


def _inside(points: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """(S, S) bool: pixel centres inside a polygon (P, 2), by the even-odd rule."""
    inside = np.zeros((SIZE, SIZE), dtype=bool)
    x, y = _PIXEL_X[window], _PIXEL_Y[window]
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0)):
        if y0 != y1:
            inside[window] ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def _paint(random: _Random, things: Things, shape: Shape, window: tuple[slice, slice]) -> np.ndarray:
    """Two shades of one colour in the shape's stripes or checks, in a random direction: (rows, columns, 3)."""
    light = _color(random, things.saturation, things.brightness)
    angle, phase = random.uniform(0, np.pi), random.uniform(0, 2 * np.pi)
    across = np.cos(angle) * _PIXEL_X[window] + np.sin(angle) * _PIXEL_Y[window]
    wave = np.sin(2 * np.pi / shape.period * across + phase)
    if shape.checked:
        along = np.cos(angle) * _PIXEL_Y[window] - np.sin(angle) * _PIXEL_X[window]
        wave = 2 * wave * np.sin(2 * np.pi / shape.period * along + phase)
    return _mix(np.clip(wave * 1.5 + 0.5, 0, 1), light * 0.3, light)


def draw_scene(seed: list[int], things: Things = THINGS) -> Scene:
    """The scene of a seed: background, then two or three objects, each drawn over the earlier ones.

    A place that would hide more than 60 % of an earlier object is not taken.
    """
    random = _Random(seed)
    picture, stuff = _background(random)
    objects, areas = [], []
    wanted = 2 + random.below(_MOST_OBJECTS - 1)
    for _ in range(8 * wanted):
        if len(objects) == wanted:
            break
        category = random.below(len(things.shapes))
        shape = things.shapes[category]
        center = np.array([random.uniform(10, SIZE - 10), random.uniform(10, SIZE - 10)])
        points = center + _outline(shape, random.uniform(*shape.radius), random.uniform(0, 2 * np.pi))
        window = _window(points)
        mask, paint = _inside(points, window), _paint(random, things, shape, window)
        if any((other.visible & ~mask).sum() < _LEAST_VISIBLE * area for other, area in zip(objects, areas)):
            continue
        for other in objects:
            other.whole &= not (other.visible & mask).any()
            other.visible &= ~mask
        picture[mask] = paint[mask[window]]
        whole = bool((points >= 0).all() and (points <= SIZE).all())
        objects.append(SceneObject(category, points, mask, whole))
        areas.append(mask.sum())
    noisy = picture * random.uniform(0.75, 1.1) + 12 * (random.field(SIZE, SIZE, 3) - 0.5)
    return Scene(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), objects, stuff)
