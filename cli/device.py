"""Where the shell computes."""

from __future__ import annotations

import torch

_KINDS = ("cpu", "cuda", "mps")


def device_named(name: str) -> torch.device:
    """The device of a name, "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ValueError: there is no such device here, or this torch was built without it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in _KINDS:
        raise ValueError(
            f"--device {name}: expected one of {', '.join(_KINDS)}, or a card by its number, such as cuda:1."
        )
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if not count:
        raise ValueError(
            f"--device {name}: torch {torch.__version__} finds no such device here. Leave it out to compute on the "
            "CPU, or install a torch that is built for it."
        )
    if (device.index or 0) >= count:
        raise ValueError(f"--device {name}: there are {count}, numbered from 0. Choose one of them.")
    return device
