# SPDX-License-Identifier: Apache-2.0
"""Go on training from a shipped int8 model: its convolutions become the start of a network.

tools/train from-tflite models/embedder.tflite POOL START.pt   (then embedder --init START.pt)

Batch norm was folded away when the model was exported. It comes back measured: each norm gets the statistics of its
own input on pictures of the pool, and the scale and bias that undo them, so the network computes what the file does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import Tensor, nn

from tools.lib.train import landmarks as second
from tools.lib.train.checkpoints import save
from tools.lib.train.detector import Scenes
from tools.lib.train.detector_net import DetectorNet
from tools.lib.train.embedder import Pool, Student, to_input
from tools.lib.train.net import DEPTHS, EmbedderNet, Sum

BATCHES = 8  # of 128 pictures, for the statistics of the norms
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def convolutions(module: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Convolutions of a net with their norms, in the order in which the exporter writes them."""
    if isinstance(module, Sum):
        for part in (module.shortcut, module.first, module.second):
            if part is not None:
                yield from convolutions(part)
        return
    if isinstance(module, DetectorNet):
        for stage, head in zip(module.stages, module.heads, strict=True):
            yield from convolutions(stage)
            yield from convolutions(head)
        return
    children = list(module.children())
    for index, child in enumerate(children):
        if isinstance(child, nn.Conv2d):
            following = children[index + 1] if index + 1 < len(children) else None
            yield child, following if isinstance(following, nn.BatchNorm2d) else None
        else:
            yield from convolutions(child)


def weights(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Kernels (h, w, in, out), depthwise ones (h, w, out, 1), and biases (out,) of an int8 model, float32, in order."""
    interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    interpreter.allocate_tensors()
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}

    def real(index: int) -> np.ndarray:
        quantisation = details[index]["quantization_parameters"]
        value = interpreter.get_tensor(index).astype(np.float32)
        shape = [1] * value.ndim
        shape[quantisation["quantized_dimension"]] = -1
        return value * quantisation["scales"].reshape(shape)

    for operation in interpreter._get_ops_details():  # noqa: SLF001  # LiteRT has no public way to read a graph
        if operation["op_name"] in CONVOLUTIONS:
            yield real(operation["inputs"][1]).transpose(1, 2, 3, 0), real(operation["inputs"][2])


def original(conv: nn.Conv2d, kernel: np.ndarray, bias: np.ndarray) -> tuple[Tensor, Tensor]:
    """Kernel and bias as ``conv`` has them, from the shapes that ``tools.lib.train.rewrite`` may have given them.

    Raises ValueError if the two are not the same layer.
    """
    count, (rows, columns), stride = conv.out_channels, conv.kernel_size, conv.stride[1]
    if conv.groups > 1:  # a pool in parts: the map's positions, then zeros
        kernel, bias = kernel.reshape(-1, count)[: rows * columns].reshape(rows, columns, 1, count), bias[:count]
    elif kernel.shape[2] == stride * conv.in_channels and kernel.shape[1] < columns:  # a stem, pixels side by side
        lead = -conv.padding[1] % stride
        kernel = kernel.reshape(rows, -1, conv.in_channels, count)[:, lead : lead + columns]
    elif kernel.shape[:2] == (1, 1):  # after a pool in parts: the same kernel for each
        kernel = kernel[:, :, : conv.in_channels]
    found = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    if found.shape != conv.weight.shape:
        raise ValueError(f"a kernel of {tuple(found.shape)} where the net has {tuple(conv.weight.shape)}")
    return found, torch.from_numpy(bias.copy())


@torch.no_grad()
def load(net: nn.Module, path: Path) -> None:
    """Put the file's weights into ``net``; ValueError if the two do not have the same layers."""
    for (conv, norm), (kernel, bias) in zip(convolutions(net), weights(path), strict=True):
        weight, shift = original(conv, kernel, bias)
        conv.weight.copy_(weight)
        if norm is None:
            conv.bias.copy_(shift)
        else:
            norm.running_var.fill_(1 - norm.eps)
            norm.bias.copy_(shift)
    net.eval()


@torch.no_grad()
def restore_norms(net: nn.Module, batches: list[Tensor]) -> None:
    """Give every norm the statistics of its input over ``batches``, and the scale and bias that undo them."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = {norm: torch.zeros(2, norm.num_features) for norm in norms}

    def note(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        sums[norm] += torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    for batch in batches:
        net(batch)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        mean, square = sums[norm] / len(batches)
        variance = (square - mean.square()).clamp_min(1e-5)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.add_(mean)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def embedder(model: Path, pool: Path, depths: tuple[int, ...]) -> nn.Module:
    student, rng, pictures = Student(EmbedderNet(depths=depths), 128, 192), np.random.default_rng(1), Pool(pool, 0)
    load(student.net, model)
    restore_norms(student.net, [to_input(pictures.batch(128, rng)[0]) for _ in range(BATCHES)])
    return student


def detector(model: Path, pool: Path, _: tuple[int, ...]) -> nn.Module:
    net, rng, scenes = DetectorNet(), np.random.default_rng(1), Scenes(pool, 0)
    load(net, model)
    restore_norms(net, [to_input(scenes.batch(32, rng, crops=False)[0]) for _ in range(BATCHES)])
    return net


def landmarks(model: Path, pool: Path, _: tuple[int, ...]) -> nn.Module:
    net, rng, patches = second.LandmarkNet(), np.random.default_rng(1), second.Pool(pool)
    load(net, model)
    restore_norms(net, [to_input(patches.batch(192, rng)[0]) for _ in range(BATCHES)])
    return net


NETWORKS = {"embedder": embedder, "detector": detector, "landmarks": landmarks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="embedder")
    parser.add_argument("--depths", type=int, nargs=3, default=DEPTHS, help="of an embedder: blocks of its stages")
    args = parser.parse_args()
    torch.manual_seed(1)  # the adaptors of an embedder start at random
    net = NETWORKS[args.network](args.model, args.pool, tuple(args.depths))
    save(args.out, {"average": net.state_dict()})


if __name__ == "__main__":
    main()
