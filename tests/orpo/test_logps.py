import pytest
import torch

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
