"""The NAS-Bench-201 space, against published numbers and slow versions that share no code with
it.
"""

import gzip
import itertools
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unnas import complexity, spaces, tasks, train
from unnas.spaces import nasbench201
from unnas.spaces.nasbench201 import OPS, Cell, CellBlock, accuracies, build, enumerate_cells

NONE, SKIP, CONV1, CONV3, POOL = OPS
MIXED = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
NOTHING, FULL = str(Cell([NONE] * 6)), str(Cell([CONV3] * 6))


@pytest.fixture(scope="module")
def cells():
    return list(enumerate_cells())


# --- the cell


def test_the_text_says_where_each_operation_is():
    cell = Cell.parse(f" {MIXED}\n")
    assert cell.ops == (CONV3, CONV1, POOL, SKIP, NONE, CONV3) and str(cell) == MIXED
    assert cell.expression() == (
        "nor_conv_3x3(avg_pool_3x3(nor_conv_3x3(x)) + nor_conv_1x1(x)) + x"
    )


def test_a_cell_is_a_value():
    cell = Cell([CONV3] * 6)
    assert {cell: 1}[Cell((CONV3,) * 6)] == 1
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    with pytest.raises(AttributeError):
        cell.ops = ()


@pytest.mark.parametrize(
    "text, reason",
    [
        (None, "cell=None: must be a text; write |OP~0|"),
        ("", "has 1 nodes, and a cell has 3"),
        (f"{MIXED}+|none~0|", "has 4 nodes, and a cell has 3"),
        (MIXED[1:], "node 1 must stand between two bars"),
        (MIXED.replace("|avg_pool_3x3~1", ""), "node 2 has 1 edges, and must have 2"),
        (MIXED.replace("|none~1", "|none~1|none~1"), "node 3 has 4 edges, and must have 3"),
        (MIXED.replace("none", "zero"), "unknown operation 'zero' of node 3; the known ones"),
        (MIXED.replace("none~1", "none~2"), "edge 1 of node 3 must end in ~1"),
        (MIXED.replace("none~1", "none"), "edge 1 of node 3 must end in ~1"),
    ],
)
def test_other_texts_are_refused(text, reason):
    with pytest.raises(ValueError) as error:
        Cell.parse(text)
    assert reason in str(error.value) and str(error.value).startswith("cell=")
    assert "\n" not in str(error.value) and len(str(error.value)) < 320


@pytest.mark.parametrize(
    "ops, reason",
    [
        (3, "ops=3: must be a list of six operations"),
        (MIXED, "must be a list of six operations; see Cell.parse"),
        ([CONV3] * 5, "ops: has 5 operations; give 6"),
        ([CONV3] * 5 + ["conv"], "ops='conv'"),
    ],
)
def test_other_operations_are_refused(ops, reason):
    with pytest.raises(ValueError, match=reason):
        Cell(ops)


@pytest.mark.parametrize("fields", [None, {}, {"cell": MIXED, "ops": []}, {"ops": []}, [MIXED]])
def test_other_dictionaries_are_refused(fields):
    with pytest.raises(ValueError, match="must be a dictionary with the key 'cell' alone"):
        Cell.from_dict(fields)


# --- the space


def test_every_text_leads_back(cells):
    assert len(set(map(str, cells))) == nasbench201.SIZE == 5**6
    assert all(Cell.parse(str(cell)) == cell for cell in cells)


def test_sample():
    sampled = nasbench201.sample(2000, seed=3)
    assert len(set(sampled)) == 2000 and nasbench201.sample(20, seed=3) == sampled[:20]
    assert nasbench201.sample(20, seed=4) != sampled[:20]
    assert len(set(nasbench201.sample(nasbench201.SIZE, seed=0))) == nasbench201.SIZE
    # uniform on each edge: 2000 draws of five, within four standard deviations
    for edge in zip(*(cell.ops for cell in sampled)):
        assert all(abs(edge.count(op) - 400) < 4 * 18 for op in OPS)
    with pytest.raises(ValueError, match="n=0"):
        nasbench201.sample(0, seed=0)
    with pytest.raises(ValueError, match="seed=-1"):
        nasbench201.sample(1, seed=-1)


def values_of(cells, at_none, kept):
    """The output of each cell where each operation is a nonlinear function that keeps 0, sums are
    sums, and `none` is the number `at_none`, which an operation keeps if `kept`.
    """
    coefficients = dict(zip(OPS[2:], np.random.default_rng(0).normal(size=(3, 3))))
    outputs = []
    for cell in cells:
        states, ops = [0.7312], iter(cell.ops)
        for node in (1, 2, 3):
            total = 0.0
            for source in range(node):
                op, x = next(ops), states[source]
                if op == NONE or (kept and x == at_none and op != SKIP):
                    x = at_none
                elif op != SKIP:
                    a, b, c = coefficients[op]
                    x = np.sin(a * x + b * x**2 + c * x**3)
                total += x
            states.append(total)
        outputs.append(round(states[3], 9))
    return outputs


def test_expressions_are_equal_exactly_where_the_values_are(cells):
    """By their numbers, without any text."""
    values, expressions = values_of(cells, 0.0, kept=False), [c.expression() for c in cells]
    assert len(set(values)) == len(set(expressions)) == len(set(zip(values, expressions))) == 4930


def test_topologies_are_as_many_as_published(cells):
    """Dong and Yang (2020) count 6,466; cells with the same topology have the same value, even
    where `none` is a number that sums show.
    """
    values, topologies = values_of(cells, 0.1234, kept=True), [c.topology() for c in cells]
    assert len(set(topologies)) == len(set(zip(values, topologies))) == 6466


def test_cells_without_a_path(cells):
    """From the input, over edges that are not none, by search in the graph."""
    without = 0
    for cell in cells:
        reached = {0}
        for op, (node, source) in zip(cell.ops, nasbench201.EDGES):
            reached |= {node} if op != NONE and source in reached else set()
        assert (3 not in reached) == (cell.expression() == "0")
        without += 3 not in reached
    assert without == 341


# --- networks


def plain_operation(op, edge, x):
    """An operation from its definition, with the weights of the module `edge`."""
    if op == NONE:
        return 0 * x
    if op == SKIP:
        return x
    if op == POOL:
        # the mean of the pixels that are there
        window = torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype)
        sums = F.conv2d(x, window, padding=1, groups=x.shape[1])
        return sums / F.conv2d(torch.ones_like(x), window, padding=1, groups=x.shape[1])
    _, conv, norm = edge
    y = F.conv2d(x.relu(), conv.weight, padding=conv.weight.shape[-1] // 2)
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, correction=0)
    scale, shift = (p[None, :, None, None] for p in (norm.weight, norm.bias))
    return (y - mean) / (var + 1e-5).sqrt() * scale + shift


@pytest.mark.parametrize("text", [MIXED, FULL, NOTHING])
def test_a_cell_computes_what_its_definition_says(text):
    torch.manual_seed(0)
    cell = Cell.parse(text)
    block = CellBlock(cell, 4).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x, states = torch.randn(3, 4, 5, 5, dtype=torch.float64), {}
    edges, states[0] = dict(zip(nasbench201.EDGES, zip(cell.ops, block.edges))), x
    for node in (1, 2, 3):
        states[node] = sum(
            plain_operation(*edges[node, source], states[source]) for source in range(node)
        )
    torch.testing.assert_close(block(x), states[3])


def test_cells_with_equal_expressions_compute_the_same(cells):
    """If equal operations on equal paths have equal weights, as here; in evaluation mode, before
    any training.
    """
    torch.manual_seed(0)
    modules = {op: nasbench201.operation(op, 3).double().eval() for op in OPS}
    x, found = torch.randn(1, 3, 4, 4, dtype=torch.float64), {}
    with torch.no_grad():
        for cell in cells[::7]:
            out = nasbench201.add_up([modules[op] for op in cell.ops], x)
            first = found.setdefault(cell.expression(), out)
            torch.testing.assert_close(out, first)
            assert cell.expression() != "0" or not out.any()


def by_hand(cell, width, depth, classes, side):
    """Parameters, and multiply-adds of convolutions and of the classifier, by formulas."""
    kernels = {CONV1: 1, CONV3: 9}
    parameters, adds = 27 * width + 2 * width, 27 * width * side**2
    for stage in range(3):
        c, pixels = width * 2**stage, (side // 2**stage) ** 2
        if stage:
            # two convolutions of 3x3 with normalization, and a projection
            parameters += 9 * (c // 2) * c + 9 * c * c + 4 * c + (c // 2) * c
            adds += (9 * (c // 2) * c + 9 * c * c + (c // 2) * c) * pixels
        for op in cell.ops:
            if op in kernels:
                parameters += depth // 3 * (kernels[op] * c * c + 2 * c)
                adds += depth // 3 * kernels[op] * c * c * pixels
    return parameters + 2 * c + (c + 1) * classes, adds + c * classes


# parameters and FLOPs as published for the three data sets, of the smallest network, the largest,
# and the first of the benchmark's own list (D-X-Y/NATS-Bench, issue 24, and ranges over its files)
FIRST = (
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|"
    "+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
)
PUBLISHED = {
    (10, 32): [(NOTHING, 0.073306, 7.78305), (FULL, 1.531546, 220.11969), (FIRST, None, 15.64737)],
    (100, 32): [(NOTHING, 0.079156, 7.7889), (FULL, 1.537396, 220.12554), (FIRST, None, 15.65322)],
    (120, 16): [(NOTHING, 0.080456, 1.9534), (FULL, 1.538696, 55.03756), (FIRST, None, 3.91948)],
}


@pytest.mark.parametrize("classes, side", PUBLISHED)
def test_published_sizes(classes, side):
    for text, parameters, flops in PUBLISHED[classes, side]:
        with torch.device("meta"):
            network = build(Cell.parse(text), tasks.classification(classes), stem="cifar")
        multiply_adds, own = complexity.count(network, (3, side, side))
        assert (own, multiply_adds) == by_hand(Cell.parse(text), 16, 15, classes, side)
        assert round((multiply_adds + classes) / 1e6, 6) == flops
        assert parameters is None or own == round(1e6 * parameters)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("side", [32, 33, 41])
def test_shapes(stem, side):
    network = build(Cell.parse(MIXED), tasks.rotation(), stem=stem, width=4, depth=3)
    maps = network.forward_features(torch.zeros(2, 3, side, side))
    first = side if stem == "cifar" else -(-side // 8)
    sides = [first, -(-first // 2), -(-first // 4)]
    assert [tuple(m.shape) for m in maps] == [(2, 4 * 2**i, s, s) for i, s in enumerate(sides)]
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 4)
    features = network.eval().features(torch.zeros(2, 3, side, side))
    assert features.shape == (2, 16)
    logits = network(torch.zeros(2, 3, side, side))
    network.head = nn.Identity()
    pooled = network(torch.zeros(2, 3, side, side)).mean((2, 3))
    torch.testing.assert_close(pooled, features)
    assert not torch.equal(logits, pooled[:, :4])


@pytest.mark.parametrize(
    "name, shape, outputs",
    [
        ("cls", (3, 16, 16), (7,)),
        ("rot", (3, 16, 16), (4,)),
        ("col", (1, 16, 16), (313, 16, 16)),
        ("jig", (4, 3, 6, 6), (24,)),
        ("seg", (3, 16, 16), (7, 16, 16)),
    ],
)
def test_each_task_reaches_each_weight(name, shape, outputs):
    options = dict(num_classes=7) if name in ("cls", "seg") else {}
    task = tasks.get(name, **options)
    network = build(Cell.parse(MIXED), task, stem="cifar", width=4, depth=3)
    out = network(torch.rand(2, *shape))
    assert out.shape == (2, *outputs)
    out.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    halved = network.forward_features(torch.rand(2, *shape))
    assert halved[-1].shape[-1] == (shape[-1] // 2 if name == "seg" else -(-shape[-1] // 4))


def test_every_kind_of_cell_trains():
    """One step changes the classifier even where nothing arrives from the input."""
    for cell in [Cell.parse(NOTHING), *nasbench201.sample(4, seed=0)]:
        network = build(cell, tasks.rotation(), stem="cifar", width=4, depth=3)
        train.check_network(network)
        before = network.head.linear.bias.detach().clone()
        sgd = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        loss = F.cross_entropy(network(torch.rand(8, 3, 8, 8)), torch.arange(8) % 3)
        loss.backward()
        sgd.step()
        assert not torch.equal(before, network.head.linear.bias) and loss.isfinite()


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(cell=MIXED), "must be a Cell; make one with Cell.parse"),
        (dict(stem="large"), "stem='large'"),
        (dict(width=0), "width=0"),
        (dict(width=5, stem="imagenet"), "width=5: must be even for the imagenet stem; pass 6"),
        (dict(depth=0), "depth=0"),
        (dict(depth=5), "depth=5: .* choose a multiple of 3"),
        (dict(auxiliary=True), "auxiliary_weight, drop_path: .* neither"),
        (dict(drop_path=0.1), "auxiliary_weight, drop_path: .* neither"),
    ],
)
def test_build_refuses(change, reason):
    options = dict(cell=Cell.parse(MIXED), stem="cifar", width=4, depth=3) | change
    with pytest.raises(ValueError, match=reason):
        build(options.pop("cell"), tasks.rotation(), **options)


def test_operation_refuses():
    with pytest.raises(ValueError, match="op='sep_conv_3x3'"):
        nasbench201.operation("sep_conv_3x3", 4)


def test_its_sizes_follow_those_of_nasbench101():
    from unnas import study

    for scale, (width, depth) in dict(smoke=(8, 3), laptop=(16, 3), paper=(16, 15)).items():
        grid = study.grid("fig2", scale)
        known = {space: grid.settings[space, "rot"] for space in grid.spaces}
        setting = spaces.setting_of("nasbench201", known)
        assert (setting.width, setting.depth) == (width, depth)
        assert setting.recipe == known["nasbench101"].recipe


def test_plot_names_the_operations():
    texts = {text.get_text() for text in nasbench201.plot(Cell.parse(MIXED)).axes[0].texts}
    assert texts >= {"input", "output", "none", "skip", "conv 1×1", "conv 3×3", "avg pool 3×3"}


# --- tables


@pytest.fixture
def table(tmp_path):
    def write(rows, columns="architecture,cifar10_valid,cifar100,imagenet16_120"):
        path = tmp_path / "table.csv"
        lines = [columns, *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


ROWS = [(MIXED, 90.5, 70.25, 44.5), (NOTHING, 9.712, 1.0, 0.8333), (FULL, 91.5, 71.5, 45)]


def test_a_table_in_percent(table, recwarn):
    frame = accuracies(table(ROWS))
    assert frame.index.tolist() == [MIXED, NOTHING, FULL] and frame.index.name == "cell"
    assert frame.to_numpy().tolist() == [list(row[1:]) for row in ROWS] and not recwarn
    assert frame.attrs["shares"] == []


def test_shares_become_percent_and_are_named(table, recwarn):
    rows = [(text, a / 100, b / 100, c) for text, a, b, c in ROWS]
    frame = accuracies(table(rows))
    np.testing.assert_allclose(frame, [row[1:] for row in ROWS])
    assert frame.attrs["shares"] == ["cifar10_valid", "cifar100"] and not recwarn


def test_most_cells_may_be_at_guessing(table):
    """Which of 100 classes is 1%, and must not be taken for all."""
    rows = [(NOTHING, 10, 1.0, 0.8333)] * 3 + [(MIXED, 90, 70, 44)]
    with pytest.warns(UserWarning, match="runs of a cell that has several, averaged: 3"):
        frame = accuracies(table(rows))
    assert frame.loc[NOTHING, ["cifar100", "imagenet16_120"]].tolist() == [1.0, 0.8333]


def test_rows_for_the_cells_that_are_asked_for(table):
    asked = [Cell.parse(FULL), Cell.parse(FIRST), Cell.parse(MIXED)]
    with pytest.warns(UserWarning, match="1 of 3 cells are not in the file"):
        frame = accuracies(table(ROWS), asked)
    assert frame.index.tolist() == list(map(str, asked))
    assert frame["cifar100"].isna().tolist() == [False, True, False]


def test_what_is_left_out_missing_or_double_is_said_in_one_line(table):
    rows = [(MIXED, 90, "", 0.8), (MIXED, 92, 70, 0.9), (FULL, "nan", 71, 1.5)]
    with pytest.warns(UserWarning) as said:
        frame = accuracies(table(rows, "cell,c10,c100,params"))
    assert len(said) == 1 and str(said[0].message).endswith(
        "columns left out, because they are no accuracies: params; missing values: 2; runs of a"
        " cell that has several, averaged: 2; runs of a cell: 1 to 2"
    )
    assert frame.loc[MIXED, ["c10", "c10_sd", "c100"]].tolist() == [91, 2**0.5, 70]
    assert np.isnan(frame.loc[FULL, "c10"]) and len(frame) == 2


@pytest.mark.parametrize(
    "rows, reason",
    [
        ([ROWS[0], (MIXED[:-1], 1, 1, 1)], r"row 1 \(counted from 0\) is not a cell: cell="),
        ([ROWS[0], ("", 1, 1, 1)], r"row 1 \(counted from 0\) is not a cell"),
        ([ROWS[0], (FULL.replace("nor", "sep"), 1, 1, 1)], "unknown operation 'sep_conv_3x3'"),
        ([ROWS[0], (FULL, 0.915, 71, 45)], "'cifar10_valid' has 0.915 in row 1"),
        ([ROWS[0], (FULL, 91, 0.71, 45)], "'cifar100' has 0.71 in row 1"),
        ([ROWS[0], (FULL, 91, 71, 0.45)], "'imagenet16_120' has 0.45 in row 1"),
        ([ROWS[0], (FULL, 191, 71, 45)], "'cifar10_valid' has 191 in row 1"),
        ([ROWS[0], (FULL, 91, -71, 45)], "'cifar100' has -71 in row 1"),
        ([ROWS[0], (FULL, "high", 71, 45)], "'cifar10_valid' has no number in row 1"),
        ([("x", 91, 71, 45)], "not a table of NAS-Bench-201 accuracies; it must have a column"),
    ],
)
def test_wrong_tables_are_refused(table, rows, reason):
    with pytest.raises(ValueError, match=reason) as error:
        accuracies(table(rows))
    assert "table.csv" in str(error.value) and "\n" not in str(error.value)


def test_tables_of_others_are_refused(tmp_path, table):
    path = table([("0" * 32, 0.9)], "hash,val108")
    with pytest.raises(ValueError, match="NAS-Bench-201 accuracies; .* and are 'hash', 'val108'"):
        accuracies(path)
    with pytest.raises(ValueError, match="and are 'cell', 'params'"):
        accuracies(table([(MIXED, 0.8)], "cell,params"))
    with pytest.raises(ValueError, match="not a table of NAS-Bench-101 accuracies"):
        spaces.nasbench101.accuracies(table(ROWS))
    with pytest.raises(FileNotFoundError, match="pass a table of NAS-Bench-201 accuracies"):
        accuracies(tmp_path / "none.csv")


def test_files_of_python_objects_are_not_opened(tmp_path):
    torch.save({"a": 1}, tmp_path / "new.pth")
    torch.save({"a": 1}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "a.pickle").write_bytes(pickle.dumps({"a": 1}))
    for name in ("new.pth", "old.pth", "a.pickle"):
        with pytest.raises(ValueError, match="is a file of Python objects, which could run any"):
            accuracies(tmp_path / name)


@pytest.mark.parametrize("kind", ["gz", "zip", "semicolons"])
def test_notations(tmp_path, kind):
    path = tmp_path / "table"
    text = "arch;cifar100\n" + "".join(f"{row[0]};{row[2]}\n" for row in ROWS).replace(".", ",")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("a.csv", text)
    else:
        path.write_bytes(gzip.compress(text.encode()) if kind == "gz" else text.encode())
    assert accuracies(path)["cifar100"].tolist() == [70.25, 1, 71.5]


@pytest.mark.parametrize(
    "column, guess",
    [
        ("cifar10_valid", 10),
        ("cifar-10", 10),
        ("c10", 10),
        ("cifar100", 1),
        ("x_cifar_100_test", 1),
        ("imagenet16_120", 100 / 120),
        ("accuracy", 100 / 120),
    ],
)
def test_what_guessing_gets(column, guess):
    assert nasbench201._guess(column) == guess


def test_edges_are_in_the_order_of_the_text():
    ops = itertools.cycle(OPS)
    cell = Cell([next(ops) for _ in range(6)])
    parts = [edge for node in str(cell).split("+") for edge in node.strip("|").split("|")]
    assert parts == [f"{op}~{s}" for op, (_, s) in zip(cell.ops, nasbench201.EDGES)]
