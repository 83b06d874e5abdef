"""Variants of the search, on tiny supernets, against versions that go through a cell by hand."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from test_search import spec

from unnas import data, search, study, tasks
from unnas.ops import OPS
from unnas.spaces import darts
from unnas.spaces.darts import EDGES, NODES
from unnas.study import searched as searched_pages

KINDS = ("normal", "reduce")


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    supernet = search.Supernet(tasks.rotation(), stem="cifar", width=4, depth=3, **options).double()
    for table in supernet.architecture():
        table.data.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(seed)))
    return supernet


def slow(supernet, x, weights, share=None):
    """The outputs of `supernet` where `weights[kind]` (14, 8) weigh the operations: one operation
    after the other, with `share` of an auxiliary skip connection on each edge.
    """
    older, newer = supernet.stem(x)
    for kind, cell in zip(supernet.kinds, supernet.cells):
        states = [cell.older(older), cell.newer(newer)]
        for node in range(NODES):
            total = 0
            for edge, (target, source) in enumerate(EDGES):
                if target != node:
                    continue
                for k, name in enumerate(OPS):
                    branch = cell.edges[edge].branches[name]
                    total = total + weights[kind][edge, k] * branch(states[source])
                if share is not None:
                    total = total + share * cell.skips[edge](states[source])
            states.append(total)
        older, newer = newer, torch.cat(states[2:], dim=1)
    return supernet.head(newer, x.shape[-2:])


def images():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def softmaxes(supernet):
    return {kind: table.softmax(1) for kind, table in supernet.alphas().items()}


# ---------------------------------------------------------------- auxiliary skip connections


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
def test_an_auxiliary_skip_stands_beside_each_mixed_operation(share):
    supernet = tiny(auxiliary_skip=True).eval()
    supernet.skip_share.fill_(share)
    found = supernet(images())
    torch.testing.assert_close(found, slow(supernet, images(), softmaxes(supernet), share))
    none = slow(supernet, images(), softmaxes(supernet))
    assert torch.allclose(found, none) == (share == 0)


def test_with_a_share_of_0_it_is_the_plain_supernet():
    with_skips, plain = tiny(auxiliary_skip=True).eval(), tiny().eval()
    plain.load_state_dict(with_skips.state_dict(), strict=False)
    with_skips.skip_share.zero_()
    torch.testing.assert_close(with_skips(images()), plain(images()))
    own = {*with_skips.state_dict()} - {*plain.state_dict()}
    assert own and all("skips" in name or name == "skip_share" for name in own)


def searched(epochs=3, **recipe):
    chosen = search.SearchRecipe(
        epochs, 10, 0.05, alpha_lr=0.02, held_out=0.2, precision="float32", **recipe
    )
    torch.manual_seed(0)
    supernet = search.Supernet(
        tasks.rotation(), stem="cifar", width=4, depth=3, **search.supernet_options(chosen)
    )
    some = data.load("synthetic-objects", image_size=8, num_images=30).unlabeled()
    return supernet, search.fit(supernet, tasks.rotation(), some, chosen, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "decay, expected",
    [
        ("cosine", [0.5 * (1 + math.cos(math.pi * e / 3)) for e in range(3)]),
        ("linear", [1, 2 / 3, 1 / 3]),
    ],
)
def test_the_auxiliary_skips_fade(decay, expected, monkeypatch):
    seen, forward = [], search.Supernet.forward

    def noted(self, x):
        seen.append(self.skip_share.item())
        return forward(self, x)

    monkeypatch.setattr(search.Supernet, "forward", noted)
    _, history = searched(auxiliary_skip=decay)
    assert list(dict.fromkeys(seen)) == pytest.approx(expected) and not history.diverged


# ---------------------------------------------------------------- one operation at a time


def test_one_operation_of_each_edge_has_all_the_weight():
    table, noise = torch.randn(2, 14, 8, dtype=torch.float64).unbind()
    table.requires_grad_()
    found = search.one_of_each(table, noise, 0.7)
    for row, (alphas, drawn) in enumerate(zip(table.tolist(), noise.tolist())):
        log = [a - math.log(sum(map(math.exp, alphas))) for a in alphas]
        largest = max(range(8), key=lambda k: log[k] + drawn[k])
        assert found[row].tolist() == [float(k == largest) for k in range(8)]
    slopes = torch.randn(14, 8, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found * slopes).sum(), table)
    soft = ((table.log_softmax(1) + noise) / 0.7).softmax(1)
    (expected,) = torch.autograd.grad((soft * slopes).sum(), table)
    torch.testing.assert_close(gradient, expected)


def test_the_sampled_supernet_is_the_drawn_architecture():
    supernet = tiny(sampled=True)
    supernet.choices.noise.copy_(torch.randn(2, 14, 8))
    weights = {
        kind: search.one_of_each(table, noise, 1.0)
        for (kind, table), noise in zip(supernet.alphas().items(), supernet.choices.noise)
    }
    drawn = supernet(images())  # in training
    torch.testing.assert_close(drawn, slow(supernet, images(), weights))
    supernet.eval()
    largest = {
        kind: torch.nn.functional.one_hot(table.argmax(1), 8).double()
        for kind, table in supernet.alphas().items()
    }
    torch.testing.assert_close(supernet(images()), slow(supernet, images(), largest))


def test_operations_are_drawn_with_the_probabilities_of_the_softmax():
    class Run:
        supernet, recipe, seed = (
            tiny(sampled=True),
            search.SearchRecipe(2, 1, 1, weighing="gumbel"),
            0,
        )

    counts, table = torch.zeros(14, 8), Run.supernet.alphas()["normal"]
    for step in range(2000):
        search._set_variants(Run, 0, step)
        counts += search.one_of_each(table, Run.supernet.choices.noise[0], 1.0).detach()
    assert (counts / 2000 - table.softmax(1)).abs().max() < 0.05
    before = Run.supernet.choices.noise.clone()
    search._set_variants(Run, 0, 1999)  # the draws of a step follow from its number
    assert torch.equal(before, Run.supernet.choices.noise)
    search._set_variants(Run, 1, 0)
    assert not torch.equal(before, Run.supernet.choices.noise)
    assert Run.supernet.choices.temperature.item() == pytest.approx((10 + 0.1) / 2)


# ---------------------------------------------------------------- perturbation


def slow_perturbed(supernet, score_of, generator):
    """The same choice with tables of weights that are made anew for each score."""
    weights = {kind: table.detach().clone() for kind, table in softmaxes(supernet).items()}
    alphas, chosen, pairs = supernet.alphas(), {}, {}
    for which in torch.randperm(28, generator=generator).tolist():
        kind, edge, scores = KINDS[which // 14], which % 14, {}
        for k, name in enumerate(OPS):
            if name != "none":
                row = weights[kind][edge].clone()
                row[k] = 0
                table = torch.stack([row if e == edge else weights[kind][e] for e in range(14)])
                scores[name] = score_of(weights | {kind: table})
        lowest = [name for name in scores if scores[name] == min(scores.values())]
        chosen[kind, edge] = max(lowest, key=lambda n: alphas[kind][edge, list(OPS).index(n)])
        weights[kind][edge] = torch.tensor([float(n == chosen[kind, edge]) for n in OPS])
    for which in torch.randperm(8, generator=generator).tolist():
        kind, node = KINDS[which // 4], which % 4
        entering = [edge for edge, (target, _) in enumerate(EDGES) if target == node]
        scores = []
        for edge in entering:
            table = weights[kind].clone()
            table[edge] = 0
            scores.append((score_of(weights | {kind: table}), edge))
        kept = [edge for _, edge in sorted(scores)[:2]]
        for edge in entering:
            weights[kind][edge] *= edge in kept
        pairs[kind, node] = {(chosen[kind, edge], EDGES[edge][1]) for edge in kept}
    return pairs


@pytest.mark.parametrize("digits", [12, 1])  # with one digit many scores are equal
def test_perturbation_keeps_what_is_missed_most(digits):
    """The score is any function of the weights, so that no network has to compute it."""
    supernet, tables = tiny(), torch.randn(2, 14, 8, dtype=torch.float64)

    def value(weights):
        both = torch.stack([weights[kind] for kind in KINDS])
        return round(
            ((both * tables).sum() + (both.sum(2) ** 2 * tables[..., 0]).sum()).item(), digits
        )

    expected = slow_perturbed(supernet, value, torch.Generator().manual_seed(5))
    found = search.perturbed(
        supernet, lambda: value(supernet.choices()[0]), torch.Generator().manual_seed(5)
    )
    for kind in KINDS:
        cell = getattr(found, kind)
        for node in range(4):
            assert {*cell[2 * node : 2 * node + 2]} == expected[kind, node]
    assert found != supernet.genotype()


def test_what_is_left_out_is_not_in_the_output():
    supernet = tiny().eval()
    whole, seen = supernet(images()), []

    def score():
        weights = supernet.choices()[0]
        seen.append((supernet(images()), slow(supernet, images(), weights)))
        if len(seen) == 3:
            raise InterruptedError
        return 0.0

    with pytest.raises(InterruptedError):
        search.perturbed(supernet, score, torch.Generator().manual_seed(0))
    assert torch.equal(supernet(images()), whole)  # the limits are lifted
    for found, by_hand in seen:
        torch.testing.assert_close(found, by_hand)
        assert not torch.allclose(found, whole)


def test_weights_are_tuned_after_each_operation():
    numbers = []
    search.perturbed(tiny(), lambda: 0.0, torch.Generator().manual_seed(0), numbers.append)
    assert numbers == list(range(28))


@pytest.mark.slow
def test_a_search_ends_with_what_was_selected(monkeypatch):
    perturbed = search.perturbed

    def sparing(supernet, score, *others):
        """Of the more than 200 scores, only those of the first operations are computed."""
        left = iter(range(40))
        return perturbed(supernet, lambda: 0.0 if next(left, None) is None else score(), *others)

    monkeypatch.setattr(search, "perturbed", sparing)
    (_, plain), (_, tuned) = (
        searched(1, **more) for more in ({}, dict(selection="perturbation", tuning_epochs=1))
    )
    assert (
        plain.cells[:-1] == tuned.cells[:-1] and plain.loss == tuned.loss
    )  # the same search before
    assert tuned.selected and not plain.selected
    found = tuned.genotypes[-1]
    assert found != plain.genotypes[-1]
    assert "none" not in {op for op, _ in (*found.normal, *found.reduce)}


# ---------------------------------------------------------------- recipes and specs


def test_a_variant_that_is_not_used_is_not_in_the_spec():
    plain = spec()
    assert not {*search.VARIANT_FIELDS} & plain.to_dict()["recipe"].keys()
    assert len(plain.to_dict()["recipe"]) == len(asdict(plain.recipe)) - 4
    for change in (
        dict(auxiliary_skip="linear"),
        dict(weighing="gumbel"),
        dict(selection="perturbation", tuning_epochs=2),
    ):
        other = replace(plain, recipe=replace(plain.recipe, **change))
        written = json.loads(json.dumps(other.to_dict()))
        assert other.id != plain.id and study.SearchSpec.from_dict(written) == other
        assert written["recipe"] == json.loads(json.dumps(plain.to_dict()))["recipe"] | change


@pytest.mark.slow
@pytest.mark.parametrize("name", ["darts-", "gdas"])
def test_a_variant_by_name_gives_a_record_that_repeats(name):
    plain = spec(train_images=30)
    changed = replace(plain, recipe=replace(plain.recipe, **search.VARIANTS[name]))
    records = [study.run(changed) for _ in range(2)]
    assert records[0]["result"] == records[1]["result"] and records[0]["status"] == "done"
    darts.Genotype.from_dict(records[0]["result"]["genotype"])


@pytest.mark.parametrize("name", search.VARIANTS)
def test_a_variant_is_listed_by_its_name(name):
    some = dict(datasets=["synthetic-objects"], tasks=["rot"], seeds=1)
    (listed,), (plain,) = (
        study.searches("smoke", variant=name, **some),
        study.searches("smoke", **some),
    )
    assert (
        listed.id != plain.id
        and searched_pages.file_name(plain) == "search_synthetic-objects_rot_0"
    )
    assert searched_pages.file_name(listed) == f"search_synthetic-objects_rot_0_{name}"
    assert search.recipe_dict(listed.recipe).items() >= search.VARIANTS[name].items()


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(auxiliary_skip="step"), "auxiliary_skip='step'"),
        (dict(weighing="hard"), "weighing='hard'"),
        (dict(selection="best"), "selection='best'"),
        (dict(tuning_epochs=1), "tuning_epochs=1: belongs to"),
        (dict(selection="perturbation", held_out=0.0), "held_out=0.0: selection="),
        (dict(selection="perturbation", weighing="gumbel"), "weighing='gumbel': leaves one"),
    ],
)
def test_recipes_that_cannot_be(change, words):
    with pytest.raises(ValueError, match=words):
        search.SearchRecipe(2, 10, 0.1, **change)


def test_a_supernet_must_have_what_the_recipe_needs():
    some = data.load("synthetic-objects", image_size=8, num_images=50).unlabeled()
    recipe = search.SearchRecipe(2, 10, 0.1, auxiliary_skip="cosine", held_out=0.1)
    plain = search.Supernet(tasks.rotation(), stem="cifar", width=8, depth=3, partial_channels=4)
    with pytest.raises(ValueError, match=r"built with .* build it with \*\*supernet_options"):
        search.check(plain, tasks.rotation(), some, recipe)
    recipe = replace(recipe, auxiliary_skip=None, selection="perturbation")
    with pytest.raises(ValueError, match="use partial_channels=1"):
        search.check(plain, tasks.rotation(), some, recipe)
