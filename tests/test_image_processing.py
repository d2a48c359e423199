# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Any image becomes the right views, and one that cannot be used an error that names it."""

import base64
import errno
import http.server
import pickle
import subprocess
import sys
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import make_image

from flashsloth import FlashSlothImageProcessor, image_processing_flashsloth
from flashsloth.image_processing_flashsloth import ImageError, read_image


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
RAW = {"do_rescale": False, "do_normalize": False}


@pytest.fixture(scope="module")
def image_processor():
    """An image processor of small views."""
    return FlashSlothImageProcessor(size={"height": 24, "width": 24})


def encode(image, format="PNG", **kwargs) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **kwargs)
    return buffer.getvalue()


def direct_views(image, hd, size=24, grid=2):
    """The views as the published preprocessing words them, with the whole canvas in memory."""
    views = [image.resize((size, size), Image.BICUBIC)]
    if hd:
        side = max(image.size)
        canvas = Image.new("RGB", (side, side), (127, 127, 127))
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        canvas = canvas.resize((grid * size, grid * size), Image.BICUBIC)
        views += [
            canvas.crop((x * size, y * size, (x + 1) * size, (y + 1) * size)) for y in range(grid) for x in range(grid)
        ]
    return np.stack([np.asarray(view).transpose(2, 0, 1) for view in views])


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (24, 24), (1, 1), (300, 10), (10, 300), (7, 501), (400, 400)])
@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize("band_pixels", [(1 << 16, 1 << 24), (100, 4000)], ids=["usual bands", "small bands"])
def test_views_equal_the_published_preprocessing(image_processor, monkeypatch, size, band_pixels, threads):
    for name, pixels in zip(("MIN_BAND_PIXELS", "MAX_BAND_PIXELS"), band_pixels, strict=True):
        monkeypatch.setattr(image_processing_flashsloth, name, pixels)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    image, other = make_image(0, *size), make_image(1, 50, 20)
    for hd in (False, True):
        views = direct_views(image, hd)
        np.testing.assert_array_equal(image_processor(image, hd=hd, **RAW)["pixel_values"], views)
        several = image_processor([image, other, image], hd=hd, **RAW)["pixel_values"]
        np.testing.assert_array_equal(several, np.concatenate([views, direct_views(other, hd), views]))


def test_normalization(image_processor):
    image = make_image(0)
    raw = image_processor(image, **RAW)["pixel_values"].astype(np.float64)
    pixel_values = image_processor(image, return_tensors="pt")["pixel_values"]
    assert pixel_values.dtype == torch.float32
    np.testing.assert_allclose(pixel_values.numpy(), (raw / 255 - 0.5) / 0.5, atol=1e-6)


def test_all_kinds_of_sources(image_processor, tmp_path):
    image = make_image(0)
    path = tmp_path / "image.png"
    path.write_bytes(encode(image))
    text = base64.b64encode(encode(image)).decode()
    array = np.asarray(image)
    sources = {
        "PIL": image,
        "path": path,
        "path string": str(path),
        "bytes": encode(image),
        "data URL": f"data:image/png;base64,{text}",
        "base64": text,
        "array, channels last": array,
        "array, channels first": array.transpose(2, 0, 1),
        "float array": array / 255,
        "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1),
        "16 bits": array.astype(np.uint16) * 257,
        "transparency": np.concatenate([array, array[..., :1]], axis=-1),
        "transparency, channels first": np.concatenate([array, array[..., :1]], axis=-1).transpose(2, 0, 1),
    }
    expected = image_processor(image, **RAW)["pixel_values"]
    for name, source in sources.items():
        np.testing.assert_array_equal(image_processor(source, **RAW)["pixel_values"], expected, err_msg=name)
    several = image_processor(list(sources.values()), hd=True, **RAW)["pixel_values"]
    assert several.shape == (5 * len(sources), 3, 24, 24)


@pytest.fixture
def asked() -> list[str]:
    """The paths that a server was asked for."""
    return []


@pytest.fixture
def server(asked):
    """The address of a server of `/image.png`, and of `/late.png` at its third request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            is_there = self.path == "/image.png" or self.path == "/late.png" and asked.count("/late.png") == 3
            body = encode(make_image(0)) if is_there else b"no such image"
            self.send_response(200 if is_there else 404 if self.path == "/missing.png" else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_url(image_processor, server):
    views = image_processor(f"{server}/image.png", **RAW)["pixel_values"]
    np.testing.assert_array_equal(views, direct_views(make_image(0), hd=False))
    with pytest.raises(ValueError, match="missing.png.* cannot be fetched: the server answered 404"):
        image_processor(f"{server}/missing.png")


def test_unreachable_url(image_processor):
    with pytest.raises(ImageError, match="http://127.0.0.1:9/x.png.* cannot be fetched") as error:
        image_processor("http://127.0.0.1:9/x.png")
    assert error.value.reason == "unreachable image"


def test_servers_are_asked_again_only_if_the_image_may_still_come(server, asked):
    image = read_image(f"{server}/late.png", "late", retry_waits=(0, 0))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(make_image(0)))
    for path, reason, tries in (("/missing.png", "missing image", 1), ("/down.png", "unreachable image", 3)):
        with pytest.raises(ImageError) as error:
            read_image(f"{server}{path}", "it", retry_waits=(0, 0))
        assert error.value.reason == reason and asked.count(path) == tries


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hd", [False, True])
def test_every_mode(image_processor, mode, hd):
    # Pillow converts to some modes by way of others only
    route = {"La": ["LA"], "RGBa": ["RGBA"], "PA": ["P"], "LAB": []}.get(mode, [])
    image = make_image(0)
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    for step in [*route, mode] if mode != "LAB" else []:
        image = image.convert(step)
    assert image.mode == mode
    views = image_processor(image, hd=hd, **RAW)["pixel_values"]
    assert views.shape == (5 if hd else 1, 3, 24, 24)
    if mode in ("RGB", "RGBX", "RGBA"):
        np.testing.assert_array_equal(views, direct_views(make_image(0), hd))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_grey_modes_keep_their_brightness(image_processor, mode):
    values = np.tile(np.linspace(0, 1, 24), (24, 1))
    dtype, scale = {"I;16": (np.uint16, 65535), "I": (np.int32, 65535), "F": (np.float32, 1)}[mode]
    image = Image.fromarray((values * scale).astype(dtype))
    assert image.mode == mode
    views = image_processor(image, **RAW)["pixel_values"]
    np.testing.assert_allclose(views[0], np.broadcast_to(values * 255, (3, 24, 24)), atol=1.01)


def test_exif_rotation(image_processor):
    upright = make_image(0, 40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 270 degrees
    data = encode(upright.rotate(90, expand=True), exif=exif)
    np.testing.assert_array_equal(
        image_processor(data, **RAW)["pixel_values"], image_processor(upright, **RAW)["pixel_values"]
    )


def test_first_frame_of_an_animation(image_processor):
    frames = [Image.new("RGB", (30, 30), color) for color in ("red", "lime", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    opened = Image.open(BytesIO(data))
    opened.seek(2)
    for source in (data, opened):
        assert image_processor(source, **RAW)["pixel_values"][0, :, 12, 12].tolist() == [255, 0, 0]


def test_an_extreme_image_does_not_fill_the_memory(image_processor):
    # its square canvas would have 3.6 billion pixels
    views = image_processor(Image.new("RGB", (60000, 4), "red"), hd=True, **RAW)["pixel_values"]
    assert views.shape == (5, 3, 24, 24)


def damaged_sources(tmp_path):
    good = encode(make_image(0, 200, 200))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "closed.png").write_bytes(good)
    with Image.open(tmp_path / "closed.png") as closed:
        pass
    return {
        "missing": (tmp_path / "gone.png", "gone.png.* is not an existing file .No such file"),
        "missing string": (
            str(tmp_path / "gone.png"),
            "gone.png.* is neither an existing file, nor a URL",
        ),
        "empty": (tmp_path / "empty.png", "empty.png.* is not in a format"),
        "text": (str(tmp_path / "notes.txt"), "notes.txt.* is not in a format"),
        "truncated": (tmp_path / "cut.png", "cut.png.* cannot be decoded"),
        "truncated bytes": (good[: len(good) // 2], "bytes.* cannot be decoded"),
        "number": (7, "int.* is not an image"),
        "flat array": (np.zeros(5), "shape"),
        "folder": (tmp_path, "is not an existing file"),
        "header": (good[:11] + b"\1" + good[12:], "bytes.* cannot be decoded"),
        "closed": (closed, "closed.png.* cannot be decoded"),
        "not ASCII": ("bïld.png", "bïld.png.* is neither an existing file"),
        "bad URL": ("http://[::1", "cannot be fetched"),
        "null byte": (Path("a\0b"), "cannot be decoded"),
        "too long": (Image.new("L", (1, 65536)), "65536 pixels long"),
        "negative array": (np.full((4, 4, 3), -0.5), "cannot be read as an image"),
        "five channels": (np.zeros((8, 8, 5)), "cannot be read as an image"),
    }


REASONS = {
    "missing": "missing image",
    "missing string": "missing image",
    "empty": "undecodable image",
    "text": "undecodable image",
    "truncated": "truncated image",
    "truncated bytes": "truncated image",
    "number": "invalid image",
    "flat array": "invalid image",
    "folder": "missing image",
    "header": "truncated image",
    "closed": "undecodable image",
    "not ASCII": "missing image",
    "bad URL": "missing image",
    "null byte": "undecodable image",
    "too long": "invalid image",
    "negative array": "invalid image",
    "five channels": "invalid image",
}


@pytest.mark.parametrize("name", REASONS)
def test_an_unusable_image_is_named(image_processor, tmp_path, name):
    source, message = damaged_sources(tmp_path)[name]
    with pytest.raises(ImageError, match=f"image 1 .*{message}") as error:
        image_processor([make_image(0), source])
    assert error.value.reason == REASONS[name] and error.value.detail == str(error.value)


def test_a_disk_that_fails(image_processor, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError, match="a.png. cannot be read: Input/output error") as error:
        image_processor(Path("a.png"))
    assert error.value.reason == "unreachable image"


def test_errors_pass_between_processes():
    error = pickle.loads(pickle.dumps(ImageError("a.png is empty", "undecodable image")))
    assert (str(error), error.detail, error.reason) == ("a.png is empty", "a.png is empty", "undecodable image")
    assert str(ImageError("the text that a DataLoader keeps")) == "the text that a DataLoader keeps"


def test_reduced_images(tmp_path):
    image = make_image(0, 200, 160)
    for format, size in (("JPEG", (25, 20)), ("PNG", (200, 160))):
        assert read_image(encode(image, format), "it", reduced=True).size == size
    opened = Image.open(BytesIO(encode(image, "JPEG")))
    assert read_image(opened, "it", reduced=True).size == opened.size == (200, 160)
    with pytest.raises(ImageError, match="65536 pixels long"):  # at its own size
        read_image(encode(Image.new("L", (65536, 8))), "it", reduced=True)


def test_works_without_torch(tmp_path):
    make_image(0).save(tmp_path / "image.png")
    script = """
import importlib.util, sys

def find_spec(name, *args, found=importlib.util.find_spec):
    return None if name.partition(".")[0] == "torch" else found(name, *args)

importlib.util.find_spec = find_spec
sys.modules["torch"] = None
from flashsloth.image_processing_flashsloth import FlashSlothImageProcessor
print(FlashSlothImageProcessor(hd=True)(sys.argv[1])["pixel_values"].shape)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "image.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "(5, 3, 384, 384)\n", done.stderr[-3000:]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(image_processor, monkeypatch, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(encode(Image.new("1", (3000, 3000))))
    for limit in (8_000_000, 2_000_000):  # Pillow itself warns at the limit and raises at twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="bomb.png.*MAX_IMAGE_PIXELS.*bomb"):
            image_processor(path)


def test_save_and_load(image_processor, tmp_path):
    other = FlashSlothImageProcessor(size={"height": 24, "width": 24}, hd=True, tile_grid=3, fill_color=0)
    other.save_pretrained(tmp_path)
    loaded = FlashSlothImageProcessor.from_pretrained(tmp_path)
    image = make_image(0)
    views = loaded(image, **RAW)["pixel_values"]
    assert views.shape == (10, 3, 24, 24) and loaded.num_views() == 10 and loaded.num_views(hd=False) == 1
    np.testing.assert_array_equal(views, other(image, **RAW)["pixel_values"])
