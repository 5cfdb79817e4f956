import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from orpo_qlora.orpo import logps
from orpo_qlora.orpo.logps import Head, token_logps

VOCABULARY, HIDDEN, ROWS = 37, 8, 23


def plain(hidden, targets, head):
    logits = hidden @ head.weight.t()
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * head.scale
    if head.softcap is not None:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    return torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("tile_rows", [1, 5, 100])
def test_values_and_gradient_equal_whole_logits(monkeypatch, bias, scale, softcap, tile_rows):
    monkeypatch.setattr(logps, "TILE_BYTES", tile_rows * VOCABULARY * 8)
    torch.manual_seed(0)
    head = Head(
        torch.randn(VOCABULARY, HIDDEN, dtype=torch.float64),
        torch.randn(VOCABULARY, dtype=torch.float64) if bias else None,
        scale,
        softcap,
    )
    hidden = torch.randn(ROWS, HIDDEN, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(VOCABULARY, (ROWS,))
    upstream = torch.randn(ROWS, dtype=torch.float64)
    values = token_logps(hidden, targets, head)
    (values * upstream).sum().backward()
    measured, hidden.grad = hidden.grad, None
    expected = plain(hidden, targets, head)
    (expected * upstream).sum().backward()
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(measured, hidden.grad, rtol=1e-11, atol=1e-12)


def test_no_gradient_is_prepared_when_none_is_asked_for():
    head = Head(torch.randn(VOCABULARY, HIDDEN))
    hidden = torch.randn(ROWS, HIDDEN, requires_grad=True)
    with torch.no_grad():
        values = token_logps(hidden, torch.zeros(ROWS, dtype=torch.long), head)
    assert not values.requires_grad
    assert (values < 0).all()


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor any operation returns."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(("rows", "vocabulary"), [(200, 300), (800, 300), (200, 2000)])
def test_no_tensor_is_larger_than_a_tile(monkeypatch, rows, vocabulary):
    monkeypatch.setattr(logps, "TILE_BYTES", 24_000)
    head = Head(torch.randn(vocabulary, 2))
    hidden = torch.randn(rows, 2, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,))
    with LargestTensor() as largest:
        token_logps(hidden, targets, head).sum().backward()
    assert largest.bytes <= 24_000 < rows * vocabulary * 4


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.02)], ids=str
)
def test_a_confident_token_keeps_its_small_gradient(dtype, tolerance):
    """At p = 0.9999 the gradient is 1 − p: a cast before the subtraction would leave nothing."""
    weight = torch.tensor([[9.25, 1.0], [0.0, -1.0], [0.0, 0.5]], dtype=dtype)
    hidden = torch.tensor([[1.0, 0.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([0])
    token_logps(hidden, target, Head(weight)).sum().backward()
    exact = hidden.detach().double().requires_grad_()
    plain(exact, target, Head(weight.double())).sum().backward()
    assert exact.grad.abs().max() < 2e-3
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=tolerance, atol=0)


def test_unrounded_sums_make_bfloat16_log_probs_exact(monkeypatch):
    """With float32 logits only the inputs are rounded, which the reference shares."""
    torch.manual_seed(0)
    weight = torch.randn(500, 64).bfloat16()
    hidden = (3 * torch.randn(40, 64)).bfloat16()
    targets = torch.randint(500, (40,))
    wanted = torch.log_softmax(hidden.double() @ weight.double().t(), -1)
    wanted = wanted.gather(1, targets[:, None])[:, 0]
    rounded = logps.token_logps(hidden, targets, logps.Head(weight))
    monkeypatch.setattr(logps, "has_wide_product", lambda device, dtype: True)
    monkeypatch.setattr(
        logps, "wide_product", lambda x, y, into: torch.mm(x.float(), y.float(), out=into)
    )
    exact = logps.token_logps(hidden, targets, logps.Head(weight))
    assert (exact - wanted).abs().max() < 1e-4
    assert (rounded - wanted).abs().max() > 1e-2


def test_a_gpu_takes_larger_tiles():
    assert logps._tile_rows(32_000 * 4, "cuda") == 1024
    assert logps._tile_rows(128_256 * 4, "cuda") == 523
    assert logps._tile_rows(128_256 * 4, "cpu") == 130
    assert logps._tile_rows(2**40, "cuda") == 1
