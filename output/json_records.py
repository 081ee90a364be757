"""Frozen dataclasses as JSON and back; what is read may come from a stranger, so every value's type is checked."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class RecordError(ValueError):
    """JSON that is not the record it should be; the message names the field."""


def to_json(record: Any) -> Any:
    """A dataclass, or anything built from dataclasses, tuples, dicts and plain values, as JSON values."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_json(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, tuple | list):
        return [to_json(entry) for entry in record]
    if isinstance(record, dict):
        return {key: to_json(entry) for key, entry in record.items()}
    return record


def from_json(kind: type[T], value: Any, where: str) -> T:
    """A record of some dataclass from JSON values. Fields that have defaults may be missing.

    Args:
        where: what the value is, for messages.

    Raises:
        RecordError: a field is missing, unknown, or of another type; or the dataclass refuses a value.
    """
    return typing.cast(T, _decoded(kind, value, where))


def parse(text: str) -> Any:
    """JSON values of a text, without NaN and infinity (RecordError)."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"no JSON ({error})") from error


def _refuse_constant(name: str) -> Any:
    raise RecordError(f"{name} is not a number")


def _decoded(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _decoded(inner, value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if hasattr(kind, "_fields"):
        hints = tuple(typing.get_type_hints(kind).values())
        # The last ones may be missing where they have defaults.
        if isinstance(value, list) and 0 < len(hints) - len(value) <= len(getattr(kind, "_field_defaults", ())):
            hints = hints[: len(value)]
        return kind(*_tuple(hints, value, where))
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise RecordError(f"{where} is {json.dumps(value)[:80]}; expected {kind.__name__}")
    if kind is str and not value.isascii() and value != value.encode("utf-8", "replace").decode("utf-8"):
        raise RecordError(f"{where} is no valid Unicode text")
    return value


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{where} is {json.dumps(value)[:80]}; expected named fields")
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    if unknown := value.keys() - hints.keys():
        raise RecordError(f"{where} has the unknown field {min(unknown)[:80]!r}; a newer version may have written it")
    for field in fields:
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in value:
            raise RecordError(f"{where} lacks the field {field.name}")
    decoded = {name: _decoded(hints[name], entry, f"{where}.{name}") for name, entry in value.items()}
    try:
        return kind(**decoded)
    except (ValueError, OverflowError) as error:
        raise RecordError(f"{where}: {error}") from error


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise RecordError(f"{where} is {json.dumps(value)[:80]}; expected a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise RecordError(f"{where} has {len(value)} entries; expected {len(arguments)}")
    return tuple(
        _decoded(kind, entry, f"{where}[{number}]")
        for number, (kind, entry) in enumerate(zip(arguments, value, strict=True))
    )
