"""The published networks, counted: all 26 FLOPs and all 26 parameter figures of Tables 1 and 2, to
the digit.
"""

import pytest
import torch

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
    with pytest.raises(RuntimeError):
        complexity.count(model, (5, 16, 16))  # of five channels
    assert [layer.training for layer in model.modules()] == modes
    assert not any(layer._forward_hooks for layer in model.modules())
    assert [layer for layer in model.modules() if "forward" in vars(layer)] == [norm]
    with torch.no_grad():
        assert model.eval()(images).equal(own.eval()(images))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
