"""The tests of this folder run on a pretended accelerator beside the CPU (see ``pretended.py``)."""

import pytest
from pretended import pretending


@pytest.fixture(autouse=True)
def traffic():
    """The device is there; what is copied between it and the CPU is counted."""
    with pretending() as counted:
        yield counted
