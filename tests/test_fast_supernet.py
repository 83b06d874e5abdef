"""A search cell in one piece against its mixed operations one by one, in float64."""

import copy

import pytest
import torch
from torch import nn

from unnas.fast import kernels
from unnas.fast.supernet import Fused
from unnas.search import MixedOp
from unnas.spaces.darts import EDGES, NODES


@pytest.mark.parametrize("reduction", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_search_cell(reduction, training, threads, size=(7, 6), channels=4):
    torch.manual_seed(0)
    strides = [2 if reduction and source < 2 else 1 for _, source in EDGES]
    edges = nn.ModuleList(MixedOp(channels, stride) for stride in strides).double().train(training)
    for buffer in edges.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    twin, states = copy.deepcopy(edges), list(torch.randn(2, 5, channels, *size).double())
    weights = torch.rand(14, 8, dtype=torch.float64)
    inputs = [part.requires_grad_() for part in (*states, weights)]
    with kernels.plain():
        for node in range(NODES):
            entering = [edge for edge, (target, _) in enumerate(EDGES) if target == node]
            states.append(sum(edges[e](states[EDGES[e][1]], weights[e]) for e in entering))
    expected = torch.cat(states[2:], 1)
    g = torch.randn_like(expected)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = Fused(twin, EDGES, reduction).nodes(*inputs)
    gradients = torch.autograd.grad(found, [*inputs, *twin.parameters()], g)
    torch.set_num_threads(before)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected, [*inputs, *edges.parameters()], g)
    )
    torch.testing.assert_close(dict(twin.named_buffers()), dict(edges.named_buffers()))


def test_that_branches_are_known_by_name_not_by_their_place():
    torch.manual_seed(0)
    edges = nn.ModuleList(MixedOp(4, 1) for _ in EDGES).double()
    turned = copy.deepcopy(edges)
    for edge in turned:
        edge.branches = nn.ModuleDict(reversed(edge.branches.items()))
    states = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64)
    weights = torch.rand(14, 8, dtype=torch.float64)
    expected = Fused(edges, EDGES, False).nodes(*states, weights)
    assert torch.equal(Fused(turned, EDGES, False).nodes(*states, weights.flip(1)), expected)
