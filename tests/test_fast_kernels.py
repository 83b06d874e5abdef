"""Each kernel against PyTorch's own operators, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unnas.fast import kernels
from unnas.fast.kernels import BatchNorm, DepthwiseConv, values

KINDS = [(3, 1), (5, 1), (3, 2), (5, 2)]


def random(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("kernel, dilation, size", [(*k, (7, 9)) for k in KINDS] + [(5, 2, (2, 3))])
def test_depthwise_convolutions(kernel, dilation, size, stride, shared):
    """The last size is smaller than the reach of the filter."""
    filters, images, channels = 3, 2, 4
    x = random(1 if shared else filters, images, channels, *size)
    w = random(filters, channels, kernel, kernel, seed=1).requires_grad_()
    a, b = random(len(x), channels, seed=2), random(len(x), channels, seed=3)
    seen = (a[:, None, :, None, None] * x + b[:, None, :, None, None]).requires_grad_()
    maps, padding = seen.relu().expand(filters, *x.shape[1:]), dilation * (kernel - 1) // 2
    convolved = (
        F.conv2d(h, v[:, None], None, stride, padding, dilation, channels) for h, v in zip(maps, w)
    )
    y = torch.stack(list(convolved))
    g = random(*y.shape, seed=4)
    expected = torch.autograd.grad(y, (seen, w), g)

    arguments, shape = (x.flatten(3), a, b, values(w.flatten(2))), (size, kernel, dilation, stride)
    out, dx = torch.empty_like(g).flatten(3), torch.zeros_like(x).flatten(3)
    kernels.depthwise(*arguments, out, *shape)
    dw = kernels.depthwise_gradients(*arguments, g.flatten(3), dx, *shape, add=shared)
    torch.testing.assert_close(out.view_as(y), y.detach())
    torch.testing.assert_close((dx.view_as(x), torch.from_numpy(dw).view_as(w)), expected)


def interleaved(x, lanes):
    """Planes (N/lanes, C, H*W*lanes) of images (N, C, H, W)."""
    x = x.detach().unflatten(0, (-1, lanes)).permute(0, 2, 3, 4, 1)
    return x.flatten(2).contiguous()


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 9), (1, 4)])
@pytest.mark.parametrize("largest", [True, False], ids=["max", "mean"])
def test_pooling(largest, size, stride, lanes):
    x = random(4, 3, *size).mul(2).round().requires_grad_()  # with ties
    a, b = torch.tensor([2.0, -1.0, 0.5]).double(), torch.tensor([1.0, 0.0, -3.0]).double()
    seen = a[:, None, None] * x + b[:, None, None]
    if largest:
        y = F.max_pool2d(seen, 3, stride, 1)
    else:
        y = F.avg_pool2d(seen, 3, stride, 1, count_include_pad=False)
    g = random(*y.shape, seed=1)

    planes, shape = interleaved(x, lanes), (*size, lanes, stride)
    out, dx = torch.empty_like(interleaved(y, lanes)), torch.zeros_like(planes)
    arrays = len(dx), planes, 0, a, b, out
    if largest:
        where = torch.empty_like(out, dtype=torch.uint8)
        kernels.run(kernels.max_forward, *arrays, where, *shape)
        back = interleaved(g, lanes), 0, where, dx, 0
        kernels.run(kernels.max_backward, len(dx), *back, *shape)
    else:
        kernels.run(kernels.avg_forward, *arrays, *shape)
        back = interleaved(g, lanes), 0, dx, 0, 3
        kernels.run(kernels.avg_backward, len(dx), *back, *shape)
    torch.testing.assert_close(out, interleaved(y, lanes))
    torch.testing.assert_close(dx, interleaved(torch.autograd.grad(y, seen, g)[0], lanes))


def test_matrix_products():
    w, maps, g = random(2, 3, 1, 4, 5), random(2, 3, 6, 5, 7), random(2, 3, 6, 4, 7)
    np.testing.assert_allclose(kernels.product(values(w), values(maps)), w @ maps)
    found = kernels.product_gradient(values(g), values(maps))
    np.testing.assert_allclose(found, (g @ maps.mT).sum(2))


def test_moments_around_a_large_mean_in_single_precision():
    z = (random(2, 3, 4, 35) + 100).float()
    mean, var = kernels.moments(z)
    np.testing.assert_allclose(mean, z.double().mean((1, 3)), rtol=1e-7)
    np.testing.assert_allclose(var, z.double().var((1, 3), correction=0), rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_backward_of_normalization(training):
    z = random(1, 3, 4, 35).requires_grad_()
    mean, var = kernels.moments(z)
    running = (torch.from_numpy(part[0].copy()) for part in (mean, var))
    y = F.batch_norm(z[0], *running, training=training, eps=1e-12)
    g = random(*y.shape, seed=1)
    (expected,) = torch.autograd.grad(y, z, g)
    kernels.norm_backward(g[None], z, mean, var**-0.5, 3 * 35 if training else 0)
    torch.testing.assert_close(g[None], expected)


def last(x):
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def both(layer, x):
    """The output, its gradients and the buffers, by the kernels and within `plain()`."""
    before, found = [buffer.clone() for buffer in layer.buffers()], []
    for plain in (False, True):
        for buffer, value in zip(layer.buffers(), before):
            buffer.copy_(value)
        if plain:
            with kernels.plain():
                y = layer(x)
        else:
            y = layer(x)
        gradients = torch.autograd.grad(y, (x, *layer.parameters()), random(*y.shape, seed=1))
        found.append((y, *gradients, *(buffer.clone() for buffer in layer.buffers())))
    return found


@pytest.mark.parametrize("kernel, dilation", KINDS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 9), (2, 3)])
def test_depthwise_layers(kernel, dilation, stride, size):
    layer = DepthwiseConv(4, kernel, stride, dilation).double()
    torch.testing.assert_close(*both(layer, last(random(3, 4, *size))))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_normalization_layers(affine, training):
    layer = BatchNorm(4, affine=affine).double().train(training)
    torch.testing.assert_close(*both(layer, last(random(3, 4, 5, 7) + 2)))


def test_running_statistics_that_are_not_tracked_stay():
    layer = BatchNorm(4).double()
    layer.track_running_stats = False
    before = layer.running_mean.clone(), layer.running_var.clone()
    layer(last(random(3, 4, 5, 7) + 2))
    assert layer.num_batches_tracked == 0
    torch.testing.assert_close((layer.running_mean, layer.running_var), before)
