"""What a trace's scores depend on, as digests of its content: an interrupted trace goes on only with the same.

Numbers, texts, tensors, and the objects and functions of ComfyUI, of PyTorch and of this pack are compared by content.
What another pack brings (a patch function of its own) may depend on anything; it is the same only if it is the very
same object, as it is while ComfyUI runs and keeps the results of the nodes before.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import inspect
import types
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy
import comfy.model_patcher
import comfy.sd
import torch

from .objects import Clip, Patcher, Vae

_ROOT = Path(__file__).resolve().parents[2]
_COMFY = Path(next(iter(comfy.__path__))).resolve()
# Their code says all: what their functions and objects depend on can be read off them.
_KNOWN = (_ROOT, _COMFY, _COMFY.parent / "comfy_extras", Path(torch.__file__).resolve().parent)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, range, uuid.UUID)
# What changes while an object is used, by the name of the class that has it.
_PASSING = {
    "HookKeyframeGroup": {"_current_keyframe", "_current_used_steps", "_current_index", "_current_strength", "_curr_t"}
    | {"curr_t"},
    "HookKeyframe": {"start_t"},
    "TransformerOptionsHook": {"_skip_adding"},
    "ControlBase": {"cond_hint", "timestep_range", "extra_concat", "model_sampling_current"},
    "BypassForwardHook": {"original_forward"},
    "Module": {"forward"},
}
_tokens: dict[int, tuple[Callable[[], Any], str]] = {}


class Digest:
    """Digests of values, which are equal if and only if the values are.

    Attributes:
        foreign: what was compared as an object and not by its content.
    """

    def __init__(self) -> None:
        self.foreign: set[str] = set()
        self._known: dict[int, tuple[Any, bytes]] = {}

    def of(self, value: Any) -> bytes:
        """The digest of a value of any kind."""
        if isinstance(value, _PLAIN):
            return _hashed(type(value).__name__, repr(value))
        key = id(value)
        if key not in self._known:
            # For what refers to itself.
            self._known[key] = (value, b"itself")
            self._known[key] = (value, self._of(value))
        return self._known[key][1]

    def _of(self, value: Any) -> bytes:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, Mapping):
            return _hashed("mapping", *sorted(self.of(key) + self.of(entry) for key, entry in value.items()))
        if isinstance(value, set | frozenset):
            return _hashed("set", *sorted(map(self.of, value)))
        if isinstance(value, list | tuple):
            return _hashed("sequence", *map(self.of, value))
        if isinstance(value, enum.Enum):
            return _hashed("enum", type(value).__qualname__, value.name)
        if isinstance(value, functools.partial):
            return _hashed("partial", *map(self.of, (value.func, value.args, value.keywords)))
        if isinstance(value, type | types.BuiltinFunctionType):
            return self._class(value) if isinstance(value, type) else _hashed("builtin", value.__qualname__)
        if isinstance(value, types.MethodType):
            return _hashed("method", self.of(value.__self__), self.of(value.__func__))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        return self._object(value)

    def _tensor(self, value: torch.Tensor) -> bytes:
        if hasattr(value, "_qdata"):
            return _hashed("quantized", type(value).__qualname__, self.of(value._qdata), self.of(_state(value)))
        if type(value) in (torch.Tensor, torch.nn.Parameter) and value.is_meta:
            return self._foreign(value)
        # Of a subclass of another pack the stored numbers are compared, and its name.
        near = value.detach().cpu()
        kind = "" if type(near) in (torch.Tensor, torch.nn.Parameter) else type(near).__qualname__
        plain = near.as_subclass(torch.Tensor).contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy().data
        return _hashed(kind, str(plain.dtype), repr(tuple(plain.shape)), data)

    def _class(self, value: type) -> bytes:
        return _hashed("class", *(f"{one.__module__}.{one.__qualname__}" for one in value.__mro__))

    def _function(self, value: types.FunctionType) -> bytes:
        source = _source_of(value)
        if not source:
            return self._foreign(value)
        state = (value.__defaults__, value.__kwdefaults__, [_content(cell) for cell in value.__closure__ or ()])
        return _hashed("function", value.__qualname__, source, self.of(state))

    def _object(self, value: Any) -> bytes:
        if hasattr(value, "identity"):
            return _hashed("object", self._class(type(value)), self.of(value.identity()))
        if isinstance(value, comfy.model_patcher.ModelPatcher):
            return _hashed("patcher", self.of(patcher_parts(value)))
        if isinstance(value, comfy.sd.CLIP):
            return _hashed("clip", self.of(clip_parts(value)))
        if isinstance(value, comfy.sd.VAE):
            return _hashed("vae", self.of(vae_parts(value)))
        if not _is_known(_file_of(type(value))) or not hasattr(value, "__dict__"):
            return self._foreign(value)
        return _hashed("object", self._class(type(value)), self.of(_state(value)))

    def _foreign(self, value: Any) -> bytes:
        named = value if hasattr(value, "__qualname__") else type(value)
        self.foreign.add(f"{named.__module__}.{named.__qualname__}")
        return _hashed("foreign", _token(value))


def _hashed(*parts: Any) -> bytes:
    """A hash of parts that are texts or bytes, by their lengths too."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _state(value: Any) -> dict[str, Any]:
    """What an object holds, without what changes while it is used."""
    passing = set().union(*(_PASSING.get(one.__name__, set()) for one in type(value).__mro__))
    return {name: entry for name, entry in vars(value).items() if name not in passing}


def _file_of(value: type | types.FunctionType) -> str:
    try:
        return inspect.getfile(value)
    except (TypeError, OSError):
        return ""


def _source_of(function: types.FunctionType) -> str:
    """The text of a function of the known packages; "" for another's."""
    if not _is_known(_file_of(function)):
        return ""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError, SyntaxError):
        return ""


@functools.cache
def _is_known(file: str) -> bool:
    path = Path(file)
    return path.is_absolute() and any(path.resolve().is_relative_to(root) for root in _KNOWN)


def _token(value: Any) -> str:
    """A name for an object that no other object has, nor will have."""
    found = _tokens.get(id(value))
    if found is not None and found[0]() is value:
        return found[1]
    token = uuid.uuid4().hex
    # What takes no weak reference cannot be told from a later object at its address: it is never the same.
    with contextlib.suppress(TypeError):
        _tokens[id(value)] = (weakref.ref(value), token)
    return token


# --- ComfyUI's objects -----------------------------------------------------------------------------------------------


def patcher_parts(patcher: Patcher) -> dict[str, Any]:
    """What a MODEL, or the patcher of another object, computes with: "weights", "patches" and "options"."""
    entries = patcher.get_key_patches()
    own: Any = patcher
    model = patcher.model
    passing = {"transformer_options": {}, **patcher.model_options}
    options = {
        "model options": passing,
        "kind": type(model),
        "configuration": getattr(getattr(model, "model_config", None), "unet_config", None),
        "latent format": getattr(model, "latent_format", None),
        "sampling": own.get_model_object("model_sampling") if hasattr(model, "model_sampling") else None,
        "compute": (own.model_dtype(), getattr(model, "manual_cast_dtype", None)),
    }
    for name in (
        "object_patches",
        "weight_wrapper_patches",
        "wrappers",
        "callbacks",
        "injections",
        "attachments",
        "additional_models",
        "forced_hooks",
    ):
        options[name] = _without_empty(getattr(patcher, name, None))
    hooks = getattr(patcher, "hook_patches", None) or {}
    return {
        # Where a hook changed a weight last, ComfyUI takes the patched one for the unpatched.
        "weights": {key: getattr(own.backup.get(key), "weight", entry[0][0]) for key, entry in entries.items()},
        "patches": {key: entry[1:] for key, entry in entries.items() if len(entry) > 1},
        "options": {**options, "hooks": list(hooks.values())},
    }


def _without_empty(value: Any) -> Any:
    """A dictionary without entries that hold nothing: ComfyUI adds them as it looks."""
    if not isinstance(value, Mapping):
        return value
    kept = {key: _without_empty(entry) for key, entry in value.items()}
    return {key: entry for key, entry in kept.items() if not (isinstance(entry, Mapping | list) and not entry)}


def clip_parts(clip: Clip) -> dict[str, Any]:
    """What a CLIP encodes with: "weights", "patches" and "options"."""
    parts = patcher_parts(clip.patcher)
    # Neither is read where text goes to a UNet, and where a file lacks them they hold what was in memory.
    unread = ("text_projection.weight", "logit_scale")
    parts["weights"] = {key: value for key, value in parts["weights"].items() if not key.endswith(unread)}
    names = ("layer_idx", "use_clip_schedule", "apply_hooks_to_conds", "tokenizer_options")
    own = {name: getattr(clip, name, None) for name in names}
    encoders = {
        name: (type(child), getattr(child, "options_default", None), getattr(child, "special_tokens", None))
        for name, child in clip.cond_stage_model.named_children()
    }
    heads = [getattr(module, "heads", None) for module in clip.cond_stage_model.modules() if hasattr(module, "heads")]
    return {**parts, "options": {**parts["options"], **own, "encoders": encoders, "heads": heads}}


def vae_parts(vae: Vae) -> dict[str, Any]:
    """What a VAE decodes with."""
    own: Any = vae
    names = ("vae_dtype", "latent_channels", "downscale_ratio", "process_output")
    return {
        **patcher_parts(vae.patcher),
        "kind": type(getattr(own, "first_stage_model", None)),
        "own": {name: getattr(own, name, None) for name in names},
    }


def identities(named: Iterable[tuple[str, Any]]) -> tuple[dict[str, str], dict[str, Sequence[str]]]:
    """Short digests of several things by name, and what in each of them is compared as an object."""
    digests: dict[str, str] = {}
    foreign: dict[str, Sequence[str]] = {}
    for name, value in named:
        digest = Digest()
        digests[name] = digest.of(value).hex()[:24]
        if digest.foreign:
            foreign[name] = sorted(digest.foreign)
    return digests, foreign
