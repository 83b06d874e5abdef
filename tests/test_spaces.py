"""Search spaces by name: what the study asks of one, and how a name finds its settings."""

import json
from dataclasses import dataclass, replace

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from unnas import registry, spaces, study, tasks
from unnas.spaces import SPACES, Space, darts, nasbench101, nasbench201, setting_of


@dataclass(frozen=True)
class Row:
    """Some convolutions in a row."""

    layers: int

    def to_dict(self):
        return dict(layers=self.layers)


def sample_rows(n, seed):
    return [Row(i + 1) for i in range(n)]


def read_row(fields):
    return Row(**fields)


def build_row(row, task, *, stem, width, depth, auxiliary=False, drop_path=0.0):
    return task.head(width)


ROWS = Space(sample_rows, build_row, read_row)


@pytest.mark.parametrize("name", ["darts", "nasbench101", "nasbench201"])
def test_a_built_in_space_does_what_the_study_asks(name):
    space, task = SPACES[name], tasks.rotation()
    architectures = space.sample(3, 5)
    assert len(set(architectures)) == 3 and space.sample(2, 5) == architectures[:2]
    for architecture in architectures:
        assert space.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture
    network = space.build(
        architectures[0], task, stem="cifar", width=4, depth=3, auxiliary=False, drop_path=0.0
    )
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 4)
    assert (space.title, space.like) in {
        ("DARTS", "darts"),
        ("NAS-Bench-101", "nasbench101"),
        ("NAS-Bench-201", "nasbench101"),
    }


@pytest.mark.parametrize("name", ["darts", "nasbench101", "nasbench201"])
def test_a_name_in_place_of_a_task_is_refused(name):
    space, size = SPACES[name], dict(stem="cifar", width=4, depth=3, auxiliary=False, drop_path=0.0)
    (architecture,) = space.sample(1, 0)
    for task, call in (("col", "'col'"), (None, "'rot'"), (tasks.rotation, "'rot'")):
        with pytest.raises(ValueError, match=rf"task=.*: is no task; .*tasks.get\({call}\)"):
            space.build(architecture, task, **size)


@pytest.mark.parametrize("module", [nasbench101, nasbench201], ids=lambda module: module.__name__)
def test_a_dictionary_in_place_of_a_cell_is_refused(module):
    (cell,) = module.sample(1, 0)
    calls = [
        module.plot,
        lambda given: module.build(given, tasks.rotation(), stem="cifar", width=4),
    ]
    if module is nasbench201:
        calls += [lambda given: module.similarity(cell, given)]
    for call in calls:
        with pytest.raises(ValueError, match="cell={.*: must be a Cell; make one with Cell"):
            call(cell.to_dict())


def test_three_functions_are_a_space():
    spaces.register("rows", ROWS)
    assert SPACES["rows"].title == "rows" and list(SPACES) == [
        "darts",
        "nasbench101",
        "nasbench201",
        "rows",
    ]
    assert SPACES["rows"].sample(2, 0) == [Row(1), Row(2)]


def test_a_name_means_one_space():
    with pytest.raises(
        ValueError, match="space='darts': already registered for Space.*another name"
    ):
        spaces.register("darts", ROWS)
    spaces.register("rows", ROWS)
    with pytest.raises(ValueError, match="space='rows': already registered"):
        spaces.register("rows", SPACES["darts"])
    with pytest.raises(
        ValueError, match="space='resnet': unknown; choose one of darts, nasbench101"
    ):
        SPACES["resnet"]


def test_a_known_space_may_have_a_second_name():
    spaces.register("mine", SPACES["darts"])
    assert SPACES["mine"].sample is darts.sample and SPACES["mine"].like == "darts"


def test_a_space_may_be_registered_anew_with_another_title_and_setting():
    spaces.register("rows", ROWS)
    spaces.register("rows", replace(ROWS, title="Rows", like="darts", setting=str.upper))
    assert SPACES["rows"].title == "Rows" and SPACES["rows"].setting is str.upper


def test_the_setting_of_a_space_is_the_figures_or_its_own_or_that_of_the_space_it_is_like():
    settings = {"darts": "of darts", "nasbench101": "of cells"}
    spaces.register("rows", replace(ROWS, like="nasbench101"))
    names = ("darts", "nasbench101", "rows")
    assert [setting_of(name, settings) for name in names] == ["of darts", "of cells", "of cells"]
    spaces.register("rows", replace(ROWS, like="nasbench101", setting=str.upper))
    assert setting_of("rows", settings) == "OF CELLS"
    spaces.register("rows", replace(ROWS, setting=str.upper))
    assert setting_of("rows", settings) == "OF DARTS"
    assert setting_of("rows", settings | {"rows": "of rows"}) == "of rows"


@pytest.mark.parametrize("like", ["", "resnet", "rows"])
def test_a_space_that_does_not_say_its_size_is_refused_in_one_sentence(like):
    spaces.register("rows", replace(ROWS, like=like))
    with pytest.raises(ValueError) as error:
        setting_of("rows", {"darts": 1, "nasbench101": 2})
    assert str(error.value) == (
        "space='rows': does not say how large its networks are; register it with a setting, or with"
        " like= one of darts, nasbench101"
    )


def test_a_space_travels_to_workers():
    spaces.register("rows", replace(ROWS, like="darts"))
    message = cloudpickle.dumps(registry.snapshot())
    del SPACES._things["rows"]
    registry.restore(cloudpickle.loads(message))
    assert SPACES["rows"].like == "darts" and SPACES["rows"].sample(1, 0) == [Row(1)]


class Net(nn.Module):
    """A network whose `forward` gives what `answer` makes of its logits."""

    def __init__(self, outputs, answer):
        super().__init__()
        self.layer, self.answer = nn.Linear(3, outputs) if outputs else None, answer

    def forward(self, x):
        return self.answer(self.layer(x.mean((2, 3))) if self.layer else x.mean((2, 3)))


def built(outputs=4, answer=lambda logits: logits):
    return lambda row, task, **size: Net(outputs, answer)


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(sample=lambda n, seed: [Row({i}) for i in range(n)]), "to_dict.. of .* is no JSON"),
        (dict(sample=lambda n, seed: [Row(np.nan)] * n), "to_dict.. of .* is no JSON"),
        (dict(sample=lambda n, seed: [*range(n)]), "to_dict.. of 0 fails or is no JSON"),
        (dict(from_dict=lambda fields: Row(1)), "of Row.layers=2. becomes another architecture"),
        (dict(from_dict=lambda fields: 1 / 0), "cannot be read by from_dict .ZeroDivisionError"),
        (dict(build=lambda row, task, **size: None), "build.. returns a NoneType; it must return"),
        (dict(build=lambda row, task, **size: (Net(4, id),)), "build.. returns a tuple; it must"),
        (dict(build=built(7)), "outputs of shape .8, 7., and task 'rot' needs 4 channels"),
        (dict(build=built(3)), "outputs of shape .8, 3., and task 'rot' needs 4 channels"),
        (dict(build=built(0)), "network: has no parameters"),
        (dict(build=built(4, lambda logits: [logits])), "network: forward.. returns a list"),
        (dict(build=lambda *own, **size: Net(4, id).half()), "layer.weight is torch.float16"),
    ],
)
def test_a_space_that_cannot_be_trained_is_refused_in_one_sentence(change, reason):
    rows = Space(sample_rows, built(), read_row, like="darts")

    def listed(space):
        spaces.register("rows", space)
        grid = study.grid("fig2", "smoke")
        return study.specs_of(grid, architectures=2, spaces=["rows"], tasks=["rot"])

    assert len(listed(replace(rows, sample=lambda n, seed: map(Row, np.arange(1, n + 1))))) == 2
    del SPACES._things["rows"]
    with pytest.raises(ValueError, match=reason):
        listed(replace(rows, **change))


def test_what_is_no_space_is_refused():
    for wrong in (3, Space):
        with pytest.raises(ValueError, match="space=.*: must be a Space"):
            spaces.register("zz", wrong)
