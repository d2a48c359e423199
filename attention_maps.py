# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The model's attention, from patches back to the image's own pixels."""

import torch
from torch.nn import functional as F


def pooled_patches(pooling_weights: torch.Tensor) -> torch.Tensor:
    """
    Puts the weights of Spatial Attention Pooling back where their patches stand.

    Args:
        pooling_weights (`torch.Tensor` of shape `(..., T, R)`): as the model returns them.

    Returns:
        `torch.Tensor` of shape `(..., P)`: share of each patch in the visual token of its region, patches row by row.
    """
    num_regions, num_patches = pooling_weights.shape[-2:]
    side, size = round(num_regions**0.5), round(num_patches**0.5)
    regions = pooling_weights.unflatten(-1, (size, size)).unflatten(-3, (side, side))
    return regions.transpose(-3, -2).flatten(-4)


def over_image(
    weights: torch.Tensor, image_size: tuple[int, int], config, tile_grid: int = 2, mode: str = "bilinear"
) -> torch.Tensor:
    """
    Lays weights of patches over the image that its views were made of: the standard view is the squashed image, and
    the tiles are cut out of the image after it is centred on a square.

    Args:
        weights (`torch.Tensor` of shape `(V, P)`): of the patches of one image's views: of the standard view, or of
            that and the tiles.
        image_size (`tuple[int, int]`): width and height of the image in pixels.
        config ([`FlashSlothConfig`]): the model's.
        tile_grid (`int`, *optional*, defaults to 2): tiles along each side, as the image processor has it.
        mode (`str`, *optional*, defaults to `"bilinear"`): how to draw between the centres of patches, as in
            `torch.nn.functional.grid_sample`; "nearest" shows each patch as it is.

    Returns:
        `torch.Tensor` of shape `(height, width)`: weight per pixel, of all views together. Its sum is that of
        `weights`, without what fell onto the padding around an image that is not square. 0 where no patch is: at the
        right and lower edge of views that are no whole number of patches.

    Raises:
        ValueError: If `weights` are not of one view, or of one and all tiles, with the model's number of patches.
    """
    expected = (1, 1 + tile_grid**2)
    if weights.ndim != 2 or weights.shape[0] not in expected or weights.shape[1] != config.num_patches:
        raise ValueError(
            f"The weights have the shape {tuple(weights.shape)}; expected is (views, patches) of one image: "
            f"{expected[0]} or {expected[1]} views of {config.num_patches} patches. Pick one row's image, and take "
            "the mean over heads and query tokens."
        )
    width, height = image_size
    weights = weights.detach().float()
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    total = _sample(weights[:1], x, y, 1, config, mode) / (width * height)
    if len(weights) > 1:
        side = max(width, height)
        x = (torch.arange(width) + 0.5 + (side - width) // 2) / side
        y = (torch.arange(height) + 0.5 + (side - height) // 2) / side
        total = total + _sample(weights[1:], x, y, tile_grid, config, mode) * (tile_grid / side) ** 2
    return total


def _sample(
    weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor, tile_grid: int, config, mode: str
) -> torch.Tensor:
    """
    Density `(len(y), len(x))` at positions from 0 to 1 of a canvas of `tile_grid` x `tile_grid` views, in weight per
    view.
    """
    views = weights.unflatten(0, (tile_grid, tile_grid)).unflatten(-1, (config.grid_size, config.grid_size))
    patches = views.transpose(1, 2).flatten(2).flatten(0, 1)  # one grid of all tiles
    image_size, patch_size = config.vision_config.image_size, config.vision_config.patch_size

    def locate(position):  # on the grid, from -1 to 1 as grid_sample counts, and whether a patch is there
        pixel = position * tile_grid * image_size
        tile = (pixel / image_size).floor()
        patch = (pixel - tile * image_size) / patch_size
        on_grid = 2 * (tile + patch / config.grid_size) / tile_grid - 1
        return on_grid, patch < config.grid_size

    (columns, covered_x), (rows, covered_y) = locate(x), locate(y)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None]
    sampled = F.grid_sample(patches[None, None], grid, mode=mode, padding_mode="border", align_corners=False)[0, 0]
    return sampled * (covered_y[:, None] & covered_x) * (image_size / patch_size) ** 2
