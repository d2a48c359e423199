# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""
Reads an image from whatever holds it: a PIL image, an array or tensor, a file, a URL, a data URL, base64 or bytes.
All sources are taken to be hostile: downloads are bounded, and no server can redirect to another kind of address.
"""

import base64
import errno
import ipaddress
import os
import re
import socket
import struct
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
from huggingface_hub.utils import httpx
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from transformers.image_utils import ChannelDimension
from transformers.utils import is_torch_available, is_torch_tensor


if is_torch_available():
    import torch


# What may be wrong with an image.
MISSING_IMAGE = "missing image"
UNREACHABLE_IMAGE = "unreachable image"  # for now: its server or disk does not answer
TRUNCATED_IMAGE = "truncated image"
UNDECODABLE_IMAGE = "undecodable image"
DECOMPRESSION_BOMB = "decompression bomb"
INVALID_IMAGE = "invalid image"
FORBIDDEN_IMAGE = "forbidden image"

MAX_SIDE = 65535  # pixels, as in a JPEG; the work on a canvas for tiles grows with the square of its side
MAX_CHANNELS = 4
MAX_DOWNLOAD = 1 << 27  # bytes, after decompression
URL_TIMEOUT = 15  # seconds without an answer
DOWNLOAD_TIMEOUT = 60  # seconds for all of it
MAX_REDIRECTS = 5
GONE = (404, 410)  # status codes of HTTP
# How an address begins: with a scheme, of which a path keeps one slash, or with two slashes.
ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]*://|[a-z][a-z0-9+.-]+:/|//)", re.IGNORECASE)
# How a text begins that is a URL and no path; a drive of Windows has one letter.
SCHEME = re.compile(r"\s*(data:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
WEB = ("http://", "https://")
FILE = "file://"
DATA = "data:"
BASE64 = ";base64"  # at the end of what a data URL has before its comma
# What is decoded, by Pillow's names, and the endings of such files; the first five need the fewest imports. All are
# one file of pixels. Pillow knows others, some of which start programs of the system (EPS: Ghostscript) or read more
# than one file.
RASTER_FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "ICO": (".ico",),
    "DIB": (".dib",),
    "TGA": (".tga",),
    "PCX": (".pcx",),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
}
PLUGIN_FORMATS = ("HEIF",)  # where a plug-in such as pillow-heif has registered them
HEAD_LENGTH = 16  # bytes at the beginning of a file by which Pillow tells its format
BASE64_LENGTH = 24  # characters of that many bytes, rounded up
FORMATS = tuple(ChannelDimension.__members__.values())
NOT_A_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
PUBLIC = "public"
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: IPv4 addresses within IPv6
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # RFC 4291: the public addresses of IPv6
MAX_FRACTION = 1.5  # largest value of a float image from 0 to 1, which resizing may overshoot; others go up to 255


class ImageError(ValueError):
    """
    An image that cannot be used.

    Args:
        detail (`str`): which image, what is wrong with it and what to do; the whole message.
        reason (`str`, *optional*): one of the constants above; a `DataLoader` loses it, which keeps the text only.
    """

    def __init__(self, detail: str, reason: str | None = None):
        super().__init__(detail)
        self.detail = detail
        self.reason = reason


def read_images(images, label: str = "image", **options):
    """
    Reads nested lists of images, which keep their shape; `None` among lists is one of no images. `options` are those
    of [`read_image`].
    """
    if isinstance(images, (list, tuple)):
        by_prompt = any(isinstance(image, (list, tuple)) for image in images)
        images = [[] if by_prompt and image is None else image for image in images]
        labels = (f"prompt {index}'s image" if by_prompt else f"{label} {index}" for index in range(len(images)))
        return [read_images(image, name, **options) for image, name in zip(images, labels, strict=True)]
    if getattr(images, "ndim", 0) == 4:  # a batch as one array
        return read_images(list(images), label, **options)
    return read_image(images, f"{label} ({_describe(images)})", **options)


def _describe(source) -> str:
    if isinstance(source, (str, Path)):
        text = without_secrets(str(source))
        return text if len(text) <= 100 else text[:60] + "..."
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "PIL image"
    return type(source).__name__


def without_secrets(address: str) -> str:
    """An address of any scheme without user name, password, query and fragment; other text stays as it is."""
    start = ADDRESS.match(address)
    if start is None:
        return address
    rest = address[start.end() :].rpartition("@")[2]  # a password may hold any other character
    return f"{start.group().strip()}{rest.partition('#')[0].partition('?')[0]}"


def read_image(
    source,
    name: str,
    *,
    input_data_format: str | ChannelDimension | None = None,
    local_sources: bool = True,
    reduced: bool = False,
    retry_waits: Sequence[float] = (),
    max_pixels: int | None = None,
) -> Image.Image:
    """
    Finds or fetches an image, decodes it, checks its size, rotates it upright and converts it to RGB.

    Arrays hold floats from 0 to 1, integers from 0 to 255 (of `uint16` up to 65535), or booleans. The channels of an
    array are its last axis if that has 1 to 4 entries, else its first; those of a tensor are its first axis if that
    has 1 to 4 entries, else its last. `input_data_format` says it where that is wrong.

    Transparency is dropped, as the published code does: a pixel that is wholly transparent gets the colour that is
    stored beneath.

    Args:
        source (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor`, `str`, `Path`, `bytes` or an open binary file): the
            image, its file or what that file holds; a string is a path, a URL, a data URL or base64. An open file is
            read from its beginning.
        name (`str`): what error messages call the image.
        input_data_format (`str` or `ChannelDimension`, *optional*): `"channels_first"` or `"channels_last"`.
        local_sources (`bool`, *optional*, defaults to `True`): whether strings and paths may name files of this
            machine and addresses that are not public. A server sets it to `False`.
        reduced (`bool`, *optional*, defaults to `False`): whether to decode a JPEG at an eighth of its size, which
            reads the whole file in half the time.
        retry_waits (sequence of `float`, *optional*): seconds to wait before each further try to fetch a URL.
        max_pixels (`int`, *optional*): most pixels of the image, which is not decoded if it has more. Pillow's own
            limit, `PIL.Image.MAX_IMAGE_PIXELS`, holds too.

    Raises:
        ImageError: If the image cannot be used.
    """
    try:
        if isinstance(source, Image.Image):
            image = _first_frame(source)
        elif hasattr(source, "ndim"):
            image = _from_array(source, name, input_data_format)
        else:
            image = _open(source, name, local_sources, retry_waits)
        _check_size(image, name, max_pixels)
        if reduced and image is not source:
            image.draft(None, (1, 1))
        image.load()  # decodes: a damaged file fails here
        _check_size(image, name, max_pixels)  # an icon's header may tell another size than the image in it
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        return _to_rgb(image, name)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
        raise _image_error(name, error) from error


def _first_frame(image: Image.Image) -> Image.Image:
    """The first frame of an animation, which stays at the frame where it is."""
    # A copy and an unpickled image hold pixels only; the classes of some formats fail there when asked for the frame.
    has_file = isinstance(image, ImageFile.ImageFile) and "fp" in vars(image)
    if not has_file or image.tell() == 0:
        return image
    if image.format == "PNG":  # Pillow cannot go back once a later frame is decoded
        position = image._fp.tell()
        image._fp.seek(0)
        first = Image.open(image._fp, formats=(image.format,)).copy()
        image._fp.seek(position)
        return first
    frame = image.tell()
    image.seek(0)
    first = image.copy()
    image.seek(frame)
    return first


def _open(source, name: str, local_sources: bool, retry_waits: Sequence[float]) -> Image.Image:
    if isinstance(source, str):
        source = _from_string(source, name, local_sources, retry_waits)
    if isinstance(source, Path):
        if not local_sources:
            raise ImageError(f"{name} is a file, which may not be read here: send the image.", FORBIDDEN_IMAGE)
        return _open_file(os.path.expanduser(source), name)
    if hasattr(source, "read"):
        source = _content_of_file(source, name)
    if isinstance(source, (bytes, bytearray)):
        return _open_file(BytesIO(source), name)
    message = f"{name} is not an image: pass a PIL image, an array or tensor, a path, a URL, a data URL or bytes."
    raise ImageError(message, INVALID_IMAGE)


def _open_file(file: str | BytesIO, name: str) -> Image.Image:
    """Opens a file of one of the formats that are decoded here; its pixels are not decoded yet."""
    plugin_formats = (format for format in PLUGIN_FORMATS if format in Image.OPEN)
    try:
        return Image.open(file, formats=(*RASTER_FORMATS, *plugin_formats))
    except UnidentifiedImageError as error:
        format = _format_of(_head_of(file))
        if format is None or format in RASTER_FORMATS:
            raise
        message = f"{name} is in the format {format}, which is not read here: convert it to PNG or JPEG."
        raise ImageError(message, UNDECODABLE_IMAGE) from error


def _head_of(file: str | BytesIO) -> bytes:
    if isinstance(file, BytesIO):
        return file.getvalue()[:HEAD_LENGTH]
    with open(file, "rb") as content:
        return content.read(HEAD_LENGTH)


def _format_of(head: bytes) -> str | None:
    """Pillow's name for the format of a file that begins with these bytes; nothing else of the file is looked at."""
    Image.init()
    for format, (_, accepts) in Image.OPEN.items():
        try:
            if accepts is not None and accepts(head) is True:
                return format
        except (IndexError, struct.error):  # there are fewer bytes than the format begins with
            continue
    return None


def _content_of_file(file, name: str) -> bytes:
    if file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise ImageError(f"{name} is a file that is open for text: open it with mode 'rb'.", INVALID_IMAGE)
    return content


def is_address(text: str) -> bool:
    """Whether a text is a URL of any scheme, a data URL included, and no path."""
    return SCHEME.match(text) is not None


def _from_string(source: str, name: str, local_sources: bool, retry_waits: Sequence[float]) -> Path | bytes:
    """The path, or what a URL, a data URL or base64 text holds."""
    text = source.strip()
    start = text[: len(FILE) + 1].lower()
    if start.startswith(WEB):
        return _fetch(text, name, local_sources, retry_waits)
    if start.startswith(DATA):
        return read_data_url(text, name)
    if local_sources and os.path.isfile(path := os.path.expanduser(source)):
        return Path(path)
    if start.startswith(FILE):
        return Path(url2pathname(urlparse(text).path))
    if is_address(source):
        message = f"{name} cannot be fetched: its scheme is neither http, https, data nor file. Download it first."
        raise ImageError(message, INVALID_IMAGE)
    try:
        return decode_base64(source)
    except ValueError as error:  # of text that is not ASCII, and `binascii.Error`
        format = _format_of_base64(text)
        if format is not None:
            raise _damaged_base64(f"{name} is base64 of the format {format}, but", error) from error
        kinds = "an existing file, nor a URL" if local_sources else "a URL"
        raise ImageError(f"{name} is neither {kinds}, nor base64 data.", MISSING_IMAGE) from error


def decode_base64(text: str) -> bytes:
    """
    What base64 stands for; it may be broken into lines, as programs print it.

    Raises:
        ValueError: If it is cut off, or holds other characters.
    """
    return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)


def read_data_url(url: str, name: str) -> bytes:
    """
    The content of a data URL.

    Args:
        url (`str`): the data URL.
        name (`str`): what error messages call it.

    Raises:
        ImageError: If it has none, or is cut off.
    """
    header, comma, data = url.partition(",")
    try:
        content = decode_base64(data)
    except ValueError as error:
        if not header.lower().endswith(BASE64):
            message = f"{name} is a data URL without '{BASE64}' before its comma: send its bytes as base64."
            raise ImageError(message, UNDECODABLE_IMAGE) from error
        raise _damaged_base64(f"{name} is a data URL, but its base64", error) from error
    if not content:
        problem = "holds nothing behind its comma" if comma else "has no comma, and so no content"
        raise ImageError(f"{name} is a data URL that {problem}: send the whole image.", UNDECODABLE_IMAGE)
    return content


def _damaged_base64(what: str, error: ValueError) -> ImageError:
    return ImageError(f"{what} is cut off or damaged ({error}): send all of it.", TRUNCATED_IMAGE)


def _format_of_base64(text: str) -> str | None:
    """The format of an image whose base64 begins as this text does, if it begins as one of those read here."""
    try:
        format = _format_of(base64.b64decode(text[:BASE64_LENGTH], validate=True)[:HEAD_LENGTH])
    except ValueError:
        return None
    return format if format in RASTER_FORMATS else None


def _fetch(url: str, name: str, local_sources: bool, retry_waits: Sequence[float]) -> bytes:
    for seconds in (*retry_waits, None):
        try:
            return _download(url, name, local_sources)
        except ImageError as error:
            if error.reason != UNREACHABLE_IMAGE or seconds is None:
                raise
        time.sleep(seconds)


def _download(url: str, name: str, local_sources: bool) -> bytes:
    """One try, in a thread of its own: a server that sends a byte now and then never runs into a client's timeout."""
    pool = ThreadPoolExecutor(1)
    client = httpx.Client(timeout=URL_TIMEOUT)
    try:
        return pool.submit(_get, client, url, name, local_sources).result(DOWNLOAD_TIMEOUT)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ImageError(f"{name} cannot be fetched: its address is not valid, check it.", MISSING_IMAGE) from error
    except httpx.HTTPError as error:
        raise ImageError(f"{name} cannot be fetched: {_problem(error, url)}.", UNREACHABLE_IMAGE) from error
    except TimeoutError as error:
        message = f"{name} cannot be fetched: it takes more than {DOWNLOAD_TIMEOUT} seconds."
        raise ImageError(message, UNREACHABLE_IMAGE) from error
    finally:
        client.close()
        pool.shutdown(wait=False)


def _problem(error: Exception, url: str) -> str:
    """The text of an error, unless it holds a secret of the URL."""
    parts = httpx.URL(url)
    secrets = [parts.username, parts.password, parts.query.decode()]
    text = str(error)
    return text if text and not any(secret and secret in text for secret in secrets) else type(error).__name__


def _get(client, url: str, name: str, local_sources: bool) -> bytes:
    request, kind = client.build_request("GET", url), None
    for _ in range(1 + MAX_REDIRECTS):
        is_direct = not _has_proxy(request.url)
        address_kind = _host_kind(request.url.host, name) if is_direct else _proxied_kind(request.url.host)
        kind = kind or (address_kind if local_sources else PUBLIC)
        _check_kind(address_kind, kind, name)
        response = client.send(request, stream=True)
        try:
            if is_direct:  # a name may have changed its address since it was looked up
                peer = response.extensions["network_stream"].get_extra_info("server_addr")
                _check_kind(_address_kind(peer[0]), kind, name)
            if response.next_request is None:
                return _content(response, name)
        finally:
            response.close()
        request = response.next_request
    raise ImageError(f"{name} cannot be fetched: its server redirects more than {MAX_REDIRECTS} times.", MISSING_IMAGE)


def _content(response, name: str) -> bytes:
    status = response.status_code
    if not response.is_success:
        reason = MISSING_IMAGE if status in GONE else UNREACHABLE_IMAGE
        raise ImageError(f"{name} cannot be fetched: the server answered {status}.", reason)
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > MAX_DOWNLOAD:
            raise ImageError(f"{name} has more than {MAX_DOWNLOAD >> 20} MiB: make it smaller.", DECOMPRESSION_BOMB)
    return bytes(content)


def _has_proxy(url) -> bool:
    return url.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(url.host)


def _host_kind(host: str, name: str) -> str:
    """The kind of the addresses that a host name has now."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise ImageError(f"{name} cannot be fetched: its host is not known.", UNREACHABLE_IMAGE) from error
    kinds = {_address_kind(address[0]) for *_, address in found}
    return kinds.pop() if len(kinds) == 1 else min(kinds - {PUBLIC})


def _proxied_kind(host: str) -> str:
    """A proxy looks names up, which this machine may not know."""
    try:
        return _address_kind(host)
    except ValueError:
        return PUBLIC


def _address_kind(text: str) -> str:
    address = ipaddress.ip_address(text.partition("%")[0])
    if address.version == 6:
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:  # metadata services of clouds too
        return "link-local"
    is_public = address.is_global and not address.is_multicast
    return PUBLIC if is_public and (address.version == 4 or address in GLOBAL_UNICAST) else "private"


def _check_kind(kind: str, expected: str, name: str) -> None:
    if kind != expected:
        message = f"{name} is not fetched: it leads to a {kind} address where only a {expected} one is allowed."
        raise ImageError(message, FORBIDDEN_IMAGE)


def _from_array(array, name: str, input_data_format) -> Image.Image:
    if input_data_format not in (None, *FORMATS):
        message = f"{name} has input_data_format={input_data_format!r}: pass 'channels_first' or 'channels_last'."
        raise ImageError(message, INVALID_IMAGE)
    channel_axes = (-1, 0)
    if is_torch_tensor(array):
        channel_axes = (0, -1)
        if array.layout != torch.strided or array.is_meta:
            raise ImageError(f"{name} is a sparse or meta tensor: pass one that holds all its values.", INVALID_IMAGE)
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array  # NumPy knows fewer dtypes
    array = np.asarray(array)
    if array.ndim == 2:
        array, channel_axes = array[..., None], (-1,)
    elif input_data_format is not None:
        channel_axes = (0,) if ChannelDimension(input_data_format) == ChannelDimension.FIRST else (-1,)
    axis = next((axis for axis in channel_axes if array.ndim == 3 and 1 <= array.shape[axis] <= MAX_CHANNELS), None)
    if axis is None or 0 in array.shape:
        expected = f"height x width x channels or channels first, of 1 to {MAX_CHANNELS} channels"
        raise ImageError(f"{name} has shape {array.shape}: pass {expected}.", INVALID_IMAGE)
    array = _to_bytes(np.moveaxis(array, axis, -1), name)
    array = array[..., :-1] if array.shape[-1] in (2, 4) else array  # transparency is dropped
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array))


def _to_bytes(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        array = np.rint(array * 255.0)
    elif not np.issubdtype(array.dtype, np.integer):
        raise ImageError(f"{name} holds {array.dtype}: pass integers, floats or booleans.", INVALID_IMAGE)
    elif array.dtype == np.uint16 and array.max() > 255:
        array = array >> 8
    if not (array.min() >= 0 and array.max() <= 255):  # so that NaN is refused
        message = f"{name} holds values out of range: pass integers from 0 to 255 or floats from 0 to 1."
        raise ImageError(message, INVALID_IMAGE)
    return array.astype(np.uint8)


def _check_size(image: Image.Image, name: str, max_pixels: int | None) -> None:
    limits = [limit for limit in (max_pixels, Image.MAX_IMAGE_PIXELS) if limit is not None]
    if limits and image.width * image.height > min(limits):
        raise _too_many_pixels(name, min(limits))
    if max(image.size) > MAX_SIDE:
        message = f"{name} is {max(image.size)} pixels long: cut it to at most {MAX_SIDE}."
        raise ImageError(message, INVALID_IMAGE)
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: its size is {image.width} x {image.height}.", INVALID_IMAGE)


def _too_many_pixels(name: str, limit: int) -> ImageError:
    return ImageError(f"{name} has more than {limit:,} pixels: make it smaller.", DECOMPRESSION_BOMB)


def _image_error(name: str, error: Exception) -> ImageError:
    """What an error of Pillow or of the system means for an image."""
    if isinstance(error, Image.DecompressionBombError):
        return _too_many_pixels(name, Image.MAX_IMAGE_PIXELS)
    if isinstance(error, UnidentifiedImageError):
        message = f"{name} is not in a format that Pillow knows: pass a PNG, JPEG or the like."
        return ImageError(message, UNDECODABLE_IMAGE)
    if isinstance(error, OSError) and error.errno in NOT_A_FILE:
        return ImageError(f"{name} is not an existing file ({error.strerror}): check the path.", MISSING_IMAGE)
    if isinstance(error, OSError) and error.errno is not None:  # from the system: Pillow sets none
        return ImageError(f"{name} cannot be read: {error.strerror}.", UNREACHABLE_IMAGE)
    problem = str(error) or type(error).__name__
    is_truncated = isinstance(error, EOFError) or "truncated" in problem.lower()
    message = f"{name} cannot be decoded ({problem}): it is truncated, damaged or closed."
    return ImageError(message, TRUNCATED_IMAGE if is_truncated else UNDECODABLE_IMAGE)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips integers above 255 to white; these modes hold 16 bits
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values if values.max() <= 255 else values >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ImageError(f"{name} holds values that are not finite.", INVALID_IMAGE)
        scale = 255 if values.max() <= MAX_FRACTION else 1
        image = Image.fromarray(np.rint(values * scale).clip(0, 255).astype(np.uint8))
    elif image.mode == "La":  # Pillow knows the way from here to LA only
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


__all__ = ["ImageError", "read_image", "read_images"]
