"""What tells definitions apart, and what does not."""

import math
import os
import random
import re
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest
import torch
from small import specs
from torch import nn
from torchvision.transforms import v2

from unnas import registry, spaces, study, tasks
from unnas.study.report import use_module

TASK = """
import re

import torch
from unnas import tasks

PARTS = {torch.relu, ("a", object()), frozenset({"b", "c"}), re.compile("d"), torch.Generator()}
STEPS = {1: "a", 2: "b"}
KNOWN = {"left", "right", "top"}
places = [3, 5]


def answers(images, by=7):
    return (images.float().mean((1, 2, 3)).long() // by) % places[0]


class Base(tasks.Task):
    style = "cifar"


class mine(Base):
    name = "mine"
    num_outputs = 4

    def batch(self, images, labels, train, generator):
        if "left" in KNOWN and "up" not in {"down", "above", "below"} and STEPS and PARTS:
            return images.float(), answers(images)


tasks.register("mine", mine)
print(tasks._TASKS.code_of("mine"))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that uses a text as a module that registers a task, and gives its code."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def use(text):
        (tmp_path / "my_tasks.py").write_text(text)
        cloudpickle.unregister_pickle_by_value(use_module(str(tmp_path / "my_tasks.py")))
        return tasks._TASKS.code_of("mine")

    yield use
    del sys.modules["my_tasks"]


def test_the_same_definition_has_the_same_code(module):
    code = module(TASK)
    assert len(code) == 20 and module("\n\n" + TASK) == code


@pytest.mark.slow
def test_another_process_gives_the_same_code(module, tmp_path):
    code = module(TASK)
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    options = dict(cwd=tmp_path, env=environment, capture_output=True, text=True)
    told = subprocess.run([sys.executable, "my_tasks.py"], **options).stdout
    assert told.strip() == code


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("images.float(), answers", "-images.float(), answers"),
        ("num_outputs = 4", "num_outputs = 40"),
        ('style = "cifar"', 'style = "other"'),
        ("by=7", "by=70"),
        ("[3, 5]", "[4, 5]"),
        ('2: "b"', '2: "bb"'),
        ('"right"', '"bottom"'),
        ("torch.relu", "torch.tanh"),
        ('re.compile("d")', 're.compile("e")'),
        ("% places", "// places"),
    ],
)
def test_a_changed_definition_has_another_code(module, old, new):
    assert module(TASK) != module(TASK.replace(old, new))


HELPED = """
import my_helpers
from my_helpers import rotated
from unnas import tasks


class mine(tasks.Task):
    name = "mine"
    num_outputs = 4

    def batch(self, images, labels, train, generator):
        return rotated(my_helpers.cut(images))


tasks.register("mine", mine)
"""
HELPER = """
def cut(images):
    return images[:, :, 1:, 1:]


def rotated(images):
    return turn(images, 1)


def turn(images, times):
    return images.rot90(times, (2, 3))
"""


@pytest.mark.parametrize(
    "old, new", [("1:, 1:", "2:, 2:"), ("images, 1", "images, 2"), ("rot", "rot")]
)
def test_what_a_definition_uses_of_other_files_counts(module, tmp_path, monkeypatch, old, new):
    monkeypatch.syspath_prepend(tmp_path)
    codes = []
    for text in (HELPER, HELPER.replace(old, new)):
        (tmp_path / "my_helpers.py").write_text(text)
        sys.modules.pop("my_helpers", None)
        codes.append(module(HELPED))
    del sys.modules["my_helpers"]
    assert (codes[0] == codes[1]) == (old == new)


def define(factor):
    class mine(tasks.Task):
        name = "mine"
        num_outputs = 4

        def batch(self, images, labels, train, generator):
            targets = (images.float().mean((1, 2, 3)).long() // factor) % 4
            return tasks.prepare(images, self.style, train, generator), targets

    return mine


def test_what_a_definition_closes_over_counts():
    codes = []
    for factor in (2, 2, 40, torch.tensor([1, 2]), torch.tensor([1, 3])):
        tasks.register("mine", define(factor))
        codes.append(tasks._TASKS.code_of("mine"))
    assert codes[0] == codes[1] and len(set(codes)) == 4


def test_what_has_no_source_is_told_apart_by_its_instructions():
    codes = []
    for line in ("images in {'a', 'b', 'c'}", "images in {'a', 'b', 'd'}", "images.max()"):
        exec(f"def made(style, images=0):\n    return {line}", names := {"__name__": "elsewhere"})
        tasks.register("made", names["made"])
        codes.append(tasks._TASKS.code_of("made"))
    assert len(set(codes)) == 3 and "" not in codes


def test_what_the_package_defines_has_no_code():
    tasks.register("turned", tasks.rotation)
    tasks.register("turned too", partial(tasks.rotation))
    tasks.register("in twos", partial(tasks.jigsaw, grid=2))
    spaces.register("cells", replace(spaces.SPACES["darts"], title="Cells"))
    codes = tasks._TASKS.code_of
    assert codes("rot") == codes("turned") == codes("turned too") == codes("none such") == ""
    assert codes("in twos") and spaces.SPACES.code_of("cells") == ""
    assert not any(map(spaces.SPACES.code_of, spaces.SPACES))


def sample(n, seed):
    return []


def test_specs_of_a_changed_space_are_others():
    [spec], ids = specs(1), []
    for size in (1, 2):
        build = partial(spaces.SPACES["darts"].build, size=size)
        spaces.register("mine", replace(spaces.SPACES["darts"], sample=sample, build=build))
        own = replace(spec, space="mine")
        assert study.Spec.from_dict(own.to_dict()) == own
        assert list(own.to_dict()["code"]) == ["space"]
        ids.append(own.id)
        del spaces.SPACES._things["mine"]  # for what is partly applied with others is another thing
    assert len(set(ids)) == 2 and "code" not in spec.to_dict()


def test_a_changed_task_is_computed_anew_and_not_answered_by_its_old_record(tmp_path):
    [spec], store = specs(1, task="mine"), study.Store(tmp_path / "records", tmp_path)
    found = []
    for factor in (2, 40):
        tasks.register("mine", define(factor))
        found.append(study.collect([spec], store=store).iloc[0])
        images = study.specs.load(spec.data)[1]
        task = study.records.task_of(spec, images)
        constant = study.records.constant_answer(task, images, spec.seed)
        assert study.records.constant_score(spec) == found[-1]["constant"] == constant
        assert store.get(spec.id)["spec"]["code"]["task"]
    assert found[0]["id"] != found[1]["id"] and found[0]["constant"] != found[1]["constant"]
    tasks.register("mine", define(2))
    assert store.get(spec.id)["id"] == found[0]["id"]


def test_a_worker_has_the_codes_of_whom_it_works_for():
    tasks.register("mine", define(2))
    message, code = cloudpickle.dumps(registry.snapshot()), tasks._TASKS.code_of("mine")
    tasks.register("mine", define(3))
    registry.restore(cloudpickle.loads(message))
    assert tasks._TASKS.code_of("mine") == code and not tasks._TASKS.code_of("rot")


def test_a_worker_computes_with_what_is_loaded_and_not_with_what_files_say(module, tmp_path):
    text = TASK.replace("images.float(), answers", "images.float() * SHARE, answers")
    module(text.replace("places = [3, 5]", "places = [3, 5]\nSHARE = 0.5"))
    [spec], losses = specs(1, task="mine"), {}
    sys.modules["my_tasks"].SHARE = 0.25
    tasks.register("mine", sys.modules["my_tasks"].mine)
    (tmp_path / "my_tasks.py").write_text(text.replace("places = [3, 5]", "SHARE, places = 9, [1]"))
    for engine in ("serial", "processes"):
        store = study.Store(tmp_path / engine, tmp_path)
        study.collect([spec], store=store, engine=engine, workers=1)
        losses[engine] = store.get(spec.id)["result"]["loss"]
    assert losses["serial"] == losses["processes"]


@dataclass(frozen=True, slots=True)
class Slots:
    size: int

    def __call__(self, style="cifar"):
        return tasks.rotation(style)


class Tagged(list):
    pass


class Counted(tuple):
    pass


def namespace(size):
    return SimpleNamespace(size=size)


PAIRS = [
    (nn.ReLU, nn.Sigmoid),
    (nn.ReLU(), nn.Sigmoid()),
    (torch.relu, torch.tanh),
    (nn.functional.silu, nn.functional.mish),
    (np.mean, np.median),
    (math.sin, math.cos),
    (torch.float16, torch.float32),
    (torch.device("cpu"), torch.device("meta")),
    (v2.GaussianBlur(3, (1.0, 1.0)), v2.GaussianBlur(3, (5.0, 5.0))),
    (re.compile("a"), re.compile("b")),
    (namespace(1), namespace(2)),
    (Decimal(1), Decimal(2)),
    (Fraction(1, 2), Fraction(1, 3)),
    (date(2020, 1, 1), date(2021, 1, 1)),
    (deque([1]), deque([2])),
    (Slots(1), Slots(2)),
    (Tagged([1]), [1]),
    (Counted((1, 2)), (1, 2)),
    ([[1], 2], [1, [2]]),
    ([len, min, len], [len, min, min]),
    ([lambda x: x, lambda x: -x][0], [lambda x: x, lambda x: -x][1]),
    (torch.eye(3).to_sparse(), torch.zeros(3, 3).to_sparse()),
    (np.zeros((2, 3)), np.zeros((3, 2))),
    ({frozenset({1})}, {frozenset({2})}),
]


@pytest.mark.parametrize("one, other", PAIRS, ids=lambda thing: type(thing).__name__)
def test_what_a_definition_uses_of_libraries_tells_it_apart(one, other):
    codes = [registry.code_of(define(held)) for held in (one, other, one)]
    assert codes[0] != codes[1] and codes[0] == codes[2]
    assert registry.code_of(partial(define, one)) != registry.code_of(partial(define, other))


def test_a_random_generator_counts_by_its_kind():
    for held in (torch.Generator(), np.random.default_rng(), random.Random(), random.random):
        code = registry.code_of(define(held))
        torch.randn(1, generator=held) if isinstance(held, torch.Generator) else random.random()
        assert registry.code_of(define(held)) == code


def test_lists_of_a_task_that_uses_other_values_than_when_it_was_registered_are_refused():
    share, images = {"noise": 0.0}, torch.zeros(2)
    [spec] = specs(1)
    tasks.register("mine", define((share, images)))
    own = replace(spec, task="mine")
    for change in (lambda: share.update(noise=0.9), lambda: images.add_(1)):
        assert study.specs.check_specs([own, spec]) == [own, spec]
        change()
        with pytest.raises(ValueError, match="task='mine': what it uses has changed since it was"):
            study.specs.check_specs([own])
        tasks.register("mine", define((share, images)))


def test_a_file_that_is_edited_changes_nothing_of_what_is_loaded(module, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_helpers.py").write_text(HELPER + "\nSIZE = 1\n")
    module(HELPED.replace("rotated(", "my_helpers.SIZE * rotated("))
    (tmp_path / "my_tasks.py").write_text("\n" + TASK)
    (tmp_path / "my_helpers.py").write_text("")
    tasks._TASKS.check_unchanged("mine")
    sys.modules.pop("my_helpers").SIZE = 2  # of another file, by the name of its module
    with pytest.raises(ValueError, match="task='mine': what it uses has changed"):
        tasks._TASKS.check_unchanged("mine")


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "a\\b", "a,b", "a\nb", "a\0", "a" * 101, 3, None, "\t"]
)
def test_a_name_that_files_and_lists_cannot_have_is_refused(name):
    for register, thing in ((tasks.register, define(1)), (spaces.register, spaces.SPACES["darts"])):
        with pytest.raises(ValueError, match="name=.*: must be a text of at most 100 characters"):
            register(name, thing)


def test_what_a_definition_holds_counts():
    codes, weights = [], torch.nn.Linear(2, 2)
    for held in (
        {(1, 2), 3},
        {(5, 2), 3},
        range(3),
        range(4),
        torch.zeros(200, 200),
        torch.eye(200),
        torch.eye(200).bfloat16(),
        weights,
        torch.nn.Linear(2, 2),
    ):
        tasks.register("mine", define(held))
        codes.append(tasks._TASKS.code_of("mine"))
    assert len(set(codes)) == 9
    tasks.register("mine", define(weights))
    assert tasks._TASKS.code_of("mine") == codes[-2]
