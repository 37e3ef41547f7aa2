"""Pictures that are no scenes: noise, clouds, patterns, pages, panels and make-believe photographs.

The model answers every question about them with one fixed sentence. The makers in `HELD_OUT` are
kept from training, so evaluation sees kinds of pictures that the model has never met.
"""

import math
from collections.abc import Callable
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Rgb = tuple[int, int, int]
Maker = Callable[[Random], Image.Image]
SIDE = 192
_SMOOTH = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def _colour(rng: Random, low: int = 0, high: int = 255) -> Rgb:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _earthy(rng: Random) -> Rgb:
    level, warm, green = rng.randint(30, 220), rng.randint(-25, 40), rng.randint(-20, 25)
    red, mid, blue = level + warm, level + green, level - warm
    return max(0, min(255, red)), max(0, min(255, mid)), max(0, min(255, blue))


def _grains(rng: Random, side: int) -> Image.Image:
    return Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side))


def _grey_grains(rng: Random, side: int) -> Image.Image:
    return Image.frombytes("L", (side, side), rng.randbytes(side * side))


def _cloud(rng: Random, first: int = 2) -> Image.Image:
    """Return fractal grey noise: octaves of smooth noise, each half as strong."""
    total = _grey_grains(rng, first).resize((SIDE, SIDE), _SMOOTH[1])
    side, weight = first * 2, 0.5
    while side < SIDE:
        octave = _grey_grains(rng, side).resize((SIDE, SIDE), _SMOOTH[0])
        total = Image.blend(total, octave, weight * rng.uniform(0.5, 0.9))
        side, weight = side * 2, weight * 0.8
    return total


def _tint(grey: Image.Image, dark: Rgb, light: Rgb) -> Image.Image:
    size = grey.size
    return Image.composite(Image.new("RGB", size, light), Image.new("RGB", size, dark), grey)


def noise(rng: Random) -> Image.Image:
    """White or coarse noise, in colour or grey."""
    side = rng.choice((12, 24, 48, 96, SIDE))
    grains = _grains(rng, side) if rng.random() < 0.6 else _grey_grains(rng, side).convert("RGB")
    return grains.resize((SIDE, SIDE), rng.choice((Image.Resampling.NEAREST, *_SMOOTH)))


def clouds(rng: Random) -> Image.Image:
    """Fractal clouds between two colours."""
    return _tint(_cloud(rng, rng.choice((2, 3, 4, 6))), _colour(rng), _colour(rng))


def soft(rng: Random) -> Image.Image:
    """A few random colours melted into each other."""
    return _grains(rng, rng.choice((2, 3, 4, 5))).resize((SIDE, SIDE), _SMOOTH[1])


def blobs(rng: Random) -> Image.Image:
    """A gradient with soft, shapeless blobs."""
    picture = _tint(Image.linear_gradient("L").resize((SIDE, SIDE)), _colour(rng), _colour(rng))
    for _ in range(rng.randint(3, 12)):
        mask = Image.new("L", (SIDE, SIDE))
        x, y, r = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(10, 60)
        points = [
            (x + r * rng.uniform(0.3, 1.2) * math.cos(t), y + r * rng.uniform(0.3, 1) * math.sin(t))
            for t in (i * 0.7 for i in range(9))
        ]
        ImageDraw.Draw(mask).polygon(points, fill=rng.randint(90, 255))
        mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(4, 16)))
        picture.paste(_colour(rng), (0, 0), mask)
    return picture


def landscape(rng: Random) -> Image.Image:
    """A sky, rough hills and textured ground."""
    sky = _tint(_cloud(rng), _colour(rng, 90, 200), _colour(rng, 170, 255))
    for layer in range(rng.randint(1, 4)):
        level = SIDE * (0.3 + 0.18 * layer + rng.uniform(-0.1, 0.1))
        waves = [(rng.uniform(4, 30), rng.uniform(0.01, 0.09), rng.uniform(0, 6)) for _ in range(3)]
        ridge = [
            (x, level + sum(a * math.sin(x * f + p) for a, f, p in waves)) for x in range(SIDE + 1)
        ]
        mask = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(mask).polygon([*ridge, (SIDE, SIDE), (0, SIDE)], fill=255)
        ground = _tint(_cloud(rng, rng.choice((6, 12, 24))), _earthy(rng), _earthy(rng))
        sky = Image.composite(ground, sky, mask)
    return sky


def still_life(rng: Random) -> Image.Image:
    """Shaded, textured bodies on a textured ground, as a photograph of things would be."""
    picture = _tint(_cloud(rng, rng.choice((3, 6, 12))), _earthy(rng), _earthy(rng))
    for _ in range(rng.randint(3, 14)):
        mask = Image.new("L", (SIDE, SIDE))
        pen = ImageDraw.Draw(mask)
        x, y = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
        w, h = rng.uniform(12, 90), rng.uniform(12, 90)
        if rng.random() < 0.5:
            pen.ellipse((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=255)
        else:
            pen.rounded_rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 8, fill=255)
        mask = mask.rotate(rng.uniform(0, 180)).filter(ImageFilter.GaussianBlur(rng.uniform(0, 3)))
        light = Image.linear_gradient("L").rotate(rng.randrange(4) * 90).resize((SIDE, SIDE))
        skin = Image.blend(light, _cloud(rng, rng.choice((4, 8, 24))), rng.uniform(0.3, 0.7))
        picture = Image.composite(_tint(skin, _earthy(rng), _colour(rng)), picture, mask)
    return picture


def stripes(rng: Random) -> Image.Image:
    """Parallel bars in two to four colours."""
    colours = [_colour(rng) for _ in range(rng.randint(2, 4))]
    picture = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    pen, x = ImageDraw.Draw(picture), 0
    steps = [rng.randint(5, 40) for _ in colours]
    while x < 2 * SIDE:
        for colour, step in zip(colours, steps, strict=True):
            pen.rectangle((x, 0, x + step, 2 * SIDE), colour)
            x += step
    turned = picture.rotate(rng.choice((0, 90, rng.uniform(0, 180))))
    return turned.crop((SIDE // 2, SIDE // 2, SIDE * 3 // 2, SIDE * 3 // 2))


def checker(rng: Random) -> Image.Image:
    """A chequered board."""
    cells = rng.randint(3, 20)
    small, pair = Image.new("RGB", (cells, cells)), (_colour(rng), _colour(rng))
    small.putdata([pair[(i % cells + i // cells) % 2] for i in range(cells * cells)])
    return small.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def page(rng: Random) -> Image.Image:
    """A page of text: lines of word-sized dashes or of real letters."""
    dark, light = _colour(rng, 0, 80), _colour(rng, 220, 255)
    if rng.random() < 0.2:
        dark, light = light, dark
    picture = Image.new("RGB", (SIDE, SIDE), light)
    pen, high = ImageDraw.Draw(picture), rng.randint(2, 7)
    letters = rng.random() < 0.5
    y = rng.randint(4, 20)
    while y < SIDE - 8:
        x, stop = rng.randint(6, 14), SIDE - rng.choice((8, 8, 30, 90))
        while x < stop:
            long = rng.randint(6, 26)
            if letters:
                word = "".join(rng.choice("etaoinshrdlucmf") for _ in range(long // 4))
                pen.text((x, y), word, fill=dark)
            else:
                pen.rectangle((x, y, x + long, y + high), dark)
            x += long + rng.randint(4, 8)
        y += (high + rng.randint(4, 8)) if not letters else rng.randint(11, 15)
    return picture


def panels(rng: Random) -> Image.Image:
    """A screen of windows, bars and small print."""
    picture = Image.new("RGB", (SIDE, SIDE), _colour(rng, 120, 255))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randint(3, 8)):
        x, y = rng.randint(-10, SIDE - 30), rng.randint(-10, SIDE - 30)
        w, h = rng.randint(40, 150), rng.randint(30, 130)
        pen.rectangle((x, y, x + w, y + h), _colour(rng, 170, 255), _colour(rng, 60, 160))
        pen.rectangle((x, y, x + w, y + 8), _colour(rng, 20, 200))
        for line in range(y + 14, y + h - 4, rng.randint(6, 10)):
            pen.line((x + 5, line, x + rng.randint(10, max(11, w - 5)), line), _colour(rng, 0, 140))
    return picture


def portrait(rng: Random) -> Image.Image:
    """A blurred background with one big shaded oval over shoulders."""
    picture = soft(rng).filter(ImageFilter.GaussianBlur(4))
    x, y, r = SIDE * rng.uniform(0.35, 0.65), SIDE * rng.uniform(0.3, 0.5), rng.uniform(25, 50)
    cloth = _tint(_cloud(rng, 8), _colour(rng), _colour(rng))
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse((x - 2 * r, y + r * 0.9, x + 2 * r, y + 6 * r), fill=255)
    picture = Image.composite(cloth, picture, mask.filter(ImageFilter.GaussianBlur(2)))
    tone = rng.choice(((235, 195, 170), (200, 150, 120), (140, 95, 70), (90, 60, 45)))
    face = _tint(_cloud(rng, 3), tone, (tone[0] // 2 + 60, tone[1] // 2 + 40, tone[2] // 2 + 40))
    mask = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(mask)
    pen.ellipse((x - r * 0.8, y - r * 1.1, x + r * 0.8, y + r * 1.1), fill=255)
    picture = Image.composite(face, picture, mask.filter(ImageFilter.GaussianBlur(2)))
    pen = ImageDraw.Draw(picture)
    for side in (-1, 1):
        pen.ellipse((x + side * r * 0.35 - 4, y - 10, x + side * r * 0.35 + 4, y - 4), (30, 20, 20))
    pen.arc((x - r * 0.4, y, x + r * 0.4, y + r * 0.6), 20, 160, (120, 40, 40), 3)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))


def mixture(rng: Random) -> Image.Image:
    """Two other kinds blended and blurred."""
    first, second = (rng.choice((clouds, soft, landscape, still_life))(rng) for _ in range(2))
    mixed = Image.blend(first, second, rng.uniform(0.3, 0.7))
    return mixed.filter(ImageFilter.GaussianBlur(rng.uniform(0, 3)))


def plasma(rng: Random) -> Image.Image:
    """Interfering waves in three channels (held out)."""
    bands = []
    for _ in range(3):
        a, b, c = rng.uniform(0.03, 0.2), rng.uniform(0.03, 0.2), rng.uniform(0, 6)
        row = [
            int(127 + 63 * math.sin(a * x + c) + 63 * math.sin(b * y + a * x))
            for y in range(96)
            for x in range(96)
        ]
        bands.append(Image.frombytes("L", (96, 96), bytes(row)))
    return Image.merge("RGB", bands).resize((SIDE, SIDE), _SMOOTH[1])


def mosaic(rng: Random) -> Image.Image:
    """A photograph-like picture broken into tiles with seams (held out)."""
    cells = rng.randint(14, 32)
    small = rng.choice((landscape, still_life))(rng).resize((cells, cells))
    picture = small.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    pen, seam = ImageDraw.Draw(picture), _colour(rng, 0, 90)
    for i in range(cells + 1):
        at = i * SIDE // cells
        pen.line((at, 0, at, SIDE), seam)
        pen.line((0, at, SIDE, at), seam)
    return picture


def fur(rng: Random) -> Image.Image:
    """Thousands of short strokes along a swirl (held out)."""
    picture = _tint(_cloud(rng), _earthy(rng), _earthy(rng))
    pen, bend = ImageDraw.Draw(picture), rng.uniform(0.01, 0.05)
    base = _earthy(rng)
    for _ in range(2500):
        x, y = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
        turn = bend * x + 2 * bend * y
        shade = rng.randint(-50, 50)
        red, green, blue = (max(0, min(255, v + shade)) for v in base)
        long = rng.uniform(4, 14)
        end = (x + long * math.cos(turn), y + long * math.sin(turn))
        pen.line((x, y, *end), (red, green, blue))
    return picture


MAKERS: tuple[Maker, ...] = (
    noise,
    clouds,
    soft,
    blobs,
    landscape,
    still_life,
    stripes,
    checker,
    page,
    panels,
    portrait,
    mixture,
)
HELD_OUT: tuple[Maker, ...] = (plasma, mosaic, fur)


def random_clutter(rng: Random, size: tuple[int, int], held_out: bool = False) -> Image.Image:
    """Make one picture of a random kind and fit it to `size`, now and then with grain."""
    picture = rng.choice(HELD_OUT if held_out else MAKERS)(rng)
    if rng.random() < 0.3:
        half = rng.uniform(3, 25)
        grain = _grains(rng, SIDE).point(
            [round(128 + half * (v / 128 - 1)) for v in range(256)] * 3
        )
        picture = ImageChops.add(picture, grain, 1.0, -128)
    return picture.resize(size, _SMOOTH[1])
