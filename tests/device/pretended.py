"""A pretended accelerator: a device of PyTorch whose tensors lie in the CPU's memory and which behaves as CUDA does.

Every operation on its tensors is run on the CPU tensors inside, after checks that CUDA would make: all tensors of one
operation lie on the device, but for CPU numbers of no dimension, index tensors, and copies; numpy cannot see them; the
CPU's generator draws nothing on it. So what fails on a GPU for the lack of a ``.to`` fails here, and all numbers are
those of the CPU.

    with pretending():
        x = torch.ones(3, device=DEVICE)
        x + torch.ones(3)  # RuntimeError: Expected all tensors to be on the same device, ...

It is a private-use backend of PyTorch with a Python fallback for all operations. What PyTorch does below its dispatcher
(``torch.tensor`` and its kin, indexing by Python lists) is done by :func:`pretending` and by the class itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_NAME = "pretended"
_setup_privateuseone_for_python_backend(_NAME)
DEVICE = torch.device(_NAME, 0)
_CPU = torch.device("cpu")
# Operations that take tensors of both devices, by the name of their overload packet.
_COPIES = ("aten::copy_", "aten::_copy_from")
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
_COUNTED = ("aten::_to_copy", "aten::_local_scalar_dense")
_DECOMPOSED = ("aten::to", "aten::type_as")
# What makes tensors of a size that its arguments do not tell: PyTorch would make an empty one and resize it.
_SIZED = (
    "arange",
    "arange.start",
    "arange.start_step",
    "linspace",
    "logspace",
    "eye",
    "eye.m",
    "tril_indices",
    "triu_indices",
    "randperm",
    "randperm.generator",
)


@dataclass
class Traffic:
    """Bytes copied between the devices."""

    up: int = 0
    """From the CPU to the device."""
    down: int = 0
    """From the device to the CPU."""


_traffic = Traffic()


class Pretended(torch.Tensor):
    """A tensor on the pretended device."""

    inner: torch.Tensor
    """The same numbers on the CPU."""
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Pretended:
        if type(inner) is not torch.Tensor or inner.device != _CPU:
            raise AssertionError(f"a {type(inner).__name__} on {inner.device} reached the pretended device")
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.inner})"

    def __getitem__(self, index: Any) -> torch.Tensor:
        return torch.Tensor.__getitem__(self, _index(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        torch.Tensor.__setitem__(self, _index(index), value)

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        made = torch.tensor(data, dtype=dtype or self.dtype)
        return made.to(device or DEVICE).requires_grad_(requires_grad)

    def tolist(self) -> Any:
        _traffic.down += self.nbytes
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        self.numpy()


def _index(index: Any) -> Any:
    """An index with tensors in place of lists: PyTorch would make them below its dispatcher."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.tensor(index) if isinstance(index, list | range) else index


@cache
def _kind(func: Any) -> tuple[str, bool, bool]:
    """Name of an operation, whether it changes a tensor's size in place, and whether it copies and counts."""
    name = func._schema.name
    return name, torch.Tag.inplace_view in func.tags, name in _COPIES or name in _COUNTED


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation on the tensors inside."""
    name, resizes, copies = _kind(func)
    if name == "aten::_has_compatible_shallow_copy_type":
        return False  # so that nn.Module.to makes new parameters
    if name in _DECOMPOSED:
        return func.decompose(*args, **kwargs)  # in inference mode PyTorch leaves that to us
    outer: dict[int, Pretended] = {}
    others: list[Any] = []

    def inside(value: Any) -> Any:
        kind = type(value)
        if kind is Pretended:
            outer[id(value.inner)] = value
            return value.inner
        if kind is list or kind is tuple:
            return kind([inside(one) for one in value])
        if isinstance(value, torch.Tensor | torch.Generator):
            others.append(value)
        return _CPU if kind is torch.device and value.type == _NAME else value

    given, named = inside(args), {key: inside(value) for key, value in kwargs.items()} if kwargs else kwargs
    if others:
        _refuse_mixture(name, args, outer, others)
    target = kwargs.get("device") if kwargs else None
    if copies:
        _count(name, args, target)
    if resizes:
        with no_dispatch():  # the size that PyTorch itself sees
            func(*args, **kwargs)
    out = func(*given, **named)
    if (type(args[0]) is not Pretended) if name in _COPIES else (target is not None and target.type == "cpu"):
        return out

    def outside(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            # What was changed in place is the tensor that was given.
            return outer.get(id(value)) if id(value) in outer else Pretended(value)
        return type(value)([outside(one) for one in value]) if isinstance(value, list | tuple) else value

    return outside(out)


def _refuse_mixture(name: str, args: tuple[Any, ...], outer: dict[int, Pretended], others: list[Any]) -> None:
    if any(isinstance(value, torch.Generator) for value in others):
        raise RuntimeError(f"Expected a '{_NAME}' device type for generator but found 'cpu'")
    if any(tensor.is_meta for tensor in others):
        raise AssertionError(f"a meta tensor reached {name}: a leak of the pretended device, no fault of the pack")
    if name in _COPIES or not outer:
        return
    if name in _INDEXED and type(args[0]) is Pretended:
        others = [one for one in args[2:] if isinstance(one, torch.Tensor) and type(one) is not Pretended]
    if any(tensor.ndim for tensor in others):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu! ({name})"
        )


def _count(name: str, args: tuple[Any, ...], target: Any) -> None:
    here = type(args[0]) is Pretended
    if name == "aten::_to_copy" and target is not None:
        up = target.type == _NAME
        if up != here:
            _add(up, args[0].nbytes)
    elif name in _COPIES and here != (type(args[1]) is Pretended):
        _add(here, args[1].nbytes)
    elif name == "aten::_local_scalar_dense":
        _add(False, args[0].element_size())


def _add(up: bool, size: int) -> None:
    if up:
        _traffic.up += size
    else:
        _traffic.down += size


class _BelowDispatcher(TorchFunctionMode):
    """Makes on the CPU what PyTorch makes below its dispatcher, and moves it."""

    makers: tuple[Callable[..., Any], ...] = (torch.tensor, torch.as_tensor, torch.asarray)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.data.__set__ and (type(args[0]) is Pretended) != (type(args[1]) is Pretended):
            return None  # the parameter would change its class: it stays where it is, and is refused when it is used
        if func not in self.makers:
            return func(*args, **kwargs)
        data = args[0] if args else kwargs.get("data")
        device = kwargs.pop("device", None)
        if isinstance(data, torch.Tensor):
            return data.to(device=device or data.device, dtype=kwargs.get("dtype"))
        made = func(*args, **kwargs)
        return made if device is None else made.to(device)


@contextlib.contextmanager
def pretending() -> Iterator[Traffic]:
    """Within the context the device can be used; gives what is copied to it and from it."""
    with _BelowDispatcher():
        _traffic.up = _traffic.down = 0
        yield _traffic


_everything = torch.library.Library("_", "IMPL")
_everything.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
_factories = torch.library.Library("aten", "IMPL")
for _one in _SIZED:
    _packet, _, _overload = _one.partition(".")
    _op = getattr(getattr(torch.ops.aten, _packet), _overload or "default")
    _factories.impl(_one, lambda *args, _op=_op, **kwargs: _run(_op, args, kwargs), "PrivateUse1")
