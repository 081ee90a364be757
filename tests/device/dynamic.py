"""ComfyUI's dynamic VRAM without its driver: no memory is ever resident, so each weight is brought when it is used."""

from __future__ import annotations

from typing import Any


class _NoMemory:
    """A virtual address range of a model's weights in which none is ever resident."""

    def __init__(self, *_: Any) -> None:
        self.size = 0

    def alloc(self, size: int) -> tuple[Any, int, int]:
        return self, 0, size

    def prioritize(self, *_: Any) -> None:
        pass

    def loaded_size(self) -> int:
        return 0

    def free_memory(self, _: float) -> int:
        return 0

    def truncate(self, *_: Any, **__: Any) -> None:
        pass


def use_dynamic_vram(monkeypatch: Any) -> None:
    """Models that are loaded from now on are kept as with dynamic VRAM."""
    import comfy.memory_management
    import comfy.model_patcher
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_vbar

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcherDynamic)
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(comfy_aimdo.model_vbar, "ModelVBAR", _NoMemory)
    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", _NoMemory)
    for name, function in (
        ("vbar_fault", lambda _: None),
        ("vbar_signature_compare", lambda *_: False),
        ("vbar_unpin", lambda _: None),
    ):
        monkeypatch.setattr(comfy_aimdo.model_vbar, name, function)
