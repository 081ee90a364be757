"""Tracing on a machine with little memory."""

import importlib

import pytest
import torch
from runs import sweep_inputs


@pytest.fixture
def memory(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.host.tracing.memory")


def with_free(monkeypatch, memory, size):
    monkeypatch.setattr(memory.comfy.model_management, "get_free_memory", lambda *_, **__: size)


@pytest.mark.parametrize("free_for", [0, 0.5, 1, 1.01, 5, 11.99, 12, 1000])
def test_no_more_rows_than_the_estimate_allows(shapes, memory, monkeypatch, free_for):
    model, shape = shapes[0], (1, 4, 16, 16)
    one = model.model.memory_required([1, *shape[1:]]) * 1.5
    with_free(monkeypatch, memory, free_for * one)
    assert memory.rows_that_fit(model, shape, 12) == min(12, max(1, int(free_for)))


def test_larger_pictures_leave_room_for_fewer(shapes, memory, monkeypatch):
    model = shapes[0]
    with_free(monkeypatch, memory, 24 * model.model.memory_required([1, 4, 16, 16]) * 1.5)
    assert memory.rows_that_fit(model, (1, 4, 16, 16), 24) > memory.rows_that_fit(model, (1, 4, 64, 64), 24) == 1


def test_on_a_gpu_the_memory_of_other_models_counts_as_free_and_the_models_own_does_not(shapes, memory, monkeypatch):
    class Loaded:
        device = torch.device("cuda", 0)

        @staticmethod
        def model_loaded_memory():
            return 500

    class Model:
        load_device = torch.device("cuda", 0)
        model_size = staticmethod(lambda: 700)

    class Elsewhere(Loaded):
        device = torch.device("cpu")

    with_free(monkeypatch, memory, 1000)
    monkeypatch.setattr(memory.comfy.model_management, "current_loaded_models", [Loaded(), Elsewhere()])
    assert memory.usable_memory(Model()) == 800
    with_free(monkeypatch, memory, 100)
    assert memory.usable_memory(Model()) == 0


@pytest.mark.usefixtures("inference")
def test_a_trace_with_little_memory_is_the_same(nodes, shapes, memory, monkeypatch, caplog):
    node, inputs = nodes["DiffQuickFix_CausalTraceUNet"], sweep_inputs(shapes, sites="unet.middle.*", kind="cross_attn")
    wanted, _ = node.execute(**inputs, step_windows=1, branch="cond").args
    monkeypatch.setattr(memory, "usable_memory", lambda model: 0.0)
    caplog.set_level("INFO", "diff_quickfix")
    found, _ = node.execute(**inputs, step_windows=1, branch="cond").args
    for name in ("clean", "corrupted", "restored", "control"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), atol=1e-4, rtol=1e-3)
    assert "1 pictures at once" in caplog.text
