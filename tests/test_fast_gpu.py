"""What runs on a GPU, on a CPU: operations against PyTorch's in float64, and recorded steps."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from small import specs
from torch import nn

from tools.gpu import ROOT, again, not_compiled
from unnas import data, ops, search, study, tasks, train
from unnas.fast import gpu, kernels
from unnas.spaces import darts, nasbench101

# the kernels themselves, in Triton's interpreter where there is no GPU (see conftest.py)
COMPILERS = [not_compiled, gpu.tiled]


def on_cpu(path="compiled", compiler=not_compiled, record=again):
    return gpu.on(gpu.PATHS[path], device="cpu", compiler=compiler, record=record)


def outputs_and_gradients(module, x, *more):
    """Of a module in training, and its statistics afterwards; the module stays as it is."""
    module = copy.deepcopy(module)
    x = x.clone().requires_grad_()
    y = module(x, *more)
    g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(y, [x, *module.parameters()], g, materialize_grads=True)
    return [y, *gradients, *module.buffers()]


def assert_twins(module, x, compiler=not_compiled, **tolerance):
    """That a module gives the same, with gradients and statistics, on both paths; and that the
    other one is taken.
    """
    used = []

    def counted(function):
        compiled = compiler(function)
        return lambda *given: used.append(function) or compiled(*given)

    with kernels.plain():
        expected = outputs_and_gradients(module, x)
        assert not used
        with on_cpu(compiler=counted):
            found = outputs_and_gradients(module, x)
    assert used
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def with_random_weights(module):
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -1, 1)
    return module.double()


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", [name for name in ops.OPS if "3x3" in name or "5x5" in name])
def test_an_operation(op, stride, size, compiler):
    torch.manual_seed(0)
    module = with_random_weights(ops.operation(op, 4, stride))
    x = torch.randn(3, 4, *size, dtype=torch.double)
    assert_twins(module, x, compiler)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("make", [ops.Unit, ops.FactorizedReduce])
def test_what_stands_before_a_cell(make, affine, compiler):
    torch.manual_seed(0)
    module = with_random_weights(make(5, 6, affine=affine))
    x = torch.randn(3, 5, 7, 8, dtype=torch.double)
    assert_twins(module, x, compiler)


def test_more_channels_than_a_program_can_mix(monkeypatch):
    monkeypatch.setattr(gpu, "MIXED", 15)
    torch.manual_seed(0)
    module = with_random_weights(ops.operation("sep_conv_3x3", 4))
    assert_twins(module, torch.randn(3, 4, 8, 7, dtype=torch.double), gpu.tiled)


def test_maps_of_many_programs(monkeypatch):
    tiles = pytest.importorskip("unnas.fast.tiles")
    for name, value in dict(NUMBERS=32, PARTS=64, FILTER_PARTS=5).items():
        monkeypatch.setattr(tiles, name, value)
    torch.manual_seed(0)
    for op in ("dil_conv_3x3", "max_pool_3x3"):
        module = with_random_weights(ops.operation(op, 4))
        assert_twins(module, torch.randn(2, 4, 7, 5, dtype=torch.double), gpu.tiled)


def test_means_far_from_zero_do_not_cost_the_variance():
    torch.manual_seed(0)
    module = ops.Unit(4, 4, affine=False)
    nn.init.constant_(module.pointwise.weight, 1000.0)
    x = 1 + 0.001 * torch.randn(64, 4, 9, 9)
    with on_cpu(compiler=gpu.tiled), kernels.plain():
        y = module(x)
    z = 1000 * x.double().sum(1, keepdim=True).expand_as(x)
    exact = nn.functional.batch_norm(z, None, None, training=True)
    torch.testing.assert_close(y.double(), exact, atol=2e-3, rtol=0)


def test_a_pool_that_was_changed_is_pytorchs():
    pool = ops.operation("max_pool_3x3", 4)
    pool.kernel_size, pool.padding = 5, 2
    x = torch.randn(2, 4, 8, 8)
    with on_cpu(), kernels.plain():
        assert torch.equal(pool(x), nn.functional.max_pool2d(x, 5, 1, 2))


def test_the_kernels_compile_for_a_gpu():
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.compile_tiles"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "_mix_gradients_kernel" in done.stdout


def test_maps_of_half_precision_keep_their_type_and_sums_do_not_lose_theirs():
    torch.manual_seed(0)
    unit = ops.Unit(4, 4, kernels.DepthwiseConv(4, 3, 1, 1))
    x = 100 + torch.randn(64, 4, 16, 16)  # its variance is lost in sums of bf16
    with on_cpu(), kernels.plain():
        y = gpu.norm(unit.norm, x.bfloat16())
    assert y.dtype == torch.bfloat16
    exact = x.bfloat16().double()
    mean, var = exact.mean((0, 2, 3)), exact.var((0, 2, 3), correction=0)
    normalized = (exact - mean[:, None, None]) / var[:, None, None].add(1e-5).sqrt()
    torch.testing.assert_close(y.double(), normalized, atol=0.02, rtol=0.01)


def network_of(space, task):
    torch.manual_seed(0)
    if space == "darts":
        return darts.build(darts.sample(1, seed=1)[0], task, stem="cifar", width=4, depth=3)
    cell = nasbench101.sample(1, seed=1)[0]
    return nasbench101.build(cell, task, stem="cifar", width=4, stacks=3, cells_per_stack=1)


@pytest.mark.parametrize("task", ["cls", "rot", "col", "jig"])
@pytest.mark.parametrize("space", ["darts", "nasbench101"])
def test_a_network_of_each_task(space, task):
    task = tasks.get(task, num_classes=10) if task == "cls" else tasks.get(task)
    images = torch.randint(256, (4, 3, 24, 24), dtype=torch.uint8)
    labels = torch.arange(4)
    generator = torch.Generator().manual_seed(0)
    inputs, _ = task.batch(images, labels if task.labels else None, True, generator)
    module, inputs = network_of(space, task).double(), inputs.double()
    assert_twins(module, inputs, rtol=1e-6, atol=1e-9)


def test_a_segmentation_network():
    torch.manual_seed(0)
    task = tasks.segmentation(5, channels=8, rates=(1, 2))
    genotype = darts.sample(1, seed=1)[0]
    module = darts.build(genotype, task, stem="imagenet", width=4, depth=3).double()
    x = torch.randn(2, 3, 33, 41, dtype=torch.double)
    assert_twins(module.eval(), x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("partial_channels", [1, 2])
def test_a_supernet_and_its_alphas(partial_channels):
    torch.manual_seed(0)
    options = dict(stem="cifar", width=8, depth=3, partial_channels=partial_channels)
    module = search.Supernet(tasks.rotation(), **options).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.double)
    assert_twins(module, x, rtol=1e-6, atol=1e-9)


RECIPE = train.Recipe(epochs=2, batch_size=20, lr=0.05, clip=5.0, schedule="step", drop_path=0.2)


def trained(path, record, checkpoint=None, recipe=RECIPE, **options):
    """The history of ten steps of a small training; the network."""
    task = tasks.rotation()
    images = data.load("synthetic-objects", "train", image_size=16, num_images=100).unlabeled()
    torch.manual_seed(0)
    genotype = darts.sample(1, seed=1)[0]
    size = dict(stem="cifar", width=4, depth=3, drop_path=recipe.drop_path)
    net = darts.build(genotype, task, **size)
    with kernels.plain(), on_cpu(path, record=record):
        history = train.fit(
            net, task, images, images.subset(range(30)), recipe, checkpoint=checkpoint, **options
        )
    return history, net


@pytest.fixture(scope="module")
def plain_training():
    return trained("plain", None)


@pytest.fixture(scope="module")
def recorded_training():
    return trained("graphs", again)


def test_recorded_steps_are_the_steps(plain_training, recorded_training):
    """Up to the learning rate and the rate of drop path, which are tensors of float32."""
    (plain, net), (recorded, twin) = plain_training, recorded_training
    assert recorded.loss == pytest.approx(plain.loss, rel=1e-4)
    assert recorded.score == plain.score
    torch.testing.assert_close(twin.state_dict(), net.state_dict(), rtol=1e-2, atol=1e-3)
    assert plain.how == dict(cuda_graphs=False, compiled=False)
    assert recorded.how == dict(cuda_graphs=True, compiled=False)


@pytest.mark.parametrize("space", ["darts", "nasbench101"])
def test_ten_steps_of_compiled_operations(space):
    def losses(path):
        net = network_of(space, tasks.rotation()).double()
        sgd = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, nesterov=True)
        generator = torch.Generator().manual_seed(0)
        with kernels.plain(), on_cpu(path):
            for _ in range(10):
                x = torch.randn(6, 3, 16, 16, dtype=torch.double, generator=generator)
                loss = nn.functional.cross_entropy(net(x), torch.arange(6) % 4)
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                yield loss.item()

    assert [*losses("compiled")] == pytest.approx([*losses("plain")], rel=1e-8)


def test_a_run_of_compiled_operations(plain_training):
    plain, _ = plain_training
    compiled, _ = trained("compiled", again)
    assert compiled.loss == pytest.approx(plain.loss, rel=0.01) and compiled.loss != plain.loss
    assert compiled.how == dict(cuda_graphs=True, compiled=True)


def test_a_recorded_run_that_is_cut_off_continues(tmp_path, monkeypatch, recorded_training):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)
    whole, _ = recorded_training

    def cut(epochs, history):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        trained("graphs", again, tmp_path / "run.pt", on_epoch=cut)
    assert trained("graphs", again, tmp_path / "run.pt")[0].loss == whole.loss


def test_a_run_that_cannot_be_recorded_says_why_and_goes_on(plain_training):
    def impossible(step):
        step()
        raise RuntimeError("operation not permitted\nwhen a stream is capturing")

    plain, _ = plain_training
    fallen_back, _ = trained("graphs", impossible)
    assert fallen_back.loss == pytest.approx(plain.loss, rel=1e-4)
    assert fallen_back.how == dict(
        cuda_graphs=False, compiled=False, note="not recorded: operation not permitted"
    )


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_recorded_search_is_the_search(order):
    images = data.load("synthetic-objects", "train", image_size=16, num_images=40).unlabeled()
    recipe = search.SearchRecipe(
        epochs=2, batch_size=10, lr=0.05, alpha_lr=0.01, held_out=0.1, alpha_start=0.5, order=order
    )

    def searched(path, record):
        torch.manual_seed(0)
        net = search.Supernet(tasks.rotation(), stem="cifar", width=4, depth=3)
        with kernels.plain(), on_cpu(path, record=record):
            return search.fit(net, tasks.rotation(), images, recipe)

    plain, recorded = searched("plain", None), searched("graphs", again)
    assert recorded.how["cuda_graphs"] and not plain.how["cuda_graphs"]
    assert plain.loss == pytest.approx(recorded.loss, rel=1e-4)
    assert plain.alpha_loss == pytest.approx(recorded.alpha_loss, rel=1e-4, nan_ok=True)
    for before, after in zip(plain.tables, recorded.tables):
        assert list(before) == list(after)
        for name in before:
            # finite differences of float32 are noise where a gradient is small, and Adam takes a
            # step of the same length for it: here up to a fifth of one
            atol = 1e-4 if order == 1 else 5e-3
            torch.testing.assert_close(
                torch.tensor(before[name]), torch.tensor(after[name]), rtol=1e-2, atol=atol
            )


def test_the_record_says_how_it_was_made(tmp_path):
    (spec,) = specs(1)
    with kernels.plain(), on_cpu("graphs"):
        made = study.run(spec)["provenance"]
    assert made["cuda_graphs"] and not made["compiled"]


def test_the_path_can_be_chosen(monkeypatch):
    device = torch.device("cuda")
    monkeypatch.setenv("UNNAS_GPU", "plain")
    assert gpu.choose(device, 10**6) == gpu.Path()
    monkeypatch.setenv("UNNAS_GPU", "compiled")
    assert gpu.choose(device, 1) == gpu.Path(graphs=True, compiled=True)
    assert gpu.choose(torch.device("cpu"), 1) == gpu.Path()
    monkeypatch.setenv("UNNAS_GPU", "fastest")
    with pytest.raises(ValueError, match="UNNAS_GPU='fastest': unknown; choose one of auto, plain"):
        gpu.choose(device, 1)
