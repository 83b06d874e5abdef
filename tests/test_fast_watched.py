"""The fast twins step aside for whoever counts, hooks, traces, exports, transforms or replaces."""

import copy
import itertools
import pickle
from collections import Counter

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from unnas import complexity, paper, search, tasks
from unnas.fast import kernels
from unnas.fast.cells import _CellFunction
from unnas.fast.supernet import _CellFunction as _SearchCellFunction
from unnas.spaces import darts, nasbench101

ROT = darts.Genotype.from_dict(paper.GENOTYPES["imagenet_rot"])
ALL = darts.Genotype(  # all eight operations, in both cells
    tuple(zip(list(search.OPS), (0, 1, 1, 2, 0, 3, 2, 4))),
    (2, 3, 4, 5),
    tuple(zip(reversed(list(search.OPS)), (0, 1, 1, 2, 0, 1, 2, 4))),
    (2, 3, 4, 5),
)


def network_of(genotype=ALL):
    torch.manual_seed(0)
    return darts.build(genotype, tasks.classification(10), stem="cifar", width=4, depth=3).double()


def supernet():
    torch.manual_seed(0)
    return search.Supernet(tasks.rotation(), stem="cifar", width=4, depth=3).double()


def of_nasbench101():
    torch.manual_seed(0)
    (cell,) = nasbench101.sample(1, 0)
    return nasbench101.build(cell, tasks.classification(10), stem="cifar", width=8).double()


BUILDERS = [network_of, supernet, of_nasbench101]
PIECES = {network_of: 3, supernet: 3, of_nasbench101: 0}  # see `pieces`


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def pieces(network, x):
    """How many cells are computed in one piece."""
    found, todo = 0, [network(x).sum().grad_fn]
    seen = set(todo)
    while todo:
        node = todo.pop()
        found += type(node).__name__ == f"{_CellFunction.__name__}Backward"
        new = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= new
        todo += new
    return found


def assert_plain(network, x):
    """The network computes in no piece, and what the plain one does."""
    assert pieces(network, x) == 0
    network.eval()
    with kernels.plain():
        expected = network(x)
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("build", BUILDERS[:2])
def test_cells_are_computed_in_one_piece_where_nobody_looks_on(build, x):
    assert _CellFunction.__name__ == _SearchCellFunction.__name__
    assert pieces(build(), x) == 3


@pytest.mark.parametrize("build", BUILDERS)
def test_counters_of_operations_see_all_of_them(build, x):
    network = build().eval()
    expected, _ = complexity.count(network, x.shape[1:])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x[:1])
    assert counter.get_total_flops() == 2 * expected
    with FlopCounterMode(display=False) as counter:
        network.train()(x).sum().backward()
    with kernels.plain(), FlopCounterMode(display=False) as plain:
        network(x).sum().backward()
    assert counter.get_total_flops() == plain.get_total_flops()


HOOKS = {
    "forward": lambda module, see: module.register_forward_hook(lambda m, i, o: see(m)),
    "pre": lambda module, see: module.register_forward_pre_hook(lambda m, i: see(m)),
    "kwargs": lambda module, see: module.register_forward_hook(
        lambda m, i, k, o: see(m), with_kwargs=True, always_call=True
    ),
    "backward": lambda module, see: module.register_full_backward_hook(lambda m, i, o: see(m)),
    "backward pre": lambda module, see: module.register_full_backward_pre_hook(lambda m, o: see(m)),
}


def mostly_long(cases, *few):
    """The parameters of `cases`, of which only `few` are for every day."""
    return [
        pytest.param(*case, marks=pytest.mark.slow if case in few else pytest.mark.long)
        for case in cases
    ]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(
    "build, kind",
    mostly_long(
        [*itertools.product(BUILDERS, HOOKS)],
        *((network_of, kind) for kind in ("forward", "kwargs", "backward")),
        (supernet, "pre"),
        (supernet, "backward"),
        (of_nasbench101, "backward pre"),
    ),
)
def test_a_hook_on_any_module_is_called(build, kind, x):
    network = build()
    with kernels.plain():
        called = Counter()
        names = {module: name for name, module in network.named_modules()}
        handles = [HOOKS[kind](m, lambda m: called.update([names[m]])) for m in names]
        network(x).sum().backward()
        for handle in handles:
            handle.remove()
    kinds = {(type(network.get_submodule(name)), name.count(".")): name for name in called}
    for name in kinds.values():  # one of each class and depth
        seen = []
        handle = HOOKS[kind](network.get_submodule(name), seen.append)
        network(x).sum().backward()
        assert len(seen) == called[name], name
        handle.remove()
    assert pieces(network, x) == PIECES[build]  # so each hook was the only reason to step aside


def test_a_hook_on_a_cell_sees_images(x):
    network, seen = network_of(), []
    network.cells[1].register_forward_hook(lambda m, i, o: seen.extend([*i, o]))
    network(x)
    assert [part.dim() for part in seen] == [4, 4, 4] and {len(part) for part in seen} == {2}


@pytest.mark.parametrize(
    "register",
    [
        register_module_forward_hook,
        register_module_forward_pre_hook,
        register_module_full_backward_hook,
    ],
)
def test_hooks_on_all_modules_are_called(register, x):
    network, called = network_of(), []
    handle = register(lambda module, *others: called.append(module))
    try:
        network(x).sum().backward()
    finally:
        handle.remove()
    assert network.cells[1].newer.norm in called
    assert pieces(network, x) == 3


class Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Operators, Functions])
@pytest.mark.parametrize("build", BUILDERS)
def test_modes_see_the_operators(build, mode, x):
    network = build()
    with mode():
        assert_plain(network, x)


@pytest.mark.parametrize("build", BUILDERS[:2])
def test_a_default_device_is_no_reason_to_step_aside(build, x):
    with torch.device("cpu"):
        assert pieces(build(), x) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", BUILDERS)
def test_traced_networks_compute_the_same(build, x):
    network = build().eval()
    expected = network(x)
    traced = torch.jit.trace(network, x, check_trace=False)  # which would trace it once more
    torch.testing.assert_close(traced(x), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "build, strict",
    mostly_long(
        [*itertools.product(BUILDERS, [False, True])],
        (network_of, False),
        (of_nasbench101, True),
    ),
)
def test_exported_networks_compute_the_same(build, strict, x):
    network = build().eval()
    exported = torch.export.export(network, (x,), strict=strict).module()
    torch.testing.assert_close(exported(x), network(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", mostly_long([(build,) for build in BUILDERS], (network_of,)))
def test_compiled_networks_compute_the_same(build, x):
    network = build()
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager", fullgraph=True)
    found, expected = compiled(x), network(x)
    torch.testing.assert_close(found, expected)
    found, expected = (
        torch.autograd.grad(out.sum(), [*net.parameters()], materialize_grads=True)
        for out, net in ((found, compiled), (expected, network))
    )
    torch.testing.assert_close(found, expected)


def test_a_network_of_which_one_cell_is_compiled(x):
    network, expected = network_of().eval(), network_of().eval()(x)
    network.cells[1].compile(backend="eager")
    torch.testing.assert_close(network(x), expected)


def test_symbolic_traces_compute_the_same(x):
    network = network_of().eval()
    traced = torch.fx.symbolic_trace(network)
    torch.testing.assert_close(traced(x), network(x))


@pytest.mark.parametrize("build", BUILDERS)
def test_transforms_of_torch_func(build, x):
    network = build().eval()
    values = dict(network.named_parameters())

    def loss(values, image):
        return torch.func.functional_call(network, values, (image[None],)).square().sum()

    each = torch.vmap(torch.func.grad(loss), (None, 0))(values, x)
    one = network(x[1:2]).square().sum()
    expected = torch.autograd.grad(one, [*values.values()], materialize_grads=True)
    torch.testing.assert_close([each[name][1] for name in values], [*expected])
    out, tangent = torch.func.jvp(network, (x,), (torch.ones_like(x),))
    with forward_ad.dual_level():
        dual = network(forward_ad.make_dual(x, torch.ones_like(x)))
        torch.testing.assert_close(forward_ad.unpack_dual(dual), (out, tangent))
    nearby = (network(x + 1e-6) - network(x - 1e-6)) / 2e-6
    torch.testing.assert_close(tangent, nearby, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("drop_path", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("build", BUILDERS)
def test_second_derivatives_are_those_of_the_plain_network(build, training, drop_path, x):
    found, network = [], build().train(training)
    if drop_path and build is network_of:
        network.drop_path = 1e-9
    for context in (kernels.plain, torch.enable_grad):
        twin, images = copy.deepcopy(network), x.clone().requires_grad_()
        with context():
            loss = twin(images).square().sum()
            (slope,) = torch.autograd.grad(loss, images, create_graph=True)
            inner = [*twin.parameters(), images]
            second = torch.autograd.grad(slope.square().sum(), inner, materialize_grads=True)
        found.append([slope, *second, *twin.buffers()])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("build", BUILDERS)
def test_copies_and_pickles_compute_the_same(build, x):
    network = build().eval()
    copies = [copy.deepcopy(network), pickle.loads(pickle.dumps(network))]
    for twin in copies:
        assert torch.equal(twin(x), network(x)) and pieces(twin, x) == pieces(network, x)
    with torch.no_grad():
        for parameter in copies[0].parameters():
            parameter.add_(0.1)
    assert not torch.equal(copies[0](x), network(x)) and torch.equal(copies[1](x), network(x))


def test_checkpointed_activations_give_the_same_gradients(x):
    found = []
    for call in (lambda net, x: net(x), lambda net, x: checkpoint(net, x, use_reentrant=False)):
        network = network_of()
        call(network, x).square().sum().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(*found)


def _first(network, kind):
    """The first module of a `kind` within a cell, its parent, and its name there."""
    for cell in network.cells:
        for parent in cell.modules():
            for name, module in parent.named_children():
                if isinstance(module, kind):
                    return parent, name, module
    raise AssertionError(kind)


def replaced(kind, new):
    def change(network):
        parent, name, module = _first(network, kind)
        setattr(parent, name, new(module))

    return change


def changed(kind, **settings):
    def change(network):
        for name, value in settings.items():
            setattr(_first(network, kind)[2], name, value)

    return change


def of_module(kind, function):
    return lambda network: function(_first(network, kind)[2])


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


class Logging(darts.Cell):
    def forward(self, older, newer):
        assert older.dim() == newer.dim() == 4
        return super().forward(older, newer)


def other_cell(network):
    torch.manual_seed(0)
    place = darts.Place((12, 12), 4, False, False)
    network.cells[0] = Logging(ALL.normal, ALL.normal_concat, place, 0.0).double()


def own_forward(module):
    forward = module.forward
    module.forward = lambda x: 2 * forward(x)


CHANGES = {
    "an activation": replaced(nn.ReLU, lambda module: nn.SiLU()),
    "a convolution with a bias": replaced(
        nn.Conv2d, lambda m: nn.Conv2d(m.in_channels, m.out_channels, 1).double()
    ),
    "a larger convolution": replaced(
        nn.Conv2d, lambda m: nn.Conv2d(m.in_channels, m.out_channels, 3, padding=1).double()
    ),
    "another norm": replaced(nn.BatchNorm2d, lambda m: nn.GroupNorm(2, m.num_features).double()),
    "no norm": replaced(nn.BatchNorm2d, lambda m: nn.Identity()),
    "a sequence": replaced(nn.Conv2d, lambda m: nn.Sequential(m, Doubled())),
    "a larger pool": changed(nn.MaxPool2d, kernel_size=5, padding=2),
    "a counting pool": changed(nn.AvgPool2d, count_include_pad=True),
    "a mean over all batches": changed(nn.BatchNorm2d, momentum=None),
    "no running statistics": changed(
        nn.BatchNorm2d, track_running_stats=False, running_mean=None, running_var=None
    ),
    "no scale": changed(nn.BatchNorm2d, weight=None, bias=None),
    "weight norm": of_module(nn.Conv2d, parametrizations.weight_norm),
    "former weight norm": of_module(nn.Conv2d, weight_norm),
    "orthogonal weights": of_module(nn.Conv2d, parametrizations.orthogonal),
    "spectral norm": of_module(nn.Conv2d, spectral_norm),
    "pruning": of_module(nn.Conv2d, lambda m: prune.random_unstructured(m, "weight", 0.5)),
    "a parametrization": of_module(
        kernels.DepthwiseConv,
        lambda m: parametrize.register_parametrization(m, "weight", Doubled()),
    ),
    "a filter without margins": changed(kernels.DepthwiseConv, padding_mode="circular"),
    "a forward of its own": of_module(nn.Conv2d, own_forward),
}
EDGES = {
    "an edge": lambda network: network.cells[1].edges.__setitem__(3, nn.Identity()),
    "an input": lambda network: setattr(
        network.cells[0], "newer", nn.Conv2d(12, 4, 1, bias=False).double()
    ),
    "a cell of one's own": other_cell,
    "a later drop path": lambda network: setattr(network.cells[0].drops[0], "rate", 0.5),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES | EDGES)
def test_changed_parts_of_a_network_count(change, x):
    network = network_of()
    (CHANGES | EDGES)[change](network)
    assert_plain(network, x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"no scale", "a mean over all batches"}))
def test_changed_parts_of_a_supernet_count(change, x):
    network = supernet()
    edges = nn.Module()
    edges.cells = [edge for cell in network.cells for edge in cell.edges]
    CHANGES[change](edges)
    seen = sum(not built.holds() for cell in network.cells for built in cell.fused.as_built)
    assert seen == 1
    network.eval()
    with kernels.plain():
        expected = network(x)
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("head", [nn.Identity, Doubled])
def test_another_head_changes_nothing_of_the_cells(head, x):
    network = network_of()
    network.head = type("Head", (nn.Module,), {"forward": lambda self, maps, size: maps})()
    assert network(x).shape == (2, 64, 2, 2) and pieces(network, x) == 3


def test_weights_may_change_as_they_like(x):
    network = network_of()
    pieces(network, x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    norm = _first(network, nn.BatchNorm2d)[2]
    norm.weight = nn.Parameter(torch.full_like(norm.weight, 3.0))
    norm.momentum = norm.eps = 0.5
    assert pieces(network, x) == 3
    twin = copy.deepcopy(network)
    with kernels.plain():
        expected = copy.deepcopy(twin)(x)
    torch.testing.assert_close(twin(x), expected)
