# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Turns images of any kind into the views that the vision tower takes: one squashed view, or that and four tiles."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, make_flat_list_of_images
from transformers.processing_utils import ImagesKwargs
from transformers.utils import is_torch_available

from .image_reading_flashsloth import read_images


# Pixels in the rows or columns of a canvas that are resized at a time: few enough for memory, enough for a thread.
MAX_BAND_PIXELS = 1 << 24
MIN_BAND_PIXELS = 1 << 16
NUMBERS = (  # settings, what they may be, and the same in words
    ("image_mean", lambda values: values.size in (1, 3), "one finite number or three"),
    (
        "image_std",
        lambda values: (values.size in (1, 3)) & (values != 0),
        "one finite number or three, none of them 0",
    ),
    ("rescale_factor", lambda value: value != 0, "a finite number other than 0"),
    ("tile_grid", lambda value: (value >= 1) & (value % 1 == 0), "a whole number of 1 or more"),
    ("fill_color", lambda value: (value >= 0) & (value <= 255) & (value % 1 == 0), "a grey level from 0 to 255"),
)


class FlashSlothImageProcessorKwargs(ImagesKwargs, total=False):
    """Described by [`FlashSlothImageProcessor`]."""

    hd: bool | None
    tile_grid: int | None
    fill_color: int | None
    local_sources: bool | None


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
        local_sources (`bool`, *optional*, defaults to `True`): whether strings and paths may name files of this
            machine and addresses that are not public. A server sets it to `False`.
        crop_to_patches (`bool`, *optional*): in a call, the name of `hd` in other libraries. The result then has
            `num_patches` too, how many views each image has.

    The options of all image processors are honoured too, such as `do_normalize`, `input_data_format`, `data_format`;
    `None` stands for the processor's own setting. With `do_resize=False` images have to be of `size`.

    Raises:
        ValueError: If an option has no meaning for these views, such as `do_center_crop`, or no usable value.

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
    local_sources = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        settings = {name: getattr(self, name, None) for name in self._valid_kwargs_names}
        self._validate_preprocess_kwargs(**self._standardize_kwargs(**settings))

    def num_views(self, hd: bool | None = None, tile_grid: int | None = None) -> int:
        """Views that one image makes; `None` takes the processor's own setting."""
        hd = self.hd if hd is None else hd
        return 1 + (self.tile_grid if tile_grid is None else tile_grid) ** 2 if hd else 1

    def preprocess(self, images, *args, crop_to_patches: bool | None = None, **kwargs) -> BatchFeature:
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        try:
            validate_typed_dict(self.valid_kwargs, kwargs)
        except StrictDataclassError as error:
            raise ValueError(f"An option cannot be used: {' '.join(str(error).split())}") from error
        if crop_to_patches is None:
            return super().preprocess(images, *args, **kwargs)
        hd = kwargs.setdefault("hd", crop_to_patches)
        if hd != crop_to_patches:
            raise ValueError(f"hd={hd!r} and crop_to_patches={crop_to_patches!r} contradict each other: drop one.")
        views = super().preprocess(images, *args, **kwargs)
        views_per_image = self.num_views(hd, kwargs.get("tile_grid"))
        views["num_patches"] = np.full(len(views["pixel_values"]) // views_per_image, views_per_image)
        return views.convert_to_tensors(kwargs.get("return_tensors"))

    def _validate_preprocess_kwargs(self, **kwargs):
        super()._validate_preprocess_kwargs(**kwargs)
        for name in ("do_center_crop", "do_pad"):
            if kwargs.get(name):
                raise ValueError(f"{name}={kwargs[name]!r} has no meaning for views, which are resized: leave it out.")
        if kwargs.get("do_convert_rgb") is False:
            raise ValueError("do_convert_rgb=False is not possible: the vision tower takes RGB.")
        if kwargs.get("device") is not None and str(kwargs["device"]) != "cpu":
            raise ValueError(f"device={kwargs['device']!r}: images are processed on the CPU; move the result there.")
        size = kwargs["size"]
        if not (size and size.height and size.width and min(size.height, size.width) >= 1):
            raise ValueError(f"size={kwargs['size']!r} is not the size of a view: pass its height and width.")
        for name, is_usable, expected in NUMBERS:
            values = np.asarray(kwargs[name])
            if not np.issubdtype(values.dtype, np.number) or not np.all(np.isfinite(values) & is_usable(values)):
                raise ValueError(f"{name}={kwargs[name]!r} is not usable: pass {expected}.")

    def to_dict(self) -> dict:
        """The settings that are saved. What a server forbids is no part of a model."""
        return {name: value for name, value in super().to_dict().items() if name != "local_sources"}

    def fetch_images(
        self, images, input_data_format: str | ChannelDimension | None = None, local_sources: bool | None = None
    ):
        """
        Loads and decodes images; nested lists keep their shape.

        Returns:
            `PIL.Image.Image` of mode RGB, or lists of them.

        Raises:
            ImageError: If an image cannot be found, fetched or decoded, or is a decompression bomb. The message says
                which image and what to do.
        """
        local_sources = self.local_sources if local_sources is None else local_sources
        return read_images(images, input_data_format=input_data_format, local_sources=local_sources)

    def _prepare_image_like_inputs(self, images, *args, input_data_format=None, local_sources=None, **kwargs):
        # RGB images; `_preprocess` makes arrays of them, view by view
        return make_flat_list_of_images(self.fetch_images(images, input_data_format, local_sources))

    def _preprocess(
        self,
        images: list[Image.Image],
        hd: bool,
        tile_grid: int,
        fill_color: int,
        size,
        resample,
        do_resize: bool,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        data_format=None,
        return_tensors=None,
        **kwargs,
    ) -> BatchFeature:
        """
        Returns:
            `pixel_values` of shape `(views of all images, 3, height, width)`, image after image: `uint8` without
            rescaling and normalization, else `float32`. With `data_format="channels_last"` channels come last.
        """
        view_size = (size.width, size.height)
        others = [image.size for image in images if image.size != view_size]
        if not do_resize and (hd or others):
            problem = f"an image is {others[0]}" if others else "tiles are resized"
            raise ValueError(f"do_resize=False, but {problem}: pass images of {view_size} and hd=False, or resize.")
        scaled = do_rescale or do_normalize
        views_per_image = 1 + tile_grid**2 if hd else 1
        pixel_values = np.empty(
            (len(images) * views_per_image, 3, size.height, size.width), dtype=np.float32 if scaled else np.uint8
        )
        mean, std = (np.asarray(values, dtype=np.float32).reshape(-1, 1, 1) for values in (image_mean, image_std))
        threads = _num_threads()
        threads_per_image = max(1, threads // max(1, len(images)))

        def process(index: int) -> None:
            image = images[index]
            views = [_squash(image, view_size, resample)]
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
        if data_format is not None and ChannelDimension(data_format) == ChannelDimension.LAST:
            pixel_values = pixel_values.transpose(0, 2, 3, 1)
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)


def _num_threads() -> int:
    """Threads that this process may use. torch has one in the workers of a DataLoader; it need not be installed."""
    if not is_torch_available():
        return os.cpu_count() or 1
    import torch

    return torch.get_num_threads()


def _squash(image: Image.Image, view_size: tuple[int, int], resample) -> Image.Image:
    """
    An image resized to a view, its aspect ratio not kept.

    A pixel is rounded after each pass. From version 13 on, Pillow shortens columns before it narrows rows where that
    saves work; earlier versions always begin with rows. The order of version 13 is kept for all of them, so that the
    pixels of an image do not depend on the version.
    """
    width, height = view_size
    fewer_columns, fewer_rows = image.width - width, image.height - height
    if fewer_rows > max(0, 2 * fewer_columns):
        image = image.resize((image.width, height), resample)
    return image.resize(view_size, resample)


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


FlashSlothImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["FlashSlothImageProcessor"]
