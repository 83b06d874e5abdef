"""What all tests share."""

import multiprocessing
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton's kernels

from small import QUICK

from unnas import plots, registry


@pytest.fixture(autouse=True)
def registered():
    """What a test registers is gone afterwards."""
    before, titles = registry.snapshot(), dict(plots.SPACE_TITLES)
    yield
    registry.restore(before)
    plots.SPACE_TITLES.clear()
    plots.SPACE_TITLES.update(titles)


@pytest.fixture
def quick_workers(monkeypatch):
    """Workers that need not import PyTorch, each on its own, before they begin."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: QUICK)
