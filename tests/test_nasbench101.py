"""The NAS-Bench-101 space, against published numbers and slow versions that share no code
with it.
"""

import base64
import bz2
import copy
import gzip
import hashlib
import itertools
import json
import lzma
import struct
import zipfile
from collections import Counter

import networkx
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import nn

from unnas import complexity, tasks
from unnas.spaces import nasbench101
from unnas.spaces.nasbench101 import Cell, CellBlock, build, enumerate_cells, sample

CONV3, CONV1, POOL = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"
EDGE = [[0, 1], [0, 0]]
CHAIN = [[0, 1, 0], [0, 0, 1], [0, 0, 0]]

RELEASED = """
MODEL:
  TYPE: nas_bench
NAS:
  MATRIX: [[0, 1, 0, 1, 0, 0, 0],
           [0, 0, 1, 0, 1, 0, 0],
           [0, 0, 0, 1, 0, 0, 0],
           [0, 0, 0, 0, 1, 0, 0],
           [0, 0, 0, 0, 0, 1, 1],
           [0, 0, 0, 0, 0, 0, 1],
           [0, 0, 0, 0, 0, 0, 0]]
  OPS: ['input', 'conv3x3-bn-relu', 'conv1x1-bn-relu', 'conv1x1-bn-relu', 'maxpool3x3',
        'conv1x1-bn-relu', 'output']
  WIDTH: 128
"""
# its row in the published list, and what that row says
RELEASED_NUMBER, RELEASED_HASH = 907, "009099d04db19f40abf0cca2f34514e7"

# (vertices, adjacency, ops, hash) of published rows, the digits as in the published tables
PUBLISHED = [
    (7, "126465", "02001", "00005c142e6f48ac74fdcf73e3439874"),
    (7, "146225", "11010", "0000718c96730a92ea6d5242f8ce77e2"),
]


def drawn(vertices, adjacency, ops):
    bits = int(adjacency, 16)
    matrix = [
        [int(x < y and bits >> x + y * (y - 1) // 2 & 1) for y in range(vertices)]
        for x in range(vertices)
    ]
    return Cell(matrix, ["input", *((CONV3, CONV1, POOL)[int(op)] for op in ops), "output"])


def cell_from(edges, *ops):
    vertices = range(len(ops) + 2)
    return Cell(
        [[int((x, y) in edges) for y in vertices] for x in vertices], ["input", *ops, "output"]
    )


def renumbered(cell, order):
    """`cell` with vertex `order[i]` at place i, or None where an edge would go downwards."""
    matrix = np.array(cell.matrix)[np.ix_(order, order)]
    return None if np.tril(matrix).any() else Cell(matrix, [cell.ops[v] for v in order])


def renumberings(cell):
    last = len(cell.ops) - 1
    orders = ([0, *inner, last] for inner in itertools.permutations(range(1, last)))
    return [other for order in orders if (other := renumbered(cell, order))]


# --- the cell


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[-1][:8])
def test_hash_of_published_rows(row):
    assert drawn(*row[:3]).hash() == row[3]


def test_released_configuration(tmp_path):
    path = tmp_path / "cell.yaml"
    path.write_text(RELEASED, encoding="utf-16")
    cell = Cell.from_yaml(path)
    path.write_text(RELEASED)
    assert Cell.from_yaml(path) == cell
    assert len(cell.ops) == 7 and len(cell.edges) == 9 and cell.hash() == RELEASED_HASH
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


@pytest.mark.parametrize(
    "text",
    ["", "NAS: {CUSTOM_GENOTYPE: []}", "NAS: 3", "{", "- 1", "NAS: {MATRIX: [[0, 1], [0, 0]]}"],
)
def test_other_yaml_is_refused(tmp_path, text):
    path = tmp_path / "cell.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="cell.yaml: has no NAS.MATRIX and NAS.OPS"):
        Cell.from_yaml(path)
    with pytest.raises(FileNotFoundError, match="missing.yaml"):
        Cell.from_yaml(tmp_path / "missing.yaml")


def test_hash_ignores_the_numbering_and_nothing_else():
    cell = drawn(*PUBLISHED[0][:3])
    others = renumberings(cell)
    assert len(set(others)) > 1 and {other.hash() for other in others} == {cell.hash()}
    for v in range(1, len(cell.ops) - 1):
        for op in {CONV3, CONV1, POOL} - {cell.ops[v]}:
            assert Cell(cell.matrix, [*cell.ops[:v], op, *cell.ops[v + 1 :]]).hash() != cell.hash()


def test_useless_vertices_go_before_the_limits_count():
    wide = np.zeros((9, 9), int)
    wide[0, 1:8] = 1  # vertices 2 to 7 are fed but lead nowhere
    wide[1, 8] = 1
    assert Cell(wide, ["input", POOL, *[CONV1] * 6, "output"]) == Cell(
        CHAIN, ["input", POOL, "output"]
    )
    unfed = [[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert Cell(unfed, ["input", CONV3, POOL, "output"]) == Cell(CHAIN, ["input", POOL, "output"])


def test_cell_is_a_value():
    cell = Cell(np.array(CHAIN, bool), ["input", POOL, "output"])
    assert {cell: 1}[Cell(torch.tensor(CHAIN), ("input", POOL, "output"))] == 1
    assert all(type(entry) is int for row in cell.matrix for entry in row)
    with pytest.raises(AttributeError):
        cell.ops = ()


FULL = np.triu(np.ones((5, 5), int), 1)
LONG = np.eye(8, k=1, dtype=int)


@pytest.mark.parametrize(
    "matrix, ops, reason",
    [
        ([[0, 1, 0], [0, 0, 1]], ["input", POOL, "output"], "square"),
        ([[0, 1], [0]], ["input", "output"], "square"),
        ([[0]], ["input"], "square with at least 2 rows"),
        ([], [], "square with at least 2 rows"),
        (3, ["input", "output"], "must be a square matrix"),
        ([[0, 1], [1, 0]], ["input", "output"], "strictly upper-triangular"),
        ([[1, 1], [0, 0]], ["input", "output"], "strictly upper-triangular"),
        ([[0, 2], [0, 0]], ["input", "output"], "0 or 1, but entry (0, 1) is 2"),
        ([[0, 0.5], [0, 0]], ["input", "output"], "0 or 1"),
        ([[0, "1"], [0, 0]], ["input", "output"], "0 or 1"),
        ([[0, float("nan")], [0, 0]], ["input", "output"], "0 or 1"),
        (CHAIN, ["input", "output"], "one entry a vertex, 3"),
        (CHAIN, None, "ops=None"),
        (
            CHAIN,
            ["input", "conv5x5", "output"],
            (
                "unknown operation 'conv5x5'; the known ones are conv3x3-bn-relu, conv1x1-bn-relu,"
                " maxpool3x3"
            ),
        ),
        (CHAIN, ["input", "output", "output"], "unknown operation 'output'"),
        (CHAIN, [POOL, POOL, "output"], "start with 'input'"),
        (CHAIN, ["input", POOL, POOL], "end with 'output'"),
        ([[0, 1, 0], [0, 0, 0], [0, 0, 0]], ["input", POOL, "output"], "not connected"),
        ([[0, 0, 0], [0, 0, 1], [0, 0, 0]], ["input", POOL, "output"], "not connected"),
        (
            FULL,
            ["input", *[POOL] * 3, "output"],
            "10 edges on paths from input to output; at most 9",
        ),
        (
            LONG,
            ["input", *[POOL] * 6, "output"],
            "8 vertices on paths from input to output; at most 7",
        ),
    ],
)
def test_invalid_cells_are_refused(matrix, ops, reason):
    with pytest.raises(ValueError) as error:
        Cell(matrix, ops)
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [{}, {"matrix": EDGE}, {"matrix": EDGE, "ops": ["input", "output"], "name": 1}, None, []],
)
def test_from_dict_refuses_other_dictionaries(fields):
    with pytest.raises(ValueError, match="exactly the keys 'matrix' and 'ops'"):
        Cell.from_dict(fields)


# --- the space


@pytest.fixture(scope="module")
def small():
    """All cells with at most 5 vertices."""
    return list(itertools.takewhile(lambda cell: len(cell.ops) <= 5, enumerate_cells()))


def test_numbers_of_cells():
    counts = Counter((nasbench101._space() >> 32).tolist())
    assert (
        counts == {2: 1, 3: 6, 4: 84, 5: 2441, 6: 62010, 7: 359082}
        and sum(counts.values()) == nasbench101.SIZE == 423_624
    )
    assert (np.diff(nasbench101._space()) > 0).all()


def test_small_cells_are_all_that_exist(small):
    """Every drawing with up to 5 vertices, one by one; the classes are told apart by their
    hashes.
    """
    hashes = set()
    for vertices in range(2, 6):
        places = list(itertools.combinations(range(vertices), 2))
        for count in range(1, len(places) + 1):
            for edges in itertools.combinations(places, count):
                try:
                    base = cell_from(edges, *[POOL] * (vertices - 2))
                except ValueError:
                    continue  # not connected, or ten edges
                if len(base.ops) < vertices:
                    continue
                hashes |= {
                    Cell(base.matrix, ["input", *ops, "output"]).hash()
                    for ops in itertools.product((CONV3, CONV1, POOL), repeat=vertices - 2)
                }
    assert len(small) == 1 + 6 + 84 + 2441 and hashes == {cell.hash() for cell in small}


def test_small_cells_differ_by_an_independent_isomorphism_test(small):
    def graph(cell):
        result = networkx.DiGraph(cell.edges)
        networkx.set_node_attributes(result, dict(enumerate(cell.ops)), "op")
        return result

    graphs = [graph(cell) for cell in small if len(cell.ops) <= 4]
    alike = [
        pair
        for pair in itertools.combinations(graphs, 2)
        if networkx.is_isomorphic(*pair, node_match=lambda a, b: a == b)
    ]
    assert len(graphs) == 91 and not alike


@pytest.mark.slow
def test_large_cells_differ_and_every_drawing_leads_back():
    """Random cells with 6 and 7 vertices: no hash occurs twice, and any drawing of a cell has the
    cell's key.
    """
    rng, hashes = np.random.default_rng(0), set()
    for key in rng.choice(nasbench101._space()[2532:], 2000, replace=False).tolist():
        cell = nasbench101._cell(key)
        hashes.add(cell.hash())
        if len(hashes) > 100:
            continue  # renumbering takes long
        drawings = renumberings(cell)
        other = drawings[rng.integers(len(drawings))]
        adjacency = sum(1 << x + y * (y - 1) // 2 for x, y in other.edges)
        ops = np.array([[nasbench101.OPS.index(op) for op in other.ops[1:-1]]])
        assert nasbench101._keys(len(other.ops), np.array([adjacency]), ops) == [key]
    assert len(hashes) == 2000


# SHA-256 of the published hashes, sorted, 16 bytes each: the rows of the published table of all
# cells, hashed one by one as they are drawn there,
# and equal to the published hashes wherever those were at hand (rows 0 to 20,000 and 36,202 to
# 46,201).
SORTED_HASHES = "13bb1f0fa98c75fcbc269a7f011cf12245f8c9e0e6fc3eb94add6dcbdfba09db"
# the same for keys 0, 20, 40, ..., in the order of the keys
EVERY_TWENTIETH = "02a9a39b342645149efd8630f4f14f85ae6c8eb1a566b17fb52c6baa0241a1e4"


def checksum(hashes):
    return hashlib.sha256(bytes.fromhex("".join(hashes))).hexdigest()


@pytest.mark.slow
def test_hashes_of_every_twentieth_cell():
    assert (
        checksum(map(nasbench101._hash_of_key, nasbench101._space()[::20].tolist()))
        == EVERY_TWENTIETH
    )


@pytest.mark.long
def test_hashes_of_all_cells(tmp_path, monkeypatch):
    monkeypatch.setenv("UNNAS_CACHE", str(tmp_path))
    hashes = sorted(nasbench101.public_hashes())
    assert checksum(hashes) == SORTED_HASHES
    assert hashes[RELEASED_NUMBER] == RELEASED_HASH
    # so that the second time can only read
    monkeypatch.setattr(nasbench101, "_hash_of_key", None)
    assert sorted(nasbench101.public_hashes()) == hashes


# --- the sample


@pytest.mark.slow
def test_sample_is_reproducible_and_distinct():
    cells = sample(500, seed=0)
    assert sample(500, seed=0) == cells and sample(7, seed=0) == cells[:7]
    assert len({cell.hash() for cell in cells}) == 500
    assert not {cell.hash() for cell in cells[:100]} & {cell.hash() for cell in sample(100, seed=1)}
    # also on other machines
    assert [cell.hash()[:8] for cell in cells[:3]] == ["21cbcb1b", "f06d5910", "9bd42175"]


def chi2_p(observed, shares):
    """p value of the counts `observed`, `{group: count}`, under `shares`; groups that expect fewer
    than 5 are left out.
    """
    total, draws = sum(shares.values()), sum(observed.values())
    expected = {
        group: draws * share / total
        for group, share in shares.items()
        if draws * share / total >= 5
    }
    statistic = sum((observed[group] - e) ** 2 / e for group, e in expected.items())
    return scipy.stats.chi2.sf(statistic, len(expected) - 1)


@pytest.mark.long
def test_sample_is_uniform(small):
    """Over numbers of vertices; and, among small cells, over the number of drawings that a cell
    has, which a naive sample would favor.
    """
    drawings = {cell.hash(): len(set(renumberings(cell))) for cell in small}
    cells = [cell for seed in range(3) for cell in sample(25_000, seed)]
    vertices = {2: 1, 3: 6, 4: 84, 5: 2441, 6: 62010, 7: 359082}
    assert chi2_p(Counter(len(cell.ops) for cell in cells), vertices) > 1e-3
    drawn_small = Counter(drawings[cell.hash()] for cell in cells if len(cell.ops) <= 5)
    assert sum(drawn_small.values()) > 400
    assert chi2_p(drawn_small, Counter(drawings.values())) > 1e-3
    by_drawings = Counter()  # what sampling drawings uniformly would give
    for count in drawings.values():
        by_drawings[count] += count
    assert chi2_p(drawn_small, by_drawings) < 1e-9


@pytest.mark.parametrize(
    "n, seed, reason",
    [
        (0, 0, "n=0: "),
        (-1, 0, "n=-1: "),
        (2.0, 0, "n=2.0: "),
        (True, 0, "n=True: "),
        (423_625, 0, "the space has 423624 cells"),
        (1, -1, "seed=-1: "),
        (1, None, "seed=None: "),
    ],
)
def test_sample_refuses(n, seed, reason):
    with pytest.raises(ValueError, match=reason):
        sample(n, seed)


# --- the network


class Sum(nn.Module):
    """A head that remembers what it was given."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, features, size):
        self.shape, self.size = tuple(features.shape), tuple(size)
        return features.mean((2, 3))


class Probe:
    """The least that a task of one's own has to have to build a network."""

    in_channels = 5
    head = Sum


def slow_channels(cell, inputs, outputs):
    """Channels of each vertex, by recursion over what a vertex feeds."""
    last = len(cell.ops) - 1
    feeding = [v for v in range(1, last) if (v, last) in cell.edges]

    def channels(v):
        if v == 0:
            return inputs
        if v == last:
            return outputs
        if v in feeding:
            return outputs // len(feeding) + (feeding.index(v) < outputs % len(feeding))
        return max(channels(y) for x, y in cell.edges if x == v)

    return [channels(v) for v in range(last + 1)]


def slow_parameters(cell, width, classes, stacks=3, cells=3):
    """Parameters of a network with the CIFAR stem, added up by hand."""

    def conv(inputs, outputs, kernel):
        return inputs * outputs * kernel**2 + 2 * outputs

    total, inputs = conv(3, width, 3), width
    for outputs in (width * 2**stack for stack in range(stacks)):
        for _ in range(cells):
            channels = slow_channels(cell, inputs, outputs)
            total += sum(
                conv(c, c, {CONV3: 3, CONV1: 1}[op])
                for op, c in zip(cell.ops, channels)
                if op in (CONV3, CONV1)
            )
            total += sum(conv(inputs, channels[y], 1) for x, y in cell.edges if x == 0)
            inputs = outputs
    return total + inputs * classes + classes


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def slow_block(block, cell, x):
    """What a block computes, vertex by vertex from the output back, each projection on its own;
    batch statistics, affine parameters as given.
    """
    last, channels = len(cell.ops) - 1, slow_channels(cell, x.shape[1], block.channels[-1])

    def conv_bn_relu(x, layers, rows=slice(None), kernel=1):
        y = F.conv2d(x, layers[0].weight[rows], padding=kernel // 2)
        mean, variance = (
            y.mean((0, 2, 3), keepdim=True),
            y.var((0, 2, 3), unbiased=False, keepdim=True),
        )
        y = (y - mean) / (variance + 1e-5).sqrt()
        return (y * layers[1].weight[rows, None, None] + layers[1].bias[rows, None, None]).clamp(
            min=0
        )

    def projection(v):
        fed = [y for x, y in cell.edges if x == 0]
        start = sum(channels[y] for y in fed[: fed.index(v)])
        return conv_bn_relu(x, block.projection, slice(start, start + channels[v]))

    def value(v):
        total = sum(
            (projection(v) if u == 0 else value(u)[:, : channels[v]])
            for u, y in cell.edges
            if y == v
        )
        if cell.ops[v] == POOL:
            return F.max_pool2d(total, 3, 1, 1)
        return conv_bn_relu(
            total, block.operations[v - 1], kernel={CONV3: 3, CONV1: 1}[cell.ops[v]]
        )

    feeding = [v for v in range(1, last) if (v, last) in cell.edges]
    result = torch.cat([value(v) for v in feeding], 1) if feeding else 0
    return result + projection(last) if (0, last) in cell.edges else result


def various_cells():
    """Small cells and random ones, with a shortcut to the output in many."""
    return [*itertools.islice(enumerate_cells(), 20), *sample(30, seed=4)]


def test_block_computes_what_the_definition_says():
    generator = torch.Generator().manual_seed(0)
    for cell in various_cells():
        block = CellBlock(cell, 6, 11).double()
        for p in block.parameters():
            p.data.normal_(generator=generator)
        x = torch.randn(3, 6, 5, 4, dtype=torch.float64, generator=generator)
        torch.testing.assert_close(block(x), slow_block(block, cell, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inputs, outputs", [(8, 8), (8, 16), (7, 13)])
def test_channels(inputs, outputs):
    for cell in various_cells():
        channels = nasbench101._vertex_channels(cell, inputs, outputs)
        assert channels == slow_channels(cell, inputs, outputs)
        feeding = [channels[v] for v in range(1, len(cell.ops) - 1) if cell.matrix[v][-1]]
        assert not feeding or sum(feeding) == outputs and max(feeding) - min(feeding) <= 1


def test_published_numbers_of_parameters():
    """Of the first cell of the published list; and of the smallest and the largest network, whose
    cells a count of all 423,624 gives.
    """
    first = drawn(*PUBLISHED[0][:3])
    pools = cell_from([(0, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 5), (3, 5), (4, 5)], *[POOL] * 4)
    chain = cell_from(
        [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)], *[CONV3] * 5
    )
    for cell, count in [(first, 8_555_530), (pools, 227_274), (chain, 49_979_274)]:
        assert slow_parameters(cell, 128, 10) == count
        assert (
            parameters(build(cell, tasks.get("cls", num_classes=10), stem="cifar", width=128))
            == count
        )


def test_numbers_of_parameters():
    for cell in various_cells():
        assert parameters(
            build(cell, tasks.get("cls", num_classes=7), stem="cifar", width=12)
        ) == slow_parameters(cell, 12, 7)


def test_multiply_adds_by_hand():
    network = build(
        Cell(EDGE, ["input", "output"]),
        tasks.get("cls", num_classes=10),
        stem="cifar",
        width=4,
        cells_per_stack=2,
    )
    stem, first, second, third = (
        3 * 4 * 9 * 64,
        2 * 4 * 4 * 64,
        (4 * 8 + 8 * 8) * 16,
        (8 * 16 + 16 * 16) * 4,
    )
    assert complexity.count(network, (3, 8, 8))[0] == stem + first + second + third + 16 * 10


@pytest.mark.long
def test_every_cell_trains():
    """Also those whose output adds a shortcut to a single vertex, which an addition in place would
    break.
    """
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 4
    task = tasks.get("cls", num_classes=4)
    shortcuts = [
        cell
        for cell in itertools.islice(enumerate_cells(), 91)
        if cell.matrix[0][-1] and sum(row[-1] for row in cell.matrix) == 2
    ]
    assert len(shortcuts) > 20
    for cell in various_cells() + shortcuts:
        torch.manual_seed(0)
        network = build(cell, task, stem="cifar", width=8, cells_per_stack=1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        losses = []
        for _ in range(4):
            loss = task.loss(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0], cell


def trained_once(network, x):
    """Output, gradients of the input and the parameters, and state after one pass in training mode,
    with outputs in eval mode.
    """
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = network.train()(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    return (
        y,
        x.grad,
        [p.grad for p in network.parameters()],
        network.state_dict(),
        network.eval()(x),
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_relu_in_place_changes_nothing(layout):
    """Against the same network, NCHW, whose ReLUs make a tensor of their own."""
    for cell in various_cells()[::3]:
        torch.manual_seed(0)
        fast = build(
            cell, tasks.get("cls", num_classes=4), stem="cifar", width=7, cells_per_stack=2
        ).double()
        plain = copy.deepcopy(fast)
        for module in plain.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(
            trained_once(fast.to(memory_format=layout), x.contiguous(memory_format=layout)),
            trained_once(plain, x),
            rtol=1e-9,
            atol=1e-11,
        )


def test_forward_changes_no_tensor_that_others_hold():
    for cell in various_cells():
        block, x = CellBlock(cell, 4, 6), torch.randn(2, 4, 6, 6)
        seen = []
        for module in block.modules():
            # whose ReLU overwrites it, and nobody else reads it
            if isinstance(module, nn.BatchNorm2d):
                continue
            module.register_forward_hook(
                lambda module, inputs, output: seen.append((output, output.clone()))
            )
        block(x)
        assert seen and all(torch.equal(output, copy) for output, copy in seen)


@pytest.mark.parametrize(
    "stem, image_size, features",
    [
        ("cifar", 32, 8),
        ("cifar", 4, 1),
        ("cifar", 13, 3),
        ("imagenet", 224, 7),
        ("imagenet", 25, 1),
    ],
)
def test_shapes(stem, image_size, features):
    network = build(drawn(*PUBLISHED[0][:3]), Probe, stem=stem, width=6)
    network(torch.zeros(2, 5, image_size, image_size + 1))
    assert network.head.shape[:3] == (2, 24, features) and network.head.size == (
        image_size,
        image_size + 1,
    )
    network(torch.zeros(2, 3, 5, image_size, image_size))
    assert network.head.shape == (6, 24, features, features)


def test_stems():
    convs = [
        [
            m
            for m in build(
                Cell(EDGE, ["input", "output"]), Probe, stem=stem, width=128
            ).stem.modules()
            if isinstance(m, nn.Conv2d)
        ]
        for stem in ("cifar", "imagenet")
    ]
    assert [
        [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in stem] for stem in convs
    ] == [
        [(5, 128, (3, 3), (1, 1))],
        [(5, 64, (3, 3), (2, 2)), (64, 128, (3, 3), (2, 2)), (128, 128, (3, 3), (2, 2))],
    ]


def test_layers():
    network = build(
        sample(1, seed=0)[0], Probe, stem="imagenet", width=10, stacks=4, cells_per_stack=2
    )
    blocks = [m for m in network.body if isinstance(m, CellBlock)]
    assert [block.channels[-1] for block in blocks] == [
        10,
        10,
        20,
        20,
        40,
        40,
        80,
        80,
    ] and network.head.channels == 80
    assert [i for i, m in enumerate(network.body) if isinstance(m, nn.MaxPool2d)] == [2, 5, 8]
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    "name, shape, outputs",
    [
        ("cls", (2, 3, 16, 16), (2, 10)),
        ("rot", (2, 3, 16, 16), (2, 4)),
        ("col", (2, 1, 16, 16), (2, 313, 16, 16)),
        ("jig", (2, 4, 3, 6, 6), (2, 24)),
    ],
)
def test_tasks(name, shape, outputs):
    options = {"num_classes": 10} if name == "cls" else {}
    network = build(sample(1, seed=0)[0], tasks.get(name, **options), stem="cifar", width=8)
    assert network(torch.zeros(shape)).shape == outputs


SPREAD = cell_from([(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)], CONV3, CONV1, POOL)


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(stem="resnet"), "stem='resnet'.*cifar, imagenet"),
        (dict(width=2), "width=2: must be at least 3, because each vertex"),
        (dict(width=0), "width=0: "),
        (dict(width=16.0), "width=16.0: "),
        (dict(width=15, stem="imagenet"), "width=15: must be even"),
        (dict(stacks=0), "stacks=0: "),
        (dict(cells_per_stack=0), "cells_per_stack=0: "),
        (dict(cells_per_stack=True), "cells_per_stack=True: "),
        (dict(depth=0), "depth=0: "),
        (dict(depth=3.0), "depth=3.0: "),
        (dict(depth=10), "depth=10: a NAS-Bench-101 network has 3 equal stacks.*multiple of 3"),
        (dict(depth=5, stacks=2), "depth=5: .* 2 equal stacks"),
        (dict(depth=9, auxiliary=True), "auxiliary_weight, drop_path: .* set both to 0"),
        (dict(drop_path=0.2), "auxiliary_weight, drop_path: .* set both to 0"),
        (dict(cell="inception"), "cell='inception': must be a Cell"),
    ],
)
def test_build_refuses(change, reason):
    arguments = dict(cell=SPREAD, task=Probe, stem="cifar", width=16) | change
    with pytest.raises(ValueError, match=reason):
        build(arguments.pop("cell"), arguments.pop("task"), **arguments)


@pytest.mark.parametrize("depth, stacks, each", [(9, 3, 3), (12, 3, 4), (4, 2, 2), (1, 1, 1)])
def test_the_stacks_share_the_depth(depth, stacks, each):
    def made(**size):
        torch.manual_seed(0)
        return build(SPREAD, Probe, stem="cifar", width=4, stacks=stacks, **size).state_dict()

    first, second = made(depth=depth), made(cells_per_stack=each)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_smallest_width_builds():
    build(SPREAD, Probe, stem="cifar", width=3)(torch.zeros(2, 5, 8, 8))


@pytest.mark.parametrize(
    "stem, stacks, smallest",
    [("cifar", 3, 4), ("cifar", 1, 1), ("imagenet", 3, 25), ("imagenet", 2, 9)],
)
def test_small_images_are_refused(stem, stacks, smallest):
    network = build(SPREAD, Probe, stem=stem, width=6, stacks=stacks)
    network(torch.zeros(2, 5, smallest, smallest))
    if smallest > 1:
        with pytest.raises(
            ValueError, match=f"image_size={smallest - 1}: must be at least {smallest}"
        ):
            network(torch.zeros(2, 5, 40, smallest - 1))


def test_plot_names_the_operations():
    cell = drawn(*PUBLISHED[0][:3])
    figure = nasbench101.plot(cell)
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert any(cell.hash()[:8] in text for text in texts)
    assert {"input", "output"} <= set(texts) and sum("3×3" in text for text in texts) == 4


# --- published accuracies

TEST_HEADER = "vertices,adjacency_hex,ops,test_correct_of_9984"
VALIDATION_HEADER = "hash,val4,val12,val36,val108,train_seconds"


def table(path, header, *rows):
    frame = pd.DataFrame(rows, columns=header.split(","))
    frame.to_csv(path, index=False)
    return path


def test_test_accuracies(tmp_path):
    path = table(
        tmp_path / "test.csv.xz",
        TEST_HEADER,
        (7, "126465", "02001", 9197),
        (2, "1", "", 4992),
        (7, "146225", "11010", 8902),
    )
    frame = nasbench101.accuracies(path)
    assert list(frame.columns) == ["test108"] and frame.index.name == "hash"
    edge = Cell(EDGE, ["input", "output"])
    assert list(frame.index) == [PUBLISHED[0][3], edge.hash(), PUBLISHED[1][3]]
    np.testing.assert_allclose(frame["test108"], [100 * 9197 / 9984, 50, 100 * 8902 / 9984])


def test_validation_accuracies(tmp_path):
    path = table(
        tmp_path / "validation.csv.gz",
        VALIDATION_HEADER,
        (PUBLISHED[0][3], 0.36048, 0.42198, 0.90014, 0.93049, 1769.0),
    )
    frame = nasbench101.accuracies(str(path))
    assert frame.index.name == "hash"
    assert frame.loc[PUBLISHED[0][3]].to_dict() == pytest.approx(
        dict(val4=36.048, val12=42.198, val36=90.014, val108=93.049, train_seconds=1769)
    )


def test_any_accuracies_by_hash(tmp_path):
    path = table(
        tmp_path / "mine.csv.zip",
        "hash,mean of three,search_seconds",
        (PUBLISHED[1][3], 0.5, 1200),
        (PUBLISHED[0][3], 1, 0),
    )
    frame = nasbench101.accuracies(path)
    assert frame.loc[PUBLISHED[1][3]].to_dict() == {
        "mean of three": 50,
        "search_seconds": 1200,
    } and list(frame.index) == [PUBLISHED[1][3], PUBLISHED[0][3]]


@pytest.mark.parametrize(
    "name", ["table.csv", "table.csv.gz", "table.csv.bz2", "table.csv.xz", "table.csv.zip"]
)
@pytest.mark.parametrize("by_hash", [True, False])
def test_rows_of_the_cells_that_are_asked_for(tmp_path, by_hash, name):
    """In their order, however they are drawn, and none is dropped: a cell that the table lacks has
    NaN.
    """
    cells = sample(12, seed=7)
    known, lacking = cells[:9], cells[9:]
    drawings = [
        (other := renumberings(cell)[-1])
        and (
            len(other.ops),
            f"{sum(1 << x + y * (y - 1) // 2 for x, y in other.edges):x}",
            "".join(str(nasbench101.OPS.index(op)) for op in other.ops[1:-1]),
            9984 - 78 * i,
        )
        for i, cell in enumerate(known)
    ]
    hashes = [(cell.hash(), 1 - i / 128) for i, cell in enumerate(known)]
    path = (
        table(tmp_path / name, "hash,accuracy", *hashes)
        if by_hash
        else table(tmp_path / name, TEST_HEADER, *drawings)
    )
    asked = [lacking[0], known[4], renumberings(known[2])[-1], known[0], lacking[1], known[4]]
    with pytest.warns(UserWarning, match="path=.*: 2 of 6 cells are not in the file"):
        frame = nasbench101.accuracies(path, asked)
    assert (
        list(frame.index) == [cell.hash() for cell in asked]
        and frame.shape == (6, 1)
        and frame.index.name == "hash"
    )
    np.testing.assert_allclose(
        frame.iloc[:, 0], [np.nan, 100 - 400 / 128, 100 - 200 / 128, 100, np.nan, 100 - 400 / 128]
    )


def test_cells_are_found_without_hashing_the_others(tmp_path, monkeypatch):
    keys = nasbench101._space()[::20].tolist()
    rows = []
    for i, key in enumerate(keys):
        adjacency, ops = divmod(key & 0xFFFFFFFF, 3 ** ((key >> 32) - 2))
        rows.append(
            (
                key >> 32,
                f"{adjacency:x}",
                "".join(str(ops // 3**i % 3) for i in range((key >> 32) - 2)),
                i % 9985,
            )
        )
    path = table(tmp_path / "test.csv", TEST_HEADER, *rows)
    monkeypatch.setattr(nasbench101, "public_hashes", None)  # which hashes them all
    picked = [20_000, 3, 11_111]
    frame = nasbench101.accuracies(path, [nasbench101._cell(keys[i]) for i in picked])
    np.testing.assert_allclose(frame["test108"], [i % 9985 / 99.84 for i in picked])


def test_large_table_uses_the_hashes_of_all_cells(tmp_path, monkeypatch):
    """With a made-up cache, so that nothing has to be computed: the i-th cell has the hash i."""
    monkeypatch.setenv("UNNAS_CACHE", str(tmp_path))
    numbers = np.arange(nasbench101.SIZE, dtype=">u8").view(np.uint8).reshape(-1, 8)
    np.savez(
        tmp_path / "nasbench101-hashes.npz", hashes=np.hstack([np.zeros_like(numbers), numbers])
    )
    picked = np.random.default_rng(0).permutation(nasbench101.SIZE)[:20_000]
    rows = []
    for key in nasbench101._space()[picked].tolist():
        adjacency, ops = divmod(key & 0xFFFFFFFF, 3 ** ((key >> 32) - 2))
        rows.append(
            (
                key >> 32,
                f"{adjacency:x}",
                "".join(str(ops // 3**i % 3) for i in range((key >> 32) - 2)),
                9984,
            )
        )
    frame = nasbench101.accuracies(table(tmp_path / "test.csv", TEST_HEADER, *rows))
    assert [int(digits, 16) for digits in frame.index] == picked.tolist()


ROW, VALID = (7, "126465", "02001", 9197), (PUBLISHED[0][3], 0.3, 0.4, 0.9, 0.9, 1.0)


@pytest.mark.parametrize(
    "header, rows, reason",
    [
        ("hash", [(PUBLISHED[0][3],)], "columns must be hash,.* and are 'hash'"),
        ("a,b", [(1, 2)], "columns must be hash,.* and are 'a', 'b'"),
        ("hash,name", [(PUBLISHED[0][3], "x")], "columns must be hash,"),
        (f"{PUBLISHED[0][3]},0.9", [(PUBLISHED[1][3], 0.8)], "no line of names"),
        ("hash,accuracy", [("a", 1)], "row 0 .*'hash' has no hash"),
        ("hash,accuracy", [(PUBLISHED[0][3], "high")], "'accuracy' has no number in row 0.*'high'"),
        ("hash,a", [(PUBLISHED[0][3], 0.9), (PUBLISHED[1][3], "x")], "'a' has no number in row 1"),
        ("hash,a", [(PUBLISHED[0][3], 93.1), (PUBLISHED[1][3], 0.9)], "'a' has 0.9 in row 1"),
        ("hash,a", [(PUBLISHED[0][3], -0.1), (PUBLISHED[1][3], 0.9)], "'a' has -0.1 in row 0"),
        ("hash,a", [(PUBLISHED[0][3], "inf"), (PUBLISHED[1][3], 90)], "'a' has inf in row 0"),
        ("hash,a", [(PUBLISHED[0][3], 93), (PUBLISHED[1][3], 930)], "'a' has 930 in row 1"),
        ("hash,epochs,a", [(PUBLISHED[0][3], 1.5, 0.9)], "'epochs' has 1.5 in row 0"),
        (
            "hash,epochs,a",
            [(PUBLISHED[0][3], "", 0.9), (PUBLISHED[1][3], 4, 0.9)],
            "'epochs' has nan",
        ),
        ("matrix,ops,a", [("[[0, 1], [0]]", "input,output", 0.9)], "row 0 .*is not a cell"),
        (TEST_HEADER, [ROW, (7, "126464", "02001", 9197)], "row 1 .*is not a cell"),
        (TEST_HEADER, [ROW, ROW[:1] + ("8126465",) + ROW[2:]], "row 1 .*is not a cell"),
        (TEST_HEADER, [ROW, (7, "126465", "0200", 9197)], "row 1 .*is not a cell"),
        (TEST_HEADER, [ROW, (7, "126465", "02003", 9197)], "row 1 .*is not a cell"),
        (TEST_HEADER, [ROW, (8, "126465", "02001", 9197)], "row 1 .*is not a cell"),
        (TEST_HEADER, [ROW, (3, "126465", "0", 9197)], "row 1 .*is not a cell"),
        (TEST_HEADER, [ROW, ("x", "126465", "02001", 9197)], "row 1 .*is not a cell"),
        (TEST_HEADER, [ROW[:3] + (9985,)], "has 9985 in row 0 .*outside 0 to 9984"),
        (VALIDATION_HEADER, [VALID[:1] + (1.2,) + VALID[2:]], "'val4' has 1.2 in row 0"),
        (VALIDATION_HEADER, [VALID, ("0" * 31,) + VALID[1:]], "row 1 .*has no hash"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, header, rows, reason):
    with pytest.raises(ValueError, match=reason) as error:
        nasbench101.accuracies(table(tmp_path / "table.csv", header, *rows))
    assert "table.csv" in str(error.value)


A, B = PUBLISHED[0][3], PUBLISHED[1][3]


def accuracies_of(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return nasbench101.accuracies(path)


@pytest.mark.parametrize(
    "content",
    [
        f"hash,accuracy\n{A},0.93\n{B},0.8\n",
        f"accuracy,Module_Hash\n93,{A.upper()}\n80,{B}\n",
        f"arch;accuracy\n{A};93,0\n{B};80,0\n",
        f"hash\taccuracy\n{A}\t0.93\n{B}\t0.8\n",
        f"hash\taccuracy\n{A}\t0.93\n{B}\t0.8\n".encode("utf-16"),
        f"\ufeffhash, accuracy\r\n{A}, 93.0%\r\n{B}, 80%\r\n\r\n",
        f'"accuracy"\n"{A}",0.93\n"{B}",0.8\n',
        "accuracy,ops,vertices,adjacency_hex\n.93,02001,7,126465\n.80,11010,7,146225\n",
        "vertices,adjacency_hex,ops,accuracy\n7,0x126465,2001,93\n7,146225,11010,80\n",
    ],
)
def test_one_table_in_the_notations_that_people_have(tmp_path, recwarn, content):
    frame = accuracies_of(tmp_path / "table.txt", content)
    assert list(frame.index) == [A, B] and list(frame) == ["accuracy"] and not recwarn.list
    np.testing.assert_allclose(frame["accuracy"], [93, 80])


def test_what_is_left_out_or_missing_is_said_in_one_line(tmp_path):
    header = ",hash,module_operations,trainable_parameters,test_loss,val_std,final_test_accuracy\n"
    rows = f"0,{A},\"['input', 'output']\",8555530,0.3,0.01,\n1,{B},,8555530,0.3,0.01,0.9\n"
    with pytest.warns(UserWarning) as said:
        frame = accuracies_of(tmp_path / "table.csv", header + rows)
    assert list(frame) == ["final_test_accuracy"] and frame.iloc[:, 0].isna().tolist() == [
        True,
        False,
    ]
    assert [str(warning.message).split("table.csv: ")[1] for warning in said] == [
        "columns left out, because they are no accuracies: Unnamed: 0, module_operations,"
        " trainable_parameters, test_loss, val_std; missing values: 1"
    ]


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "NA", "N/A", "null", "None", "-", " "])
def test_missing_values(tmp_path, missing):
    with pytest.warns(UserWarning, match="missing values: 1"):
        frame = accuracies_of(tmp_path / "t.csv", f"hash,acc,val\n{A},{missing},0.4\n{B},0.9,0.5\n")
    assert np.isnan(frame["acc"].iloc[0]) and frame["acc"].iloc[1] == 90


def test_rows_of_a_cell_are_runs(tmp_path):
    with pytest.warns(UserWarning, match="averaged: 3; runs of a cell: 1 to 3"):
        frame = accuracies_of(
            tmp_path / "t.csv",
            f"hash,seed,acc\n{B},0,0.7\n{A},0,0.9\n{A},1,0.92\n{A.upper()},2,0.94\n",
        )
    assert list(frame.index) == [B, A] and list(frame) == ["acc", "acc_sd"]
    assert frame.loc[A].to_dict() == pytest.approx(dict(acc=92, acc_sd=2))
    assert frame.loc[B, "acc"] == 70 and np.isnan(frame.loc[B, "acc_sd"])


@pytest.mark.parametrize(
    "column, values",
    [("dataset", ("cifar10", "cifar100")), ("split", ("valid", "test")), ("lr", ("0.1", "0.01"))],
)
def test_rows_of_other_images_or_settings_are_no_runs_of_a_cell(tmp_path, column, values):
    def text(*values):
        rows = (f"{cell},{value},0.{8 + i}" for cell in (A, B) for i, value in enumerate(values))
        return "\n".join([f"hash,{column},accuracy", *rows, ""])

    told = rf"column '{column}' tells the rows of a cell apart \({', '.join(values)}\); keep the"
    with pytest.raises(ValueError, match=told):
        accuracies_of(tmp_path / "t.csv", text(*values))
    with pytest.warns(UserWarning, match="averaged: 4"):  # of one kind
        accuracies_of(tmp_path / "t.csv", text(values[0], values[0]))


@pytest.mark.parametrize(("column", "values"), [("host", "ab"), ("remark", ("", "again"))])
def test_what_is_noted_of_runs_tells_no_cells_apart(tmp_path, column, values):
    rows = [f"{cell},{value},0.{8 + i}" for cell in (A, B) for i, value in enumerate(values)]
    with pytest.warns(UserWarning, match="averaged: 4"):
        frame = accuracies_of(tmp_path / "t.csv", "\n".join([f"hash,{column},accuracy", *rows]))
    assert frame.loc[A, "accuracy"] == pytest.approx(85)


def test_a_remark_that_names_the_columns_is_their_header(tmp_path):
    rows = f"{A},90.5\n{B},91\n"
    for above in ("# hash,test\n", "# by us\n#hash,test\n", "# by A, B\nhash,test\n"):
        frame = accuracies_of(tmp_path / "t.csv", above + rows)
        assert frame["test"].to_dict() == {A: 90.5, B: 91}


@pytest.mark.parametrize(
    "content",
    [
        f"# from a paper\n#\nhash,acc\n{A},93\n",
        f"hash | acc\n{A} | 93\n",
        f"hash|acc|cost\n{A}|93|5\n",
        f"hash,acc,lr,testError,n\xe9\n{A},93,1,7,x\n".encode("latin-1"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*columns left out")
def test_remarks_bars_and_other_encodings_are_read(tmp_path, content):
    frame = accuracies_of(tmp_path / "t.csv", content)
    assert list(frame) == ["acc"] and frame.loc[A, "acc"] == 93


@pytest.mark.parametrize("column", ["ep", "trained_epochs", "trainEpochs"])
def test_budgets_have_several_names(tmp_path, column):
    frame = accuracies_of(tmp_path / "t.csv", f"hash,{column},test\n{A},4,51\n{A},108,93\n")
    assert frame.loc[A].to_dict() == dict(test4=51, test108=93)


def test_hashes_in_place_of_cells_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text(f"hash,acc\n{A},93\n")
    with pytest.raises(ValueError, match="cells: one of them='.*': must be a Cell"):
        nasbench101.accuracies(tmp_path / "t.csv", cells=[A])


@pytest.mark.parametrize(
    "names", ["acc_1,acc_2,acc_3", "acc 0,acc 1,acc 2", "acc_run1,acc_run2,acc_run3"]
)
def test_columns_that_differ_by_a_number_are_runs_and_budgets_are_not(tmp_path, names):
    with pytest.warns(UserWarning, match="averaged: 3"):
        frame = accuracies_of(tmp_path / "t.csv", f"hash,{names}\n{A},90,92,94\n")
    assert frame.loc[A].to_dict() == pytest.approx(dict(acc=92, acc_sd=2))
    budgets = ["val4", "val12", "val36", "val108"]
    assert (
        list(
            accuracies_of(
                tmp_path / "t.csv",
                f"hash,{','.join(budgets)}\n{A},1,20,30,40\n".replace("1,20", "10,20"),
            )
        )
        == budgets
    )


def test_a_column_of_epochs_makes_a_column_per_budget(tmp_path):
    rows = [
        f"{h},{e},{r},{e / 200 + r / 100},{10 * e}"
        for h in (B, A)
        for e in (4, 108)
        for r in (0, 2)
    ]
    content = "hash,epochs,run,final_test_accuracy,seconds\n" + "\n".join(rows)
    with pytest.warns(UserWarning, match="no accuracies: run"):
        frame = accuracies_of(tmp_path / "t.csv", content)
    assert list(frame.index) == [B, A]
    names = ["test4", "test108", "seconds4", "seconds108", "test4_sd", "test108_sd"]
    assert sorted(frame) == sorted(names) and frame.loc[A, "test108"] == pytest.approx(55)
    # as a table that was read here is written: its names have the budget already
    content = f"hash,epochs,test108,test108_sd,test8\n{A},108,55.5,0.5,50\n"
    with pytest.warns(UserWarning):
        frame = accuracies_of(tmp_path / "t.csv", content)
    assert list(frame) == ["test108", "test8108"] and frame.loc[A, "test108"] == 55.5


def test_drawings_as_text(tmp_path):
    content = (
        'module_adjacency,module_operations,acc\n"[[0, 1, 1], [0, 0, 1], [0, 0, 0]]",'
        f"\"['input', '{POOL}', 'output']\",0.9\n"
        f'011001000,"input,{CONV3},output",0.8\n'
        '"array([[0., 1.],\n [0., 0.]], dtype=int8)","input output",.5\n'
    )
    both = [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    cells = [Cell(both, ["input", op, "output"]) for op in (POOL, CONV3)]
    frame = accuracies_of(tmp_path / "t.csv", content)
    assert list(frame.index) == [c.hash() for c in [*cells, Cell(EDGE, ["input", "output"])]]


# --- the benchmark's own file


def varint(number):
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def slow_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(record):
    length = struct.pack("<Q", len(record))
    return length + slow_crc(length) + record + slow_crc(record)


def message(numbers, path=b""):
    """An evaluation: epoch, seconds, accuracies on training, validation and test images."""
    fields = b"".join(bytes([8 * n + 1]) + struct.pack("<d", v) for n, v in enumerate(numbers, 1))
    return fields + (b"\x32" + varint(len(path)) + path if path else b"")


def run_of(name, epochs, test, metrics=None):
    if metrics is None:
        points = [(0, 0, 0.1, 0.1, 0.1), (epochs / 2, 5, 0.2, 0.2, 0.2), (epochs, 10, 1, 0.5, test)]
        parts = [message(point, b"/model.ckpt-1" * 20) for point in points]
        metrics = b"".join(b"\x0a" + varint(len(part)) + part for part in parts)
        metrics += b"\x10" + varint(8_555_530) + b"\x19" + struct.pack("<d", 12.0)
    text = base64.b64encode(metrics).decode()
    return json.dumps([name, epochs, "0100", "input,output", text]).encode()


def tfrecord(epochs=(108,)):
    """Three runs of two cells."""
    runs = [(name, e, share) for name, share in ((B, 0.8), (A, 0.9)) for e in epochs for _ in "123"]
    return b"".join(
        framed(run_of(name, e, share + n % 3 / 100 - e / 1e4))
        for n, (name, e, share) in enumerate(runs)
    )


@pytest.mark.parametrize("packed", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_the_benchmark_is_read_without_tensorflow(tmp_path, recwarn, packed):
    frame = accuracies_of(tmp_path / "nasbench_only108.tfrecord", packed(tfrecord()))
    assert list(frame.index) == [B, A] and not recwarn.list
    assert frame.loc[A].to_dict() == pytest.approx(
        dict(train108_seconds=10, train108=100, val108=50, test108=100 * (0.91 - 0.0108))
        | dict(train108_sd=0, val108_sd=0, test108_sd=1)
    )
    asked = [drawn(*PUBLISHED[0][:3]), Cell(EDGE, ["input", "output"])]
    found = nasbench101.accuracies(tmp_path / "nasbench_only108.tfrecord", asked)
    assert list(found.index) == [cell.hash() for cell in asked]
    assert found["test108"].iloc[0] == frame.loc[A, "test108"] and np.isnan(
        found["test108"].iloc[1]
    )


def test_the_full_benchmark_has_four_budgets(tmp_path):
    frame = accuracies_of(tmp_path / "nasbench_full.tfrecord", tfrecord((4, 12, 36, 108)))
    for epochs in (4, 12, 36, 108):
        assert frame.loc[B, f"test{epochs}"] == pytest.approx(100 * (0.81 - epochs / 1e4))


def test_a_damaged_benchmark_says_where(tmp_path):
    whole, path = tfrecord(), tmp_path / "nasbench_only108.tfrecord"
    size = len(whole) // 6
    for cut in (1, 5, 11, 12, 14, size - 3):
        with pytest.raises(ValueError, match="tfrecord: record 2 .* cut short"):
            accuracies_of(path, whole[: 2 * size + cut])
    for place in (0, 7, 9, 13, 200, size - 1):
        damaged = bytearray(whole)
        damaged[size + place] ^= 4
        with pytest.raises(ValueError, match="record 1 .* does not have its checksum"):
            accuracies_of(path, bytes(damaged))


@pytest.mark.parametrize(
    "record",
    [
        *(b"", b"{}", b"[" * 200_000, b'["a", 1]', b"\xff\xfe", run_of("abc", 108, 0.9)),
        *(run_of(A, epochs, 0.9) for epochs in (True, 0, -4, 10**6)),
        *(run_of(A, 108, test) for test in (1.1, -0.1, float("nan"))),
        *(run_of(A, 108, 0, b) for b in (b"", b"\x0a", b"\x0a\xff", b"\x0b", b"\xff" * 40)),
        *(run_of(A, 108, 0, b) for b in (b"\x0a\x03\x29\0\0", b"\x0a" + b"\xff" * 9 + b"\x01")),
        json.dumps([A, 108, "", "", "!"]).encode(),
        json.dumps([A, 108, "", "", None]).encode(),
    ],
)
def test_records_of_something_else_are_refused(tmp_path, record):
    with pytest.raises(ValueError, match="record 0 .* is no run of NAS-Bench-101"):
        accuracies_of(tmp_path / "t.tfrecord", framed(record))


@pytest.mark.parametrize(
    "name", ["table.csv", "table.csv.gz", "table.csv.xz", "nasbench_only108.tfrecord"]
)
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x89PNG\r\n\x1a\n\0\xff", b"a,b\n1,2,3\n4,5,6,7\n"),
        *(b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="columns must be hash,"):
        nasbench101.accuracies(tmp_path / name)


def test_packed_files_that_are_damaged_are_refused(tmp_path):
    content = f"hash,accuracy\n{A},0.9\n".encode() * 1000
    for packed in (gzip.compress, lzma.compress, bz2.compress):
        with pytest.raises(ValueError, match="damaged or cut short"):
            accuracies_of(tmp_path / "t", packed(content)[:-20])
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as two:
        two.writestr("a.csv", "")
        two.writestr("b.csv", "")
    with pytest.raises(ValueError, match="has 2 files"):
        nasbench101.accuracies(tmp_path / "two.zip")


def test_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        nasbench101.accuracies(tmp_path / "none.csv")
