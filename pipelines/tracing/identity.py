"""Digests of everything of a pipeline that a score depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .kinds import PipelineKind
from .loading import versions

_DIGITS = 32
# Digests of vocabularies, which only ever grow.
_VOCABULARIES: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


class Identity:
    """What a pipeline is, with the digests of its weights kept until they change."""

    def __init__(self, pipe: Any, kind: PipelineKind, further: Mapping[str, Any]) -> None:
        """
        Args:
            further: modules beside the text encoders and the image model, by name.
        """
        self._pipe, self._kind, self._further = pipe, kind, dict(further)
        self._known: dict[str, tuple[Any, str]] = {}

    def now(self) -> dict[str, str]:
        """Digests of weights and vocabularies, and what else decides a score, by names that people know."""
        pipe, kind = self._pipe, self._kind
        ends = [end for end, _ in kind.encoders]
        parts = {name: getattr(pipe, name, None) for name in (*(f"text_encoder{end}" for end in ends), kind.part)}
        found = {"pipeline": type(pipe).__name__}
        for name, module in {**parts, **self._further}.items():
            if module is not None:
                found[f"{name} weights"] = self._weights(name, module)
                found[f"{name} configuration"] = _of_json(_config(module))
                if adapters := _adapters(module):
                    found[f"{name} adapters"] = adapters
        for end in ends:
            tokenizer = getattr(pipe, f"tokenizer{end}", None)
            if tokenizer is not None:
                found[f"tokenizer{end}"] = _vocabulary(tokenizer)
        settings = {key: value for key, value in sorted(dict(pipe.scheduler.config).items()) if key[0] != "_"}
        found["scheduler"] = f"{type(pipe.scheduler).__name__} {json.dumps(settings, default=str)}"
        found["zeros in place of no negative prompt"] = str(pipe.config.get("force_zeros_for_empty_prompt", False))
        found["latents"] = json.dumps(_latent_scale(getattr(pipe, "vae", None)))
        found["device"] = torch.device(pipe._execution_device).type
        return found | versions()

    def _weights(self, name: str, module: nn.Module) -> str:
        # In-place changes count up a tensor's version; other weights are other tensors.
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        mark = [(key, id(value), _version_of(value), value.dtype) for key, value in state.items()]
        if name not in self._known or self._known[name][0] != (mark, _adapters(module)):
            self._known[name] = ((mark, _adapters(module)), digest_of(module))
        return self._known[name][1]


def _version_of(value: torch.Tensor) -> int:
    # Those that were made in inference mode count none, and can be changed there alone.
    return 0 if value.is_inference() else value._version


def digest_of(module: nn.Module) -> str:
    """The digest of a module's weights: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        stored: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(stored)
    return digest.hexdigest()[:_DIGITS]


def _vocabulary(tokenizer: Any) -> str:
    mark = (len(tokenizer), tokenizer.pad_token)
    if tokenizer not in _VOCABULARIES or _VOCABULARIES[tokenizer][0] != mark:
        digest = _of_json([sorted(tokenizer.get_vocab().items()), tokenizer.pad_token])
        _VOCABULARIES[tokenizer] = (mark, digest)
    return _VOCABULARIES[tokenizer][1]


def _adapters(module: nn.Module) -> str:
    """Which LoRAs are active, at which scale, and which are merged; "" without any. FreeU's numbers stand beside."""
    found = []
    for name, one in module.named_modules():
        scaling = getattr(one, "scaling", None)
        if isinstance(scaling, Mapping) and hasattr(one, "active_adapters"):
            merged = getattr(one, "merged_adapters", ())
            found.append([name, dict(scaling), list(one.active_adapters), list(merged), bool(one.disable_adapters)])
        free = {key: getattr(one, key) for key in ("s1", "s2", "b1", "b2") if getattr(one, key, None) is not None}
        if free:
            found.append([name, free])
    return _of_json(found) if found else ""


def _config(module: Any) -> Any:
    config: Any = getattr(module, "config", None)
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
    skipped = ("transformers_version", "dtype", "torch_dtype", "architectures")
    return {key: value for key, value in values.items() if key[0] != "_" and key not in skipped}


def _latent_scale(vae: Any) -> dict[str, Any]:
    config = getattr(vae, "config", None)
    names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    return {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}


def _of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]
