# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Any source gives the right image or one error that names it; no server reaches what it was not asked for."""

import base64
import copy
import errno
import gzip
import http.server
import pickle
import socket
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import BmpImagePlugin, EpsImagePlugin, Image
from samples import encode_image, make_image

from flashsloth import FlashSlothImageProcessor, image_reading_flashsloth
from flashsloth.image_reading_flashsloth import (
    RASTER_FORMATS,
    ImageError,
    read_image,
    read_images,
    without_secrets,
)


RAW = {"do_rescale": False, "do_normalize": False}
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture(scope="module")
def image_processor():
    """An image processor of small views."""
    return FlashSlothImageProcessor(size={"height": 24, "width": 24})


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
            body = encode_image(make_image(0)) if is_there else b"no such image"
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
    np.testing.assert_array_equal(views, image_processor(make_image(0), **RAW)["pixel_values"])
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


def damaged_sources(tmp_path) -> dict:
    """What cannot be read as an image, by the names of `BAD_INPUT`."""
    good = encode_image(make_image(0, 200, 200))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "closed.png").write_bytes(good)
    (tmp_path / "drawing.png").write_bytes(POSTSCRIPT)
    with Image.open(tmp_path / "closed.png") as closed:
        pass
    return {
        "a path that does not exist": tmp_path / "gone.png",
        "a string that is no path": str(tmp_path / "gone.png"),
        "an empty file": tmp_path / "empty.png",
        "a text file": str(tmp_path / "notes.txt"),
        "half a file": tmp_path / "cut.png",
        "half the bytes": good[: len(good) // 2],
        "a number": 7,
        "an array of one axis": np.zeros(5),
        "a folder": tmp_path,
        "a damaged header": good[:11] + b"\1" + good[12:],
        "an image that was closed": closed,
        "a string that is not ASCII": "bïld.png",
        "an address that is none": "http://[::1",
        "a path with a null byte": Path("a\0b"),
        "an image that is too long": Image.new("L", (1, 65536)),
        "negative floats": np.full((4, 4, 3), -0.5),
        "five channels": np.zeros((8, 8, 5)),
        "an array of NaN": np.full((4, 4, 3), np.nan),
        "an array of infinity": np.full((4, 4), -np.inf),
        "floats above 1": torch.full((3, 4, 4), 1.5),
        "complex numbers": np.ones((4, 4, 3), complex),
        "NaN in a float image": Image.fromarray(np.full((4, 4), np.nan, np.float32)),
        "integers above 255": np.full((4, 4, 3), 256),
        "a PostScript file": tmp_path / "drawing.png",
        "a data URL that was cut off": f"data:image/png;base64,{base64.b64encode(good).decode()[:-1]}",
        "a data URL without base64": "data:image/svg+xml,%3Csvg/%3E",
        "a data URL without content": "data:image/png;base64,",
        "base64 that was cut off": base64.b64encode(good).decode()[:-1],
        "an address of FTP": "ftp://user:SECRET@h/a.png",
        "a file that is open for text": (tmp_path / "notes.txt").open(),
    }


# What is given, what is wrong with it, and a part of the message.
BAD_INPUT = {
    "a path that does not exist": ("missing image", "gone.png.* is not an existing file .No such file"),
    "a string that is no path": ("missing image", "gone.png.* is neither an existing file, nor a URL"),
    "an empty file": ("undecodable image", "empty.png.* is not in a format"),
    "a text file": ("undecodable image", "notes.txt.* is not in a format"),
    "half a file": ("truncated image", "cut.png.* cannot be decoded"),
    "half the bytes": ("truncated image", "bytes.* cannot be decoded"),
    "a number": ("invalid image", "int.* is not an image"),
    "an array of one axis": ("invalid image", "shape"),
    "a folder": ("missing image", "is not an existing file"),
    "a damaged header": ("truncated image", "bytes.* cannot be decoded"),
    "an image that was closed": ("undecodable image", "closed.png.* cannot be decoded"),
    "a string that is not ASCII": ("missing image", "bïld.png.* is neither an existing file"),
    "an address that is none": ("missing image", "cannot be fetched"),
    "a path with a null byte": ("undecodable image", "cannot be decoded"),
    "an image that is too long": ("invalid image", "65536 pixels long"),
    "negative floats": ("invalid image", "holds values out of range: pass integers from 0 to 255"),
    "five channels": ("invalid image", "has shape \\(8, 8, 5\\): pass height x width x channels"),
    "an array of NaN": ("invalid image", "holds values out of range"),
    "an array of infinity": ("invalid image", "holds values out of range"),
    "floats above 1": ("invalid image", "floats from 0 to 1"),
    "complex numbers": ("invalid image", "holds complex128: pass integers"),
    "NaN in a float image": ("invalid image", "not finite"),
    "integers above 255": ("invalid image", "integers from 0 to 255"),
    "a PostScript file": ("undecodable image", "drawing.png.* is in the format EPS, which is not read here"),
    "a data URL that was cut off": ("truncated image", "is a data URL, but its base64 is cut off or damaged"),
    "a data URL without base64": ("undecodable image", "is a data URL without ';base64' before its comma"),
    "a data URL without content": ("undecodable image", "holds nothing behind its comma: send the whole image"),
    "base64 that was cut off": ("truncated image", "is base64 of the format PNG, but is cut off or damaged"),
    "an address of FTP": ("invalid image", "ftp://h/a.png.* its scheme is neither http, https, data nor file"),
    "a file that is open for text": ("invalid image", "is a file that is open for text: open it with mode 'rb'"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_an_unusable_image_is_named(image_processor, tmp_path, name):
    reason, message = BAD_INPUT[name]
    with pytest.raises(ImageError, match=f"image 1 .*{message}") as error:
        image_processor([make_image(0), damaged_sources(tmp_path)[name]])
    assert error.value.reason == reason and error.value.detail == str(error.value)


def test_a_disk_that_fails(image_processor, monkeypatch):
    def fail(*args, **options):
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
        assert read_image(encode_image(image, format), "it", reduced=True).size == size
    opened = Image.open(BytesIO(encode_image(image, "JPEG")))
    assert read_image(opened, "it", reduced=True).size == opened.size == (200, 160)
    with pytest.raises(ImageError, match="65536 pixels long"):  # at its own size
        read_image(encode_image(Image.new("L", (65536, 8))), "it", reduced=True)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(image_processor, monkeypatch, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(encode_image(Image.new("1", (3000, 3000))))
    for limit in (8_000_000, 2_000_000):  # Pillow itself warns at the limit and raises at twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=f"bomb.png.* has more than {limit:,} pixels: make it smaller"):
            image_processor(path)


@pytest.mark.parametrize("format", RASTER_FORMATS)
def test_every_format_of_the_list_is_read(format):
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    pixels = np.asarray(read_image(encode_image(image, format), "it"))
    np.testing.assert_allclose(pixels, np.asarray(image), atol=3)  # some lose a little


def test_a_plug_in_reads_heif(monkeypatch):
    class Heif(BmpImagePlugin.BmpImageFile):
        format = "HEIF"

        def _open(self):
            self.fp.seek(4)
            self._bitmap()

    content = b"heif" + encode_image(Image.new("RGB", (4, 4), "red"), "DIB")
    with pytest.raises(ImageError, match="not in a format"):
        read_image(content, "it")
    monkeypatch.setitem(Image.OPEN, "HEIF", (Heif, lambda head: head.startswith(b"heif")))
    assert read_image(content, "it").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("name", ["drawing.eps", "drawing.png"])
def test_no_image_starts_a_program(tmp_path, monkeypatch, name):
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""
    calls = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: calls.append(args))
    (tmp_path / name).write_bytes(POSTSCRIPT)
    for source in (tmp_path / name, POSTSCRIPT, BytesIO(POSTSCRIPT)):
        with pytest.raises(ImageError, match="is in the format EPS"):
            read_image(source, "it")
    assert not calls


def test_an_icon_whose_header_hides_a_large_image():
    icon = bytearray(encode_image(make_image(0, 64, 64), "ICO", sizes=[(64, 64)]))
    icon[6:8] = bytes((8, 8))  # the size in the directory; the image in it is still 64 x 64
    with pytest.warns(UserWarning, match="not the expected size"), pytest.raises(ImageError, match="100 pixels"):
        read_image(bytes(icon), "it", max_pixels=100)


def test_open_files_are_read_from_their_beginning(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encode_image(make_image(0)))
    with path.open("rb") as file:
        for _ in range(2):  # the first leaves the file at its end
            np.testing.assert_array_equal(read_image(file, "it"), make_image(0))
    with pytest.raises(ImageError, match="closed"):
        read_image(file, "it")


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "image.png").write_bytes(encode_image(make_image(0)))
    for source in ("~/image.png", Path("~/image.png"), (tmp_path / "image.png").as_uri()):
        np.testing.assert_array_equal(read_image(source, "it"), make_image(0))


def test_base64_in_lines():
    lines = base64.encodebytes(encode_image(make_image(0))).decode()
    for text in (lines, f"data:image/png;base64,{lines}"):
        np.testing.assert_array_equal(read_image(text, "it"), make_image(0))


def test_transparency_is_dropped():
    """The published code converts to RGB, which keeps the colours that are stored beneath."""
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert np.asarray(read_image(encode_image(image), "it")).reshape(-1, 3).tolist() == [[10, 20, 30]] * 16


def test_image_with_more_pixels_than_allowed():
    image = encode_image(make_image(0, 20, 10))
    assert read_image(image, "it", max_pixels=200).size == (20, 10)
    with pytest.raises(ImageError, match="it has more than 199 pixels: make it smaller"):
        read_image(image[:60], "it", max_pixels=199)  # of which only the size is read


ARRAYS = {
    "floats": np.float32,
    "doubles": np.float64,
    "halves": np.float16,
    "booleans": np.bool_,
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("page", ["black and white", "white", "black"])
def test_floats_are_from_0_to_1_at_any_value(kind, page):
    """Also where all of them are exactly 0 or 1, which could be taken for integers."""
    white = {"black and white": np.indices((9, 9)).sum(0) % 2, "white": np.ones((9, 9)), "black": np.zeros((9, 9))}[
        page
    ]
    array = np.repeat(white[..., None], 3, axis=-1)
    expected = (array * 255).astype(np.uint8)
    np.testing.assert_array_equal(read_image(array.astype(ARRAYS[kind]), "it"), expected)
    tensor = torch.from_numpy(array.astype(ARRAYS[kind])).permute(2, 0, 1)
    np.testing.assert_array_equal(read_image(tensor, "it"), expected)


def test_every_grey_level_survives_as_a_float():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(np.asarray(read_image(levels.astype(dtype) / 255, "it"))[..., 0], levels)
    for dtype in (torch.float32, torch.bfloat16):
        tensor = (torch.from_numpy(levels) / 255).to(dtype)
        difference = np.asarray(read_image(tensor, "it"))[..., 0].astype(int) - levels
        assert np.abs(difference).max() <= (0 if dtype == torch.float32 else 1)


def test_uint16_of_small_and_of_large_values():
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for array in (levels, levels * 257):
        np.testing.assert_array_equal(np.asarray(read_image(array, "it"))[..., 0], levels)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_layout_follows_a_rule(size):
    """Channels come last in an array and first in a tensor where both are possible; the argument overrides both."""
    array = np.random.default_rng(0).integers(0, 256, (size, 9, 3), dtype=np.uint8)  # `size` pixels high
    expected = np.asarray(Image.fromarray(array))
    np.testing.assert_array_equal(read_image(array, "it"), expected)
    tensor = torch.from_numpy(array).permute(2, 0, 1)  # 3 channels, `size` high
    np.testing.assert_array_equal(read_image(tensor, "it"), expected)
    narrow = np.moveaxis(array.swapaxes(0, 1), -1, 0)  # channels first, `size` pixels wide
    image = read_image(narrow, "it", input_data_format="channels_first")
    np.testing.assert_array_equal(image, expected.swapaxes(0, 1))
    image = read_image(torch.from_numpy(array), "it", input_data_format="channels_last")
    np.testing.assert_array_equal(image, expected)
    with pytest.raises(ImageError, match="has shape"):
        read_image(np.zeros((9, 9, 3)), "it", input_data_format="channels_first")
    with pytest.raises(ImageError, match="input_data_format='none': pass 'channels_first' or 'channels_last'"):
        read_image(np.zeros((9, 9, 3)), "it", input_data_format="none")


def test_float_images_of_pillow_may_overshoot():
    """Resizing leaves values below 0 and above 1, which stay black and white."""
    square = np.zeros((60, 60), np.float32)
    square[20:40, 20:40] = 1
    page = Image.fromarray(square).resize((90, 90), Image.BICUBIC)
    assert np.asarray(page).max() > 1
    pixels = np.asarray(read_image(page, "it"))
    assert pixels[45, 45].tolist() == [255] * 3 and pixels[0, 0].tolist() == [0] * 3
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("F")  # from 0 to 255 in Pillow
    np.testing.assert_array_equal(np.asarray(read_image(levels, "it"))[..., 0], np.asarray(levels))


@pytest.mark.parametrize("tensor", [torch.eye(4).to_sparse(), torch.ones(3, 4, 4, device="meta")])
def test_tensors_without_all_their_values(tensor):
    with pytest.raises(ImageError, match="is a sparse or meta tensor"):
        read_image(tensor, "it")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:PASS/WORD@h/a.png?sig=SIGN#x", "http://h/a.png"),
        ("HTTP://user:PASS#?WORD@h:80/a.png", "HTTP://h:80/a.png"),
        (" s3://key:SECRET@bucket/a.png", "s3://bucket/a.png"),
        ("//user:SECRET@h/a", "//h/a"),
        ("https://h/a.png", "https://h/a.png"),
        ("http:/user:SECRET@h/a.png", "http:/h/a.png"),  # a path made of an address
        ("C:/a@2x.png", "C:/a@2x.png"),
        ("/home/a@b/c.png?", "/home/a@b/c.png?"),
        ("a.png", "a.png"),
        ("data:image/png;base64,AA//AA", "data:image/png;base64,AA//AA"),
        ("folder//a@2x.png", "folder//a@2x.png"),
    ],
)
def test_addresses_are_shown_without_secrets(address, shown):
    assert without_secrets(address) == shown


@pytest.mark.parametrize("prefix", ["HTTP://", " http://", "Http://"])
def test_the_scheme_of_an_address_may_be_spelled_in_many_ways(server, prefix):
    image = read_image(prefix + server.removeprefix("http://") + "/image.png", "it")
    np.testing.assert_array_equal(image, make_image(0))


@pytest.mark.parametrize("prefix", ["data:image/png;base64,", "DATA:image/png;base64,", "Data:;base64,"])
def test_the_scheme_of_a_data_url_may_be_spelled_in_many_ways(prefix):
    content = BytesIO()
    make_image(0).save(content, "PNG")
    image = read_image(prefix + base64.b64encode(content.getvalue()).decode(), "it")
    np.testing.assert_array_equal(image, make_image(0))


@pytest.mark.parametrize(
    "address", ["fec0::1", "::127.0.0.1", "64:ff9b:1::7f00:1", "fe80::1%eth0", "ff02::1", "100.64.0.1"]
)
def test_addresses_that_are_not_public(address):
    assert image_reading_flashsloth._address_kind(address) != "public"


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "TIFF", "JPEG", "BMP"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda image: pickle.loads(pickle.dumps(image))])
def test_copied_images_are_as_good_as_the_original(format, duplicate):
    opened = Image.open(BytesIO(encode_image(make_image(0), format)))
    expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(read_image(duplicate(opened), "it"), expected)


def test_an_animation_stays_where_it_is():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encode_image(frames[0], format, save_all=True, append_images=frames[1:])
        for decoded in (False, True):
            opened = Image.open(BytesIO(data))
            opened.seek(1)
            if decoded:
                opened.load()
            pixels = np.asarray(read_image(opened, "it"))[4, 4]  # lossy in WEBP
            np.testing.assert_allclose(pixels, (255, 0, 0), atol=3, err_msg=format)
            for frame, color in ((1, (0, 255, 0)), (2, (0, 0, 255))):
                opened.seek(frame)
                assert opened.tell() == frame, format
                pixels = np.asarray(opened.convert("RGB"))[4, 4]
                np.testing.assert_allclose(pixels, color, atol=3, err_msg=format)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Servers that nobody wants to meet. The first part of a path says which, the rest is its argument."""

    def do_GET(self):
        action, _, argument = self.path[1:].partition("/")
        try:
            getattr(self, action)(argument)
        except OSError:
            pass  # the client has gone

    def redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target.replace("|", "/"))
        self.end_headers()

    def endless(self, _):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b"x" * (1 << 20))

    def drip(self, where):
        if where == "body":
            self.send_response(200)
            self.end_headers()
        else:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def bomb(self, _):
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(gzip.compress(bytes(1 << 26)))

    def log_message(self, *args):
        pass


@pytest.fixture
def hostile():
    """The address of such a server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("endless/", "has more than 4 MiB"),
        ("bomb/", "has more than 4 MiB"),
        ("drip/body", "takes more than 1 seconds"),
        ("drip/headers", "takes more than 1 seconds"),
    ],
)
def test_downloads_are_bounded(hostile, monkeypatch, path, message):
    monkeypatch.setattr(image_reading_flashsloth, "MAX_DOWNLOAD", 1 << 22)
    monkeypatch.setattr(image_reading_flashsloth, "DOWNLOAD_TIMEOUT", 1)
    start = time.monotonic()
    with pytest.raises(ImageError, match=message):
        read_images([f"{hostile}/{path}"])
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254|latest", "http://10.0.0.1|", "http://[::ffff:10.0.0.1]|", "http://[64:ff9b::a00:1]|"],
)
def test_no_redirect_to_another_kind_of_address(hostile, target):
    with pytest.raises(ImageError, match="leads to a (link-local|private) address where only a loopback one") as error:
        read_image(f"{hostile}/redirect/{target}", "it")
    assert error.value.reason == "forbidden image"


def test_redirects_end(hostile, server):
    image = read_image(f"{hostile}/redirect/{server.replace('/', '|')}|image.png", "it")
    np.testing.assert_array_equal(image, make_image(0))
    with pytest.raises(ImageError, match="redirects more than 5 times"):
        read_image(f"{hostile}/redirect/|redirect|", "it")
    with pytest.raises(ImageError, match="cannot be fetched: its address is not valid"):
        read_image(f"{hostile}/redirect/file:|||etc|passwd", "it")


def test_public_servers_lead_to_public_servers_only(hostile, monkeypatch):
    """A name that is public when it is looked up, and this machine's when it is connected to."""
    look_up = socket.getaddrinfo
    public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 0))]
    monkeypatch.setattr(
        image_reading_flashsloth.socket,
        "getaddrinfo",
        lambda host, port, *args, **kwargs: public if port is None else look_up(host, port, *args, **kwargs),
    )
    with pytest.raises(ImageError, match="leads to a loopback address where only a public one is allowed"):
        read_image(f"{hostile}/redirect/x", "it")


def test_a_server_forbids_local_sources(server, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encode_image(make_image(0)))
    careful = FlashSlothImageProcessor(local_sources=False)
    for source in (f"{server}/image.png", "http://localhost:1/a.png", "http://169.254.169.254/", "http://0.0.0.0/"):
        with pytest.raises(ImageError, match="where only a public one is allowed") as error:
            careful(source)
        assert error.value.reason == "forbidden image"
    for source in (path, str(path), "/etc/passwd", "file:///etc/passwd"):
        with pytest.raises(ImageError):
            careful(source)
    careful(path.read_bytes())
    FlashSlothImageProcessor()(path)
    with pytest.raises(ImageError, match="may not be read here"):
        FlashSlothImageProcessor()(path, local_sources=False)
    assert "local_sources" not in careful.to_dict()


@pytest.mark.parametrize("problem", ["refused", "unknown host", "404"])
def test_no_error_tells_a_secret(server, problem):
    address = {"refused": "127.0.0.1:1", "unknown host": "no-such-host.invalid", "404": server.removeprefix("http://")}
    url = f"http://user:PASSWORD@{address[problem]}/missing.png?signature=SIGNATURE#FRAGMENT"
    with pytest.raises(ImageError) as error:
        read_images([url])
    text = str(error.value)
    assert address[problem] in text and "/missing.png" in text
    assert not {"user", "PASSWORD", "SIGNATURE", "FRAGMENT"} & set(text.replace("/", " ").replace(":", " ").split())
    assert "PASSWORD" not in text and "SIGNATURE" not in text
