# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Turns images of any kind into the views that the vision tower takes: one squashed view, or that and four tiles."""

import base64
import errno
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from huggingface_hub.utils import httpx
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import to_pil_image
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs
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

URL_TIMEOUT = 30  # seconds
GONE = (404, 410)  # status codes of HTTP
NOT_A_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
MAX_SIDE = 65535  # pixels, as in a JPEG; the work on a canvas for tiles grows with the square of its side
# Pixels in the rows or columns of a canvas that are resized at a time: few enough for memory, enough for a thread.
MAX_BAND_PIXELS = 1 << 24
MIN_BAND_PIXELS = 1 << 16


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


class FlashSlothImageProcessorKwargs(ImagesKwargs, total=False):
    """Described by [`FlashSlothImageProcessor`]."""

    hd: bool
    tile_grid: int
    fill_color: int


class FlashSlothImageProcessor(PilBackend):
    r"""
    Makes the views of images.

    - standard: the image squashed to `size`, its aspect ratio not kept (published code);
    - `hd=True`: the standard view and, behind it, the `tile_grid` x `tile_grid` tiles of `size`, row by row, of the
      image centred on a square canvas (published code, FlashSloth-HD).

    Images may be PIL images of any mode, arrays, tensors, paths, URLs, data URLs, base64 or bytes. The EXIF rotation
    is applied, an animation shows its first frame, and transparency is dropped.

    Args:
        size (`dict`, *optional*, defaults to `{"height": 384, "width": 384}`): size of a view in pixels.
        hd (`bool`, *optional*, defaults to `False`): whether to add tiles.
        tile_grid (`int`, *optional*, defaults to 2): tiles along each side (published code).
        fill_color (`int`, *optional*, defaults to 127): grey level of the canvas (published code).

    Example:

    ```python
    >>> from flashsloth import FlashSlothImageProcessor

    >>> image_processor = FlashSlothImageProcessor(hd=True)
    >>> image_processor("examples/scene.png", return_tensors="pt")["pixel_values"].shape
    torch.Size([5, 3, 384, 384])
    ```
    """

    valid_kwargs = FlashSlothImageProcessorKwargs
    model_input_names = ["pixel_values"]

    size = {"height": 384, "width": 384}
    resample = PILImageResampling.BICUBIC
    do_resize = True
    do_convert_rgb = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    hd = False
    tile_grid = 2
    fill_color = 127

    def num_views(self, hd: bool | None = None) -> int:
        """Views that one image makes; `None` takes the processor's own default of `hd`."""
        hd = self.hd if hd is None else hd
        return 1 + self.tile_grid**2 if hd else 1

    def fetch_images(self, images):
        """
        Loads and decodes images; nested lists keep their shape.

        Returns:
            `PIL.Image.Image` of mode RGB, or lists of them.

        Raises:
            ImageError: If an image cannot be found, fetched or decoded, or is a decompression bomb. The message says
                which image and what to do.
        """
        return _read_nested(images, label="image")

    def process_image(self, image, **kwargs):
        return image  # `fetch_images` has made it an RGB image; arrays are made view by view

    def _preprocess(
        self,
        images: list[Image.Image],
        hd: bool,
        tile_grid: int,
        fill_color: int,
        size,
        resample,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        return_tensors=None,
        **kwargs,
    ) -> BatchFeature:
        """
        Returns:
            `pixel_values` of shape `(views of all images, 3, height, width)`, image after image: `uint8` without
            rescaling and normalization, else `float32`.
        """
        view_size = (size.width, size.height)
        scaled = do_rescale or do_normalize
        views_per_image = 1 + tile_grid**2 if hd else 1
        pixel_values = np.empty(
            (len(images) * views_per_image, 3, size.height, size.width), dtype=np.float32 if scaled else np.uint8
        )
        mean, std = (np.asarray(values, dtype=np.float32).reshape(-1, 1, 1) for values in (image_mean, image_std))
        # torch has one thread in the workers of a DataLoader.
        threads = torch.get_num_threads() if is_torch_available() else os.cpu_count() or 1
        threads_per_image = max(1, threads // max(1, len(images)))

        def process(index: int) -> None:
            image = images[index]
            views = [image.resize(view_size, resample)]
            if hd:
                views.extend(_tiles(image, view_size, tile_grid, fill_color, resample, threads_per_image))
            for place, view in enumerate(views, start=index * views_per_image):
                values = np.asarray(view).transpose(2, 0, 1)
                if do_rescale:
                    values = values.astype(np.float32) * np.float32(rescale_factor)
                if do_normalize:
                    values = (values - mean) / std
                pixel_values[place] = values

        _run_in_threads(process, range(len(images)), threads)
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)


def _tiles(image, view_size: tuple[int, int], grid: int, fill_color: int, resample, threads: int) -> list[Image.Image]:
    """
    The tiles of an image centred on a square canvas of its longer side, resized to `grid` x `grid` views.

    Pillow works on the rows of a square first and then on its columns, so that rows can be narrowed band by band, and
    columns shortened strip by strip, with the same result to the pixel: in threads, since Pillow releases the
    GIL, and without ever holding the canvas, which for a 60000 x 100 image would take ten gigabytes.
    """
    tile_width, tile_height = view_size
    width, height = grid * tile_width, grid * tile_height
    side = max(image.size)
    fill = (fill_color,) * 3
    left, top = (side - image.width) // 2, (side - image.height) // 2
    narrow = Image.new("RGB", (width, side), fill)
    canvas = Image.new("RGB", (width, height))

    def narrow_rows(rows: tuple[int, int]) -> None:
        first, last = rows
        band = Image.new("RGB", (side, last - first), fill)
        band.paste(image.crop((0, first, image.width, last)), (left, 0))
        narrow.paste(band.resize((width, last - first), resample), (0, top + first))

    def shorten_columns(columns: tuple[int, int]) -> None:
        first, last = columns
        strip = narrow.crop((first, 0, last, side))
        canvas.paste(strip.resize((last - first, height), resample), (first, 0))

    _run_in_threads(narrow_rows, _bands(image.height, side, threads), threads)
    _run_in_threads(shorten_columns, _bands(width, side, threads), threads)
    corners = [(column * tile_width, row * tile_height) for row in range(grid) for column in range(grid)]
    return [canvas.crop((x, y, x + tile_width, y + tile_height)) for x, y in corners]


def _bands(lines: int, pixels_per_line: int, threads: int) -> list[tuple[int, int]]:
    """Splits lines evenly over threads: the first line of each band, and the line after its last."""
    most, least = (max(1, pixels // pixels_per_line) for pixels in (MAX_BAND_PIXELS, MIN_BAND_PIXELS))
    step = min(most, max(least, -(-lines // threads)))
    return [(first, min(first + step, lines)) for first in range(0, lines, step)]


def _run_in_threads(function: Callable, arguments, threads: int) -> None:
    """Calls a function with each argument; whatever one call raises is raised here."""
    if threads == 1 or len(arguments) < 2:
        for argument in arguments:
            function(argument)
        return
    with ThreadPoolExecutor(min(threads, len(arguments))) as pool:
        list(pool.map(function, arguments))


def _read_nested(images, label: str):
    if isinstance(images, (list, tuple)):
        by_prompt = any(isinstance(image, (list, tuple)) for image in images)
        labels = (f"prompt {index}'s image" if by_prompt else f"{label} {index}" for index in range(len(images)))
        return [_read_nested(image, name) for image, name in zip(images, labels, strict=True)]
    if getattr(images, "ndim", 0) == 4:  # a batch as one array
        return _read_nested(list(images), label)
    return read_image(images, f"{label} ({_describe(images)})")


def _describe(source) -> str:
    if isinstance(source, (str, Path)):
        text = str(source)
        return text if len(text) <= 100 else text[:60] + "..."
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "PIL image"
    return type(source).__name__


def read_image(source, name: str, *, reduced: bool = False, retry_waits: Sequence[float] = ()) -> Image.Image:
    """
    Finds or fetches an image, decodes it, checks its size, rotates it upright and converts it to RGB.

    Args:
        source (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor`, `str`, `Path` or `bytes`): the image, its file or what
            that file holds; a string is a path, a URL, a data URL or base64.
        name (`str`): what error messages call the image.
        reduced (`bool`, *optional*, defaults to `False`): whether to decode a JPEG at an eighth of its size, which
            reads the whole file in half the time.
        retry_waits (sequence of `float`, *optional*): seconds to wait before each further try to fetch a URL.

    Raises:
        ImageError: If the image cannot be used.
    """
    try:
        image = source if isinstance(source, Image.Image) else _open(source, name, retry_waits)
        _check_size(image, name)
        if isinstance(image, ImageFile.ImageFile):
            image.seek(0)  # the first frame of an animation
        if reduced and image is not source:
            image.draft(None, (1, 1))
        image.load()  # decodes: a damaged file fails here
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        return _to_rgb(image)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
        raise _image_error(name, error) from error


def _open(source, name: str, retry_waits: Sequence[float]) -> Image.Image:
    if isinstance(source, str):
        source = _from_string(source, name, retry_waits)
    if isinstance(source, Path):
        return Image.open(source)
    if isinstance(source, (bytes, bytearray)):
        return Image.open(BytesIO(source))
    if hasattr(source, "ndim"):
        return _from_array(source, name)
    message = f"{name} is not an image: pass a PIL image, an array or tensor, a path, a URL, a data URL or bytes."
    raise ImageError(message, INVALID_IMAGE)


def _from_string(source: str, name: str, retry_waits: Sequence[float]) -> Path | bytes:
    """The path, or what a URL, a data URL or base64 text holds."""
    if source.startswith(("http://", "https://")):
        return _fetch(source, name, retry_waits)
    if source.startswith("data:"):
        source = source.partition(",")[2]
    elif os.path.isfile(source):
        return Path(source)
    try:
        return base64.b64decode(source, validate=True)
    except ValueError as error:  # of text that is not ASCII, and `binascii.Error`
        message = f"{name} is neither an existing file, nor a URL, nor base64 data."
        raise ImageError(message, MISSING_IMAGE) from error


def _fetch(url: str, name: str, retry_waits: Sequence[float]) -> bytes:
    for seconds in (*retry_waits, None):
        try:
            response = httpx.get(url, timeout=URL_TIMEOUT, follow_redirects=True)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ImageError(f"{name} cannot be fetched ({error}): check the address.", MISSING_IMAGE) from error
        except httpx.HTTPError as error:
            problem = str(error) or type(error).__name__
        else:
            if response.is_success:
                return response.content
            problem = f"the server answered {response.status_code}"
            if response.status_code in GONE:
                raise ImageError(f"{name} cannot be fetched: {problem}.", MISSING_IMAGE)
        if seconds is not None:
            time.sleep(seconds)
    raise ImageError(f"{name} cannot be fetched: {problem}.", UNREACHABLE_IMAGE)


def _from_array(array, name: str) -> Image.Image:
    if is_torch_tensor(array):
        array = array.detach().cpu()
        array = array.float() if array.dtype == torch.bfloat16 else array
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        message = f"{name} has shape {array.shape}: pass height x width x channels or channels first."
        raise ImageError(message, INVALID_IMAGE)
    if not {array.shape[0], array.shape[-1]} & {1, 3}:  # transparency comes last, and is dropped
        if array.shape[-1] in (2, 4):
            array = array[..., :-1]
        elif array.shape[0] in (2, 4):
            array = array[:-1]
    if array.dtype == np.uint16:
        array = array >> 8
    try:
        return to_pil_image(array)
    except ValueError as error:  # of values out of range, or of another number of channels
        message = f"{name}, of shape {array.shape}, cannot be read as an image ({error}): pass 1 to 4 channels, as "
        raise ImageError(message + "integers from 0 to 255 or as floats from 0 to 1.", INVALID_IMAGE) from error


def _check_size(image: Image.Image, name: str):
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _decompression_bomb(name)
    if max(image.size) > MAX_SIDE:
        message = f"{name} is {max(image.size)} pixels long: cut it to at most {MAX_SIDE}."
        raise ImageError(message, INVALID_IMAGE)
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: its size is {image.width} x {image.height}.", INVALID_IMAGE)


def _decompression_bomb(name: str) -> ImageError:
    message = (
        f"{name} has more than PIL.Image.MAX_IMAGE_PIXELS = {Image.MAX_IMAGE_PIXELS} pixels and may be a "
        "decompression bomb: make it smaller, or raise that limit if you trust it."
    )
    return ImageError(message, DECOMPRESSION_BOMB)


def _image_error(name: str, error: Exception) -> ImageError:
    """What an error of Pillow or of the system means for an image."""
    if isinstance(error, Image.DecompressionBombError):
        return _decompression_bomb(name)
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips integers above 255 to white; these modes hold 16 bits
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values if values.max() <= 255 else values >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image)
        image = Image.fromarray((values * 255 if values.max() <= 1 else values).clip(0, 255).astype(np.uint8))
    elif image.mode == "La":  # Pillow knows the way from here to LA only
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")


FlashSlothImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["FlashSlothImageProcessor"]
