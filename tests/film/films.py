"""Tiny films for the tests, in any codec that PyAV can write, and what a decoder shows of them."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CODECS = {  # the name that FFmpeg gives what it reads: file ending, encoder, pixel format
    "h264": (".mp4", "libx264", "yuv420p"),
    "hevc": (".mp4", "libx265", "yuv420p10le"),
    "vp9": (".webm", "libvpx-vp9", "yuv420p"),
    "av1": (".mp4", "libsvtav1", "yuv420p"),
    "prores": (".mov", "prores_ks", "yuv422p10le"),
}
FAST = {
    "libx265": {"x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
SMOOTH = 4 | 0x2000 | 0x40000 | 0x80000  # of swscale: bicubic, full chroma, exact


def natural(num_frames, height=48, width=64, noise=6.0):
    """Smooth moving colours and the noise of a camera."""
    t, y, x = np.meshgrid(np.arange(num_frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(x / 13 + t / 5 + phase) * 50 + np.cos(y / 9 - t / 7) * 40 + 120 for phase in (0, 1, 2)]
    grain = np.random.default_rng(0).normal(0, noise, (num_frames, height, width, 3))
    return (np.stack(waves, axis=-1) + grain).clip(0, 255).round().astype(np.uint8)


def numbered(num_frames, height=32, width=32):
    """Frames that show their number in two digits of base 12, each a half of them in its grey; `numbers` reads it."""
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:, : width // 2], frame[:, width // 2 :] = (20 + 18 * digit for digit in divmod(number, 12))
    return frames


def numbers(frames):
    digits = [[round((float(half.mean()) - 20) / 18) for half in np.split(frame, 2, axis=1)] for frame in frames]
    return [12 * high + low for high, low in digits]


def write(path, frames, codec="libx264", pix_fmt="yuv420p", *, fps=24, times=None, clock=None, **more):
    """Write a film; `times` are in ticks of 1/`clock` seconds.

    `more`: options, container, colors, matrix, aspect, turn, sound, seconds.
    """
    colors = more.get("colors", (2, 2, 2, 1))
    matrix = more.get("matrix", colors[2])
    with av.open(path, "w", options=more.get("container", {})) as file:
        stream = file.add_stream(codec, rate=fps, options=FAST.get(codec, {}) | more.get("options", {}))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        encoder = stream.codec_context
        encoder.color_primaries, encoder.color_trc, encoder.colorspace, encoder.color_range = colors
        encoder.sample_aspect_ratio = more.get("aspect", Fraction(1))
        encoder.time_base = Fraction(1, clock) if clock else 1 / Fraction(fps)
        if "turn" in more:
            stream.set_display_rotation(**more["turn"])
        sound = file.add_stream(more["sound"], rate=48000, layout="mono") if "sound" in more else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
                format=pix_fmt,
                dst_colorspace=None if matrix == 2 else matrix,
                dst_color_range=colors[3],
                interpolation=SMOOTH,
            )
            frame.pts, frame.time_base = times[number] if times else number, encoder.time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if sound:
            add_tone(file, sound, more.get("seconds", len(frames) / float(fps)))
    # SVT-AV1 takes the highest priority there is for the process it is in, where that is root's: all else would wait.
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def add_tone(file, stream, seconds):
    encoder = stream.codec_context
    if not encoder.is_open:
        encoder.open()
    count = int(48000 * seconds)
    tone = (np.sin(np.arange(count) / 20) * 8000).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    pieces = av.AudioResampler(encoder.format, "mono", 48000, frame_size=encoder.frame_size or 1024)
    for piece in [*pieces.resample(frame), *pieces.resample(None)]:
        file.mux(stream.encode(piece))
    file.mux(stream.encode())


def shown(path):
    """Times in seconds, and frames as the decoder gives them."""
    with av.open(path) as file:
        frames = list(file.decode(video=0))
    return [frame.pts * frame.time_base for frame in frames], frames


def samples(frame):
    """All samples of a frame, without what fills its lines."""
    planes = []
    for plane in frame.planes:
        lines = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)
        planes.append(lines[:, : plane.width * (2 if frame.format.components[0].bits > 8 else 1)].ravel())
    return np.concatenate(planes)


def packets(path, kind):
    with av.open(path) as file:
        streams = getattr(file.streams, kind)
        return [bytes(packet) for packet in file.demux(*streams) if packet.size] if streams else []


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((np.asarray(a, float) - b) ** 2), 1e-9))


def cut(path: Path, end: int) -> Path:
    short = path.with_name("cut" + path.suffix)
    short.write_bytes(path.read_bytes()[:end])
    return short
