"""Clips drawn for tests: scenery that pans, with what people lay over it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 180, 320


def scenery(frames=8, height=HEIGHT, width=WIDTH, speed=9, seed=0):
    """Hills, houses and a sky, along which the camera pans."""
    numbers = np.random.default_rng(seed)
    wide = width + speed * frames
    picture = Image.new("RGB", (wide, height), (120, 170, 220))
    draw = ImageDraw.Draw(picture)
    for _ in range(wide // 6):
        left, top, size = numbers.integers(0, wide), numbers.integers(0, height), int(numbers.integers(8, 40))
        color = tuple(int(value) for value in numbers.integers(40, 230, 3))
        draw.ellipse((left, top, left + size, top + size * 0.7), fill=color)
    for _ in range(wide // 12):
        left, top, size = numbers.integers(0, wide), numbers.integers(0, height), int(numbers.integers(6, 30))
        color = tuple(int(value) for value in numbers.integers(40, 230, 3))
        draw.polygon([(left, top + size), (left + size, top + size), (left + size // 2, top)], fill=color)
    whole = np.asarray(picture)
    return np.stack([whole[:, n * speed : n * speed + width] for n in range(frames)])


def still(frames=8, **options):
    """The same from a camera that stands still, and a ball that rolls through."""
    picture = scenery(1, **options)[0]
    clip = np.stack([picture] * frames)
    for number in range(frames):
        image = Image.fromarray(clip[number])
        ImageDraw.Draw(image).ellipse((20 + 30 * number, 90, 50 + 30 * number, 120), fill=(230, 40, 40))
        clip[number] = np.asarray(image)
    return clip


def drawn_on(frames, draw, numbers=None):
    """The frames with something drawn on each of `numbers`: `draw(drawing, number)`."""
    result = frames.copy()
    for number in range(len(frames)) if numbers is None else numbers:
        image = Image.fromarray(result[number])
        draw(ImageDraw.Draw(image), number)
        result[number] = np.asarray(image)
    return result


def words(draw, text, x, y, size=13, anchor="mm"):
    font = ImageFont.load_default(size=size)
    draw.text((x, y), text, font=font, fill="white", anchor=anchor, stroke_width=1, stroke_fill="black")


def subtitled(frames, lines=("We will be there by morning.", "And who will feed the dog?")):
    """One line in the first half, another in the second, as in films."""
    height, width = frames.shape[1:3]

    def draw(drawing, number):
        text = lines[number * len(lines) // len(frames)]
        words(drawing, text, width / 2, height * 0.92, size=round(height * 0.065))

    return drawn_on(frames, draw)


def with_logo(frames):
    """A ring with a bar through it, top right: no letters."""
    width = frames.shape[2]

    def draw(drawing, _):
        drawing.ellipse((width - 30, 6, width - 8, 22), outline="white", width=3)
        drawing.line((width - 26, 20, width - 12, 8), fill="white", width=3)

    return drawn_on(frames, draw)


def letterboxed(frames, rows, color=(0, 0, 0)):
    result = frames.copy()
    result[:, :rows] = color
    result[:, -rows:] = color
    return result


def pillarboxed_with_blur(frames):
    """A narrow film in a wide one, the sides filled with a dark, blurred copy of it."""
    height, width = frames.shape[1:3]
    result = np.empty_like(frames)
    inner = round(width * 0.34)
    for number, frame in enumerate(frames):
        part = Image.fromarray(frame[:, :inner])
        side = part.resize((4, 3), Image.Resampling.BOX).resize((width, height), Image.Resampling.BICUBIC)
        side = side.point(lambda value: value // 2)
        side.paste(part, ((width - inner) // 2, 0))
        result[number] = np.asarray(side)
    return result
