"""A cell in one piece against its modules one by one, in float64."""

import copy

import pytest
import torch
from torch import nn

from unnas import ops
from unnas.fast import cells, kernels
from unnas.ops import FactorizedReduce, Unit, operation

ORDERS = [list(ops.OPS), list(ops.OPS)[::-1], ["none", "none", *list(ops.OPS)[2:]]]


class Cell(nn.Module):
    """The parts of a cell, by the names that `cells.forward` asks for."""

    def __init__(self, older, newer, edges, sources, concat):
        super().__init__()
        self.older, self.newer, self.edges = older, newer, nn.ModuleList(edges)
        self.sources, self.concat = sources, concat

    def forward(self, older, newer):
        """As a textbook has it."""
        states = [self.older(older), self.newer(newer)]
        for i in range(0, len(self.edges), 2):
            pair = zip(self.edges[i : i + 2], self.sources[i : i + 2])
            states.append(sum(edge(states[source]) for edge, source in pair))
        return torch.cat([states[state] for state in self.concat], dim=1)


def all_operations(names, reduction, halved, channels, concat):
    sources = (0, 1, 1, 2, 0, 2, 3, 4)
    strides = [2 if reduction and source < 2 else 1 for source in sources]
    older = (FactorizedReduce if halved else Unit)(3, channels)
    edges = [operation(op, channels, stride) for op, stride in zip(names, strides)]
    return Cell(older, Unit(9, channels), edges, sources, concat)


@pytest.mark.slow
@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize(
    "reduction, halved, training, threads, images, concat",
    [
        (False, False, True, 1, 6, (2, 3, 4, 5)),
        (True, True, True, 2, 34, (5, 3)),
        (False, True, False, 2, 17, (2, 3, 4, 5)),
        (True, False, False, 1, 4, (4,)),
    ],
)
def test_a_cell(order, reduction, halved, training, threads, images, concat, size=(7, 6)):
    torch.manual_seed(0)
    cell = all_operations(ORDERS[order], reduction, halved, 5, concat).double().train(training)
    for part in (*cell.parameters(), *cell.buffers()):
        if part.dim() == 1:
            nn.init.uniform_(part, 0.5, 1.5)
    twin, scale = copy.deepcopy(cell), 2 if halved else 1
    older = torch.randn(images, 3, scale * size[0], scale * size[1], dtype=torch.float64)
    inputs = older.requires_grad_(), torch.randn(images, 9, *size).double().requires_grad_()
    with kernels.plain():
        expected = cell(*inputs)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = cells.separate(cells.forward(twin, *map(cells.interleave, inputs)))
    g = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, [*inputs, *twin.parameters()], g, materialize_grads=True)
    torch.set_num_threads(before)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        gradients,
        torch.autograd.grad(expected, [*inputs, *cell.parameters()], g, materialize_grads=True),
    )
    torch.testing.assert_close(dict(twin.named_buffers()), dict(cell.named_buffers()))


def test_what_the_backward_pass_needs_is_let_go_after_it():
    edges = [operation("sep_conv_3x3", 4), operation("max_pool_3x3", 4)]
    cell = Cell(Unit(3, 4), Unit(3, 4), edges, (0, 1), (2,))
    x = cells.interleave(torch.randn(4, 3, 5, 5, requires_grad=True))
    out = cells.forward(cell, x, x).sum()
    out.backward(retain_graph=True)
    weight = cell.older.pointwise.weight
    first = weight.grad.clone()
    out.backward()
    torch.testing.assert_close(weight.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()
