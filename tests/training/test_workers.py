"""Twins of a model in threads give the gradients and counts of the model."""

import pytest
import torch

from kiban.model.transformer import Transformer
from kiban.tokenizer.special import BOS
from kiban.training.workers import Workers
from tests.training import tiny


def built(dtype: torch.dtype, **changes: int) -> Transformer:
    model = Transformer(tiny.config(**changes))
    model.init_weights(torch.Generator().manual_seed(0))
    model.dtype = dtype
    model.watch_logits()
    return model.train()


def batch(rows: int) -> torch.Tensor:
    return torch.randint(0, tiny.VOCABULARY, (rows, 33), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize(("number", "threads"), [(1, 1), (2, 2), (3, 3), (2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_twins_give_the_gradients_and_counts_of_one(dtype: torch.dtype, number: int, threads: int) -> None:
    tokens_BX = batch(5)  # not shared out evenly
    alone = built(dtype, num_nextn_predict_layers=1)
    loss, told = alone.loss(tokens_BX[:, :-1], tokens_BX[:, 1:])
    loss.backward()
    model = built(dtype, num_nextn_predict_layers=1)
    with Workers(model, number, threads) as workers:
        workers.backward(tokens_BX, 0.3, 0.0, first=True)
        stats = workers.backward(tokens_BX[:4], 0.8, 0.0, first=True)  # what was there before counts no more
        stats_rest = workers.backward(tokens_BX[4:], 0.2, 0.0, first=False)
    near = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.05, "atol": 2e-3}
    for name in told:
        torch.testing.assert_close(stats[name] + stats_rest[name], told[name], rtol=1e-3, atol=1e-3)
    for (name, ours), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and ours.grad.dtype == torch.float32
        torch.testing.assert_close(ours.grad, theirs.grad, **near, msg=name)
    loads = (model.update_routing_bias(0.0).sum(), alone.update_routing_bias(0.0).sum())
    assert loads[0] == 2 * loads[1]  # of both passes
    assert model.clip_logits(1e9) == pytest.approx(alone.clip_logits(1e9), rel=1e-2)


def test_documents_begin_with_bos() -> None:
    tokens_BX = batch(4)
    tokens_BX[:, 20] = BOS
    model = built(torch.float32, num_nextn_predict_layers=1)
    document_BL = (tokens_BX[:, :-1] == BOS).cumsum(1)
    apart = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:], 0.0, document_BL)[1]
    together = model.loss(tokens_BX[:, :-1], tokens_BX[:, 1:])[1]
    with Workers(model, 2, 2) as workers:
        for masked, expected in ((True, apart), (False, together)):
            stats = workers.backward(tokens_BX, 1.0, 0.0, True, masked)
            for name in ("loss", "mtp_loss"):
                torch.testing.assert_close(stats[name], expected[name], rtol=1e-4, atol=1e-5)
    assert apart["loss"] != together["loss"] and apart["mtp_loss"] != together["mtp_loss"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_twins_see_new_weights_after_refresh(dtype: torch.dtype) -> None:
    model = built(dtype)
    with Workers(model, 2, 2) as workers:
        before = workers.backward(batch(4), 1.0, 0.0, first=True)["loss"]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1 * parameter.grad)
            workers.refresh()
        assert workers.backward(batch(4), 1.0, 0.0, first=True)["loss"] < before - 0.01


def test_the_order_of_sums_is_fixed() -> None:
    found = []
    for _ in range(3):
        model = built(torch.float32)
        with Workers(model, 2, 2) as workers:
            workers.backward(batch(7), 1.0, 0.0, first=True)
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
