"""How scenes become pictures: grounds, edges, outlines and damage.

One scene can be painted in many ways, as other programs would paint it: hard edges, smoothed or
blurred ones, outlines, gradients, grain, JPEG artefacts. Equal scenes in equal styles give equal
pixels. Knows nothing of questions or models.
"""

import io
import math
from collections.abc import Sequence
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from workers.demo.scenes import Renderer, Rgb, Scene, Shape, Style


def random_style(rng: Random, renderers: Sequence[Renderer] = ()) -> Style:
    """Choose a ground, edges and damage; `renderers` defaults to those used in training."""
    ground, ground_end = _random_ground(rng)
    renderer = rng.choice(renderers or ("plain", "plain", "supersampled", "blurred"))
    outline = None
    if rng.random() < 0.25:
        outline = rng.choice(((0, 0, 0), (40, 40, 40), (255, 255, 255), (90, 90, 90)))
    return Style(
        renderer=renderer,
        ground=ground,
        ground_end=ground_end,
        ground_angle=rng.randrange(4) * 90,
        outline=outline,
        outline_share=rng.uniform(0.01, 0.14) if outline else 0.0,
        blur_share=rng.uniform(0.001, 0.008) if renderer == "blurred" else 0.0,
        noise=rng.uniform(2, 14) if rng.random() < 0.18 else 0.0,
        jpeg_quality=rng.randint(35, 92) if rng.random() < 0.25 else None,
    )


def _random_ground(rng: Random) -> tuple[Rgb, Rgb | None]:
    roll = rng.random()
    if roll < 0.4:
        return (255, 255, 255), None
    base = _ground_tone(rng, roll)
    if rng.random() < 0.2:
        shift = rng.randint(-45, 45)
        red, green, blue = (max(0, min(255, v + shift)) for v in base)
        return base, (red, green, blue)
    return base, None


def _ground_tone(rng: Random, roll: float) -> Rgb:
    if roll < 0.6:
        level = rng.randint(185, 255)
        return level, level, level
    if roll < 0.78:
        red, green, blue = (rng.randint(195, 255) for _ in range(3))
        return red, green, blue
    if roll < 0.86:
        level = rng.randint(90, 185)
        return level, level, level
    if roll < 0.93:
        return 0, 0, 0
    red, green, blue = (rng.randint(0, 60) for _ in range(3))
    return red, green, blue


def draw(scene: Scene, style: Style) -> Image.Image:
    """Paint the scene as an RGB picture of exactly its size; equal arguments, equal pixels."""
    picture = paint_ground(scene.width, scene.height, style)
    if style.renderer == "raster":
        for shape in scene.shapes:
            picture.paste(shape.rgb, (0, 0), _raster_mask(shape, scene.width, scene.height))
    elif style.renderer == "plain":
        _paint_shapes(picture, scene, style, 1)
    else:
        zoom = 3 if max(scene.width, scene.height) < 360 else 2
        picture = picture.resize(
            (scene.width * zoom, scene.height * zoom), Image.Resampling.NEAREST
        )
        _paint_shapes(picture, scene, style, zoom)
        picture = picture.reduce(zoom)
    return damage(picture, style, Random(f"{scene}"))


def paint_ground(width: int, height: int, style: Style) -> Image.Image:
    """Return an empty canvas with the style's ground."""
    ground = Image.new("RGB", (width, height), style.ground)
    if style.ground_end is None:
        return ground
    ramp = Image.linear_gradient("L").rotate(style.ground_angle).resize((width, height))
    return Image.composite(Image.new("RGB", (width, height), style.ground_end), ground, ramp)


def _paint_shapes(picture: Image.Image, scene: Scene, style: Style, zoom: int) -> None:
    pen = ImageDraw.Draw(picture)
    for shape in scene.shapes:
        width = max(1, round(shape.radius * style.outline_share * zoom)) if style.outline else 0
        points = [(x * zoom, y * zoom) for x, y in shape.outline()]
        if shape.kind == "circle" and shape.angle == 0.0:
            left, top, right, bottom = (v * zoom for v in shape.box())
            pen.ellipse((left, top, right, bottom), shape.rgb, style.outline, width)
        else:
            pen.polygon(points, shape.rgb, style.outline, max(1, width))


def _raster_mask(shape: Shape, width: int, height: int, zoom: int = 4) -> Image.Image:
    """Fill a polygon by even-odd scan lines, without Pillow's drawing code."""
    corners = [(x * zoom, y * zoom) for x, y in shape.outline()]
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
    mask = bytearray(width * zoom * height * zoom)
    for row in range(height * zoom):
        level = row + 0.5
        cuts = sorted(
            ax + (level - ay) * (bx - ax) / (by - ay)
            for (ax, ay), (bx, by) in edges
            if (ay <= level) != (by <= level)
        )
        for start, stop in zip(cuts[::2], cuts[1::2], strict=True):
            first, last = max(0, round(start)), min(width * zoom, round(stop))
            offset = row * width * zoom
            mask[offset + first : offset + last] = b"\xff" * max(0, last - first)
    return Image.frombytes("L", (width * zoom, height * zoom), bytes(mask)).reduce(zoom)


def add_grain(picture: Image.Image, amount: float, rng: Random) -> Image.Image:
    """Add uniform colour noise of `amount` levels standard deviation."""
    grain = Image.frombytes("RGB", picture.size, rng.randbytes(3 * picture.width * picture.height))
    half = amount * math.sqrt(3)
    grain = grain.point([round(128 + half * (v - 127.5) / 127.5) for v in range(256)] * 3)
    return ImageChops.add(picture, grain, 1.0, -128)


def damage(picture: Image.Image, style: Style, rng: Random) -> Image.Image:
    """Apply the style's blur, noise and JPEG artefacts."""
    if style.blur_share:
        radius = style.blur_share * max(picture.size)
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    if style.noise:
        picture = add_grain(picture, style.noise, rng)
    if style.jpeg_quality is not None:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=style.jpeg_quality)
        picture = Image.open(stream).convert("RGB")
    return picture
