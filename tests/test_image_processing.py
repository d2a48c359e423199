# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""Any image becomes the right views, and one that cannot be used an error that names it."""

import base64
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from samples import encode_image, make_image

from flashsloth import FlashSlothImageProcessor, image_processing_flashsloth


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
RAW = {"do_rescale": False, "do_normalize": False}


@pytest.fixture(scope="module")
def image_processor():
    """An image processor of small views."""
    return FlashSlothImageProcessor(size={"height": 24, "width": 24})


def direct_views(image, hd, size=24, grid=2):
    """The views as the published preprocessing words them, with the whole canvas in memory."""
    is_tall = image.height - size > max(0, 2 * (image.width - size))  # Pillow 13 shortens columns first then
    first_pass = (image.width, size) if is_tall else (size, image.height)
    views = [image.resize(first_pass, Image.BICUBIC).resize((size, size), Image.BICUBIC)]
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
    path.write_bytes(encode_image(image))
    text = base64.b64encode(encode_image(image)).decode()
    array = np.asarray(image)
    sources = {
        "PIL": image,
        "path": path,
        "path string": str(path),
        "bytes": encode_image(image),
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
    data = encode_image(upright.rotate(90, expand=True), exif=exif)
    np.testing.assert_array_equal(
        image_processor(data, **RAW)["pixel_values"], image_processor(upright, **RAW)["pixel_values"]
    )


def test_first_frame_of_an_animation(image_processor):
    frames = [Image.new("RGB", (30, 30), color) for color in ("red", "lime", "blue")]
    data = encode_image(frames[0], "GIF", save_all=True, append_images=frames[1:])
    opened = Image.open(BytesIO(data))
    opened.seek(2)
    for source in (data, opened):
        assert image_processor(source, **RAW)["pixel_values"][0, :, 12, 12].tolist() == [255, 0, 0]


def test_an_extreme_image_does_not_fill_the_memory(image_processor):
    # its square canvas would have 3.6 billion pixels
    views = image_processor(Image.new("RGB", (60000, 4), "red"), hd=True, **RAW)["pixel_values"]
    assert views.shape == (5, 3, 24, 24)


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


def test_save_and_load(image_processor, tmp_path):
    other = FlashSlothImageProcessor(size={"height": 24, "width": 24}, hd=True, tile_grid=3, fill_color=0)
    other.save_pretrained(tmp_path)
    loaded = FlashSlothImageProcessor.from_pretrained(tmp_path)
    image = make_image(0)
    views = loaded(image, **RAW)["pixel_values"]
    assert views.shape == (10, 3, 24, 24) and loaded.num_views() == 10 and loaded.num_views(hd=False) == 1
    np.testing.assert_array_equal(views, other(image, **RAW)["pixel_values"])


def test_unset_options_are_the_processor_s_own(image_processor):
    image = make_image(0)
    names = FlashSlothImageProcessor.valid_kwargs.__annotations__
    unset = dict.fromkeys(set(names) - {"return_tensors"})
    expected = image_processor(image)["pixel_values"]
    np.testing.assert_array_equal(image_processor(image, **unset)["pixel_values"], expected)


def test_options_are_honoured(image_processor):
    image, raw = make_image(0), direct_views(make_image(0), hd=False).astype(np.float32)
    cases = [
        ({"do_normalize": False}, raw / 255),
        (RAW, raw),
        ({"image_mean": 0.0, "image_std": [1.0, 1.0, 1.0]}, raw / 255),
        ({"rescale_factor": 1 / 510, "do_normalize": False}, raw / 510),
        ({"size": {"height": 8, "width": 8}, **RAW}, direct_views(image, hd=False, size=8)),
        ({"size": 24, **RAW}, raw),
        ({"resample": Image.NEAREST, **RAW}, np.asarray(image.resize((24, 24), 0)).transpose(2, 0, 1)[None]),
        ({"data_format": "channels_last", **RAW}, raw.transpose(0, 2, 3, 1)),
        ({"hd": True, "tile_grid": 3, **RAW}, direct_views(image, hd=True, grid=3)),
        ({"return_tensors": "np", **RAW}, raw),
    ]
    for options, views in cases:
        found = image_processor(image, **options)["pixel_values"]
        np.testing.assert_allclose(found, views, atol=1e-5, err_msg=str(options))
    small = make_image(0, 24, 24)
    found = image_processor(small, do_resize=False, **RAW)["pixel_values"][0]
    np.testing.assert_array_equal(found, np.asarray(small).transpose(2, 0, 1))


@pytest.mark.parametrize("grid", [None, 3])
def test_tiles_go_by_their_name_in_other_libraries(image_processor, grid):
    """TRL asks by it how many views each image has."""
    images = [[make_image(0), make_image(1)], None, [make_image(2)]]
    for hd in (False, True):
        expected = image_processor([*images[0], *images[2]], hd=hd, tile_grid=grid)
        found = image_processor(images, crop_to_patches=hd, tile_grid=grid, return_tensors="pt")
        assert found["num_patches"].tolist() == [image_processor.num_views(hd, grid)] * 3
        np.testing.assert_array_equal(found["pixel_values"].numpy(), expected["pixel_values"])
        assert set(expected) == {"pixel_values"}


BAD_INPUT = {
    "two names for tiles that contradict each other": (
        {"hd": False, "crop_to_patches": True},
        "hd=False and crop_to_patches=True contradict each other",
    ),
    "do_resize=False, an image of another size": ({"do_resize": False}, r"an image is \(40, 30\): pass images of"),
    "do_resize=False with tiles": ({"do_resize": False, "hd": True}, "do_resize=False"),
    "do_center_crop": ({"do_center_crop": True, "crop_size": 8}, "do_center_crop=True has no meaning"),
    "do_pad": ({"do_pad": True, "pad_size": {"height": 48, "width": 48}}, "do_pad=True has no meaning"),
    "do_convert_rgb=False": ({"do_convert_rgb": False}, "the vision tower takes RGB"),
    "device": ({"device": "cuda"}, "device='cuda': images are processed on the CPU"),
    "size by its shortest edge": ({"size": {"shortest_edge": 24}}, "is not the size of a view: pass its height"),
    "size of 0": ({"size": {"height": 0, "width": 24}}, "is not the size of a view"),
    "image_std of 0": ({"image_std": [0.5, 0.0, 0.5]}, "image_std=.* is not usable: pass one finite number or three"),
    "image_std of NaN": ({"image_std": float("nan")}, "image_std=nan is not usable"),
    "image_mean of infinity": ({"image_mean": [float("inf")] * 3}, "image_mean=.* is not usable"),
    "image_mean of four channels": ({"image_mean": [0.5] * 4}, "image_mean=.* is not usable"),
    "tile_grid of 0": ({"tile_grid": 0}, "tile_grid=0 is not usable: pass a whole number"),
    "fill_color of 256": ({"fill_color": 256}, "fill_color=256 is not usable: pass a grey level"),
    "rescale_factor of 0": ({"rescale_factor": 0.0}, "rescale_factor=0.0 is not usable"),
    "data_format that does not exist": ({"data_format": "none"}, "ChannelDimension"),
    "hd that is a word": ({"hd": "yes"}, "An option cannot be used: .*'hd'"),
    "half a tile": ({"tile_grid": 1.5}, "An option cannot be used: .*'tile_grid'"),
    "an unknown option": ({"no_such_option": 1}, "no_such_option"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_options_that_cannot_be_honoured(image_processor, case):
    options, message = BAD_INPUT[case]
    with pytest.raises((ValueError, TypeError), match=message):
        image_processor(make_image(0), **options)


@pytest.mark.parametrize("case", ["image_std of 0", "image_mean of infinity", "tile_grid of 0", "size of 0"])
def test_settings_are_checked_when_they_are_loaded(case):
    options, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message):
        FlashSlothImageProcessor(**options)
