"""
The model: a small llama, in the shape that llama.cpp's `llama` architecture runs.

RMSNorm, rotary positions, SwiGLU, no biases, one table for reading and writing words. Positions turn the two
halves of a head against each other, which is quicker here than llama.cpp's neighbouring pairs: export.py
reorders the rows.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 32  # weights that share one scale in Q4_0


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 8192
    width: int = 256
    layers: int = 8
    heads: int = 4
    feed_forward: int = 704
    context: int = 1024
    rope_base: float = 10_000.0
    epsilon: float = 1e-5


SHAPES = {
    "small": Shape(),  # 8.5 million parameters: as Q8_0 9.3 MB
    "medium": Shape(width=320, layers=8, heads=5, feed_forward=864),  # 12.5 million: as Q8_0 13.5 MB
    "large": Shape(width=448, layers=8, heads=7, feed_forward=1216),  # 23.2 million: as Q4_0 15 MB
}


class Linear(nn.Linear):
    """A matrix that can be rounded as Q4_0 will round it, while the gradient passes as if it were not."""

    rounded = False

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.rounded:
            weight = weight + (round_q4_0(weight.detach()) - weight.detach())
        return functional.linear(x, weight)


def round_q4_0(weight: Tensor) -> Tensor:
    """
    The values that llama.cpp's Q4_0 keeps: 16 steps per block of 32, the largest value standing on step -8.

    >>> round_q4_0(torch.tensor([[-8.0, 3.4] + [0.0] * 30]))[0, :2]
    tensor([-8.,  3.])
    """
    blocks = weight.reshape(-1, BLOCK)
    extreme = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = extreme / -8
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    steps = (blocks * inverse + 8.5).floor().clamp(0, 15) - 8
    return (steps * scale.half().float()).view_as(weight)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q, self.k, self.v, self.output = (Linear(shape.width, shape.width) for _ in range(4))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part(x).view(batch, length, self.heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        q, k = rotate(q, *turn), rotate(k, *turn)
        mixed = attend(q, k, v, seen)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    if q.is_cuda or seen is None:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
    # The fused kernel's backward pass on a CPU takes longer than all of this by 10 to 20% of a step.
    with torch.autocast("cpu", enabled=False):  # which would make the softmax float32
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return scores.masked_fill(~seen, -1e4).softmax(-1) @ v


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn number i of the first half against number i of the second, by the angle of the position."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


class Norm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        # In one type throughout: the fused kernel refuses bfloat16 with a float32 weight.
        return functional.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = Norm(shape.width, shape.epsilon)
        self.attention = Attention(shape)
        self.feed_norm = Norm(shape.width, shape.epsilon)
        self.gate = Linear(shape.width, shape.feed_forward)
        self.up = Linear(shape.width, shape.feed_forward)
        self.down = Linear(shape.feed_forward, shape.width)
        self.dropout = nn.Dropout(0.0)  # for many epochs over the rare rows; train.py sets it

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), turn, seen))
        h = self.feed_norm(x)
        return x + self.dropout(self.down(functional.silu(self.gate(h)) * self.up(h)))


class Model(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.bfloat16 = True  # the products', while it is trained
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.epsilon)
        half = shape.width // shape.heads // 2
        angles = torch.outer(
            torch.arange(shape.context).float(), shape.rope_base ** (-torch.arange(half) / half)
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.reset()

    def reset(self) -> None:
        nn.init.normal_(self.words.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and not name.startswith("words"):
                nn.init.normal_(parameter, std=1 / math.sqrt(self.shape.width))
            if name.endswith(("output.weight", "down.weight")):
                nn.init.zeros_(parameter)  # every block begins as the identity

    def forward(self, tokens: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        """The last hidden states; `logits` turns the few that are asked for into words."""
        x = self.words(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        turn = tuple(table[positions].unsqueeze(1).to(x.dtype) for table in (self.cos, self.sin))
        for block in self.blocks:
            x = block(x, turn, seen)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.words.weight)

    def drop_out(self, share: float) -> None:
        for block in self.blocks:
            block.dropout.p = share

    def compile_blocks(self) -> None:
        """Fuse what stands between the products. One compiled block serves all layers and all lengths."""
        for block in self.blocks:
            block.forward = torch.compile(block.forward, dynamic=True)

    def round_weights(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, Linear):
                module.rounded = on


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
