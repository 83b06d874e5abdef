"""Runs of a second, and processes that begin at once, for the tests of the study."""

import multiprocessing
import threading
from dataclasses import replace

from tqdm import tqdm

from unnas import study
from unnas.spaces import darts
from unnas.study import Data, Spec
from unnas.train import Recipe


class _Quick(multiprocessing.context.ForkServerContext):
    """Where processes begin at once: as forks of one that has imported the library and done nothing
    else.
    """

    def Process(self, target, args, **options):
        return super().Process(target=_begin, args=(target, args), **options)


def _begin(target, args):
    study.engines._watch_parent = lambda: None  # for its parent is not who asked for it
    tqdm.set_lock(threading.RLock())  # the usual lock would outlive a process that is killed
    target(*args)


QUICK = _Quick()
QUICK.set_forkserver_preload(["unnas.study"])


def specs(count=2, task="rot", **change):
    """Trainings of that many architectures."""
    images = Data("synthetic-objects", 16, train_images=60, test_images=30, labels=task == "cls")
    return [
        Spec(
            "darts",
            architecture,
            "cifar",
            4,
            3,
            images,
            task,
            "cifar",
            Recipe(epochs=2, batch_size=20, lr=0.05),
            seed=0,
            **change,
        )
        for architecture in darts.sample(count, seed=0)
    ]


def shrink(monkeypatch):
    """Make the scale smoke a tenth of itself, for as long as the test lasts."""
    for grids in study.GRIDS.values():
        monkeypatch.setitem(grids, "smoke", study.lists.shorter(grids["smoke"], 0.1, 0.4))
    for tables in study.EVALUATIONS.values():
        monkeypatch.setitem(tables, "smoke", fewer(tables["smoke"], 60, 1))
    searches = study.SEARCHES["smoke"]
    few = {key: fewer(setting, 64, 2) for key, setting in searches.settings.items()}
    monkeypatch.setitem(study.SEARCHES, "smoke", replace(searches, settings=few))


def fewer(setting, images, epochs):
    """`setting` with so many training images, of streets fewer, and epochs."""
    count = 24 if setting.data.name == "synthetic-streets" else images
    data = replace(setting.data, train_images=count)
    return replace(setting, data=data, recipe=replace(setting.recipe, epochs=epochs))
