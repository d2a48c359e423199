# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The model's attention, from patches back to the image's own pixels, for tensors and for arrays; needs no torch."""

import numpy as np
from transformers.utils import is_torch_tensor


def pooled_patches(pooling_weights):
    """
    Puts the weights of Spatial Attention Pooling back where their patches stand.

    Args:
        pooling_weights (`torch.Tensor` or `np.ndarray` of shape `(..., T, R)`): as the model returns them.

    Returns:
        The same kind, of shape `(..., P)`: share of each patch in the visual token of its region, patches row by row.
    """
    weights = _as_array(pooling_weights)
    *others, num_regions, num_patches = weights.shape
    side, size = round(num_regions**0.5), round(num_patches**0.5)
    patches = weights.reshape(*others, side, side, size, size).swapaxes(-3, -2).reshape(*others, -1)
    return _as_given(patches, pooling_weights)


def over_image(weights, image_size: tuple[int, int], config, tile_grid: int = 2, mode: str = "bilinear"):
    """
    Lays weights of patches over the image that its views were made of: the standard view is the squashed image, and
    the tiles are cut out of the image after it is centred on a square.

    Args:
        weights (`torch.Tensor` or `np.ndarray` of shape `(V, P)`): of the patches of one image's views: of the
            standard view, or of that and the tiles.
        image_size (`tuple[int, int]`): width and height of the image in pixels.
        config ([`FlashSlothConfig`]): the model's.
        tile_grid (`int`, *optional*, defaults to 2): tiles along each side, as the image processor has it.
        mode (`str`, *optional*, defaults to `"bilinear"`): how to draw between the centres of patches; "nearest" shows
            each patch as it is.

    Returns:
        The same kind, of shape `(height, width)`: weight per pixel, of all views together. Its sum is that of
        `weights`, without what fell onto the padding around an image that is not square. 0 where no patch is: at the
        right and lower edge of views that are no whole number of patches.

    Raises:
        ValueError: If `weights` are not of one view, or of one and all tiles, with the model's number of patches, or
            there is no such mode.
    """
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"mode is {mode!r}: pass 'bilinear' or 'nearest'.")
    given, weights = weights, _as_array(weights)
    expected = (1, 1 + tile_grid**2)
    if weights.ndim != 2 or weights.shape[0] not in expected or weights.shape[1] != config.num_patches:
        raise ValueError(
            f"The weights have the shape {tuple(weights.shape)}; expected is (views, patches) of one image: "
            f"{expected[0]} or {expected[1]} views of {config.num_patches} patches. Pick one row's image, and take "
            "the mean over heads and query tokens."
        )
    width, height = image_size
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    total = _sample(weights[:1], x, y, 1, config, mode) / (width * height)
    if len(weights) > 1:
        side = max(width, height)
        x = (np.arange(width) + 0.5 + (side - width) // 2) / side
        y = (np.arange(height) + 0.5 + (side - height) // 2) / side
        total = total + _sample(weights[1:], x, y, tile_grid, config, mode) * (tile_grid / side) ** 2
    return _as_given(total.astype(np.float32), given)


def _as_array(weights) -> np.ndarray:
    if is_torch_tensor(weights):
        weights = weights.detach().float().cpu().numpy()
    return np.asarray(weights, np.float32)


def _as_given(array: np.ndarray, given):
    """A tensor if a tensor was given."""
    if not is_torch_tensor(given):
        return array
    import torch

    return torch.from_numpy(array)


def _sample(weights: np.ndarray, x: np.ndarray, y: np.ndarray, tile_grid: int, config, mode: str) -> np.ndarray:
    """
    Density `(len(y), len(x))` at positions from 0 to 1 of a canvas of `tile_grid` x `tile_grid` views, in weight per
    view.
    """
    grid_size, side = config.grid_size, tile_grid * config.grid_size
    views = weights.reshape(tile_grid, tile_grid, grid_size, grid_size)
    patches = views.swapaxes(1, 2).reshape(side, side)  # one grid of all tiles
    image_size, patch_size = config.vision_config.image_size, config.vision_config.patch_size

    def locate(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The share `(positions, side)` of each row or column of patches, and whether a patch is there."""
        pixel = position * tile_grid * image_size
        tile = np.floor(pixel / image_size)
        patch = (pixel - tile * image_size) / patch_size
        return _shares(tile * grid_size + patch, side, mode), patch < grid_size

    (columns, covered_x), (rows, covered_y) = locate(x), locate(y)
    sampled = rows @ patches @ columns.T
    return sampled * (covered_y[:, None] & covered_x) * (image_size / patch_size) ** 2


def _shares(position: np.ndarray, side: int, mode: str) -> np.ndarray:
    """How much of each of `side` patches, whose centres are at a half, shows at each position: `(positions, side)`."""
    centred = np.clip(position - 0.5, 0, side - 1)
    if mode == "nearest":
        centred = np.rint(centred)
    before = np.floor(centred).astype(int)
    share = centred - before
    shares = np.zeros((len(position), side))
    index = np.arange(len(position))
    shares[index, before] = 1 - share
    shares[index, np.minimum(before + 1, side - 1)] += share
    return shares
