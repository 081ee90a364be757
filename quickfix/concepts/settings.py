"""How concepts are edited: the settings, and their presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ..solver.closed_form import check_lambda, check_preserve_weight
from ..solver.ridge import check_selectivity
from .built_in import PRESERVED
from .names import NO_BREADTH
from .pairs import ALIGNED, POSITIONS

PRESERVE_MODES = ("soft", "hard")


@dataclass(frozen=True)
class EditSettings:
    """How concepts are edited.

    Args:
        layer: the self-attention layer; the paper finds the knowledge in the first, 0.
        lam: lambda, how strongly the old weight is kept, above 0; None finds it (``solver/spectrum.py``).
        positions: one of ``POSITIONS``, or ``ALIGNED``.
        preserve: prompts whose every token keeps its output, softly: moving them costs.
        preserve_weight: how much a softly preserved token counts beside an edited one.
        published_bias: add the layer's bias to the values, as the authors' released code does; the layer then adds it
            twice. Only for reproducing published numbers.
        hold: prompts held hard: none of their tokens moves (by more than 1e-5 of its output, in fp32).
        breadth: a list of names that guards the edit, of ``BREADTHS`` (``names.py``); "" for none. One of another
            version may stand in a file's settings; it is refused where it would be needed.
        breadth_weight: as how many softly preserved captions, at a preserve weight of 1, the whole list counts.
        selectivity: s of the selective ridge (``solver/ridge.py``), 0 to below 1, by the keys of ``breadth``; 0 charges
            every direction of the keys alike.

    Raises:
        ValueError: a setting outside of its range, by name.
    """

    layer: int = 0
    lam: float | None = 0.01
    positions: str = POSITIONS[1]
    preserve: tuple[str, ...] = ()
    preserve_weight: float = 1.0
    published_bias: bool = False
    hold: tuple[str, ...] = ()
    breadth: str = NO_BREADTH
    breadth_weight: float = 30.0
    selectivity: float = 0.0

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise ValueError(f"layer is {self.layer}; expected 0 or more.")
        if self.positions not in (*POSITIONS, ALIGNED):
            raise ValueError(f"Unknown positions {self.positions!r}; expected one of: {'; '.join(POSITIONS)}.")
        for name in ("preserve", "hold"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a string; expected a tuple of prompts.")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.lam is not None:
            check_lambda(self.lam)
        check_preserve_weight(self.preserve_weight)
        check_preserve_weight(self.breadth_weight, "breadth_weight")
        check_selectivity(self.selectivity)
        if self.selectivity and not self.breadth:
            raise ValueError(f"selectivity is {self.selectivity} and no list of names is chosen; choose a breadth.")
        if self.selectivity and self.lam is None:
            raise ValueError("lambda cannot be found for a selective ridge; give a lambda, or set selectivity to 0.")

    def keeping(self, prompts: Sequence[str], mode: str = PRESERVE_MODES[0]) -> EditSettings:
        """These settings with some more prompts to preserve, "soft" or "hard" (ValueError otherwise)."""
        if mode not in PRESERVE_MODES:
            raise ValueError(f"Unknown preserve mode {mode!r}; expected one of {', '.join(PRESERVE_MODES)}.")
        if mode == PRESERVE_MODES[0]:
            return dataclasses.replace(self, preserve=tuple(dict.fromkeys((*self.preserve, *prompts))))
        return dataclasses.replace(self, hold=tuple(dict.fromkeys((*self.hold, *prompts))))


PAPER = EditSettings()


GUARDED = EditSettings(lam=0.1, preserve=PRESERVED, preserve_weight=3.0)


AUTO = dataclasses.replace(GUARDED, lam=None)


# Of the text states that an image model reads, where lambda is relative to a key's mean square.
DOORS = EditSettings(lam=1e-3, preserve=PRESERVED, preserve_weight=3.0, positions=POSITIONS[0])


PRESETS = {"paper": PAPER, "guarded": GUARDED, "auto": AUTO}


def preset(name: str) -> EditSettings:
    """Settings by name, "paper", "guarded" or "auto" (ValueError otherwise)."""
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}; expected one of {', '.join(PRESETS)}.")
    return PRESETS[name]
