"""The DARTS space: what is refused, networks and their widths, the sample of the paper, and how
alike two architectures are.
"""

import collections
import itertools
import json

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import chi2_contingency, chisquare
from torch import nn

from unnas import complexity, ops, paper, tasks
from unnas.spaces import darts

GENOTYPES = {name: darts.Genotype.from_dict(genotype) for name, genotype in paper.GENOTYPES.items()}
IMAGENET = dict(task=tasks.classification(1000, style="imagenet"), stem="imagenet", depth=14)
BUDGET = (500e6, 600e6)


def flops(
    genotype, width, *, task=IMAGENET["task"], stem="imagenet", depth=14, input_shape=(3, 224, 224)
):
    with torch.device("meta"):
        return complexity.paper_flops(
            darts.build(genotype, task, stem=stem, width=width, depth=depth), input_shape
        )


@pytest.mark.slow
def test_that_ten_of_the_thirteen_widths_of_table_1_are_the_widest_within_the_budget():
    others = {
        name
        for name, width in paper.WIDTHS["imagenet"].items()
        if flops(GENOTYPES[name], width + 2) <= BUDGET[1]
    }
    assert others == {"darts", "imagenet_col", "imagenet22k_col"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, width", [("darts", 50), ("cityscapes_col", 54), ("imagenet22k_col", 44)]
)
def test_widths_by_flops(name, width):
    assert (
        darts.fit_width(GENOTYPES[name], **IMAGENET, input_shape=(3, 224, 224), window=BUDGET)
        == width
    )
    assert flops(GENOTYPES[name], width) <= BUDGET[1] < flops(GENOTYPES[name], width + 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, stem, input_shape",
    [
        (tasks.classification(10), "cifar", (3, 32, 32)),
        (tasks.colorization(), "cifar", (1, 16, 16)),
        (tasks.jigsaw(2), "cifar", (4, 3, 12, 12)),
        (tasks.segmentation(19, 64, (6,)), "imagenet", (3, 97, 97)),
    ],
    ids=["cls", "col", "jig", "seg"],
)
def test_that_the_rule_is_exact_for_every_task(task, stem, input_shape):
    for genotype in darts.sample(2, seed=1):
        size = flops(genotype, 26, task=task, stem=stem, depth=5, input_shape=input_shape)
        options = dict(task=task, stem=stem, depth=5, input_shape=input_shape)
        assert darts.fit_width(genotype, **options, window=(size, size)) == 26
        with pytest.raises(
            ValueError, match=f"width 24 has .* and width 26 has {size:,}.; widen the window"
        ):
            darts.fit_width(genotype, **options, window=(size - 1, size - 1))


def test_that_fitting_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    darts.fit_width(
        GENOTYPES["darts"],
        **(IMAGENET | dict(depth=3)),
        input_shape=(3, 64, 64),
        window=(1, 10**9),
        measure="parameters",
    )
    assert before.equal(torch.get_rng_state())


ROTATION = GENOTYPES["imagenet_rot"]
PAIRS = list(ROTATION.normal)
CONCAT = (2, 3, 4, 5)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            dict(normal=PAIRS[:3] + [("conv_7x7", 0)] + PAIRS[4:]),
            ["normal[3]", "conv_7x7", "sep_conv_5x5"],
        ),
        (dict(normal=PAIRS[:2] + [("none", 3)] + PAIRS[3:]), ["normal[2]", "node 1", "0 to 2"]),
        (dict(reduce=ROTATION.reduce[:7]), ["reduce", "7"]),
        (dict(reduce_concat=[1, 2]), ["reduce_concat"]),
        (dict(normal_concat=[]), ["normal_concat"]),
    ],
)
def test_that_what_is_no_genotype_is_refused(change, words):
    with pytest.raises(ValueError) as error:
        darts.Genotype.from_dict(ROTATION.to_dict() | change)
    assert all(word in str(error.value) for word in words), error.value


def test_that_genotypes_are_read_as_they_were_written(tmp_path):
    assert darts.Genotype.from_dict(json.loads(json.dumps(ROTATION.to_dict()))) == ROTATION
    cells = [list(map(list, ROTATION.normal)), CONCAT, list(map(list, ROTATION.reduce)), CONCAT]
    released = tmp_path / "a.yaml"
    released.write_text(yaml.safe_dump({"NAS": {"CUSTOM_GENOTYPE": [list(c) for c in cells]}}))
    assert darts.Genotype.from_yaml(released) == ROTATION
    released.write_text("NAS: {MATRIX: []}")
    with pytest.raises(ValueError, match="CUSTOM_GENOTYPE"):
        darts.Genotype.from_yaml(released)


NESTED = [PAIRS[place : place + 2] for place in range(0, 8, 2)]
NUMBERED = [name for name in ops.OPS if name != "none"]


def literal(normal=PAIRS, concat="range(2, 6)"):
    """As a log of DARTS has it."""
    second = f"reduce={list(ROTATION.reduce)}, reduce_concat={concat}"
    return f"Genotype(normal={normal}, normal_concat={concat}, {second})"


def config(genotype, colon=":"):
    """As NAS-Bench-301 has it; both inputs of each node differ."""
    base, found = f"NetworkSelectorDatasetInfo{colon}darts{colon}", {}
    for cell in ("normal", "reduce"):
        pairs = getattr(genotype, cell)
        for node in range(4):
            for op, source in pairs[2 * node : 2 * node + 2]:
                found[f"{base}edge_{cell}_{darts.EDGES.index((node, source))}"] = op
            inputs = sorted(source for _, source in pairs[2 * node : 2 * node + 2])
            if node:
                found[f"{base}inputs_node_{cell}_{node + 2}"] = "_".join(map(str, inputs))
    return found


def choices(genotype):
    """As NNI exports it."""
    found = {}
    for cell in ("normal", "reduce"):
        for node in range(4):
            pairs = dict(map(reversed, getattr(genotype, cell)[2 * node : 2 * node + 2]))
            name = f"{cell}_n{node + 2}"
            for source in range(node + 2):
                op = pairs.get(source, "max_pool_3x3").replace("_", "").replace("pool3x3", "pool")
                found[f"{name}_p{source}"] = op
            found[f"{name}_switch"] = [f"{name}_p{source}" for source in pairs]
    return found


def by_source(genotype):
    """With the pairs of each node in the order of their inputs."""
    cells = (
        [pair for n in range(4) for pair in sorted(cell[2 * n : 2 * n + 2], key=lambda p: p[1])]
        for cell in (genotype.normal, genotype.reduce)
    )
    return darts.Genotype(next(cells), CONCAT, next(cells), CONCAT)


RELEASED = {"NAS": {"CUSTOM_GENOTYPE": [PAIRS, list(CONCAT), list(ROTATION.reduce), list(CONCAT)]}}


@pytest.mark.parametrize(
    "source",
    [
        literal(),
        literal(NESTED),
        literal(tuple(map(tuple, NESTED)), "list(range(2, 6))"),
        literal(concat="[2, 3, 4, 5]"),
        literal(concat="array([2, 3, 4, 5])"),
        literal([(op.upper().replace("_", "-"), source) for op, source in PAIRS]),
        literal().replace(", 0)", ", np.int64(0))"),
        f"10/21 02:33:44 PM epoch 49\ngenotype = {literal()}\nalphas (tensor([0.1]))\n{literal()}",
        f"Genotype = namedtuple('Genotype', 'normal normal_concat')\nA = {literal()}  # (",
        literal()
        .replace(" normal_concat", "\n    normal_concat")
        .replace("Genotype", "genotypes.Genotype"),
        f"Genotype({PAIRS}, range(2, 6), {list(ROTATION.reduce)}, range(2, 6))",
        ROTATION,
        ROTATION.to_literal(),
        repr(ROTATION),
        ROTATION.to_dict(),
        str(ROTATION.to_dict()),
        json.dumps(ROTATION.to_dict()),
        json.dumps({"result": {"genotype": ROTATION.to_dict()}}),
        yaml.safe_dump(json.loads(json.dumps(ROTATION.to_dict()))),
        [PAIRS, CONCAT, ROTATION.reduce, range(2, 6)],
        (NESTED, np.arange(2, 6), np.array(ROTATION.reduce, object), torch.arange(2, 6).tolist()),
        json.dumps([PAIRS, CONCAT, ROTATION.reduce, CONCAT]),
        collections.namedtuple("Genotype", "normal normal_concat reduce reduce_concat")(
            PAIRS, range(2, 6), ROTATION.reduce, range(2, 6)
        ),
        [[(source, NUMBERED.index(op)) for op, source in c] for c in (PAIRS, ROTATION.reduce)],
        str([[(source, NUMBERED.index(op)) for op, source in c] for c in (PAIRS, ROTATION.reduce)]),
        yaml.dump(RELEASED),  # with !!python/tuple
        yaml.safe_dump(json.loads(json.dumps(RELEASED))),
        yaml.safe_dump({"NAS": {"CUSTOM_GENOTYPE": literal()}}),
        json.dumps(dict(ROTATION.to_dict(), epoch=3, seed=None)),
        dict(ROTATION.to_dict(), normal=[(np.str_(op), np.int64(n)) for op, n in PAIRS]),
    ],
)
def test_the_notations_that_people_have(source, tmp_path):
    assert darts.Genotype.parse(source) == ROTATION
    if isinstance(source, str):
        path = tmp_path / "cell.txt"
        for encoding in ("utf-16", "utf-8-sig", "utf-8"):  # a shell of Windows writes the first
            path.write_text(source, encoding=encoding)
            for file in (path, str(path)):
                assert darts.Genotype.parse(file) == ROTATION
        assert darts.Genotype.from_yaml(path) == ROTATION
    states = [*darts.Genotype.parse(source).normal_concat, ROTATION.normal[0][1]]
    assert all(type(state) is int for state in states)


def test_notations_that_order_pairs_by_their_inputs():
    cell = by_source(ROTATION)
    for source in (config(ROTATION), config(ROTATION, "_COLON_"), choices(ROTATION)):
        assert darts.Genotype.parse(source) == cell
        assert darts.Genotype.parse(json.dumps(source)) == cell
        assert darts.Genotype.parse(yaml.safe_dump(source)) == cell
    whole = {"optimized_hyperparamater_config": config(ROTATION) | {"a:batch_size": 96}}
    assert darts.Genotype.parse(whole) == cell
    chatty = config(ROTATION) | {"NetworkSelectorDatasetInfo:darts:layers": 8}
    more = {
        "NetworkSelectorDatasetInfo:darts:edge_normal_4": "skip_connect"
    }  # of no input that counts
    assert EDGE_4_IS_FREE and darts.Genotype.parse(chatty | more) == cell


EDGE_4_IS_FREE = darts.EDGES[4] == (1, 2) and 2 not in [source for _, source in PAIRS[2:4]]


@pytest.mark.parametrize("genotype", [*GENOTYPES.values(), *darts.sample(5, seed=3)])
def test_the_literal_is_read_back_and_is_python(genotype):
    text = genotype.to_literal()
    assert darts.Genotype.parse(text) == genotype
    assert eval(text, {"Genotype": darts.Genotype}) == genotype


@pytest.mark.parametrize(
    "source, words",
    [
        ("", "no genotype"),
        ("hello: world", "lacks normal"),
        ("just words [", "no genotype in it"),
        ("[[a", "not YAML .line 1, column"),
        ({}, "lacks normal"),
        ([], "is no genotype"),
        (" ", "no genotype in it, for it is empty; a genotype has"),
        (None, "None is no genotype"),
        (3.5, "3.5 is no genotype"),
        ({"NAS": {"CUSTOM_GENOTYPE": []}}, "NAS: CUSTOM_GENOTYPE: .. is no genotype"),
        ({"normal": PAIRS, "reduce": PAIRS}, "lacks normal_concat, reduce_concat"),
        ({"normal_n2_p0": "maxpool"}, "normal: node 2 has 1 operations"),
        ({"NetworkSelectorDatasetInfo:darts:edge_normal_0": "none"}, "normal: node 2 has 1 op"),
        (literal(PAIRS[:7]), "normal: has 7"),
        (literal([*PAIRS[:2], ("sep_conv_3x3", 3), *PAIRS[3:]]), "normal.2.: input 3 of node 1"),
        (literal([*PAIRS[:2], ("sep_conv_3x3", -1), *PAIRS[3:]]), "has '-1'"),
        (literal([*PAIRS[:2], ("sep_conv_3x3", True), *PAIRS[3:]]), "normal.2.: input True"),
        (literal([*PAIRS[:2], ("sep_conv_3x3", 0.5), *PAIRS[3:]]), "normal.2.: input 0.5"),
        (literal([*PAIRS[:2], ("sep_conv_7x7", 0), *PAIRS[3:]]), "normal.2.: unknown operation"),
        (literal([*PAIRS[:2], ("conv_3x3", 0), *PAIRS[3:]]), "normal.2.: unknown operation"),
        (literal([*PAIRS[:2], (None, 0), *PAIRS[3:]]), "normal.2.: unknown operation None"),
        (literal([*PAIRS[:2], 3, *PAIRS[3:]]), "normal.2.=3: must be a list of two"),
        (literal(3), "normal=3: must be a list of 8"),
        (literal(concat="range(0, 4)"), "normal_concat=.*must name nodes"),
        (literal(concat="range(0, 10**12)"), "has '10 .. 12'"),
        (literal(concat="range(1000000000000)"), "normal_concat=.*must be a list"),
        (literal(concat="[2, 2]"), "normal_concat"),
        (literal(concat="'2345'"), "normal_concat='2345'"),
        (literal()[:-1], "Genotype. of line 1 is not closed"),
        (literal() + repr(GENOTYPES["darts"]), "2 different genotypes"),
        (literal(concat="open('x')"), "calls 'open'"),
        (literal(concat="__import__('os').system('touch x')"), "calls 'system'"),
        (literal(concat="().__class__"), "nothing that a genotype has"),
        (literal(concat="[x for x in (2, 3)]"), "nothing that a genotype has"),
        (literal(concat="(lambda: 2)()"), "nothing that a genotype has"),
        (literal(concat="f'{1}'"), "nothing that a genotype has"),
        (literal(concat="**{}"), "not Python"),
        ("Genotype(" + "[" * 5000 + "]" * 5000 + ")", "nested too deeply"),
        ("[" * 100_000, "nested too deeply|too long|no JSON"),
        ("Genotype(" + "-" * 9000 + "1)", "nothing that a genotype has|not Python"),
        ("{a: " * 3000, "YAML|deeply|long"),
        ("x" * 2_000_000, "too long"),
        ("NAS: !!python/object/apply:os.system ['touch x']", "not YAML"),
        ("NAS: {CUSTOM_GENOTYPE: !!python/tuple [1]}", "CUSTOM_GENOTYPE: .1. is no genotype"),
        ("a: &a [x]\n" + "\n".join(f"b{n}: &b{n} [*a, *a]" for n in range(9)), "lacks normal"),
        ("normal: &n [*n]", "YAML|lacks"),
        ("\0\1\2[", "YAML"),
        ([[(0, 9)] * 8] * 2, "normal.0.=.*from 0 to 6"),
        ([[(0,)] * 8] * 2, "normal.0."),
        ([3, 3], "normal=3"),
        (np.zeros((2, 8, 2)), "is no genotype"),
    ],
)
def test_what_is_no_genotype_says_where(source, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if isinstance(source, str):
        path = tmp_path / "cell.yaml"
        path.write_text(source)
        with pytest.raises(ValueError, match=words) as error:
            darts.Genotype.parse(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
        source = source if source else " \n"
    for read in (darts.Genotype.parse, darts.Genotype.from_dict):
        with pytest.raises(ValueError, match=words) as error:
            read(source)
        assert len(str(error.value)) < 500
    assert [path.name for path in tmp_path.iterdir()] in ([], ["cell.yaml"])


def test_a_file_that_is_missing(tmp_path):
    for source in (tmp_path / "none.yaml", str(tmp_path / "none.yaml"), "cell"):
        with pytest.raises(FileNotFoundError):
            darts.Genotype.parse(source)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(stem="resnet"), ["stem", "cifar"]),
        (dict(width=7), ["width=7"]),
        (dict(width=0), ["width=0"]),
        (dict(depth=2), ["depth=2"]),
        (dict(drop_path=1), ["drop_path"]),
        (dict(auxiliary=True, task=tasks.colorization()), ["auxiliary", "col"]),
        (dict(auxiliary="both"), ["auxiliary='both'", "published"]),
    ],
)
def test_that_a_network_that_cannot_be_is_refused(change, words):
    options = dict(task=IMAGENET["task"], stem="cifar", width=8, depth=5)
    with pytest.raises(ValueError) as error:
        darts.build(ROTATION, **(options | change))
    assert all(word in str(error.value) for word in words), error.value


def test_that_the_auxiliary_head_says_which_images_it_can_read():
    network = darts.build(
        ROTATION, IMAGENET["task"], stem="cifar", width=8, depth=5, auxiliary=True
    )
    with pytest.raises(ValueError, match="(4, 4)"):
        network(torch.rand(2, 3, 16, 16))


@pytest.mark.parametrize("auxiliary", [True, "published"])
@pytest.mark.parametrize("stem, side", [("imagenet", 7), ("cifar", 8)])
def test_the_published_auxiliary_head_for_cifar_has_a_second_normalization(stem, side, auxiliary):
    options = dict(stem=stem, width=8, depth=3, auxiliary=auxiliary)
    head = darts.build(ROTATION, tasks.classification(10), **options).auxiliary_head
    second = [nn.BatchNorm2d] if (stem, auxiliary) == ("cifar", "published") else []
    assert [type(layer) for layer in head.layers] == [
        *(nn.ReLU, nn.AvgPool2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d),
        *(*second, nn.ReLU, nn.Flatten, nn.Linear),
    ]
    channels = head.layers[2].in_channels
    convolutions = channels * 128 + 128 * 768 * 4
    plain = convolutions + 2 * 128 + 769 * 10
    assert complexity.parameters(head) == plain + len(second) * 2 * 768
    assert head(torch.rand(2, channels, side, side)).shape == (2, 10)


def test_that_paths_are_dropped_in_training_only_and_never_an_identity():
    network = darts.build(ROTATION, tasks.rotation(), stem="cifar", width=8, depth=5, drop_path=0.5)
    image = torch.rand(2, 3, 16, 16)
    ops.set_progress(network, 0.0)
    assert torch.equal(network(image), network(image))
    ops.set_progress(network, 1.0)
    assert not torch.equal(network(image), network(image))
    edges = [pair for cell in network.cells for pair in zip(cell.edges, cell.drops)]
    assert all((drop.rate == 0) == isinstance(edge, nn.Identity) for edge, drop in edges)


def parameters(width):
    network = darts.build(ROTATION, tasks.rotation(), stem="cifar", width=width, depth=5)
    return sum(p.numel() for p in network.parameters())


SMALL = dict(
    task=tasks.rotation(), stem="cifar", depth=5, input_shape=(3, 32, 32), measure="parameters"
)


def test_the_edges_of_a_window():
    width = darts.fit_width(ROTATION, **SMALL, window=(100_000, 120_000))
    here, beyond = parameters(width), parameters(width + 2)
    assert 100_000 <= here <= 120_000 < beyond
    for window in ((here, here), (here, beyond - 1)):
        assert darts.fit_width(ROTATION, **SMALL, window=window) == width
    sizes = f"width {width} has {here:,} and width {width + 2} has {beyond:,}"
    with pytest.raises(ValueError, match=f"{sizes}.*depth=5"):
        darts.fit_width(ROTATION, **SMALL, window=(here + 1, beyond - 1))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(window=(1, 10)), r"\(width 2 has"),
        (dict(measure="seconds"), "measure.*flops, multiply-adds, parameters"),
        (dict(window=(5, 2)), "window"),
        (dict(stem="resnet"), "stem"),
    ],
)
def test_that_a_width_that_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        darts.fit_width(ROTATION, **(SMALL | dict(window=(1, 10**9)) | change))


@pytest.fixture(scope="module")
def sampled():
    return darts.sample(500, seed=0)


def test_that_the_sample_is_distributed_as_the_released_one(sampled):
    # over the normal cells of the 500 released architectures
    released = [313, 279, 291, 261, 804, 986, 496, 570]
    normal, reduce = (
        [[op for g in sampled for op, _ in getattr(g, cell)].count(op) for op in ops.OPS]
        for cell in ("normal", "reduce")
    )
    assert chi2_contingency([normal, released])[1] > 0.001
    assert chisquare(normal)[1] < 1e-100 and chisquare(reduce)[1] > 1e-6
    cells = [cell for g in sampled for cell in (g.normal, g.reduce)]
    coincide = sum(cell[i][1] == cell[i + 1][1] for cell in cells for i in (0, 2, 4, 6))
    # inputs are independent: they coincide as often as chance says
    assert abs(coincide - 4000 * (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 4) < 4 * 30
    sizes = [darts.cifar_parameters(g) for g in sampled]
    assert darts.PARAMETER_WINDOW[0] <= min(sizes) <= max(sizes) <= darts.PARAMETER_WINDOW[1]
    with pytest.raises(ValueError, match="n=0"):
        darts.sample(0, seed=0)


def slow_similarity(a, b, operations):
    """The same by tables of counts: how often a node reads a state by an operation."""
    common = 0
    for first, second in ((a.normal, b.normal), (a.reduce, b.reduce)):
        tables = np.zeros((2, 6, 6, len(ops.OPS)), int)
        for table, pairs in zip(tables, (first, second)):
            for slot, (op, source) in enumerate(pairs):
                table[slot // 2 + 2, source, list(ops.OPS).index(op)] += 1
        if not operations:
            tables = tables.sum(axis=-1, keepdims=True)
        orders = ([0, 1, *nodes] for nodes in itertools.permutations(range(2, 6)))
        common += max(
            np.minimum(tables[0], tables[1][np.ix_(order, order)]).sum() for order in orders
        )
    return common / 16


def renumbered(pairs, rng):
    """The same cell with other numbers for its nodes, in an order in which each node comes after
    those it reads.
    """
    order, left = [], set(range(2, 6))
    while left:
        reads = {
            node: {source for _, source in pairs[2 * node - 4 : 2 * node - 2]} for node in left
        }
        free = [node for node in left if not reads[node] & left]
        order.append(free[rng.integers(len(free))])
        left.remove(order[-1])
    number = {0: 0, 1: 1} | {node: place + 2 for place, node in enumerate(order)}
    return [
        (op, number[source]) for node in order for op, source in pairs[2 * node - 4 : 2 * node - 2]
    ]


def test_what_a_genotype_is_read_from_will_do_in_its_place(sampled):
    options, own = dict(task=tasks.rotation(), stem="cifar", width=4, depth=3), sampled[0]
    for given in (own.to_dict(), own.to_literal()):
        assert darts.cifar_parameters(given) == darts.cifar_parameters(own)
        assert darts.similarity(given, sampled[1]) == darts.similarity(own, sampled[1])
        assert darts.similarity(sampled[1], given) == darts.similarity(sampled[1], own)
        assert str(darts.build(given, **options)) == str(darts.build(own, **options))
        assert len(darts.plot(given).axes) == len(darts.plot(own).axes)
    for call in (darts.cifar_parameters, darts.plot, lambda given: darts.similarity(own, given)):
        with pytest.raises(ValueError, match="genotype: lacks normal"):
            call({})
        with pytest.raises(ValueError, match="None is no genotype"):
            call(None)


def test_similarity_against_counting_and_other_numbers_of_nodes(sampled):
    rng = np.random.default_rng(0)
    for a, b in zip(sampled[:40], sampled[40:80]):
        other = darts.Genotype(renumbered(a.normal, rng), CONCAT, renumbered(a.reduce, rng), CONCAT)
        assert darts.similarity(a, a) == darts.similarity(a, other) == 1
        same = darts.similarity(b, a), darts.similarity(b, other), darts.similarity(a, b)
        assert len(set(same)) == 1
        for operations in (True, False):
            found = darts.similarity(a, b, operations=operations)
            assert found == slow_similarity(a, b, operations)


@pytest.mark.parametrize("reductions", [1, 2])
def test_that_cells_follow_each_other(reductions):
    """What a cell reads is what the two before it give, and the older at twice the size after a
    reduction.
    """
    task = tasks.segmentation(5) if reductions == 1 else tasks.rotation()
    stem = ops.ImageNetStem(3, 8)
    places = list(darts.cells_of(stem, 8, 7, task, normal=4, reduce=3))
    assert [place.reduction for place in places].count(True) == reductions
    given = list(stem.channels)
    before, channels = stem.reduction, 8
    for place in places:
        channels *= 2 if place.reduction else 1
        assert place == (tuple(given[-2:]), channels, place.reduction, before)
        given.append(channels * (3 if place.reduction else 4))
        before = place.reduction


def test_weights_of_pairs_and_sums_in_ranges_are_read():
    genotype = darts.sample(1, seed=0)[0]
    fields = genotype.to_dict() | dict(normal_concat=range(2, 6), reduce_concat=range(2, 6))
    weighed = {
        cell: [[(*pair, 0.5) for pair in fields[cell][i : i + 2]] for i in range(0, 8, 2)]
        for cell in ("normal", "reduce")
    }
    expected = darts.Genotype.from_dict(fields)
    assert darts.Genotype.from_dict(fields | weighed) == expected
    words = ", ".join(f"{name}={value!r}" for name, value in (fields | weighed).items())
    text = f"Genotype({words})".replace("range(2, 6)", "range(2, 2+4)")
    assert "2+4" in text and darts.Genotype.parse(text) == expected
