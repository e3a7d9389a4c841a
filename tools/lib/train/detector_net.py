# SPDX-License-Identifier: Apache-2.0
"""The face detector's network: anchor-free, three strides, plain 3x3 and 1x1 convolutions with ReLU6.

A face belongs to the stride whose cells see it best; there is no feature pyramid, because stride 16 and
stride 32 see 156 and 380 pixels (their receptive fields) and need nothing from each other. The stem is one 4x4
convolution of stride 4: on int8 units a 3-channel 3x3 convolution at half resolution costs more than half the net.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.lib.train.net import ConvNorm, Residual

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
    """(n, 3, h, w) in [-1, 1) to three (logits, geometry) pairs, strides 8, 16, 32; any h, w."""

    def __init__(self, widths: tuple[int, int, int, int] = (32, 48, 80, 64), head: int = 64) -> None:
        super().__init__()
        c1, c2, c3, c4 = widths
        self.stages = nn.ModuleList(
            [
                nn.Sequential(ConvNorm(3, c1, 4, 4, pad=0), ConvNorm(c1, c2, 3, 2), Residual(c2, c2)),
                nn.Sequential(Residual(c2, c3, 2), Residual(c3, c3)),
                nn.Sequential(Residual(c3, c4, 2), Residual(c4, c4)),
            ]
        )
        self.heads = nn.ModuleList([Head(width, head) for width in (c2, c3, c4)])

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        out = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            out.append(head(x))
        return out
