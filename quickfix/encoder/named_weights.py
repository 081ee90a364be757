"""Weights by name: out of a function, with some of them replaced, those below one part, or read once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch


class CalledWeights(Mapping[str, torch.Tensor]):
    """A function from name to tensor, as a mapping that does not know its names."""

    def __init__(self, read: Callable[[str], torch.Tensor]) -> None:
        self._read = read

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class ReplacedWeights(Mapping[str, torch.Tensor]):
    """A mapping with other tensors in place of some."""

    def __init__(self, weights: Mapping[str, torch.Tensor], edited: Mapping[str, torch.Tensor]) -> None:
        self._weights, self._edited = weights, edited

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._edited[name] if name in self._edited else self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class WeightsBelow(Mapping[str, torch.Tensor]):
    """Those of some weights whose names begin alike, without that beginning."""

    def __init__(self, weights: Mapping[str, torch.Tensor], start: str) -> None:
        self._weights, self._start = weights, start

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._weights[self._start + name]

    def __contains__(self, name: object) -> bool:
        return f"{self._start}{name}" in self._weights

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._start) for name in self._weights if name.startswith(self._start))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class KeptWeights(Mapping[str, torch.Tensor]):
    """Some weights, each of which is read once and kept."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._weights = weights
        self._kept: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._kept:
            self._kept[name] = self._weights[name]
        return self._kept[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
