"""How scores of networks are held against a truth: the table, the truths that can be given, and
what is refused. The space is a toy, so that a network takes a thousandth of a second.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from unnas import complexity, data, scores, stats, study, tasks
from unnas.spaces import nasbench101
from unnas.study import report


@dataclass(frozen=True)
class Wide:
    """A convolution of that many channels, and a kernel of this size."""

    channels: int
    kernel: int

    def to_dict(self):
        return vars(self)


class WideNetwork(nn.Module):
    def __init__(self, architecture, task):
        super().__init__()
        channels, kernel = architecture.channels, architecture.kernel
        self.conv = nn.Conv2d(task.in_channels, channels, kernel, padding=kernel // 2)
        self.head = task.head(channels)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x.flatten(0, -4))), x.shape[-2:])


def sample(n, seed):
    """Different ones, in an order that the seed decides."""
    rng = np.random.default_rng(seed)
    kinds = [Wide(channels, kernel) for channels in range(2, 14) for kernel in (1, 3, 5)]
    return [kinds[place] for place in rng.permutation(len(kinds))[:n]]


def build(architecture, task, *, stem, width, depth, auxiliary=False, drop_path=0.0):
    return WideNetwork(architecture, task)


def noisy_width(network, task, images, generator):
    """The channels, and noise of the initial weights."""
    return network.conv.weight.shape[0] + 40 * network.conv.weight.detach().mean()


def size_of_kernel(network, task, images, generator):
    return network.conv.weight.shape[-1] + network.conv.weight.shape[0] / 100


@pytest.fixture(autouse=True)
def wide():
    space = study.SPACES["darts"].__class__(sample, build, lambda d: Wide(**d), like="nasbench101")
    study.register_space("wide", space)
    scores.register("noisy_width", noisy_width)
    scores.register("kernel", size_of_kernel, trains=True)


IMAGES = data.load("noise", num_images=12, image_size=8)
OWN = dict(scores=["noisy_width", "kernel"], images=IMAGES, scale="smoke")
TRUTH = {a: a.channels + 0.3 * a.kernel + (7 * a.channels + a.kernel) % 5 for a in sample(36, 0)}


def rank(**changes):
    return study.rank("wide", **(OWN | dict(truth=TRUTH, n=20) | changes))


def id_of(architecture):
    """What tables of the study call it."""
    images = study.Data("noise")
    recipe = study.grid("fig2", "smoke").settings["nasbench101", "rot"].recipe
    spec = study.Spec("wide", architecture, "cifar", 8, 3, images, "rot", "cifar", recipe, 0)
    return spec.architecture_id


def test_the_table_is_what_the_statistics_say():
    seen = {}

    def watch(network, task, images, generator):
        channels, _, kernel, _ = network.conv.weight.shape
        seen[channels, kernel] = value = float(network.conv.weight.detach().std()) * channels
        return value

    scores.register("watched", watch)
    table = rank(scores=["watched", "kernel", "parameters"]).set_index("score")
    assert list(table.index) == ["watched", "kernel", "parameters"]
    assert len(seen) == 20 and (table["n"] == 20).all() and (table["dropped"] == 0).all()
    keys = sorted(seen, key=lambda key: id_of(Wide(*key)))  # draws of the bootstrap are by place
    truth = [TRUTH[Wide(*key)] for key in keys]
    size = [complexity.parameters(WideNetwork(Wide(*key), tasks.rotation())) for key in keys]
    own = {"watched": [seen[key] for key in keys], "kernel": [k + c / 100 for c, k in keys]}
    for name, values in (own | {"parameters": size}).items():
        row, rho = table.loc[name], stats.spearman(truth, values, resamples=report.RESAMPLES)
        assert row["rho"] == pytest.approx(pd.Series(values).corr(pd.Series(truth), "spearman"))
        found = row[["low", "high", "p"]].tolist()
        assert found == pytest.approx([rho.low, rho.high, rho.p])
        for k in (1, 5, 10):
            best = sorted(range(20), key=lambda i: values[i])[-k:]
            regret = max(truth) - max(truth[i] for i in best)
            assert row[f"regret_{k}"] == pytest.approx(regret)
    partial = stats.partial_spearman(truth, own["watched"], size, resamples=report.RESAMPLES)
    found = table.loc["watched", ["partial", "partial_low"]].tolist()
    assert found == pytest.approx([partial.value, partial.low])
    assert table["trains"].tolist() == [False, True, False]
    assert table["ceiling"].isna().all() and (table["seconds"] > 0).all()


@pytest.mark.slow
def test_every_form_of_a_truth_gives_the_same_table():
    ids = {id_of(a): value for a, value in TRUTH.items()}
    runs = pd.DataFrame(dict(architecture=list(ids), score=list(ids.values()), task="cls"))
    forms = [
        TRUTH,
        ids,
        pd.Series(ids),
        pd.Series(ids).to_frame("accuracy"),
        runs.assign(architecture=list(TRUTH), seed=0),
    ]
    # all 36, so that it makes no difference whether they are sampled or those of the truth
    tables = [rank(truth=form, n=36).drop(columns="seconds") for form in forms]
    assert tables[0]["n"].tolist() == [36, 36]
    rhos = [table.set_index("score")["rho"].to_dict() for table in tables]
    assert all(rho == pytest.approx(rhos[0]) for rho in rhos)


def test_architectures_of_the_truth_are_drawn_by_the_seed():
    seen = []
    scores.register("seen", lambda network, *_: seen.append(network.conv.weight.shape) or len(seen))
    few = dict(list(TRUTH.items())[:8])
    rank(scores=["seen"], truth=few, n=100)
    assert [(c, k) for c, _, k, _ in seen] == [(a.channels, a.kernel) for a in few]
    draws = []
    for seed in (0, 0, 1):
        seen.clear()
        rank(scores=["seen"], truth=few, n=4, seed=seed)
        draws.append(list(seen))
    assert draws[0] == draws[1] != draws[2] and len(draws[0]) == 4


@pytest.mark.slow
def test_published_accuracies_of_cells(tmp_path):
    cells = nasbench101.sample(5, seed=0)
    accuracies = {
        cell.hash(): 0.9 + 0.01 * len(cell.ops) + i / 1000 for i, cell in enumerate(cells)
    }
    path = tmp_path / "table.csv"
    lines = (f"{name},{value}" for name, value in list(accuracies.items())[1:])
    path.write_text("\n".join(["hash,accuracy", *lines]))
    options = OWN | dict(scores=["parameters"], n=5)
    with pytest.warns(UserWarning, match="truth: lacks 1 of 5 architectures, which are left out"):
        table = study.rank("nasbench101", truth=path, **options)
    assert table["n"].tolist() == [4]
    published = nasbench101.accuracies(path)["accuracy"]
    with pytest.warns(UserWarning, match="lacks 1 of 5"):
        again = study.rank("nasbench101", truth=published, **options)
    assert again["rho"].equals(table["rho"])
    with pytest.raises(ValueError, match="files of accuracies are those of nasbench101"):
        rank(truth=str(path))


@pytest.mark.slow
def test_a_ceiling_needs_seeds():
    table = rank(seeds=3).set_index("score")
    assert table.loc["kernel", "ceiling"] == 1  # whatever the initial weights
    assert 0.5 < table.loc["noisy_width", "ceiling"] < 1
    # with seeds of the truth as well, as for two noisy scores
    runs = [
        dict(architecture=a, seed=seed, score=value + 2 * math.sin(9 * a.channels + seed))
        for a, value in TRUTH.items()
        for seed in range(2)
    ]
    noisy = rank(truth=pd.DataFrame(runs), seeds=2, n=36).set_index("score")
    assert noisy.loc["kernel", "ceiling"] < 1


@pytest.mark.slow
def test_another_score_is_a_truth():
    known = {a: a.kernel + a.channels / 100 for a in TRUTH}
    options = dict(scores=["parameters", "noisy_width"], n=36)
    tables = [rank(truth=truth, **options).set_index("score") for truth in ("kernel", known)]
    assert tables[0]["rho"].to_dict() == pytest.approx(tables[1]["rho"].to_dict())
    assert list(tables[0].index) == ["parameters", "noisy_width"]


def test_scores_do_not_disturb_each_other():
    """Each gets the network as it was initialized, the same images and the same random numbers."""
    seen = []

    def destroy(network, task, images, generator):
        inputs, targets = scores.batch(network, task, images, generator)
        task.loss(network(inputs), targets).backward()
        value = network.conv.weight.detach().sum() + inputs[0, 0, 0, 0] + torch.rand(())
        seen.append(value.item())
        network.conv.weight.data.zero_()
        return value

    scores.register("first", destroy)
    scores.register("second", lambda *given: destroy(*given))
    rank(scores=["first", "second"], n=6)
    assert seen[::2] == seen[1::2] and len(set(seen)) == 6


@pytest.mark.parametrize("task, sees", [("rot", False), ("cls", True)])
def test_labels_are_there_for_tasks_that_see_them(task, sees):
    given = []

    def look(network, task, images, generator):
        given.append(next(images.batches(4))[1] is not None)
        return network.conv.weight.shape[0]

    scores.register("look", look)
    rank(scores=["look"], task=task, images=data.load("synthetic-objects", num_images=20), n=6)
    assert set(given) == {sees}


def test_a_score_that_misses_some_is_counted():
    def lucky(network, *_):
        channels = network.conv.weight.shape[0]
        return channels if channels > 4 else math.nan

    scores.register("lucky", lucky)
    table = rank(scores=["lucky", "kernel"], n=36)
    assert table["n"].tolist() == [27, 36] and table["dropped"].tolist() == [9, 0]


def returns(value):
    def score(network, task, images, generator):
        return value

    return score


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(scores=["snap"]), "scores='snap': unknown; choose one of naswot, synflow"),
        (dict(scores="snip"), "scores='snip': must be a list"),
        (dict(scores=["snip", "snip"]), "has 'snip' twice"),
        (dict(scores=["nan"]), "score='nan': is nan for each of the first 10 architectures"),
        (dict(scores=["flat"]), "score='flat': is 3 for each of the first 10 architectures"),
        (dict(scores=["none"]), "score='none': gives a NoneType; it must return one number"),
        (dict(scores=["many"]), "score='many': gives a Tensor; it must return one number"),
        (dict(n=2), "n=2: must be a whole number of at least 3"),
        (dict(seeds=0), "seeds=0: must be a whole number of at least 1"),
        (dict(seed=-1), "seed=-1: must be a whole number from 0"),
        (dict(task="rotate"), "task='rotate': unknown; choose one of cls, rot"),
        (dict(scale="huge"), "scale='huge': unknown"),
        (dict(images=IMAGES.images), "images: a Tensor; pass a data set"),
        (dict(truth="snap"), "truth='snap': neither a file nor a score; the scores are naswot"),
        (dict(truth="kernel"), "truth='kernel': is one of the scores"),
        (dict(truth=3), "truth: a int; pass a file"),
        (dict(truth={}), "truth: has 0 of the 20 architectures; a ranking needs at least 3"),
        (dict(truth=dict(list(TRUTH.items())[:2])), "has 2 of the 2 architectures"),
        (dict(truth=dict.fromkeys(TRUTH, 5)), "truth: is 5 for all 20 architectures"),
        (dict(truth={3: 1.0, 4: 2.0}), "has the key 3, which is no architecture"),
        (dict(truth=pd.DataFrame(dict(a=[1], b=[2]))), "a table with the columns a, b; must have"),
        (
            dict(truth=pd.DataFrame(dict(architecture=["x"] * 2, score=1, task=["cls", "rot"]))),
            "truth: has runs of several tasks, cls, rot; pass those of one",
        ),
        (dict(task="cls"), "images: noise has no labels, and task='cls' needs them"),
    ],
)
def test_refuses(changes, reason):
    for name, value in dict(nan=math.nan, flat=3, none=None, many=torch.ones(3)).items():
        scores.register(name, returns(value))
    with pytest.raises(ValueError, match=reason):
        rank(**changes)


def test_an_unknown_space_is_refused():
    with pytest.raises(ValueError, match="space='wode': unknown; choose one of darts"):
        study.rank("wode", truth=TRUTH, **OWN)
