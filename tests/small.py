"""Runs of a second, for the tests of the study."""

from unnas.spaces import darts
from unnas.study import Data, Spec
from unnas.train import Recipe


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
