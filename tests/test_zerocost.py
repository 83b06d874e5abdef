"""The zero-cost scores, against slow versions that share no code with them, for networks of both spaces and every head."""
import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from unnas import kernels, tasks, zerocost
from unnas.spaces import darts, nasbench101

GENERATOR = torch.Generator().manual_seed(0)
TASKS = {"rot": (tasks.rotation(), (3, 16, 16)), "col": (tasks.colorization(), (1, 16, 16)), "jig": (tasks.jigsaw(grid=2), (4, 3, 8, 8)),
         "cls": (tasks.classification(10), (3, 16, 16)), "seg": (tasks.segmentation(5, channels=4, rates=(2,)), (3, 17, 17))}


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def darts_network(task, index=0, **options):
    return seeded(lambda: darts.build(darts.sample(index + 1, seed=0)[index], task, stem="cifar", width=4, depth=3, **options))


def cell_network(task, index=0):
    return seeded(lambda: nasbench101.build(nasbench101.sample(index + 1, seed=0)[index], task, stem="cifar", width=6, cells_per_stack=1))


BUILD = {"darts": darts_network, "nasbench101": cell_network}


def inputs(shape, count=6, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.fixture(params=[(space, task) for space in BUILD for task in TASKS], ids="-".join)
def case(request):
    space, task = request.param
    return BUILD[space](TASKS[task][0]).double(), TASKS[task][1]


# --- naswot

class Functional(nn.Module):
    """Two convolutions with batch normalisation and ReLU; `codes` computes the bits from the weights alone, image by image."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 2), nn.ReLU())

    def forward(self, x):
        return self.layers(x)

    def codes(self, x):
        conv, norm, _, last, _ = self.layers
        x = torch.nn.functional.conv2d(x, conv.weight, padding=1)
        centred = x - x.mean((0, 2, 3), keepdim=True)
        x = centred / (centred.square().mean((0, 2, 3), keepdim=True) + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        y = torch.nn.functional.conv2d(x.clamp(min=0), last.weight, last.bias)
        return [[bool(v > 0) for v in [*a.flatten(), *b.flatten()]] for a, b in zip(x, y)]


def slow_score(codes):
    """log |det K| from codes: pairs and bits one by one, the determinant by elimination."""
    rows = [[float(sum(a == b for a, b in zip(one, other))) for other in codes] for one in codes]
    result = 0.0
    while rows:
        pivot = max(range(len(rows)), key=lambda r: abs(rows[r][0]))
        top = rows.pop(pivot)
        result += math.log(abs(top[0]))
        rows = [[v - row[0] / top[0] * t for v, t in zip(row[1:], top[1:])] for row in rows]
    return result


def test_naswot_of_a_tiny_network():
    network, images = seeded(Functional).double(), inputs((2, 4, 4), 5)
    network.layers[1].weight.data = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    network.layers[1].bias.data = torch.tensor([0.1, 0.0, -0.2], dtype=torch.float64)
    with torch.no_grad():
        codes = network.codes(images)
    assert len(codes[0]) == 3 * 16 + 2 * 9
    assert zerocost.naswot(network, images) == pytest.approx(slow_score(codes), abs=1e-9)


def relu_codes(network, images):
    """Bits of all ReLUs, gathered by a second way: as the modules' inputs, with batch statistics."""
    network, bits = copy.deepcopy(network).eval(), [[] for _ in images]
    def gather(module, args):
        for row, part in zip(bits, args[0].chunk(len(bits))):
            row.extend((part > 0).flatten().tolist())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
        if isinstance(module, nn.ReLU):
            module.inplace = False
            module.register_forward_pre_hook(gather)
    with torch.no_grad(), kernels.plain():  # where modules are called one by one
        network(images)
    return bits


def test_naswot_of_both_spaces_and_all_heads(case):
    network, shape = case
    images = inputs(shape)
    codes = relu_codes(network, images)
    total, units = zerocost.agreements(network, images)
    assert units == len(codes[0])
    assert total.tolist() == [[sum(a == b for a, b in zip(one, other)) for other in codes] for one in codes]
    assert zerocost.naswot(network, images) == pytest.approx(slow_score(codes), abs=1e-8)


def test_naswot_does_not_depend_on_the_order_of_images_or_the_running_statistics(case):
    network, shape = case
    images = inputs(shape)
    score = zerocost.naswot(network, images)
    assert zerocost.naswot(network, images[torch.tensor([3, 0, 5, 1, 4, 2])]) == pytest.approx(score, abs=1e-6)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3)
            module.running_var.fill_(7)
    assert zerocost.naswot(network, images) == score


def test_naswot_grows_when_images_are_further_apart():
    network, images = cell_network(TASKS["rot"][0]).double(), inputs((3, 16, 16))
    scores = [zerocost.naswot(network, images[:1] + share * (images - images[:1])) for share in (0.01, 0.1, 1)]
    assert scores == sorted(scores) and scores[0] < scores[-1]


def test_equal_images_cannot_be_told_apart():
    network, images = cell_network(TASKS["rot"][0]).double(), inputs((3, 16, 16))
    assert zerocost.naswot(network, torch.cat([images, images[2:3]])) == -math.inf


def test_images_decide_the_precision():
    network, images = cell_network(TASKS["rot"][0]), inputs((3, 16, 16))
    assert zerocost.naswot(network, images) == zerocost.naswot(network.double(), images)
    assert zerocost.naswot(network.float(), images.float()) == pytest.approx(zerocost.naswot(network, images), abs=0.5)


# --- synflow

def without_norm(network):
    """A copy whose batch normalisation is removed, weights positive, biases zero."""
    network = copy.deepcopy(network).double().eval()
    def strip(module):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d): setattr(module, name, nn.Identity())
            else: strip(child)
    strip(network)
    for name, p in network.named_parameters():
        p.data = torch.zeros_like(p) if name.endswith("bias") else p.data.abs()
    return network


@torch.no_grad()
def slow_flow(network, shape):
    """Weight by weight: the flow is linear in each weight of a path, so doubling it adds its share exactly, where no pooling takes a maximum."""
    network, ones = without_norm(network), torch.ones(1, *shape, dtype=torch.float64)
    before, total = network(ones).sum().item(), 0.0
    for p in network.parameters():
        flat = p.data.view(-1)
        for i in range(len(flat)):
            value = flat[i].item()
            flat[i] = 2 * value
            total += network(ones).sum().item() - before
            flat[i] = value
    return total


def test_synflow_weight_by_weight():
    cell = nasbench101.Cell([[0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], ["input", "conv3x3-bn-relu", "conv1x1-bn-relu", "output"])
    network = seeded(lambda: nasbench101.build(cell, tasks.rotation(), stem="cifar", width=2, stacks=1, cells_per_stack=2))
    slow = slow_flow(network, (3, 5, 5))
    assert zerocost.flow(network, (3, 5, 5)) == pytest.approx(slow, rel=1e-10)
    assert zerocost.synflow(network, (3, 5, 5)) == pytest.approx(math.log(slow), abs=1e-10)


def test_synflow_by_finite_differences(case):
    """Along |weight|: the derivative of R((1 + t)|weight|) at t = 0 is the score before the logarithm; with pooling too."""
    network, shape = case
    stripped, ones, step, flows = without_norm(network), torch.ones(1, *shape, dtype=torch.float64), 1e-5, []
    for factor in (1 + step, 1 - step):
        scaled = copy.deepcopy(stripped)
        for p in scaled.parameters():
            p.data *= factor
        with torch.no_grad(), kernels.plain():  # where modules may be replaced
            flows.append(scaled(ones).sum().item())
    assert zerocost.flow(network, shape) == pytest.approx((flows[0] - flows[1]) / (2 * step), rel=1e-6)


class Chain(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *(layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.ReLU())))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("sizes", [(4, 3), (4, 7, 5), (4, 3, 8, 2, 6, 5)])
def test_synflow_of_a_chain_is_layers_times_paths(sizes):
    network = seeded(lambda: Chain(*sizes))
    product = np.ones(4)
    for layer in network.layers:
        if isinstance(layer, nn.Linear):
            product = layer.weight.detach().double().abs().numpy() @ product
    assert zerocost.flow(network, (1, 2, 2)) == pytest.approx((len(sizes) - 1) * product.sum(), rel=1e-12)


def test_scaling_the_first_or_last_layer_scales_the_flow(case):
    network, shape = case
    before = zerocost.flow(network, shape)
    ends = [[p for p in network.parameters() if p.dim() > 1][i] for i in (0, -1)]
    for weight in ends:  # every path passes them
        weight.data *= -2.5
        assert zerocost.flow(network, shape) == pytest.approx(2.5 * before, rel=1e-10)
        weight.data /= -2.5


def test_normalisation_and_biases_do_not_count(case):
    network, shape = case
    before = zerocost.flow(network, shape)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 4, generator=GENERATOR)
        elif getattr(module, "bias", None) is not None:
            module.bias.data += 5
    assert zerocost.flow(network, shape) == before


def test_deep_networks_do_not_overflow():
    network = seeded(lambda: nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(30)))).float()
    for p in network.parameters():
        p.data.fill_(1)
    score = zerocost.synflow(network, (64, 4, 4))
    assert math.log(torch.finfo(torch.float32).max) < score < math.inf


def test_nothing_flows_through_a_closed_network():
    network = Chain(4, 3, 2)
    network.layers[1].weight.data.zero_()
    assert zerocost.synflow(network, (1, 2, 2)) == -math.inf


def test_synflow_works_within_no_grad_and_for_frozen_weights():
    network, shape = cell_network(TASKS["rot"][0]), (3, 16, 16)
    before = zerocost.synflow(network, shape)
    network.requires_grad_(False)
    with torch.no_grad():
        assert zerocost.synflow(network, shape) == before


# --- both

@pytest.mark.parametrize("training, dtype", [(True, torch.float32), (False, torch.float64)])
def test_the_network_stays_as_it_is(case, training, dtype):
    network, shape = case
    network, images = network.to(dtype).train(training), inputs(shape, dtype=dtype)
    network(images).sum().backward()
    state = copy.deepcopy(network.state_dict())
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in network.modules()]
    generator = torch.random.get_rng_state()
    zerocost.naswot(network, images)
    zerocost.synflow(network, shape)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) and value.dtype == state[name].dtype for name, value in network.state_dict().items())
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip((p for p in network.parameters() if p.grad is not None), gradients))
    assert all(p.requires_grad for p in network.parameters()) and all(m.training == training for m in network.modules())
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in network.modules()]


def test_an_auxiliary_head_and_drop_path_do_not_count():
    task = tasks.rotation()
    plain = darts_network(task)
    full = darts_network(task, auxiliary=True, drop_path=0.5)
    full.load_state_dict(plain.state_dict(), strict=False)
    images = inputs((3, 32, 32), 4)
    assert zerocost.naswot(full, images) == zerocost.naswot(plain, images)
    assert zerocost.synflow(full, (3, 32, 32)) == zerocost.synflow(plain, (3, 32, 32))


@pytest.mark.parametrize("images, reason", [
    (torch.zeros(1, 3, 16, 16), "at least 2 inputs"), (torch.zeros(4, 3, 16), r"torch.float32 of shape \(4, 3, 16\)"),
    (torch.zeros(4, 3, 16, 16, dtype=torch.uint8), "torch.uint8 of shape"), (np.zeros((4, 3, 16, 16)), "images: ndarray"),
])
def test_naswot_refuses(images, reason):
    with pytest.raises(ValueError, match=reason):
        zerocost.naswot(cell_network(TASKS["rot"][0]), images)


def test_naswot_needs_a_relu():
    with pytest.raises(ValueError, match="has no nn.ReLU"):
        zerocost.naswot(nn.Conv2d(3, 4, 3), inputs((3, 8, 8)))


@pytest.mark.parametrize("shape", [(16, 16), (1, 1, 3, 16, 16), (3, 0, 16), ()])
def test_synflow_refuses(shape):
    with pytest.raises(ValueError, match="input_shape="):
        zerocost.synflow(cell_network(TASKS["rot"][0]), shape)


def test_synflow_needs_weights():
    with pytest.raises(ValueError, match="has no weights"):
        zerocost.synflow(nn.Sequential(nn.ReLU()), (3, 8, 8))
