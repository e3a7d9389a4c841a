# SPDX-License-Identifier: Apache-2.0
"""The face detector's network: anchor-free, three strides, depthwise-separable blocks with ReLU6.

A face belongs to the stride whose cells see it best; there is no feature pyramid, because strides 8, 16 and 32 see
60, 172 and 396 pixels (their receptive fields) and need nothing from each other. The stem is one 4x4 convolution of
stride 4, and a plain 3x3 one of stride 2 follows it: on int8 units a 3-channel 3x3 convolution at half resolution
costs as much as half of this net, and a depthwise one at a quarter saves nothing over 16 channels that a plain one
sees whole. Behind them a plain 3x3 convolution would cost five times as much as a depthwise one and a 1x1 one of the
same width on a processor without dot products (Cortex-A72), and three times as much on one that has them. Widths are
multiples of 16, the tile of XNNPACK's int8 kernels on x86-64 and of PyTorch's depthwise ones.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from tools.lib.train.net import ConvNorm, Halving, Separable

STRIDES = (8, 16, 32)
GEOMETRY = 14  # left, top, right, bottom, then x, y of five landmarks, from the cell centre in units of the stride
PRIOR = 0.01  # share of cells that start out as faces (focal loss, Lin et al. 2017)


class Head(nn.Module):
    """One scale's outputs: logits (n, 1, h, w) and geometry (n, 14, h, w)."""

    def __init__(self, cin: int, width: int) -> None:
        super().__init__()
        self.neck = ConvNorm(cin, width, 1)
        self.score = nn.Conv2d(width, 1, 1)
        self.geometry = nn.Conv2d(width, GEOMETRY, 1)
        nn.init.constant_(self.score.bias, float(torch.logit(torch.tensor(PRIOR))))
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.geometry.weight, std=0.01)
        self.geometry.bias.data = torch.tensor([1.5] * 4 + [-0.7, -0.4, 0.7, -0.4, 0.0, 0.2, -0.6, 0.9, 0.6, 0.9])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.neck(x)
        return self.score(x), self.geometry(x)


class DetectorNet(nn.Module):
    """(n, 3, h, w) in [-1, 1) to three (logits, geometry) pairs, strides 8, 16, 32; any h, w.

    ``widths`` are the channels of the stem and of the three strides, ``depths`` the separable blocks at each stride,
    ``heads`` the channels of each stride's head.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (16, 48, 80, 96),
        depths: tuple[int, int, int] = (3, 3, 3),
        heads: tuple[int, int, int] = (32, 48, 48),
    ) -> None:
        super().__init__()
        stem, *strides = widths
        starts: list[list[nn.Module]] = [
            [ConvNorm(3, stem, 4, 4, pad=0), ConvNorm(stem, widths[1], 3, 2)],
            *[[Halving(cin, cout)] for cin, cout in pairwise(strides)],
        ]
        self.stages = nn.ModuleList(
            [
                nn.Sequential(*start, *[Separable(width) for _ in range(depth)])
                for start, width, depth in zip(starts, strides, depths, strict=True)
            ]
        )
        self.heads = nn.ModuleList([Head(cin, width) for cin, width in zip(strides, heads, strict=True)])

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        out = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            out.append(head(x))
        return out
