# SPDX-License-Identifier: Apache-2.0
"""What a model may say about a picture. Anything that is not listed here is refused.

Boxes, landmarks, scores, embeddings and presentation-attack scores serve the one purpose of the product. A model
with a head for age, gender, emotion or anything else cannot be loaded, however useful its other heads are.
"""

from __future__ import annotations

from agent.errors import ModelError, printable

_YUNET = frozenset(f"{head}_{stride}" for head in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32))
_SCRFD = frozenset(f"{head}_{stride}" for head in ("score", "bbox", "kps") for stride in (8, 16, 32))
_POSTERN = frozenset(f"{head}_{stride}" for head in ("score", "geometry") for stride in (8, 16, 32))

# task and decoder -> the outputs a model must have, all of them and no others
HEADS: dict[tuple[str, str], frozenset[str]] = {
    ("detector", "postern"): _POSTERN,
    ("detector", "yunet"): _YUNET,
    ("detector", "scrfd"): _SCRFD,
    ("detector", "blazeface"): frozenset({"regressors", "scores"}),
    ("landmarks", "landmarks"): frozenset({"score", "landmarks"}),
    ("embedder", "embedding"): frozenset({"embedding"}),
    ("pad", "pad"): frozenset({"pad"}),
}


def check_heads(name: str, task: str, decoder: str, outputs: frozenset[str]) -> None:
    """Raise ModelError unless ``outputs`` are exactly those of the decoder; ``name`` is the model's."""
    allowed = HEADS.get((task, decoder))
    if allowed is None:
        known = ", ".join(sorted(d for t, d in HEADS if t == task))
        raise ModelError(f"model {name}: no decoder {printable(decoder)!r} for the task {task}; known: {known}")
    if unknown := sorted(outputs - allowed):
        raise ModelError(
            f"model {name}: refused because of the output {printable(unknown[0])!r}: "
            f"a {task} ({decoder}) may only have {', '.join(sorted(allowed))}"
        )
    if missing := sorted(allowed - outputs):
        raise ModelError(f"model {name}: the output {missing[0]!r} is missing; {decoder} needs it")
