"""The published networks, counted: all 26 FLOPs and all 26 parameter figures of Tables 1 and 2, to
the digit.
"""

import numpy as np
import pytest
import torch
from torch import nn

from unnas import complexity, paper, tasks
from unnas.spaces import darts

IMAGENET, CITYSCAPES = (3, 224, 224), (3, 1025, 2049)
# the other rows quote earlier papers
EVALUATED = [row for row in paper.TABLE1 if row.std is not None]


def network(dataset, genotype):
    task = (
        tasks.classification(1000, style="imagenet")
        if dataset == "imagenet"
        else tasks.segmentation(19, 256, (6, 12, 18))
    )
    with torch.device("meta"):  # shapes are all that counting needs
        return darts.build(
            darts.Genotype.from_dict(paper.GENOTYPES[genotype]),
            task,
            stem="imagenet",
            width=paper.WIDTHS[dataset][genotype],
            depth=paper.EVALUATION[dataset].depth,
        )


@pytest.mark.slow
@pytest.mark.parametrize("row", EVALUATED, ids=lambda row: row.genotype)
def test_table1(row):
    model = network("imagenet", row.genotype)
    flops, (_, parameters) = (
        complexity.paper_flops(model, IMAGENET),
        complexity.count(model, IMAGENET),
    )
    assert (round(flops / 1e6), round(parameters / 1e6, 1)) == (
        row.flops / 1e6,
        row.parameters / 1e6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("row", paper.TABLE2, ids=lambda row: row.genotype)
def test_table2(row):
    model = network("cityscapes", row.genotype)
    flops, (_, parameters) = (
        complexity.paper_flops(model, CITYSCAPES),
        complexity.count(model, CITYSCAPES),
    )
    assert (round(flops / 1e9), round(parameters / 1e6, 1)) == (
        row.flops / 1e9,
        row.parameters / 1e6,
    )


def test_that_both_tables_have_thirteen_rows():
    assert len(EVALUATED) == len(paper.TABLE2) == 13


@pytest.mark.slow
def test_exact_counts():
    model = network("imagenet", "imagenet_rot")
    assert complexity.count(model, IMAGENET) == (551_491_584, 5_138_083)
    assert complexity.paper_flops(model, IMAGENET) == pytest.approx(558.440e6, abs=500)
    model = network("cityscapes", "darts")
    assert complexity.count(model, CITYSCAPES) == (98_869_631_729, 9_564_694)


def test_parameters_are_those_of_the_optimizer():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.BatchNorm2d(4))
    assert complexity.parameters(model) == 4 * 3 * 25 + 4 + 2 * 4
    optimizer = torch.optim.SGD(model.parameters())
    assert complexity.parameters(model) == sum(
        weights.numel() for group in optimizer.param_groups for weights in group["params"]
    )


def test_that_counting_changes_nothing():
    model = darts.build(
        darts.sample(1, seed=0)[0], tasks.rotation(), stem="cifar", width=4, depth=3
    ).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.head.eval()
    modes = [layer.training for layer in model.modules()]
    images = torch.rand(2, 3, 16, 16)
    torch.manual_seed(0)
    own = darts.build(darts.sample(1, seed=0)[0], tasks.rotation(), stem="cifar", width=4, depth=3)
    own.load_state_dict(before)
    norm = next(layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    norm.forward = type(norm).forward.__get__(norm)  # as somebody may have put there
    complexity.count(model, (3, 16, 16)), complexity.paper_flops(model, (3, 16, 16))
    with pytest.raises(ValueError, match="expected input"):
        complexity.count(model, (5, 16, 16))  # of five channels
    assert [layer.training for layer in model.modules()] == modes
    assert not any(layer._forward_hooks for layer in model.modules())
    assert [layer for layer in model.modules() if "forward" in vars(layer)] == [norm]
    with torch.no_grad():
        assert model.eval()(images).equal(own.eval()(images))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_is_around_a_network_does_not_count():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU())
    around = torch.nn.DataParallel(torch.nn.DataParallel(net))
    for measure in (complexity.count, complexity.paper_flops):
        assert measure(around, (3, 8, 8)) == measure(net, (3, 8, 8))
        for scripted in (torch.jit.script(net), torch.jit.trace(net, torch.zeros(1, 3, 8, 8))):
            with pytest.raises(ValueError, match="model: is a .*Module, which cannot be counted"):
                measure(scripted, (3, 8, 8))
        with pytest.raises(ValueError, match="model: is a NoneType, which cannot be counted"):
            measure(None, (3, 8, 8))


@pytest.mark.parametrize("kernel, dilation", [(3, 1), (3, 2), ((5, 2), 1), ((1, 3), (3, 2))])
def test_padding_by_name_counts_as_that_in_numbers(kernel, dilation):
    layers = [
        torch.nn.Conv2d(3, 4, kernel, padding=padding, dilation=dilation, bias=False)
        for padding in ("same", "valid", 0)
    ]
    same, valid, none = (complexity.paper_flops(layer, (3, 12, 9)) for layer in layers)
    assert valid == none
    if dilation == 1:  # else it counts more than it computes
        assert same == complexity.count(layers[0], (3, 12, 9))[0]
    if (kernel, dilation) == (3, 2):
        by_hand = torch.nn.Conv2d(3, 4, 3, padding=2, dilation=2, bias=False)
        assert same == complexity.paper_flops(by_hand, (3, 12, 9))


@pytest.mark.parametrize(
    "shape", [32, None, "333", (3, 32.0, 32), ("3", 32, 32), (3, None, 32), (3, 32), (3, 0, 32)]
)
def test_a_shape_that_is_none_is_refused_in_one_sentence(shape):
    with pytest.raises(ValueError, match="input_shape=.*: must be .*whole numbers") as error:
        complexity.check_shape(shape)
    assert repr(shape) in str(error.value)


def test_a_shape_that_the_network_does_not_take_is_told():
    (genotype,) = darts.sample(1, seed=0)
    size = dict(stem="cifar", width=4, depth=3)
    rotation, jigsaw = (
        darts.build(genotype, task, **size) for task in (tasks.rotation(), tasks.jigsaw(grid=3))
    )
    for counted in (complexity.count, complexity.paper_flops):
        with pytest.raises(
            ValueError, match=r"\(4, 3, 32, 32\): gives 4 answers .* as in \(3, 32, 32\)"
        ):
            counted(rotation, (4, 3, 32, 32))
        with pytest.raises(ValueError, match=r"input_shape=\(32, 32, 3\): does not pass through"):
            counted(rotation, (32, 32, 3))
        with pytest.raises(
            ValueError, match="does not pass through this model .* without the batch"
        ):
            counted(jigsaw, (3, 32, 32))
    assert complexity.count(jigsaw, (9, 3, 16, 16))[0] > 0


def test_a_traced_part_and_an_answer_without_sizes_are_counted():
    traced = torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    net = nn.Sequential(traced, nn.Conv2d(4, 4, 1))
    assert complexity.count(net, (3, 8, 8)) == (36 * 3 * 9 * 4 + 36 * 16, 112 + 20)

    class Mean(nn.Conv3d):
        def forward(self, x):
            return super().forward(x).mean()

    assert complexity.count(Mean(3, 4, 3), (3, 4, 8, 8))[0] == 2 * 36 * 4 * 3 * 27


def test_a_shape_may_have_numbers_of_numpy():
    for shape in (np.array([3, 8, 8]), [np.int64(3), 8, np.uint8(8)], torch.Size([3, 8, 8])):
        found = complexity.check_shape(shape)
        assert found == (3, 8, 8) and all(type(side) is int for side in found)


class _Funnel(nn.ReLU):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, groups=3)

    def forward(self, x):
        return torch.max(x, self.conv(x))


class _Placed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.place = nn.Parameter(torch.ones(8, 16)), torch.full((1, 1, 1, 1), 0.1)
        self.conv, self.relu = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return self.weight @ self.relu(input=self.conv(input=x + self.place)).flatten()


def test_layers_of_ones_own_are_counted():
    assert complexity.count(nn.Sequential(_Funnel()), (3, 4, 4)) == (27 * 16, 30)
    placed = _Placed()  # a tensor that is no buffer, arguments by name, a matrix and a vector
    assert complexity.count(placed, (1, 4, 4)) == (9 * 16 + 8 * 16, 128 + 10)
    with pytest.warns(UserWarning, match="model: _Placed of it count nothing"):
        assert complexity.paper_flops(placed, (1, 4, 4)) == 9 * 16 + 16
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    assert complexity.paper_flops(nn.Sequential(normed), (3, 4, 4)) == 4 * 27 * 4
    assert placed.relu.forward(torch.tensor(-1.0)) == 0


class _Remembering(nn.Module):
    """Counts, keeps what it saw, and draws; `real` for a pass that needs the values."""

    def __init__(self, real):
        super().__init__()
        self.conv, self.real, self.calls, self.cache = nn.Conv2d(3, 4, 1), real, 0, []
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("last", None)

    def forward(self, x):
        self.calls, self.last, self.place = self.calls + 1, x, x
        self.seen += 1
        self.cache.append(x)
        x = x + torch.randn(1, device=x.device)
        return self.conv(torch.from_numpy(x.numpy()) if self.real else x)


@pytest.mark.parametrize("real", [False, True])
def test_a_network_that_remembers_is_as_before(real):
    model, before = _Remembering(real), torch.get_rng_state()
    for measure in (complexity.count, complexity.paper_flops):
        measure(model, (3, 4, 4))
    assert complexity.count(model, (3, 4, 4)) == (12 * 16, 16)
    assert (model.calls, model.cache, model.seen, model.last) == (0, [], 0, None)
    assert not hasattr(model, "place") and torch.get_rng_state().equal(before)


def test_layers_that_a_network_uses_twice_keep_their_weights():
    block, tied = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), nn.Conv2d(4, 4, 1)
    tied.weight = block[0].weight
    model = nn.Sequential(nn.Conv2d(3, 4, 1), block, nn.Sequential(block, tied))
    before = [(part, part.clone()) for part in model.state_dict(keep_vars=True).values()]
    assert complexity.count(model, (3, 4, 4)) == (16 * (12 + 3 * 16), 16 + 20 + 8 + 4)
    assert complexity.paper_flops(model, (3, 4, 4)) == 16 * (12 + 3 * 16)
    after = model.state_dict(keep_vars=True).values()
    assert all(one is part and part.equal(own) for one, (part, own) in zip(after, before))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_parts_that_cannot_be_counted_are_told_and_the_network_is_as_before():
    script = nn.Sequential(nn.Conv2d(3, 4, 1), torch.jit.script(nn.Conv2d(4, 4, 1)))
    assert complexity.count(script, (3, 4, 4))[0] == 16 * (12 + 16)
    with pytest.raises(ValueError, match="is a RecursiveScriptModule, which cannot be counted"):
        complexity.paper_flops(script, (3, 4, 4))
    assert not script[0]._forward_hooks
    lazy = nn.Sequential(nn.LazyConv2d(4, 1))
    with pytest.raises(ValueError, match="model: 0.weight has no shape yet; pass a batch"):
        complexity.count(lazy, (3, 4, 4))
    assert type(lazy[0]) is nn.LazyConv2d


class _Twice(nn.Bilinear):
    auxiliary_head = "none"

    def forward(self, x):
        return super().forward(x.mean((2, 3)), x.mean((2, 3)))


def test_layers_that_the_tables_do_not_know_are_told():
    model = _Twice(8, 8, 5, bias=False)
    assert complexity.count(model, (8, 4, 4)) == (5 * (8 * 8 + 8), 320)
    with pytest.warns(UserWarning, match="model: _Twice of it count nothing.*count\\(\\) counts"):
        assert complexity.paper_flops(model, (8, 4, 4)) == 0
