"""The zero-cost scores, against slow versions that share no code with them, for networks of both
spaces and every head.
"""

import copy
import math

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from unnas import complexity, data, registry, scores, tasks
from unnas.fast import kernels
from unnas.spaces import darts, nasbench101

GENERATOR = torch.Generator().manual_seed(0)
TASKS = {
    "rot": (tasks.rotation(), (3, 16, 16)),
    "col": (tasks.colorization(), (1, 16, 16)),
    "jig": (tasks.jigsaw(grid=2), (4, 3, 8, 8)),
    "cls": (tasks.classification(10), (3, 16, 16)),
    "seg": (tasks.segmentation(5, channels=4, rates=(2,)), (3, 17, 17)),
}


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def darts_network(task, index=0, **options):
    return seeded(
        lambda: darts.build(
            darts.sample(index + 1, seed=0)[index], task, stem="cifar", width=4, depth=3, **options
        )
    )


def cell_network(task, index=0):
    return seeded(
        lambda: nasbench101.build(
            nasbench101.sample(index + 1, seed=0)[index],
            task,
            stem="cifar",
            width=6,
            cells_per_stack=1,
        )
    )


BUILD = {"darts": darts_network, "nasbench101": cell_network}


def inputs(shape, count=6, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.fixture(params=[(space, task) for space in BUILD for task in TASKS], ids="-".join)
def case(request):
    space, task = request.param
    return BUILD[space](TASKS[task][0]).double(), TASKS[task][1]


# --- naswot


class Functional(nn.Module):
    """Two convolutions with batch normalization and ReLU; `codes` computes the bits from the
    weights alone, image by image.
    """

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 2, 2),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.layers(x)

    def codes(self, x):
        conv, norm, _, last, _ = self.layers
        x = torch.nn.functional.conv2d(x, conv.weight, padding=1)
        centered = x - x.mean((0, 2, 3), keepdim=True)
        x = (
            centered
            / (centered.square().mean((0, 2, 3), keepdim=True) + norm.eps).sqrt()
            * norm.weight[:, None, None]
            + norm.bias[:, None, None]
        )
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
    assert scores.naswot(network, images) == pytest.approx(slow_score(codes), abs=1e-9)


def relu_codes(network, images):
    """Bits of all ReLUs, gathered by a second way: as the modules' inputs, with batch
    statistics.
    """
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


@pytest.mark.slow
def test_naswot_of_both_spaces_and_all_heads(case):
    network, shape = case
    images = inputs(shape)
    codes = relu_codes(network, images)
    total, units = scores.agreements(network, images)
    assert units == len(codes[0])
    assert total.tolist() == [
        [sum(a == b for a, b in zip(one, other)) for other in codes] for one in codes
    ]
    assert scores.naswot(network, images) == pytest.approx(slow_score(codes), abs=1e-8)


def test_naswot_does_not_depend_on_the_order_of_images_or_the_running_statistics(case):
    network, shape = case
    images = inputs(shape)
    score = scores.naswot(network, images)
    assert scores.naswot(network, images[torch.tensor([3, 0, 5, 1, 4, 2])]) == pytest.approx(
        score, abs=1e-6
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3)
            module.running_var.fill_(7)
    assert scores.naswot(network, images) == score


def test_naswot_grows_when_images_are_further_apart():
    network, images = cell_network(TASKS["rot"][0]).double(), inputs((3, 16, 16))
    rising = [
        scores.naswot(network, images[:1] + share * (images - images[:1]))
        for share in (0.01, 0.1, 1)
    ]
    assert rising == sorted(rising) and rising[0] < rising[-1]


def test_equal_images_cannot_be_told_apart():
    network, images = cell_network(TASKS["rot"][0]).double(), inputs((3, 16, 16))
    assert scores.naswot(network, torch.cat([images, images[2:3]])) == -math.inf


def test_images_decide_the_precision():
    network, images = cell_network(TASKS["rot"][0]), inputs((3, 16, 16))
    assert scores.naswot(network, images) == scores.naswot(network.double(), images)
    assert scores.naswot(network.float(), images.float()) == pytest.approx(
        scores.naswot(network, images), abs=0.5
    )


# --- synflow


def without_norm(network):
    """A copy whose batch normalization is removed, weights positive, biases zero."""
    network = copy.deepcopy(network).double().eval()

    def strip(module):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            else:
                strip(child)

    strip(network)
    for name, p in network.named_parameters():
        p.data = torch.zeros_like(p) if name.endswith("bias") else p.data.abs()
    return network


@torch.no_grad()
def slow_flow(network, shape):
    """Weight by weight: the flow is linear in each weight of a path, so doubling it adds its share
    exactly, where no pooling takes a maximum.
    """
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
    cell = nasbench101.Cell(
        [[0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
        ["input", "conv3x3-bn-relu", "conv1x1-bn-relu", "output"],
    )
    network = seeded(
        lambda: nasbench101.build(
            cell, tasks.rotation(), stem="cifar", width=2, stacks=1, cells_per_stack=2
        )
    )
    slow = slow_flow(network, (3, 5, 5))
    assert scores.flow(network, (3, 5, 5)) == pytest.approx(slow, rel=1e-10)
    assert scores.synflow(network, (3, 5, 5)) == pytest.approx(math.log(slow), abs=1e-10)


def test_synflow_by_finite_differences(case):
    """Along |weight|: the derivative of R((1 + t)|weight|) at t = 0 is the score before the
    logarithm; with pooling too.
    """
    network, shape = case
    stripped, ones, step, flows = (
        without_norm(network),
        torch.ones(1, *shape, dtype=torch.float64),
        1e-5,
        [],
    )
    for factor in (1 + step, 1 - step):
        scaled = copy.deepcopy(stripped)
        for p in scaled.parameters():
            p.data *= factor
        with torch.no_grad(), kernels.plain():  # where modules may be replaced
            flows.append(scaled(ones).sum().item())
    assert scores.flow(network, shape) == pytest.approx(
        (flows[0] - flows[1]) / (2 * step), rel=1e-6
    )


class Chain(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            *(layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.ReLU())),
        )

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("sizes", [(4, 3), (4, 7, 5), (4, 3, 8, 2, 6, 5)])
def test_synflow_of_a_chain_is_layers_times_paths(sizes):
    network = seeded(lambda: Chain(*sizes))
    product = np.ones(4)
    for layer in network.layers:
        if isinstance(layer, nn.Linear):
            product = layer.weight.detach().double().abs().numpy() @ product
    assert scores.flow(network, (1, 2, 2)) == pytest.approx(
        (len(sizes) - 1) * product.sum(), rel=1e-12
    )


def test_scaling_the_first_or_last_layer_scales_the_flow(case):
    network, shape = case
    before = scores.flow(network, shape)
    ends = [[p for p in network.parameters() if p.dim() > 1][i] for i in (0, -1)]
    for weight in ends:  # every path passes them
        weight.data *= -2.5
        assert scores.flow(network, shape) == pytest.approx(2.5 * before, rel=1e-10)
        weight.data /= -2.5


def test_normalization_and_biases_do_not_count(case):
    network, shape = case
    before = scores.flow(network, shape)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (
                module.weight.data,
                module.bias.data,
                module.running_mean,
                module.running_var,
            ):
                tensor.uniform_(0.5, 4, generator=GENERATOR)
        elif getattr(module, "bias", None) is not None:
            module.bias.data += 5
    assert scores.flow(network, shape) == before


def test_deep_networks_do_not_overflow():
    network = seeded(
        lambda: nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(30)))
    ).float()
    for p in network.parameters():
        p.data.fill_(1)
    score = scores.synflow(network, (64, 4, 4))
    assert math.log(torch.finfo(torch.float32).max) < score < math.inf


def test_nothing_flows_through_a_closed_network():
    network = Chain(4, 3, 2)
    network.layers[1].weight.data.zero_()
    assert scores.synflow(network, (1, 2, 2)) == -math.inf


def test_synflow_works_within_no_grad_and_for_frozen_weights():
    network, shape = cell_network(TASKS["rot"][0]), (3, 16, 16)
    before = scores.synflow(network, shape)
    network.requires_grad_(False)
    with torch.no_grad():
        assert scores.synflow(network, shape) == before


# --- both


@pytest.mark.slow
@pytest.mark.parametrize("training, dtype", [(True, torch.float32), (False, torch.float64)])
def test_the_network_stays_as_it_is(case, training, dtype):
    network, shape = case
    network, images = network.to(dtype).train(training), inputs(shape, dtype=dtype)
    network(images).sum().backward()
    state = copy.deepcopy(network.state_dict())
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in network.modules()
    ]
    generator = torch.random.get_rng_state()
    scores.naswot(network, images)
    scores.synflow(network, shape)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(
        torch.equal(value, state[name]) and value.dtype == state[name].dtype
        for name, value in network.state_dict().items()
    )
    assert all(
        torch.equal(p.grad, gradient)
        for p, gradient in zip((p for p in network.parameters() if p.grad is not None), gradients)
    )
    assert all(p.requires_grad for p in network.parameters()) and all(
        m.training == training for m in network.modules()
    )
    assert hooks == [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in network.modules()
    ]


def test_an_auxiliary_head_and_drop_path_do_not_count():
    task = tasks.rotation()
    plain = darts_network(task)
    full = darts_network(task, auxiliary=True, drop_path=0.5)
    full.load_state_dict(plain.state_dict(), strict=False)
    images = inputs((3, 32, 32), 4)
    assert scores.naswot(full, images) == scores.naswot(plain, images)
    assert scores.synflow(full, (3, 32, 32)) == scores.synflow(plain, (3, 32, 32))


@pytest.mark.parametrize(
    "images, reason",
    [
        (torch.zeros(1, 3, 16, 16), "at least 2 inputs"),
        (torch.zeros(4, 3, 16), r"torch.float32 of shape \(4, 3, 16\)"),
        (torch.zeros(4, 3, 16, 16, dtype=torch.uint8), "torch.uint8 of shape"),
        (np.zeros((4, 3, 16, 16)), "images: ndarray"),
    ],
)
def test_naswot_refuses(images, reason):
    with pytest.raises(ValueError, match=reason):
        scores.naswot(cell_network(TASKS["rot"][0]), images)


def test_naswot_needs_a_relu():
    with pytest.raises(ValueError, match="has no nn.ReLU"):
        scores.naswot(nn.Conv2d(3, 4, 3), inputs((3, 8, 8)))


@pytest.mark.parametrize("shape", [(16, 16), (1, 1, 3, 16, 16), (3, 0, 16), ()])
def test_synflow_refuses(shape):
    with pytest.raises(ValueError, match="input_shape="):
        scores.synflow(cell_network(TASKS["rot"][0]), shape)


def test_synflow_needs_weights():
    with pytest.raises(ValueError, match="has no weights"):
        scores.synflow(nn.Sequential(nn.ReLU()), (3, 8, 8))


# --- scores of a loss, and scores by name


class Brightness(tasks.Task):
    """Is the image brighter than the middle? Its batches are the pixels, and nothing is random."""

    name, num_outputs = "bright", 2

    def batch(self, images, labels, train, generator):
        inputs = images[:, :2, :5, :5].float() / 255
        return inputs, (inputs.mean((1, 2, 3)) > 0.5).long()


class Labeled(Brightness):
    """The same pixels, with labels as targets."""

    labels = True

    def batch(self, images, labels, train, generator):
        return super().batch(images, labels, train, generator)[0], labels


def pictures(count=12, labels=None):
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    classes = None if labels is None else ("dark", "bright")
    return data.TensorImages("pixels", "train", pixels.byte(), labels, classes)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Small(nn.Module):
    """Two convolutions, batch normalization, ReLUs in place, and a linear layer; one layer that
    nothing depends on.
    """

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 2, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(8, 2),
        )
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.layers(x)


def small_network():
    return seeded(Small).double()


def pixels_of(images):
    """What `Brightness` makes of all images, in double precision."""
    found, targets = Brightness().batch(images.images, None, False, None)
    return found.double(), targets


def by_hand(x, parts):
    """The outputs, from weights alone: batch normalization with the statistics of the batch."""
    first, first_bias, scale, shift, second, second_bias, last, last_bias = parts
    x = torch.nn.functional.conv2d(x, first, first_bias, padding=1)
    centered = x - x.mean((0, 2, 3), keepdim=True)
    x = centered / (centered.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    x = (x * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
    x = torch.nn.functional.conv2d(x, second, second_bias, stride=2).clamp(min=0)
    return x.flatten(1) @ last.T + last_bias


def mean_loss(outputs, targets):
    """The mean cross-entropy, image by image."""
    losses = [math.log(sum(map(math.exp, row))) - row[t] for row, t in zip(outputs, targets)]
    return sum(losses) / len(losses)


def differences(value, tensor, step=1e-5):
    """The derivatives of `value()` by the numbers in a tensor, by central differences."""
    found, flat = torch.zeros_like(tensor), tensor.view(-1)
    for i in range(len(flat)):
        before, ends = flat[i].item(), []
        for sign in (1, -1):
            flat[i] = before + sign * step
            ends.append(value())
        flat[i] = before
        found.view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
    return found


def slow_gradients(network, inputs, targets):
    """The weights of the three layers, and the derivatives of the loss by them."""
    parts = [p.detach().clone() for p in list(network.parameters())[:8]]

    def loss():
        return mean_loss(by_hand(inputs, parts).tolist(), targets.tolist())

    return [(parts[i], differences(loss, parts[i])) for i in (0, 4, 6)]


def test_gradient_norm_and_snip_by_differences():
    network, images = small_network(), pictures()
    inputs, targets = pixels_of(images)
    slow = slow_gradients(network, inputs, targets)
    asked = network, Brightness(), images, generator()
    norm = sum(math.sqrt(sum(v * v for v in g.flatten().tolist())) for _, g in slow)
    assert scores.gradient_norm(*asked) == pytest.approx(norm, rel=1e-6)
    snip = sum(abs(a * b) for w, g in slow for a, b in zip(w.flatten(), g.flatten()))
    assert scores.snip(*asked) == pytest.approx(snip.item(), rel=1e-6)


def test_zico_by_differences():
    network, images, total = small_network(), pictures(), 0.0
    inputs, targets = scores.batch(network, Brightness(), images, generator(), 128)
    assert len(inputs) == 12  # all there are; the halves are of six
    halves = [slow_gradients(network, inputs[h], targets[h]) for h in (slice(6), slice(6, 12))]
    for (_, one), (_, other) in zip(*halves):
        ratios = 0.0
        for a, b in zip(one.abs().flatten().tolist(), other.abs().flatten().tolist()):
            if a != b:
                mean = (a + b) / 2
                ratios += mean / math.sqrt(((a - mean) ** 2 + (b - mean) ** 2) / 2)
        total += math.log(ratios)
    found = scores.zico(network, Brightness(), images, generator())
    assert found == pytest.approx(total, rel=1e-4)


def test_zico_of_gradients_that_do_not_vary():
    """Two equal images, one in each half: there is nothing to divide by."""
    images = data.TensorImages("same", "train", torch.full((2, 3, 8, 8), 9, dtype=torch.uint8))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(50, 2))
    assert scores.zico(network, Brightness(), images, generator()) == 0


def test_fisher_by_differences():
    """The loss with all activations of one image and channel made larger by a share: its derivative
    is the sum of activations times gradients.
    """
    network, images, step = small_network(), pictures(6), 1e-5
    inputs, targets = pixels_of(images)
    layers, total = [network.layers[i] for i in (0, 3, 6)], 0.0
    for layer in layers:
        channels = layer.weight.shape[0]
        for channel in range(channels):
            for image in range(6):
                ends = []
                for share in (1 + step, 1 - step):

                    def scaled(module, given, output):
                        factor = torch.ones_like(output)
                        factor[image, channel] = share
                        return output * factor

                    handle = layer.register_forward_hook(scaled)
                    with torch.no_grad():
                        outputs = copy.deepcopy(network)(inputs)
                    ends.append(mean_loss(outputs.tolist(), targets.tolist()))
                    handle.remove()
                total += ((ends[0] - ends[1]) / (2 * step)) ** 2 / (2 * 6)
    found = scores.fisher(network, Brightness(), images, generator())
    assert found == pytest.approx(total, rel=1e-5)


def test_jacobian_covariance_by_differences():
    network, images = small_network(), pictures(5)
    inputs, _ = pixels_of(images)
    parts = [p.detach() for p in list(network.parameters())[:8]]
    slow = differences(lambda: by_hand(inputs, parts).sum().item(), inputs).flatten(1).numpy()
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(slow))
    total = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in eigenvalues)
    found = scores.jacobian_covariance(network, Brightness(), images, generator())
    assert found == pytest.approx(total, rel=1e-4)


def test_a_network_that_looks_at_nothing_has_no_jacobian():
    network = nn.Sequential(nn.Flatten(), nn.Linear(50, 2))
    network[1].weight.data.zero_()
    assert scores.jacobian_covariance(network, Brightness(), pictures(), generator()) == -math.inf


def test_early_loss_of_one_step():
    """A linear layer, one step: the first one of Nesterov's is 1.9 times the gradient long."""
    network, images = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 2))), pictures()
    found = scores.early_loss(network, Brightness(), images, generator(), steps=1)
    drawn = torch.randint(12, (32,), generator=generator())
    inputs, targets = Brightness().batch(images.images, None, True, None)
    x, y = inputs.flatten(1).double(), torch.eye(2, dtype=torch.float64)[targets]
    weight, bias = (p.detach().double() for p in network.parameters())
    errors = ((x @ weight.T + bias).softmax(1) - y)[drawn] / 32
    weight, bias = weight - 0.095 * errors.T @ x[drawn], bias - 0.095 * errors.sum(0)
    loss = mean_loss((x @ weight.T + bias).tolist(), targets.tolist())
    assert found == pytest.approx(-loss, rel=1e-5)
    more = scores.early_loss(network, Brightness(), images, generator(), steps=100)
    assert found < more < 0


def asked(name, network, task, images, seed=0, **options):
    return scores.SCORES[name].of(network, task, images, generator(seed), **options)


def test_named_scores_are_the_functions_on_a_batch():
    network, task = cell_network(TASKS["jig"][0]), TASKS["jig"][0]
    images = data.load("synthetic-objects", num_images=140, image_size=16)
    inputs, _ = scores.batch(network, task, images, generator(), 128)
    assert asked("naswot", network, task, images) == scores.naswot(network, inputs)
    assert asked("synflow", network, task, images) == scores.synflow(network, inputs.shape[1:])
    counted = complexity.count(network, inputs.shape[1:])
    sizes = [asked(name, network, task, images) for name in ("multiply_adds", "parameters")]
    assert tuple(sizes) == counted


@pytest.mark.slow
@pytest.mark.parametrize("space", BUILD)
@pytest.mark.parametrize("name", scores.SCORES)
def test_a_named_score_leaves_the_network_and_is_decided_by_its_generator(name, space):
    # some more than it looks at, so that other draws are other images and not another order of them
    few = dict(steps=5) if name == "early_loss" else {}
    count = dict(naswot=132, early_loss=40).get(name, 68)
    task, images = tasks.rotation(), data.load("synthetic-objects", num_images=count, image_size=16)
    network = BUILD[space](task)
    network(inputs((3, 16, 16), dtype=torch.float32)).sum().backward()
    network.stem.requires_grad_(False).eval()
    state = copy.deepcopy(network.state_dict())
    gradients = [p.grad if p.grad is None else p.grad.clone() for p in network.parameters()]
    modes = [m.training for m in network.modules()]
    frozen = [p.requires_grad for p in network.parameters()]
    with torch.no_grad():
        found = [asked(name, network, task, images.unlabeled(), seed, **few) for seed in (0, 0, 1)]
    assert math.isfinite(found[0]) and found[0] == found[1]
    assert (found[0] == found[2]) == (name in ("synflow", "parameters", "multiply_adds"))
    assert asked(name, network, task, images, **few) == found[0]  # labels are not seen
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    for p, gradient in zip(network.parameters(), gradients):
        assert p.grad is gradient or torch.equal(p.grad, gradient)
    assert modes == [m.training for m in network.modules()]
    assert frozen == [p.requires_grad for p in network.parameters()]


@pytest.mark.parametrize("name", ["gradient_norm", "snip", "fisher", "zico", "early_loss"])
def test_labels_count_where_the_task_sees_them(name):
    network, labels = small_network().float(), torch.arange(12) % 2
    found = [asked(name, network, Labeled(), pictures(12, of)) for of in (labels, 1 - labels)]
    assert found[0] != found[1]


@pytest.mark.parametrize("name", ["gradient_norm", "snip", "fisher", "zico"])
def test_scores_of_a_loss_need_weights(name):
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(50))
    with pytest.raises(ValueError, match="network: has no weights"):
        asked(name, network, Brightness(), pictures())


def test_a_score_reaches_a_worker():
    scores.register("mine", lambda network, task, images, generator: 7.0, trains=True)
    message = cloudpickle.dumps(registry.snapshot())
    del scores.SCORES._things["mine"]
    registry.restore(cloudpickle.loads(message))
    mine = scores.SCORES["mine"]
    assert mine.trains and mine.of(None, None, None, None) == 7.0


@pytest.mark.parametrize(
    "name, score, reason",
    [
        ("", lambda *_: 0.0, "name='': must be a text"),
        ("mine", 3, "score=3: cannot be called"),
        ("mine", lambda network, images: 0.0, "too many positional arguments"),
        ("snip", lambda *_: 0.0, "'snip': already registered"),
    ],
)
def test_register_refuses(name, score, reason):
    with pytest.raises(ValueError, match=reason):
        scores.register(name, score)
