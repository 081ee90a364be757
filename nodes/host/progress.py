"""Progress and cancel of long work inside a node."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils


def progress_bar() -> Callable[[int, int], None]:
    """A function (done, all) that moves the running node's progress bar, and ends the work when the user cancels.

    The function raises InterruptProcessingException then.
    """
    bar = comfy.utils.ProgressBar(1)

    def show(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return show
