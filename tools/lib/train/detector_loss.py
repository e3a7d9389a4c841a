# SPDX-License-Identifier: Apache-2.0
"""Which cell answers for which face, and what a wrong answer costs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tools.lib.train.detector_net import STRIDES

# Face sizes (square root of the box area, pixels) a stride must answer for; neighbours overlap so that a face
# that grows is never between two of them.
RANGES = {8: (0.0, 34.0), 16: (28.0, 112.0), 32: (92.0, 1e9)}
NEAR = 1.35  # a face this factor outside a stride's range is neither face nor background there
# Where geometry may go, in strides: background cells are pushed back so that they cannot stretch the int8 scale.
BOUNDS = {8: (-3.5, 5.0), 16: (-4.0, 6.0), 32: (-5.0, 9.5)}
LOGIT = 9.0  # sigmoid(9) = 0.9999: beyond it a logit only stretches the int8 scale


class Target(NamedTuple):
    """Per cell: 1 face, 0 background, -1 do not count (n, cells); geometry (n, cells, 14) in strides; face size."""

    label: Tensor
    geometry: Tensor
    size: Tensor


def assign(faces: Tensor, stride: int, grid: tuple[int, int]) -> Target:
    """``faces`` (n, k, 15) as the pool stores them; ``grid`` is rows and columns of this stride's output."""
    rows, columns = grid
    centre_y, centre_x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centre = (torch.stack([centre_x.flatten(), centre_y.flatten()], 1).float() + 0.5) * stride
    corner, extent, flag = faces[..., :2], faces[..., 2:4], faces[..., 14]
    size = (extent[..., 0] * extent[..., 1]).clamp_min(1).sqrt()
    offset = (centre - (corner + extent / 2)[:, :, None]).abs()  # n, k, cells, 2
    reach = (0.28 * extent).clamp(max=1.6 * stride).clamp(min=0.501 * stride)[:, :, None]
    core = (offset <= reach).all(-1)
    ring = (offset <= torch.maximum(reach + 0.5 * stride, 0.42 * extent[:, :, None])).all(-1)
    low, high = RANGES[stride]
    ours = (flag > 0) & (size >= low) & (size < high)
    near = (flag > 0) & (size >= low / NEAR) & (size < high * NEAR)
    inside = (offset <= 0.5 * extent[:, :, None]).all(-1)
    positive = core & ours[..., None]
    ignore = ((ring & near[..., None]) | (inside & (flag < 0)[..., None])).any(1)
    distance = (offset / extent.clamp_min(1)[:, :, None]).square().sum(-1).masked_fill(~positive, 1e9)
    best, index = distance.min(1)
    label = torch.where(best < 1e8, 1.0, torch.where(ignore, -1.0, 0.0))
    chosen = torch.gather(faces, 1, index[..., None].expand(-1, -1, 15))
    near_edge, far_edge = centre - chosen[..., :2], chosen[..., :2] + chosen[..., 2:4] - centre
    marks = (chosen[..., 4:14].unflatten(-1, (5, 2)) - centre[:, None]).flatten(-2)
    geometry = torch.cat([near_edge, far_edge, marks], -1) / stride
    return Target(label, geometry, torch.gather(size, 1, index))


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes given as distances from the same cell."""
    inter = (torch.minimum(a[:, :2], b[:, :2]) + torch.minimum(a[:, 2:], b[:, 2:])).clamp_min(0).prod(1)
    hull = (torch.maximum(a[:, :2], b[:, :2]) + torch.maximum(a[:, 2:], b[:, 2:])).clamp_min(0.01).prod(1)
    union = (a[:, :2] + a[:, 2:]).clamp_min(0).prod(1) + (b[:, :2] + b[:, 2:]).prod(1) - inter
    return inter / union.clamp_min(1e-4) - (hull - union) / hull


def loss_terms(outputs: list[tuple[Tensor, Tensor]], faces: Tensor) -> Tensor:
    """Score (focal, Lin et al. 2017), box, landmarks, and range; each a mean over faces' cells."""
    score, box, marks, bound = (torch.zeros(()) for _ in range(4))
    count = 0.0
    used = (faces[..., 14] != 0).any(0).nonzero()
    faces = faces[:, : int(used.max()) + 1 if len(used) else 1]  # the rows beyond are empty in every scene
    for stride, (logit, geometry) in zip(STRIDES, outputs, strict=True):
        target = assign(faces, stride, (logit.shape[2], logit.shape[3]))
        z = logit.float().flatten(1)
        g = geometry.float().flatten(2).transpose(1, 2)
        positive = target.label > 0
        wrong = torch.where(positive, torch.sigmoid(-z), torch.sigmoid(z))
        cross = functional.binary_cross_entropy_with_logits(z, positive.float(), reduction="none")
        score = score + (wrong.square() * cross)[target.label >= 0].sum()
        low, high = BOUNDS[stride]
        bound = bound + ((g - g.clamp(low, high)).square().mean() + (z - z.clamp(-LOGIT, LOGIT)).square().mean())
        mine, truth = g[positive], target.geometry[positive]
        size = target.size[positive][:, None] / stride
        box = box + (1 - _overlap(mine[:, :4], truth[:, :4])).sum()
        box = box + 2 * ((mine[:, :4] - truth[:, :4]) / size).abs().mean(1).sum()
        error = (mine[:, 4:] - truth[:, 4:]) / size
        marks = (
            marks + functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.02, reduction="none").mean(1).sum()
        )
        count += float(positive.sum())
    return torch.stack([score, box, marks, bound * max(count, 1.0)]) / max(count, 1.0)
