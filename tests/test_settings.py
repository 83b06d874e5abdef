"""What a program has set in PyTorch neither changes a run nor is changed by one."""

import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from small import specs
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)
from torch.utils.flop_counter import FlopCounterMode

from unnas import data, search, study, tasks, train
from unnas.spaces import darts


@contextmanager
def set_to(set_it, there, back):
    set_it(there)
    try:
        yield
    finally:
        set_it(back)


@contextmanager
def hook(register):
    handle = register(lambda *everything: None)
    try:
        yield
    finally:
        handle.remove()


def attribute(owner, name, there):
    return lambda: set_to(lambda value: setattr(owner, name, value), there, getattr(owner, name))


def setting(set_it, there, back):
    return lambda: set_to(set_it, there, back)


FOREIGN = {
    "threads": lambda: set_to(torch.set_num_threads, 2, torch.get_num_threads()),
    "float64": setting(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": setting(torch.set_default_device, "meta", None),
    "a context of a device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "deterministic": setting(torch.use_deterministic_algorithms, True, False),
    "few digits": setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "few digits in convolutions": attribute(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
    "no oneDNN": attribute(torch.backends.mkldnn, "enabled", False),
    "benchmark": attribute(torch.backends.cudnn, "benchmark", True),
    "no denormals": setting(torch.set_flush_denormal, True, False),
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "errors of NumPy": lambda: np.errstate(all="raise"),
    "another seed": lambda: set_to(torch.manual_seed, 5, 0),
    "forward hooks": lambda: hook(register_module_forward_hook),
    "pre hooks": lambda: hook(register_module_forward_pre_hook),
    "backward hooks": lambda: hook(register_module_full_backward_hook),
}


def state():
    """All that a run may not change."""
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.conv.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_rng_state().tolist(),
        np.geterr(),
        len(torch.nn.modules.module._global_forward_hooks),
        len(torch.nn.modules.module._global_backward_hooks),
        (torch.ones(1, dtype=torch.float32, device="cpu") * 1e-40).item(),
    )


def images():
    return data.load("synthetic-objects", image_size=16, num_images=32).unlabeled()


def networks():
    """A network, a supernet and images, made where nothing is set."""
    torch.manual_seed(0)
    task, size = tasks.rotation(), dict(stem="cifar", width=4, depth=3)
    return darts.build(darts.sample(1, 0)[0], task, **size), search.Supernet(task, **size), images()


def results(network, supernet, pictures):
    """What a training, a search and a run of the study give, to the bit."""
    task = tasks.rotation()
    recipe = train.Recipe(1, 16, 0.05, weight_decay=1e-4, precise_bn=16)
    trained = train.fit(network, task, pictures, pictures, recipe, seed=1)
    searched = search.fit(supernet, task, pictures, search.SearchRecipe(1, 8, 0.05), seed=1)
    spec = specs(1, "cls")[0]
    few = replace(spec.data, train_images=20, test_images=20)  # a step per epoch, of two epochs
    record = study.run(replace(spec, data=few))
    found = trained.loss, trained.score, searched.loss, searched.alpha_loss, searched.tables
    return *found, record["result"], record["untrained"], record["constant"]


@lru_cache
def usual_results():
    return results(*networks())


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_a_run_gives_the_same_bits_and_leaves_all_as_it_was(name):
    expected, made = usual_results(), networks()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with FOREIGN[name]():
            before = state()
            found = results(*made)
            assert state() == before
    assert found == expected


def test_all_is_put_back_after_an_error():
    with ExitStack() as stack:
        for name in ("float64", "threads", "no_grad", "deterministic", "autocast"):
            stack.enter_context(FOREIGN[name]())
        before = state()
        with pytest.raises(ZeroDivisionError), train.reproducible(3):
            assert state() != before
            raise ZeroDivisionError
        assert state() == before


def test_hooks_on_all_modules_are_said_not_to_be_called():
    called = []
    handle = register_module_forward_hook(lambda *everything: called.append(1))
    try:
        with pytest.warns(UserWarning, match="1 hooks on all modules are not called"):
            with train.reproducible(0):
                torch.nn.ReLU()(torch.ones(1))
        assert not called
        torch.nn.ReLU()(torch.ones(1))
    finally:
        handle.remove()
    assert called == [1]


def test_a_counter_around_a_training_counts_it():
    network, _, pictures = networks()
    recipe = train.Recipe(1, 16, 0.05)
    with FlopCounterMode(display=False) as counter:
        train.fit(network, tasks.rotation(), pictures, pictures, recipe)
    by_operator = counter.get_flop_counts()["Global"]
    assert by_operator[torch.ops.aten.convolution_backward] > 1e7


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_type_are_refused(dtype):
    network, supernet, pictures = networks()
    task, words = tasks.rotation(), rf"network: .* is {dtype}, .* use network.float\(\)"
    with pytest.raises(ValueError, match=words):
        train.fit(network.to(dtype), task, pictures, pictures, train.Recipe(1, 16, 0.05))
    with pytest.raises(ValueError, match=words):
        search.fit(supernet.to(dtype), task, pictures, search.SearchRecipe(1, 8, 0.05))


def test_weights_from_inference_mode_are_refused():
    with torch.inference_mode():
        network, _, _ = networks()
    with pytest.raises(ValueError, match=r"made within torch.inference_mode\(\)"):
        train.fit(network, tasks.rotation(), images(), images(), train.Recipe(1, 16, 0.05))
