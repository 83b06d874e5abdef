"""The search on NAS-Bench-201, against a version that goes through a cell by hand."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_search import spec

from unnas import data, search, study, tasks, train, verdict
from unnas.spaces import nasbench201
from unnas.spaces.nasbench201 import EDGES, OPS, Cell
from unnas.study import searched

NONE, SKIP, CONV1, CONV3, POOL = OPS
SKIPS = Cell([SKIP] * 6)


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    size = dict(stem="cifar", width=4, depth=3)
    supernet = search.Supernet201(tasks.rotation(), **size, **options).double()
    drawn = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
    supernet.alphas()["cell"].data.copy_(drawn)
    return supernet


def images(count=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)


def convolved(branch, x):
    """ReLU, convolution, and normalization by the batch without scale and shift."""
    kernel = branch[1].weight
    y = F.conv2d(x.relu(), kernel, padding=kernel.shape[-1] // 2)
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, correction=0)
    return (y - mean) / (var + 1e-5).sqrt()


def slow(supernet, x, weights, share=0.0):
    """The outputs in training where `weights` (6, 5) weigh the operations: one after the other,
    from their definitions, with `share` of an auxiliary skip connection on each edge.
    """
    x = supernet.stem(x)
    for part in supernet.body:
        if not isinstance(part, search.SearchCell201):
            x = part(x)
            continue
        states = [x, 0, 0, 0]
        for row, (node, source) in enumerate(EDGES):
            state, branches = states[source], part.edges[row].branches
            pooled = F.avg_pool2d(state, 3, 1, 1, count_include_pad=False)
            outputs = {NONE: 0 * state, SKIP: state, POOL: pooled}
            outputs |= {op: convolved(branches[op], state) for op in (CONV1, CONV3)}
            for column, op in enumerate(OPS):
                states[node] = states[node] + weights[row, column] * outputs[op]
            states[node] = states[node] + share * state
        x = states[3]
    return supernet.head(x, (8, 8))


@pytest.mark.parametrize("share", [None, 0.3])
def test_outputs_and_gradients_are_those_of_a_loop_over_the_operations(share):
    supernet = tiny(auxiliary_skip=share is not None).train()
    if share is not None:
        supernet.skip_share.fill_(share)
    table, kernel = supernet.alphas()["cell"], supernet.body[0].edges[2].branches[CONV3][1].weight
    slopes = torch.randn(4, 4, dtype=torch.float64)
    found = supernet(images())
    by_hand = slow(supernet, images(), table.softmax(1), share or 0.0)
    torch.testing.assert_close(found, by_hand)
    pairs = (torch.autograd.grad((out * slopes).sum(), [table, kernel]) for out in (found, by_hand))
    for gradient, expected in zip(*pairs):
        assert expected.norm() > 1e-3
        torch.testing.assert_close(gradient, expected)
    # and along a direction of the alphas, by differences
    direction, losses = torch.randn_like(table), []
    (gradient,) = torch.autograd.grad((supernet(images()) * slopes).sum(), table)
    with torch.no_grad():
        for shift in (1e-6, -2e-6):
            table += shift * direction
            losses.append((supernet(images()) * slopes).sum().item())
    slope = (gradient * direction).sum().item()
    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cell", [*nasbench201.sample(2, seed=0), SKIPS])
def test_where_each_edge_has_one_operation_it_is_the_network_of_the_cell(cell, training):
    supernet = tiny().train(training)
    chosen = [OPS.index(op) for op in cell.ops]
    supernet.alphas()["cell"].data.copy_(1e4 * torch.eye(5)[chosen])
    assert supernet.genotype() == cell
    network = nasbench201.build(cell, tasks.rotation(), stem="cifar", width=4, depth=3).double()
    own = supernet.state_dict()
    for name, value in network.state_dict().items():
        if name.startswith("body") and ".edges." in name:
            head, _, tail = name.partition(".edges.")
            edge, _, rest = tail.partition(".")
            name = f"{head}.edges.{edge}.branches.{cell.ops[int(edge)]}.{rest}"
        if name in own:  # a supernet has no scales and shifts in its cells
            value.copy_(own[name])
    assert any(".branches." in name for name in own)
    network.train(training)
    torch.testing.assert_close(supernet(images()), network(images()))


def test_a_drawn_operation_has_all_the_weight():
    supernet = tiny(sampled=True).train()
    supernet.choices.noise.copy_(torch.randn(1, 6, 5))
    table = supernet.alphas()["cell"]
    weights = search.one_of_each(table, supernet.choices.noise[0], 1.0)
    assert weights.sum(1).tolist() == weights.amax(1).tolist() == [1.0] * 6
    torch.testing.assert_close(supernet(images()), slow(supernet, images(), weights))


def test_a_step_of_the_alphas_follows_their_gradient_and_leaves_the_weights():
    supernet = tiny()
    recipe = search.SearchRecipe(epochs=1, batch_size=2, lr=0.05)
    bilevel = search.Bilevel(supernet, tasks.rotation(), recipe, train.accelerator("float32"))
    batch = images(8), torch.arange(8) % 4
    (table,) = bilevel.architecture
    before = [w.detach().clone() for w in bilevel.weights]
    loss = F.cross_entropy(slow(supernet.train(), batch[0], table.softmax(1)), batch[1])
    (gradient,) = torch.autograd.grad(loss, table)
    start = table.detach().clone()
    bilevel.alpha_step(batch, batch)
    gradient = gradient + 1e-3 * start  # weight decay
    # the first step of Adam, whatever its betas
    expected = start - 3e-4 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(table.detach(), expected, rtol=0, atol=1e-9)
    assert all(map(torch.equal, before, bilevel.weights))
    assert len(before) + 1 == len(list(supernet.parameters()))
    bilevel.weight_step(batch)
    assert not all(map(torch.equal, before, bilevel.weights))


def test_the_exact_alphas_decide():
    supernet = tiny()
    table = torch.zeros(6, 5)
    table[:, 2], table[:, 3] = 0.3, 0.3 + 1e-7  # alike in six digits
    supernet.alphas()["cell"].data.copy_(table)
    assert supernet.genotype().ops == (CONV3,) * 6
    assert search.discretize(supernet.tables()).ops == (CONV1,) * 6
    table[:, 0] = 1.0  # none is an operation as any
    assert search.discretize(dict(alpha_cell=table.tolist())).ops == (NONE,) * 6


# ---------------------------------------------------------------- specs and records


def test_a_search_of_the_darts_space_does_not_say_so():
    plain, other = spec(), spec(space="nasbench201")
    assert "space" not in plain.to_dict() and plain.space == "darts"
    written = json.loads(json.dumps(other.to_dict()))
    assert written == json.loads(json.dumps(plain.to_dict())) | dict(space="nasbench201")
    assert study.SearchSpec.from_dict(written) == other and other.id != plain.id


def test_a_search_gives_a_record_and_goes_on_from_its_checkpoint(tmp_path):
    own = spec(space="nasbench201", train_images=30)
    record = study.run(own, checkpoint=tmp_path / "run.pt")
    result = record["result"]
    cells = [search.discretize(table) for table in result["tables"]]
    assert result["genotype"] == cells[-1].to_dict()
    assert result["skips"] == [dict(cell=cell.ops.count(SKIP)) for cell in cells]
    for table, found in zip(result["tables"], result["entropy"]):
        shares = torch.tensor(table["alpha_cell"], dtype=torch.float64).softmax(1)
        expected = -(shares * shares.log()).sum(1).mean().item()
        assert found == dict(cell=pytest.approx(expected, abs=1e-6))
    assert result["tables"][0] != result["tables"][-1]
    again = study.run(own, checkpoint=tmp_path / "run.pt")  # all of it is in the checkpoint
    assert again["result"] == result and again["seconds"] == record["seconds"]
    study.records.check_record(record, own.id)
    record["result"]["genotype"] = dict(cell="|none~0|")
    with pytest.raises(ValueError, match="has 1 nodes"):
        study.records.check_record(record, own.id)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(space="nasbench101"), "space='nasbench101': unknown; choose one of darts, nasb"),
        (dict(partial_channels=2), "partial_channels=2: the supernet of nasbench201 .* use"),
        (dict(variant="darts-pt"), "selection='perturbation': the variant darts-pt .* use"),
        (dict(scale="former"), "space='nasbench201': this scale has .* the scale laptop"),
    ],
)
def test_what_its_supernet_has_not_is_refused(change, words):
    given = dict(scale="smoke", space="nasbench201", tasks=["rot"], look=False) | change
    with pytest.raises(ValueError, match=words):
        study.searches(given.pop("scale"), **given)


def test_searches_are_listed_by_space_at_the_size_of_their_scale():
    some = dict(tasks=["rot"], seeds=1, look=False, space="nasbench201")
    sizes = {
        scale: {(s.width, s.depth) for s in study.searches(scale, **some)}
        for scale in ("smoke", "laptop", "paper")
    }
    assert sizes == dict(smoke={(4, 3)}, laptop={(8, 3)}, paper={(16, 15)})
    (one,) = study.searches("smoke", datasets=["synthetic-objects"], variant="gdas", **some)
    assert searched.file_name(one) == "search_synthetic-objects_rot_0_nasbench201_gdas"


def test_a_supernet_of_the_space_needs_a_recipe_that_it_can_follow():
    some = data.load("synthetic-objects", image_size=8, num_images=50).unlabeled()
    recipe = search.SearchRecipe(2, 10, 0.1, held_out=0.1, selection="perturbation")
    with pytest.raises(ValueError, match="selection='perturbation': the variant darts-pt"):
        search.check(tiny().float(), tasks.rotation(), some, recipe)


# ---------------------------------------------------------------- what is said of it


def test_half_of_the_edges_with_skip_connections_is_a_collapse():
    some = [Cell([SKIP] * count + [CONV3] * (6 - count)) for count in range(7)]
    assert search.collapse_warnings(some[:3]) == []
    (warning,) = search.collapse_warnings(some[:5])
    assert warning.startswith("4 of 6 operations of the cell are skip connections (half or more")
    assert "since epoch 3)" in warning and "partial_channels" not in warning
    sure, unsure = ([dict(alpha_cell=scale * np.eye(6, 5))] for scale in (4.0, 1.0))
    result = dict(final=60.0, warnings=[warning], tables=sure)
    about = verdict.of_search(result, 25.0, 200, "nasbench201")
    assert about["decided"] and about["collapsed"] is False
    result["tables"] = unsure
    assert verdict.of_search(result, 25.0, 200, "nasbench201")["decided"] is False


def test_what_is_published_of_a_cell_is_looked_up():
    cells = [*nasbench201.sample(3, seed=0), SKIPS]
    truth = pd.DataFrame(dict(cifar10=[80.0, 90, 70, 39.77]), index=list(map(str, cells)))
    absent = nasbench201.sample(4, seed=0)[3]
    rows = searched.looked_up(truth, {"searched": cells[1], "other": absent})
    found = dict(zip(rows["architecture"], rows["cifar10"]))
    assert found["searched"] == 90 and found["skip connections on all edges"] == 39.77
    assert found["median of all cells"] == 75 and found["best of all cells"] == 90
    assert pd.isna(found["other"])


class Page:
    table, space = "table.csv", "darts"


def test_a_table_is_refused_where_nothing_can_be_looked_up():
    with pytest.raises(ValueError, match="table='table.csv': .* choose space='nasbench201', or"):
        searched.truth_of(Page)


# ---------------------------------------------------------------- beside what chance finds


def found(own, cell, first):
    """The result of a search that began with `first` and ended with `cell`."""
    table = (9 * torch.eye(5)[[OPS.index(op) for op in first.ops]]).tolist()
    return dict(genotype=cell.to_dict(), tables=[dict(alpha_cell=table)])


def test_random_architectures_share_the_epochs_of_the_search():
    own = spec(space="nasbench201", recipe=dict(momentum=0.8, clip=2.0))
    cells = nasbench201.sample(3, seed=0)
    (one, two, three) = searched.trainings(replace(own, seed=4), cells, 2, seed=5)
    assert [s.architecture for s in (one, two, three)] == cells and one.seed == 5
    assert one.recipe.epochs == 1 and own.recipe.epochs == 2  # two of them have its epochs
    (whole,) = searched.trainings(own, cells[:1], 1, seed=5)
    assert whole.recipe.epochs == 2
    same = ("lr", "momentum", "weight_decay", "clip", "batch_size", "schedule", "precision")
    for name in same:
        assert getattr(one.recipe, name) == getattr(own.recipe, name)
    assert (one.space, one.width, one.depth, one.task) == ("nasbench201", 4, 3, "rot")
    assert one.data.train_images == one.data.test_images == 60 and one.data.fingerprint
    absent = replace(own, data=replace(own.data, name="cifar10", fingerprint="0" * 64))
    assert searched.trainings(absent, cells, 2, seed=5) is None


class Compared:
    """A page on which the score of a training is the number of 3x3 convolutions, plus its seed."""

    random, root, asked = 4, None, []

    def collect(self, specs, workers):
        self.asked += specs
        return pd.DataFrame(
            [
                dict(task=s.task, seed=s.seed, final=s.architecture.ops.count(CONV3) + s.seed)
                | dict(parameters=1, multiply_adds=1)
                for s in specs
            ]
        )


def test_what_was_searched_stands_beside_the_untrained_and_random_search(capsys):
    own, first = spec(space="nasbench201"), Cell([POOL, CONV3] * 3)
    table, named = searched.compared(Compared(), own, found(own, SKIPS, first))
    drawn = nasbench201.sample(4, seed=0)
    counts = [cell.ops.count(CONV3) for cell in drawn]
    best = drawn[counts.index(max(counts))]
    expected = {"searched": SKIPS, "untrained": first, "random search": best}
    assert named == expected | {f"random {i}": cell for i, cell in enumerate(drawn)}
    assert list(table["architecture"]) == list(named)
    assert list(table["score"]) == [1, 4, max(counts) + 1, *counts]
    assert list(table["seed"]) == [1] * 3 + [0] * 4
    assert list(table["skip_connections"])[:2] == [6, 0] and table["similarity"][0] == 1
    assert f"is random {counts.index(max(counts))}" in capsys.readouterr().out
    page = Compared()
    page.random = 0
    alone, _ = searched.compared(page, own, found(own, SKIPS, first))
    assert list(alone["architecture"]) == ["searched", "untrained"] and "score" not in alone


def test_only_a_known_space_has_a_verdict():
    with pytest.raises(ValueError, match="space='nasbench101'"):
        verdict.decided([1.0], space="nasbench101")
    assert replace(spec(), space="nasbench201").space == "nasbench201"
