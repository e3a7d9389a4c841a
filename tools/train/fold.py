# SPDX-License-Identifier: Apache-2.0
"""Trained networks as plain lists of convolutions: batch norm folded, no framework left."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn


class Conv(NamedTuple):
    """One convolution: kernel float32 (h, w, in/groups, out), bias (out,), symmetric padding, ReLU6 or nothing."""

    kernel: np.ndarray
    bias: np.ndarray
    stride: int
    pad: int
    depthwise: bool
    act: bool


class Block(NamedTuple):
    """Residual block: two convolutions, a shortcut (None: identity), ReLU6 after the sum."""

    first: Conv
    second: Conv
    shortcut: Conv | None


Layer = Conv | Block


def fold_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, *, act: bool) -> Conv:
    weight = conv.weight.detach().float()
    bias = conv.bias.detach().float() if conv.bias is not None else torch.zeros(weight.shape[0])
    if norm is not None:
        scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        weight, bias = weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias.detach()
    kernel = weight.permute(2, 3, 1, 0).contiguous().numpy()
    return Conv(kernel, bias.numpy(), conv.stride[0], int(conv.padding[0]), conv.groups > 1, act)


def fold(module: nn.Module) -> list[Layer]:
    """Layers of a Sequential of convolutions, norms, ReLU6 and ``Residual`` blocks, in order."""
    if all(hasattr(module, name) for name in ("first", "second", "shortcut")):
        short = module.shortcut
        return [Block(_one(module.first), _one(module.second), None if short is None else _one(short))]
    children = list(module.children())
    layers: list[Layer] = []
    index = 0
    while index < len(children):
        child = children[index]
        if isinstance(child, nn.Conv2d):
            following = children[index + 1 :]
            norm = following[0] if following and isinstance(following[0], nn.BatchNorm2d) else None
            rest = following[1 if norm is not None else 0 :]
            act = bool(rest) and isinstance(rest[0], nn.ReLU6)
            layers.append(fold_conv(child, norm, act=act))
            index += 1 + (norm is not None) + act
        else:
            layers.extend(fold(child))
            index += 1
    return layers


def _one(module: nn.Module) -> Conv:
    (layer,) = fold(module)
    if not isinstance(layer, Conv):
        message = f"expected one convolution, found {type(layer).__name__}"
        raise TypeError(message)
    return layer
