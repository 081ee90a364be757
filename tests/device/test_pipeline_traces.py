"""Traces of a diffusers pipeline that lies on the device, and of one whose parts accelerate moves about."""

import pytest
import torch
from diff_quickfix.pipelines import trace
from pretended import DEVICE
from small_pipelines import sdxl

pytestmark = pytest.mark.newest
SETTINGS = {"height": 16, "width": 16, "steps": 2, "rows": 6, "controls": 1}
SITES = {"text": "text.?.1.hidden, text.g.pooled", "image": "unet.mid.a0.*"}


def traced(pipe, component):
    return trace(pipe, "a house by the [dog], at night", component, sites=SITES[component], **SETTINGS)


def assert_same(found, wanted):
    for name in ("clean", "corrupted", "restored", "control"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert type(one) is torch.Tensor and one.device.type == "cpu"
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("component", SITES)
def test_a_trace_on_the_device_is_that_of_the_cpu(component):
    assert_same(traced(sdxl().to(DEVICE), component), traced(sdxl(), component))
