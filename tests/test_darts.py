"The widths of the published networks: what the paper's budgets leave open, and that the rule for a width is exact."
import pytest
import torch

from unnas import complexity, paper, tasks
from unnas.spaces import darts

GENOTYPES = {name: darts.Genotype.from_dict(genotype) for name, genotype in paper.GENOTYPES.items()}
IMAGENET = dict(task=tasks.classification(1000, style='imagenet'), stem='imagenet', depth=14)
BUDGET = (500e6, 600e6)


def flops(genotype, width, *, task=IMAGENET['task'], stem='imagenet', depth=14, input_shape=(3, 224, 224)):
    with torch.device('meta'):
        return complexity.paper_flops(darts.build(genotype, task, stem=stem, width=width, depth=depth), input_shape)


def test_that_ten_of_the_thirteen_widths_of_table_1_are_the_widest_within_the_budget():
    others = {name for name, width in paper.WIDTHS['imagenet'].items() if flops(GENOTYPES[name], width + 2) <= BUDGET[1]}
    assert others == {'darts', 'imagenet_col', 'imagenet22k_col'}


@pytest.mark.parametrize('name, width', [('darts', 50), ('cityscapes_col', 54), ('imagenet22k_col', 44)])
def test_widths_by_flops(name, width):
    assert darts.fit_width(GENOTYPES[name], **IMAGENET, input_shape=(3, 224, 224), window=BUDGET) == width
    assert flops(GENOTYPES[name], width) <= BUDGET[1] < flops(GENOTYPES[name], width + 2)


@pytest.mark.parametrize('task, stem, input_shape', [
    (tasks.classification(10), 'cifar', (3, 32, 32)), (tasks.colorization(), 'cifar', (1, 16, 16)), (tasks.jigsaw(2), 'cifar', (4, 3, 12, 12)),
    (tasks.segmentation(19, 64, (6,)), 'imagenet', (3, 97, 97))], ids=['cls', 'col', 'jig', 'seg'])
def test_that_the_rule_is_exact_for_every_task(task, stem, input_shape):
    for genotype in darts.sample(2, seed=1):
        size = flops(genotype, 26, task=task, stem=stem, depth=5, input_shape=input_shape)
        options = dict(task=task, stem=stem, depth=5, input_shape=input_shape)
        assert darts.fit_width(genotype, **options, window=(size, size)) == 26
        with pytest.raises(ValueError, match=f'width 24 has .* and width 26 has {size:,}.; widen the window'):
            darts.fit_width(genotype, **options, window=(size - 1, size - 1))


def test_that_fitting_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    darts.fit_width(GENOTYPES['darts'], **(IMAGENET | dict(depth=3)), input_shape=(3, 64, 64), window=(1, 10**9), measure='parameters')
    assert before.equal(torch.get_rng_state())
