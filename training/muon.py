"""
Muon, the optimizer of the matrices, with its products in bfloat16 or float32.

PyTorch's own multiplies in bfloat16 whatever the processor. One that has no instructions for it spends two
thirds of a training step there.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

# Of the polynomial a·x + b·x³ + c·x⁵, and how often it is applied: https://kellerjordan.github.io/posts/muon/
A, B, C = 3.4445, -4.7750, 2.0315
TIMES = 5


def orthogonal(matrix: Tensor) -> Tensor:
    """
    About the orthogonal matrix nearest to `matrix`: its singular vectors, with singular values of 0.7 to 1.2.

    >>> singular = torch.linalg.svdvals(orthogonal(torch.tensor([[3.0, 0.1], [0.2, 0.5], [0.0, 1.0]])))
    >>> bool((singular > 0.6).all() and (singular < 1.3).all())
    True
    """
    tall = matrix.shape[0] > matrix.shape[1]  # the products are cheaper across the shorter side
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(TIMES):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=B, alpha=C), x, beta=A)
    return x.T if tall else x


class Muon(Optimizer):
    """
    Momentum, made orthogonal: every direction of a matrix learns as fast as every other.

    `products` is the type that they are computed in.
    """

    products = torch.bfloat16

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                past = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                past.lerp_(matrix.grad, 1 - group["momentum"])
                ahead = matrix.grad.lerp(past, group["momentum"])  # Nesterov's
                update = orthogonal(ahead.to(self.products)).to(matrix.dtype)
                rows, columns = matrix.shape
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
