"""What all tests share."""

import pytest

from unnas import plots, registry


@pytest.fixture(autouse=True)
def registered():
    """What a test registers is gone afterwards."""
    before, titles = registry.snapshot(), dict(plots.SPACE_TITLES)
    yield
    registry.restore(before)
    plots.SPACE_TITLES.clear()
    plots.SPACE_TITLES.update(titles)
