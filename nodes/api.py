"""The one import of ComfyUI's node API, by its numbered version."""

from comfy_api.v0_0_2 import ComfyExtension, io

__all__ = ["ComfyExtension", "WeightEditType", "io"]

WeightEditType = io.Custom("WEIGHT_EDIT")
