# SPDX-License-Identifier: Apache-2.0
"""The parts of the networks this project trains, and the embedder: convolutions, ReLU6, batch norm that folds away.

Plain convolutions train fast on a CPU, keep the int8 units of Arm and x86 busy, and quantise well. Depthwise 3x3 ones
with 1x1 ones after them are the cheaper mixture where processors lack dot products (``detector_net``).
ReLU6 bounds every activation, so no outlier can stretch an int8 scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EMBEDDING_DIM = 128
DEPTHS = (1, 3, 1)  # blocks at 28x28, 14x14 and 7x7


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, unless ``act`` is false, ReLU6; ``same`` padding for odd kernels."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        act: bool = True,
        groups: int = 1,
        pad: int | None = None,
    ) -> None:
        padding = kernel // 2 if pad is None else pad
        layers: list[nn.Module] = [
            nn.Conv2d(cin, cout, kernel, stride, padding, bias=False, groups=groups),
            nn.BatchNorm2d(cout),
        ]
        if act:
            layers.append(nn.ReLU6(inplace=True))
        super().__init__(*layers)


class Sum(nn.Module):
    """Two convolutions in a row and a shortcut around them (None: the input itself), ReLU6 after the sum."""

    def __init__(self, first: ConvNorm, second: ConvNorm, shortcut: ConvNorm | None = None) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = first, second, shortcut
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.shortcut is None else self.shortcut(x)
        return self.act(self.second(self.first(x)) + skip)


class Residual(Sum):
    """Two 3x3 convolutions and a shortcut (He et al. 2016): (n, cin, h, w) to (n, cout, h / stride, w / stride)."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__(
            ConvNorm(cin, cout, 3, stride),
            ConvNorm(cout, cout, 3, act=False),
            None if stride == 1 and cin == cout else ConvNorm(cin, cout, 1, stride, act=False),
        )


class Separable(Sum):
    """Depthwise 3x3, then 1x1 (MobileNets, Howard et al. 2017), with a shortcut: (n, width, h, w) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__(ConvNorm(width, width, 3, groups=width), ConvNorm(width, width, 1, act=False))


class Float32Conv(nn.Conv2d):
    """A convolution that computes in float32 also under autocast; its output has the type of its input.

    For depthwise layers with a stride: PyTorch 2.13 has no fast backward pass for them in bfloat16 on x86-64, and
    trains one of 48 channels at 24x24 eight times slower than in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float()).to(x.dtype)


class Halving(nn.Sequential):
    """Depthwise 3x3 of stride 2, then 1x1 to the new width: (n, cin, h, w) to (n, cout, h / 2, w / 2), ReLU6 both."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(
            Float32Conv(cin, cin, 3, 2, 1, groups=cin, bias=False),
            nn.BatchNorm2d(cin),
            nn.ReLU6(inplace=True),
            ConvNorm(cin, cout, 1),
        )


class EmbedderNet(nn.Module):
    """112x112x3 in [-1, 1] to a 128-d embedding (not normalised).

    ``features`` also returns the 14x14 and 7x7 maps, which training compares with the teacher's.
    The head is a 7x7 depthwise convolution (global depthwise pooling, MobileFaceNets, Chen et al. 2018).
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (32, 64, 128, 192),
        depths: tuple[int, ...] = DEPTHS,
        head: int = 384,
    ) -> None:
        super().__init__()
        c0, c1, c2, c3 = widths
        d1, d2, d3 = depths
        self.stage28 = nn.Sequential(
            ConvNorm(3, c0, 3, 2), ConvNorm(c0, c1, 3, 2), *[Residual(c1, c1) for _ in range(d1)]
        )
        self.stage14 = nn.Sequential(Residual(c1, c2, 2), *[Residual(c2, c2) for _ in range(d2 - 1)])
        self.stage7 = nn.Sequential(Residual(c2, c3, 2), *[Residual(c3, c3) for _ in range(d3 - 1)])
        self.head = nn.Sequential(ConvNorm(c3, head, 1), ConvNorm(head, head, 7, act=False, groups=head, pad=0))
        self.embed = nn.Sequential(nn.Conv2d(head, EMBEDDING_DIM, 1, bias=False), nn.BatchNorm2d(EMBEDDING_DIM))

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f14 = self.stage14(self.stage28(x))
        f7 = self.stage7(f14)
        return self.embed(self.head(f7)).flatten(1), f14, f7

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[0]


def add_passive(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` of a net with fewer blocks, filled up for ``net``: its further ones pass on what they get.

    A block whose last scale is 0 adds nothing to its shortcut, and ReLU6 leaves alone what came out of a ReLU6, so the
    deeper net computes what the other did (Net2DeeperNet, Chen et al. 2016; zero scale: Goyal et al. 2017).
    """
    own = net.state_dict()
    if not set(state) <= set(own):
        raise ValueError("the weights are of a net with other layers")
    missing = {key: torch.zeros_like(own[key]) if key.endswith(".second.1.weight") else own[key] for key in own}
    return missing | state
