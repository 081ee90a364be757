"""The pretended accelerator refuses what CUDA refuses, and computes what the CPU computes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretended import DEVICE, Pretended
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.newest


def here(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "mixed",
    [
        lambda a, b: a + b,
        lambda a, b: b + a,
        lambda a, b: a @ b,
        lambda a, b: torch.cat([a, b]),
        lambda a, b: torch.where(a > 0, a, b),
        lambda a, b: F.linear(a, b),
        lambda a, b: a.addmm_(b, b),
        lambda a, b: a.index_select(0, torch.tensor([0])),
        lambda a, b: b[torch.zeros(3, dtype=torch.bool, device=DEVICE)],
        lambda a, b: F.embedding(torch.tensor([1]), a),
        lambda a, b: a.masked_fill(b > 0, 0.0),
        lambda a, b: b + a.sum(),
        lambda a, b: a.index_put_((torch.tensor([0]),), b[:1]),
        lambda a, b: torch.linalg.solve(a, b),
    ],
)
def test_operations_on_both_devices_are_refused(mixed):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mixed(here(3, 3).to(DEVICE), here(3, 3))


@pytest.mark.parametrize(
    "allowed",
    [
        lambda a: a + torch.tensor(2.0),
        lambda a: a * 2,
        lambda a: a[torch.tensor([2, 0])],
        lambda a: a[:, torch.tensor([True, False, True])],
        lambda a: a[[0, 1], [1, 2]],
        lambda a: a.clone().index_put_((torch.tensor([0]),), torch.tensor(1.0)),
        lambda a: torch.zeros(3, 3).copy_(a),
        lambda a: torch.empty_like(a).copy_(torch.ones(3, 3)),
        lambda a: torch.where(a > 0, torch.tensor(0.0), a),
        lambda a: torch.tensor([[1.0, 2.0]], device=a.device) + 1,
        lambda a: torch.as_tensor(np.ones(2), device=a.device),
        lambda a: a.new_tensor([1.0, 2.0]),
        lambda a: torch.arange(2, 9, 3, device=a.device),
        lambda a: a.unique(return_inverse=True)[1],
        lambda a: torch.linalg.eigh(a @ a.T)[0],
        lambda a: F.scaled_dot_product_attention(a[None, None], a[None, None], a[None, None], is_causal=True),
        lambda a: a.double().half().float(),
        lambda a: a[0] @ a @ a[1],
        lambda a: a.clone().t_().unsqueeze_(0) * 2,
    ],
)
@pytest.mark.parametrize("inference", [True, False])
def test_what_is_allowed_gives_the_cpus_numbers(allowed, inference):
    with torch.inference_mode(inference):
        wanted, found = (allowed(a) for a in (here(3, 3), here(3, 3).to(DEVICE)))
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-6, atol=1e-7)


def test_changes_in_place_are_seen_through_views():
    x = torch.zeros(3, 3, device=DEVICE)
    same = x
    x += 1
    x.diagonal().add_(1)
    x[0, [1, 2]] = torch.tensor(7.0)
    x[:, :1] = torch.full((3, 1), 5.0)
    assert same is x
    assert x.tolist() == [[5, 7, 7], [5, 2, 1], [5, 1, 2]]


def test_numbers_come_out_and_arrays_do_not():
    x = torch.tensor([1.5, 0.0], device=DEVICE)
    assert (float(x[0]), int(x[0]), bool(x.any()), x.tolist(), list(range(5))[x.long()[1]]) == (
        1.5,
        1,
        True,
        [1.5, 0],
        0,
    )
    for array in (x.numpy, lambda: np.asarray(x), lambda: np.add(x, 1)):
        with pytest.raises(TypeError, match=r"Tensor\.cpu\(\)"):
            array()
    with pytest.raises(RuntimeError, match="device type for generator"):
        torch.randn(3, generator=torch.Generator(), device=DEVICE)


@pytest.mark.parametrize("inference", [True, False])
def test_modules_move_as_a_whole(inference):
    with torch.inference_mode(inference):
        module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
        wanted = module(torch.tensor([1, 2]))
        module.to(DEVICE)
        assert all(isinstance(one, Pretended) and one.device == DEVICE for one in module.parameters())
        torch.testing.assert_close(module(torch.tensor([1, 2], device=DEVICE)).cpu(), wanted)
        module.cpu()
        assert all(one.device.type == "cpu" for one in module.parameters())
        torch.testing.assert_close(module(torch.tensor([1, 2])), wanted)


def test_gradients_flow():
    weight = here(3, 3).to(DEVICE).requires_grad_()
    (slope,) = torch.autograd.grad((weight @ weight).sum(), weight)
    own = here(3, 3).requires_grad_()
    torch.testing.assert_close(slope.cpu(), torch.autograd.grad((own @ own).sum(), own)[0])


def test_a_meta_tensor_is_told_from_a_fault_of_the_pack():
    with pytest.raises(AssertionError, match="meta"):
        here(3).to(DEVICE) + torch.empty(3, device="meta")
    with pytest.raises(AssertionError, match="reached the pretended device"):
        Pretended(torch.empty(3, device="meta"))


@given(rows=st.integers(0, 5), up=st.booleans())
def test_copies_are_counted(rows, up):
    from pretended import pretending

    source = torch.ones(rows, 4, device="cpu" if up else DEVICE)
    with pretending() as counted:
        source.to("cpu" if not up else DEVICE)
        assert (counted.up, counted.down) == ((16 * rows, 0) if up else (0, 16 * rows))
