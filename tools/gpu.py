"""All that needs a GPU: `bash tools/gpu.sh`.

Each part is a process of its own with a time limit. What it measures is written at once, so a part
that is cut off has lost only what it was at. `--size smoke` goes through all parts with tiny
networks, on a CPU as well; its numbers mean nothing.
"""

import argparse
import copy
import csv
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity
from torch.profiler import profile as recording

from unnas import bench, data, paper, search, study, tasks, train
from unnas.fast import gpu, kernels
from unnas.files import written_whole
from unnas.spaces import darts
from unnas.study import engines, plans
from unnas.study.records import network_of, provenance, task_of

ROOT = Path(__file__).parents[1]
aten = torch.ops.aten
CUDA = torch.cuda.is_available()
# what is timed against the textbook, in this order
PATHS = {"recorded and compiled": "compiled", "recorded": "graphs", "one by one": "plain"}
BEST = "recorded and compiled"


def not_compiled(function: Callable) -> Callable:
    """In place of a compiler, without a GPU."""
    return function


def again(step: Callable) -> tuple[Callable, torch.Tensor]:
    """In place of a recording, without a GPU."""
    outputs = step()
    return lambda: outputs.copy_(step()), outputs


@contextmanager
def on(path: str) -> Iterator[None]:
    """Within it, runs take a path; without a GPU one that goes through the same lines."""
    if CUDA:
        with gpu.on(gpu.PATHS[path]):
            yield
    else:
        stand_in = dict(device="cpu", compiler=not_compiled, record=again)
        with kernels.plain(), gpu.on(gpu.PATHS[path], **stand_in):
            yield


class Table:
    """A table on disk that grows by one row at a time."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path, self.columns = path, columns

    def append(self, *values) -> None:
        """A row."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([self.columns, values] if new else [values])
        print(*values, sep=" | ", flush=True)


class Rows(Table):
    """What was timed, in the format of `figures/benchmark.csv`."""

    def __init__(self, path: Path):
        super().__init__(path, ("work", "plain", "fast", "unit", "ratio", "at_least"))

    def add(self, work: str, plain: float, fast: float, unit: str, goal: float | None = None):
        """A row; its ratio is how many times better `fast` is, or "(at most)" the share."""
        faster = fast / plain if unit.endswith("/s") or work.endswith("(at most)") else plain / fast
        goal = "" if goal is None else goal
        self.append(work, round(plain, 3), round(fast, 3), unit, round(faster, 3), goal)


class Checks(Table):
    """Differences and their limits."""

    def __init__(self, path: Path):
        super().__init__(path, ("what", "difference", "limit", "holds"))
        self.all_hold = True

    def add(self, what: str, difference: float, limit: float) -> None:
        """A row; a difference that is not a number is none that is small enough."""
        holds = difference <= limit
        self.all_hold &= holds
        self.append(what, f"{difference:.3g}", limit, holds)


# ---------------------------------------------------------------- what is measured


def figure_specs(figure: str, space: str, task: str, count: int, smoke: bool) -> list[study.Spec]:
    """The first runs of a figure at paper scale, or tiny ones like them."""
    grid = study.grid(figure, "smoke" if smoke else "paper")
    # a ranking needs two
    options = dict(architectures=max(count, 2), seeds=1, spaces=[space], look=False)
    return study.specs_of(grid, tasks=[task], **options)[:count]


def peak() -> float:
    """The most memory that tensors have had since the last call, in MB."""
    if not CUDA:
        return 1.0
    torch.cuda.synchronize()
    used = torch.cuda.max_memory_allocated() / 1e6
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return used


@contextmanager
def textbook() -> Iterator[None]:
    """PyTorch as it comes: operators one by one, images in planes, float32 with TF32."""
    with kernels.plain(), on("plain"):
        yield


def plain_rate(spec: study.Spec, steps: int) -> float:
    """Images per second of a loop as a textbook has it."""
    device = torch.device("cuda" if CUDA else "cpu")
    batch = spec.recipe.batch_size
    images = plans._noise(spec, steps * batch, None)
    task = task_of(spec, images)
    network = network_of(spec, task).to(device)
    sgd = torch.optim.SGD(
        network.parameters(), 1e-3, 0.9, weight_decay=spec.recipe.weight_decay, nesterov=True
    )
    generator, times = torch.Generator(device).manual_seed(0), []
    for _ in range(2):
        bench._finish()
        start = time.perf_counter()
        for pixels, labels in images.batches(batch, seed=0, drop_last=True, device=device):
            inputs, targets = task.batch(pixels, labels, True, generator)
            outputs = network(inputs)
            outputs = outputs[0] if isinstance(outputs, tuple) else outputs
            sgd.zero_grad()
            task.loss(outputs, targets).backward()
            sgd.step()
        bench._finish()
        times.append(time.perf_counter() - start)
    return len(images) / times[1]


def rate(spec: study.Spec, path: str, steps: int) -> tuple[float, float]:
    """Images per second of `train.fit` on a path, and the seconds that it takes before it is that
    fast.
    """
    images = plans._noise(spec, steps * spec.recipe.batch_size, None)
    task = task_of(spec, images)
    recipe = replace(spec.recipe, epochs=3, warmup_epochs=0, precise_bn=0, lr=1e-3)
    marks = [time.perf_counter()]
    with on(path):
        history = train.fit(
            network_of(spec, task),
            task,
            images,
            images.subset(range(1)),
            recipe,
            on_epoch=lambda *_: marks.append(time.perf_counter()),
        )
    if note := history.how.get("note"):
        print(f"  {spec.space} {spec.task}: {note}", flush=True)
    first, *rest = (after - before for before, after in zip(marks, marks[1:]))
    return len(images) / min(rest), first - min(rest)


def training(
    rows: Rows, label: str, specs: list[study.Spec], steps: int, goal: float, paths=PATHS
) -> None:
    """Rows for the training of `specs`: of all paths, of memory, of what comes before."""
    with textbook():
        peak()
        times = [1 / plain_rate(spec, steps) for spec in specs]
        memory = peak()
    before = len(times) / sum(times)
    for name, path in paths.items():
        found = [rate(spec, path, steps) for spec in specs]
        after = len(found) / sum(1 / speed for speed, _ in found)
        own = goal if name == BEST else None
        rows.add(f"{label}: {name}", before, after, "images/s", own)
        rows.add(f"{label}: {name}: peak memory (at most)", memory, peak(), "MB", own and 1.0)
        if len(found) > 1 and path != "plain":
            later = median(first for _, first in found[1:])
            rows.add(f"{label}: {name}: before a later run", found[0][1], later, "s")


def darts_cifar(rows: Rows, smoke: bool) -> None:
    """The networks of the paper's CIFAR-10 study in the DARTS space."""
    specs = figure_specs("fig2", "darts", "cls", 2 if smoke else 8, smoke)
    training(rows, "training, DARTS, CIFAR-10, 8 networks", specs, 2 if smoke else 6, 8)


def convolution_peak(kind: torch.dtype, smoke: bool) -> float:
    """10^12 operations per second of a 3x3 convolution of 128 channels."""
    batch, device = (2, "cpu") if smoke else (256, "cuda")
    x = torch.randn(batch, 128, 32, 32, device=device, dtype=kind)
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randn(128, 128, 3, 3, device=device, dtype=kind)
    w = w.contiguous(memory_format=torch.channels_last)
    step = partial(torch.nn.functional.conv2d, x, w, padding=1)
    step()
    taken = median(bench.seconds(step) for _ in range(10))
    return 2 * batch * 32 * 32 * 128 * 128 * 9 / taken / 1e12


def nasbench_cifar(rows: Rows, smoke: bool) -> None:
    """The networks of the paper's CIFAR-10 study in the space of NAS-Bench-101."""
    peaks = [convolution_peak(kind, smoke) for kind in (torch.float32, torch.bfloat16)]
    rows.add("a 3x3 convolution, TF32 and bf16", *peaks, "TFLOP/s")
    specs = figure_specs("fig2", "nasbench101", "cls", 2 if smoke else 8, smoke)
    training(rows, "training, NAS-Bench-101, CIFAR-10, 8 networks", specs, 2 if smoke else 8, 3)


def search_step(rows: Rows, smoke: bool) -> None:
    """A step of a search at ImageNet's size."""
    size = (
        dict(stem="cifar", width=4, depth=3) if smoke else dict(stem="imagenet", width=16, depth=8)
    )
    side, batch, steps = (16, 4, 2) if smoke else (224, 64, 6)
    device = "cuda" if CUDA else "cpu"
    with textbook():
        peak()
        step = bench.SearchStep(
            torch.contiguous_format, **size, image=side, batch=batch, device=device
        )
        step()
        before, memory = median(bench.seconds(step) for _ in range(3)), peak()
        del step
    pixels = torch.randint(256, (2 * batch * steps, 3, side, side), dtype=torch.uint8)
    images = data.TensorImages(
        "random", "train", pixels, torch.arange(len(pixels)) % 10, tuple("0123456789")
    )
    task = tasks.classification(10)
    for name, path in PATHS.items():
        times = []
        for epochs in (1, 1, 3):  # the first of all is slower
            torch.manual_seed(0)
            supernet = search.Supernet(task, **size)
            recipe = search.SearchRecipe(epochs, batch, 1e-3, held_out=0.0)
            with on(path):
                start = time.perf_counter()
                search.fit(supernet, task, images, recipe)
                times.append(time.perf_counter() - start)
        after = (times[2] - times[1]) / (2 * steps)
        goal = 4 if name == BEST else None
        label = "search step, ImageNet, batch 64"
        rows.add(f"{label}: {name}", 1000 * before, 1000 * after, "ms", goal)
        rows.add(f"{label}: {name}: peak memory (at most)", memory, peak(), "MB", goal and 1.0)


def kernels_compiled(rows: Rows, smoke: bool) -> None:
    """Has the compiler's cache filled by many processes, as `collect` does on a new machine."""
    kinds = [("darts", "cls", 8), ("darts", "rot", 1), ("nasbench101", "rot", 1)]
    if smoke:
        kinds = [("darts", "cls", 2)]
    specs = [
        spec
        for space, task, count in kinds
        for spec in figure_specs("fig2", space, task, count, smoke)
    ]
    start = time.perf_counter()
    together(specs, 0.0)
    print(f"compiled for {len(specs)} networks in {time.perf_counter() - start:.0f} s", flush=True)


def beside(spec: study.Spec, seconds: float, start) -> tuple[float, float]:
    """Trains together with others that wait at `start`: images per second, share of memory."""
    images = plans._noise(spec, 10 * spec.recipe.batch_size, None)
    return engines._speed(spec, images, seconds, start)


def together(specs: list[study.Spec], seconds: float) -> float:
    """Images per second of all, each in a process of its own on one GPU; 0 where one fails."""
    found = engines._side_by_side(beside, [(spec, seconds) for spec in specs])
    return 0.0 if None in found else sum(speed for speed, _ in found)


def shared(rows: Rows, smoke: bool) -> None:
    """Several runs on one GPU."""
    for space, title, goal in (("darts", "DARTS", 8), ("nasbench101", "NAS-Bench-101", 3)):
        specs = figure_specs("fig2", space, "cls", 2 if smoke else 8, smoke)
        with textbook():
            times = [1 / plain_rate(spec, 2 if smoke else 4) for spec in specs]
        for count in (2,) if smoke else (8, 4):
            before, rate = count / sum(times[:count]), together(specs[:count], 0.5 if smoke else 4)
            label = f"training, {title}, CIFAR-10, {count} networks at a time"
            rows.add(label, before, rate, "images/s", goal if count == 8 else None)


def pretext(rows: Rows, smoke: bool) -> None:
    """The pretext tasks of both spaces."""
    for space in ("darts", "nasbench101"):
        for task in ("rot", "col", "jig"):
            specs = figure_specs("fig2", space, task, 2, smoke)
            title = f"{task}, {space}, CIFAR-10, 2 networks"
            training(rows, title, specs, 2 if smoke else 6, 5, {BEST: "compiled"})


def imagenet(rows: Rows, smoke: bool) -> None:
    """Networks of the paper's ImageNet study, on images in memory."""
    for space in ("darts", "nasbench101"):
        specs = figure_specs("fig3", space, "cls", 2, smoke)
        title = f"training, {space}, ImageNet, 2 networks"
        training(rows, title, specs, 2 if smoke else 6, 4, {BEST: "compiled"})


def step_of(network, task, batch, path: str, precision: str) -> Callable[[], None]:
    """A training step of `network` on one batch, as `train.fit` takes it."""
    acc = train.accelerator(precision)
    sgd = torch.optim.SGD(network.parameters(), 1e-3, 0.9, nesterov=True, fused=True)
    network = network.to(acc.device, memory_format=torch.channels_last).train()
    batch = [x.to(acc.device) for x in batch]
    batch[0] = batch[0].contiguous(memory_format=torch.channels_last)
    with on(path):
        recorder = gpu.Recorder.of(gpu.PATHS[path])
    if gpu.PATHS[path].graphs:
        gpu.make_recordable(sgd, acc.device)

    def step(inputs, targets):
        with acc.autocast():
            loss = task.loss(network(inputs), targets)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        return loss.detach()

    def run():
        with on(path):
            recorder("step", step, batch, partial(gpu.tensors_of, network, sgd))

    return run


def segmentation(rows: Rows, smoke: bool) -> None:
    """A step of the segmentation of Table 2, 4 crops of 769 pixels."""
    side, count = (65, 2) if smoke else (769, 4)
    task = tasks.segmentation(19, **(dict(channels=8, rates=(1, 2)) if smoke else {}))
    genotype = darts.Genotype.from_dict(paper.GENOTYPES["imagenet_rot"])
    size = dict(stem="imagenet", width=4 if smoke else 78, depth=3 if smoke else 12)
    batch = torch.randn(count, 3, side, side), torch.randint(19, (count, side, side))
    device = "cuda" if CUDA else "cpu"
    with textbook():
        peak()
        network = darts.build(genotype, task, **size).to(device)
        sgd = torch.optim.SGD(network.parameters(), 1e-3, 0.9, nesterov=True)
        fixed = tuple(x.to(device) for x in batch)
        plain = partial(bench._train, network, task, lambda: fixed, sgd)
        plain()
        before, memory = median(bench.seconds(plain) for _ in range(3)), peak()
        del network, sgd, plain
    for name, path in PATHS.items():
        step = step_of(
            darts.build(genotype, task, **size), task, batch, path, "bf16" if CUDA else "float32"
        )
        step()
        after = median(bench.seconds(step) for _ in range(5))
        goal = 2 if name == BEST else None
        label = "segmentation step, 4 crops of 769"
        rows.add(f"{label}: {name}", 1000 * before, 1000 * after, "ms", goal)
        rows.add(f"{label}: {name}: peak memory (at most)", memory, peak(), "MB", goal and 1.0)
        del step


def fixed(task: tasks.Task) -> tasks.Task:
    """The task with the same augmentation for all batches and on all devices, whose random numbers
    are others.
    """
    task, batch = copy.copy(task), task.batch

    def on_cpu(images, labels, train, generator):
        labels = labels if labels is None else labels.cpu()
        made = batch(images.cpu(), labels, train, torch.Generator().manual_seed(0))
        return tuple(x.to(images.device) for x in made)

    task.batch = on_cpu
    return task


def losses(
    path: str, precision: str, kind: str, space: str, task: str, anywhere: bool = False
) -> list[float]:
    """The losses of ten steps of a small training, or search, on synthetic images; of batches that
    are the same `anywhere`.
    """
    torch.backends.cudnn.allow_tf32 = False
    images = data.load("synthetic-objects", "train", image_size=32, num_images=40)
    torch.manual_seed(0)
    if kind == "search":
        net = search.Supernet(tasks.rotation(), stem="cifar", width=8, depth=3)
        recipe = search.SearchRecipe(10, 16, 0.01, held_out=0.0, precision=precision)
        objective = fixed(tasks.rotation()) if anywhere else tasks.rotation()
        with on(path):
            return search.fit(net, objective, images.unlabeled(), recipe).loss
    objective = tasks.get(task, **(dict(num_classes=10) if task == "cls" else {}))
    images = images if task == "cls" else images.unlabeled()
    (spec,) = figure_specs("fig2", space, task, 1, True)
    net = network_of(spec, objective)
    recipe = train.Recipe(10, 40, 0.01, precision=precision)
    objective = fixed(objective) if anywhere else objective
    with on(path):
        return train.fit(net, objective, images, images.subset(range(4)), recipe).loss


CASES = [
    *(
        ("training", space, task)
        for space in ("darts", "nasbench101")
        for task in tasks.names()[:4]
    ),
    ("search", "darts", "rot"),
]


def check(folder: Path, name: str, smoke: bool) -> None:
    """Losses of ten steps: on the GPU against the CPU, fast against plain, twice the same.

    Ends with an error where a difference is too large.
    """
    checks = Checks(folder / f"gpu_{name}_check.csv")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tools.gpu", "--part", "losses"]
    on_cpu = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    def difference(a, b):
        return max(abs(x - y) / max(abs(y), 1e-9) for x, y in zip(a, b))

    same = {}
    for case in CASES[:1] if smoke else CASES:
        name, same[case] = " ".join(case), losses("plain", "float32", *case, anywhere=True)
        plain = losses("plain", "float32", *case)
        for path in ("graphs", "compiled"):
            fast = losses(path, "float32", *case)
            checks.add(f"{name}: {path}, first loss", difference(fast[:1], plain[:1]), 1e-5)
            checks.add(f"{name}: {path}, ten steps", difference(fast, plain), 1e-2)
        again = losses("compiled", "float32", *case)
        checks.add(f"{name}: twice the same", difference(again, fast), 0.0)
        half = losses("plain", "bf16", *case)
        both = [losses("compiled", "bf16", *case) for _ in range(2)]
        checks.add(f"{name}: compiled in bf16, ten steps", difference(both[0], half), 5e-2)
        checks.add(f"{name}: bf16, twice the same", difference(*both), 0.0)
    for case, line in zip(same, on_cpu.stdout):
        name, expected = " ".join(case), json.loads(line)
        found = same[case]
        checks.add(f"{name}: GPU and CPU, first loss", difference(found[:1], expected[:1]), 1e-5)
        checks.add(f"{name}: GPU and CPU, ten steps", difference(found, expected), 1e-2)
    on_cpu.kill()
    if not checks.all_hold:
        sys.exit("a difference is too large")


def plain_filter(x, w, around: int, dilation: int) -> torch.Tensor:
    """ReLU and a depthwise convolution, as under mixed precision."""
    w = w[:, None].to(x.dtype)
    return F.conv2d(x.relu(), w, padding=around, dilation=dilation, groups=len(w))


def plain_filter_gradients(g, x, w, around: int, dilation: int) -> tuple[torch.Tensor, ...]:
    """The gradients of `plain_filter`, without its forward pass."""
    numbers = [1, 1], [around] * 2, [dilation] * 2, False, [0, 0], len(w), [True, True, False]
    dx, dw, _ = aten.convolution_backward(g, x, w[:, None].to(x.dtype), None, *numbers)
    return aten.threshold_backward(dx, x, 0), dw.float()


def operations(folder: Path, name: str, smoke: bool) -> None:
    """The operations of the DARTS space on their own, forward and backward: PyTorch's, compiled by
    PyTorch, and the kernels of `fast.tiles`; and the bytes per second that each reads and writes.
    """
    columns = ("operation", "how", "microseconds", "TB/s", "seconds to compile")
    table = Table(folder / f"gpu_{name}_operations.csv", columns)
    kind, device = (torch.bfloat16, "cuda") if CUDA else (torch.float32, "cpu")
    batch = 128 if CUDA else 2
    ways = {"compiled": partial(torch.compile, dynamic=False), "tiles": gpu.tiled}
    if not CUDA:  # nor a compiler, perhaps; the kernels run in Triton's interpreter
        ways = {"tiles": not_compiled}
    for channels, side in ((16, 32), (64, 8)):
        shape = batch, channels, side, side
        x = torch.randn(shape, device=device).to(kind, memory_format=torch.channels_last)
        g = torch.randn_like(x)
        for size, dilation in ((3, 1), (5, 1), (5, 2)):
            w = torch.randn(channels, size, size, device=device)
            around = dilation * (size // 2)
            title = f"{size}x{size}, dilation {dilation}, {channels} x {side} x {side}"
            forward = partial(plain_filter, x, w, around, dilation)
            timed(table, title, "PyTorch", forward, 2 * x.nbytes)
            back = partial(plain_filter_gradients, g, x, w, around, dilation)
            timed(table, title + ", gradients", "PyTorch", back, 3 * x.nbytes)
            for way, compiler in ways.items():
                if way == "compiled" and (size, channels) != (3, 16):
                    continue  # it takes too long
                made = compiler(gpu._filter_maps), compiler(gpu._filter_gradients)
                timed(table, title, way, partial(made[0], x, w, 1, dilation), 2 * x.nbytes)
                back = partial(made[1], g, x, w, 1, dilation)
                timed(table, title + ", gradients", way, back, 3 * x.nbytes)
        title = f"normalization, {channels} x {side} x {side}"
        running = torch.zeros(channels, device=device), torch.ones(channels, device=device)
        forward = partial(aten.native_batch_norm, x, None, None, *running, True, 0.1, 1e-5)
        timed(table, title, "PyTorch", forward, 3 * x.nbytes)
        kept = forward()[1:]
        back = partial(aten.native_batch_norm_backward, g, x, None, *running, *kept, True, 1e-5)
        back = partial(back, [True, False, False])
        timed(table, title + ", gradients", "PyTorch", back, 5 * x.nbytes)
        for way, compiler in ways.items():
            made = compiler(gpu._normalize), compiler(gpu._normalize_gradients)
            tracked = torch.zeros((), dtype=torch.int64, device=device)
            step = partial(made[0], x, None, None, (*running, tracked), 0.1, 1e-5, False)
            found = step()[1]
            timed(table, title, way, step, 3 * x.nbytes)
            back = partial(made[1], g, x, None, None, found, False)
            timed(table, title + ", gradients", way, back, 5 * x.nbytes)


def timed(table: Table, title: str, way: str, step: Callable, moved: int) -> None:
    """A row for a step that has to move so many bytes, as a recording where there is a GPU."""
    start = time.perf_counter()
    step()
    bench._finish()
    first, repeats = time.perf_counter() - start, 20 if CUDA else 1

    def several():
        for _ in range(repeats):
            step()

    replay = several
    if CUDA:
        replay, _ = gpu.capture(several, torch.cuda.graph_pool_handle())
    taken = median(bench.seconds(replay) for _ in range(5)) / repeats
    table.append(title, way, round(1e6 * taken, 2), round(moved / taken / 1e12, 3), round(first, 2))


def profile(folder: Path, name: str, smoke: bool) -> None:
    """The kernels of a step, and how far it is from reading and writing its maps once."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]
    bandwidth = copy_bandwidth()
    with (folder / f"gpu_{name}_profile.txt").open("w") as file:
        for space in ("darts", "nasbench101"):
            (spec,) = figure_specs("fig2", space, "cls", 1, smoke)
            images = plans._noise(spec, spec.recipe.batch_size, None)
            task = task_of(spec, images)
            pixels, labels = next(images.batches(spec.recipe.batch_size))
            batch = task.batch(pixels, labels, True, torch.Generator().manual_seed(0))
            for path in ("compiled", "plain"):
                network = network_of(spec, task)
                maps = bytes_of_maps(network, batch[0])
                step = step_of(network, task, batch, path, "bf16" if CUDA else "float32")
                step()
                taken = median(bench.seconds(step) for _ in range(5))
                with recording(activities=activities) as found:
                    step()
                    bench._finish()
                least = 3 * 2 * maps / bandwidth
                order = "self_cuda_time_total" if CUDA else "self_cpu_time_total"
                table = found.key_averages().table(
                    sort_by=order, row_limit=25, max_name_column_width=60
                )
                text = (
                    f"{space}, {path}: {1000 * taken:.2f} ms per step; to write and read each map"
                    f" once in three passes, in bf16: {1000 * least:.2f} ms at"
                    f" {bandwidth / 1e12:.2f} TB/s, {least / taken:.0%} of the step\n{table}\n"
                )
                print(text.partition("\n")[0], flush=True)
                file.write(text)
                file.flush()


def copy_bandwidth() -> float:
    """Bytes per second that a copy reads and writes."""
    x = torch.empty(2**28 if CUDA else 2**22, device="cuda" if CUDA else "cpu")
    y = torch.empty_like(x)
    y.copy_(x)
    return 2 * x.nbytes / median(bench.seconds(lambda: y.copy_(x)) for _ in range(10))


def bytes_of_maps(network: torch.nn.Module, inputs: torch.Tensor) -> int:
    """The size of all outputs of modules without parts, in bf16."""
    total = 0

    def count(module, arguments, output):
        nonlocal total
        total += 2 * output.numel() if isinstance(output, torch.Tensor) else 0

    leaves = [module for module in network.modules() if not [*module.children()]]
    handles = [module.register_forward_hook(count) for module in leaves]
    with kernels.plain(), torch.no_grad():
        network(inputs[:2])
    for handle in handles:
        handle.remove()
    return total * len(inputs) // 2


def tests(folder: Path, name: str, smoke: bool) -> None:
    """The project's tests on this machine, those of what runs on a GPU first."""
    files = ["fast_gpu", "train", "search", "tasks", "darts", "nasbench101", "scores"]
    paths = [f"tests/test_{file}.py" for file in (files[:1] if smoke else files)]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "8", "-p", "no:cacheprovider", *paths]
    log = folder / f"gpu_{name}_tests.txt"
    with log.open("w") as file:
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    print(log.read_text()[-600:], flush=True)
    sys.exit(done.returncode)


def hours(folder: Path, name: str, smoke: bool) -> None:
    """GPU-hours of Figure 2 at paper scale by the rates that were measured."""
    table = pd.read_csv(folder / f"gpu_{name}.csv").set_index("work")["fast"]
    measured = []
    for space, title in (("darts", "DARTS"), ("nasbench101", "NAS-Bench-101")):
        for task in ("cls", "rot", "col", "jig"):
            count = (2 if smoke else 8) if task == "cls" else 2
            work = (
                f"training, {title}, CIFAR-10, 8 networks: {BEST}"
                if task == "cls"
                else f"{task}, {space}, CIFAR-10, 2 networks: {BEST}"
            )
            if work not in table:
                print(f"not measured: {work}", flush=True)
                return
            specs = figure_specs("fig2", space, task, count, smoke)
            each = sum(plans._multiply_adds(spec, None) for spec in specs) / count
            tflops = 6e-12 * each * table[work]
            measured.append(dict(data="cifar10", space=space, task=task, tflops=tflops))
    specs = study.specs_of(study.grid("fig2", "paper"), look=False)
    found = study.gpu_hours(specs, measured=pd.DataFrame(measured))
    with written_whole(folder / f"gpu_{name}_hours.csv") as new:
        found.round(1).to_csv(new, index=False)
    print(f"Figure 2 at paper scale, one run at a time: {found.gpu_hours.sum():,.0f} GPU-hours")


# in this order, with so many seconds at most
TIMED = {
    kernels_compiled: 50,
    darts_cifar: 100,
    shared: 60,
    search_step: 50,
    nasbench_cifar: 60,
    pretext: 80,
    imagenet: 45,
    segmentation: 20,
}
LIMITS = {**TIMED, profile: 40, check: 60, operations: 40, tests: 45, hours: 60}
PARTS = {function.__name__: function for function in LIMITS}


def device_name() -> str:
    """A short name for the files."""
    if not CUDA:
        return "cpu"
    words = torch.cuda.get_device_name().lower().split()
    return next((word for word in words if word not in ("nvidia", "geforce", "tesla")), "gpu")


def part(name: str, folder: Path, smoke: bool) -> None:
    """Do one part in this process."""
    device = device_name()
    if name == "losses":
        for case in CASES:
            print(json.dumps(losses("plain", "float32", *case, anywhere=True)), flush=True)
    elif PARTS[name] in TIMED:
        PARTS[name](Rows(folder / f"gpu_{device}.csv"), smoke)
    else:
        PARTS[name](folder, device, smoke)


def everything(folder: Path, minutes: float, size: str, chosen: list[str]) -> None:
    """All parts, one after the other, each in a process."""
    folder.mkdir(parents=True, exist_ok=True)
    device, end = device_name(), time.monotonic() + 60 * minutes
    for old in folder.glob(f"gpu_{device}*"):
        old.unlink()
    about = provenance() | dict(
        device=torch.cuda.get_device_name() if CUDA else "cpu",
        size=size,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        parts=dict.fromkeys(chosen, "not reached"),
    )
    for name in chosen:
        limit = min(LIMITS[PARTS[name]], end - time.monotonic())
        if limit < 5:
            about["parts"][name] = "no time was left"
            continue
        print(f"--- {name}, {limit:.0f} s at most", flush=True)
        command = [sys.executable, "-m", "tools.gpu", "--part", name, "--folder", str(folder)]
        start = time.monotonic()
        try:
            done = subprocess.run([*command, "--size", size], cwd=ROOT, timeout=limit)
            state = "done" if done.returncode == 0 else f"failed with {done.returncode}"
        except subprocess.TimeoutExpired:
            state = "cut off"
        about["parts"][name] = f"{state} after {time.monotonic() - start:.0f} s"
        with written_whole(folder / f"gpu_{device}.json") as new:
            new.write_text(json.dumps(about, indent=2) + "\n")
    print(json.dumps(about, indent=2))


def main() -> None:
    """Parses the command line, and does what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu",
        description=__doc__.partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "figures")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--size", choices=["full", "smoke"], default="full")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--part", help="do this one in this process")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if options.part:
        part(options.part, folder, options.size == "smoke")
    elif not CUDA and options.size == "full":
        sys.exit("There is no GPU here; --size smoke goes through all parts on a CPU.")
    else:
        everything(folder, options.minutes, options.size, options.parts)


if __name__ == "__main__":
    main()
