"""The operations of the DARTS space: which pixels they read, what they cost, and their parts."""

import pytest
import torch

from unnas import ops


def cost(name):
    return sum(p.numel() for p in ops.operation(name, 16).parameters())


def test_that_each_half_of_a_reduction_reads_its_own_pixels():
    reduce = ops.FactorizedReduce(4, 6).eval()
    probe = torch.zeros(2, 4, 4, 4)
    probe[0, :, 0, 0] = 1
    probe[1, :, 1, 1] = 1
    with torch.no_grad():
        out = reduce(probe) - reduce(torch.zeros_like(probe))
    assert out[0, :3].abs().sum() > 0 and out[0, 3:].abs().sum() == 0
    assert out[1, 3:].abs().sum() > 0 and out[1, :3].abs().sum() == 0


def test_parameters():
    assert cost("sep_conv_5x5") == 2 * (16 * 25 + 16 * 16 + 2 * 16)
    assert cost("dil_conv_3x3") == 16 * 9 + 16 * 16 + 2 * 16
    assert cost("none") == cost("max_pool_3x3") == cost("avg_pool_3x3") == cost("skip_connect") == 0


def test_that_dilation_reaches_two_pixels_away_and_none_in_between():
    dilated = ops.operation("dil_conv_3x3", 1).eval()
    impulse = torch.zeros(1, 1, 7, 7)
    impulse[0, 0, 3, 3] = 1
    with torch.no_grad():
        dilated.depthwise.weight.fill_(1)
        dilated.pointwise.weight.fill_(1)
        out = dilated(impulse)
    assert (out[0, 0].nonzero() % 2 == 1).all() and (out > 0).sum() == 9


@pytest.mark.parametrize("stride", [1, 2])
def test_that_units_are_all_there_is_to_an_operation(stride):
    for name in ops.OPS:
        operation = ops.operation(name, 8, stride)
        if not list(operation.parameters()):
            continue
        parts = []
        for unit in operation.units:
            filters = [] if unit.depthwise is None else [unit.depthwise]
            parts += [*filters, *unit.mixing, unit.norm]
        weights = {id(p) for part in parts for p in part.parameters()}
        assert weights == {id(p) for p in operation.parameters()}, name


def test_that_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="conv_7x7.*sep_conv_5x5"):
        ops.operation("conv_7x7", 8)
    with pytest.raises(ValueError, match="stem='resnet'.*cifar"):
        ops.check_stem("resnet")
    with pytest.raises(ValueError, match="width=5.*even"):
        ops.ImageNetStem(3, 5)
