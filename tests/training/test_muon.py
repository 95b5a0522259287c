"""Muon's update is the nearest orthogonal matrix, about; and which parameters it takes."""

import pytest
import torch
from torch import Tensor, nn

from kiban.model.presets import preset
from kiban.model.transformer import Transformer
from kiban.training.muon import ADAMW_RMS, Muon, orthogonalised
from kiban.training.optimiser import optimisers


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(1, 32, 64), (1, 64, 32), (5, 24, 24)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    x_EOI = drawn(*shape)
    out_EOI = orthogonalised(x_EOI)
    values = torch.linalg.svdvals(out_EOI)
    assert 0.4 < values.min() and values.max() < 1.3  # the smallest of a square Gaussian matrix are still on their way
    u, _, v = torch.linalg.svd(x_EOI, full_matrices=False)
    aligned = torch.einsum("eor,eoi,eri->er", u, out_EOI, v)  # its singular values, in the same directions
    torch.testing.assert_close(aligned.sort().values, values.sort().values, rtol=1e-3, atol=1e-3)


def test_zeros_stay_zeros() -> None:
    assert not orthogonalised(torch.zeros(2, 4, 8)).any()


def test_a_stack_is_its_matrices_and_what_is_joined_is_taken_apart() -> None:
    start, grad = drawn(3, 16, 10), drawn(3, 16, 10) * 2

    def stepped(weights: list[Tensor], grads: list[Tensor], joined: int) -> Tensor:
        parameters = [nn.Parameter(w.clone()) for w in weights]
        for parameter, g in zip(parameters, grads, strict=True):
            parameter.grad = g.clone()
        Muon([{"params": parameters, "joined": joined}], 0.1, 0.5).step()
        return torch.cat([p.detach().reshape(-1, 10) for p in parameters])

    together = stepped([start], [grad], 2)
    halves = [w for e in range(3) for w in start[e].split(8)], [g for e in range(3) for g in grad[e].split(8)]
    torch.testing.assert_close(together, stepped(*halves, 1))


def test_the_update_has_the_size_of_adamws_and_weights_decay() -> None:
    weight = nn.Parameter(drawn(64, 256))
    before = weight.detach().clone()
    weight.grad = drawn(64, 256) * 1e-4  # whose size does not matter
    Muon([{"params": [weight]}], 0.01, 0.1).step()
    update = (before * (1 - 0.01 * 0.1) - weight.detach()) / 0.01
    assert update.pow(2).mean().sqrt().item() == pytest.approx(ADAMW_RMS, rel=0.25)


def test_muon_takes_the_matrices_inside_the_blocks() -> None:
    model = Transformer(preset("nano", 100))
    names = {parameter: name for name, parameter in model.named_parameters()}
    muon, adamw = optimisers(model, "muon", 1e-3, 0.1)
    taken = [[names[p] for group in o.param_groups for p in group["params"]] for o in (muon, adamw)]
    assert sorted(taken[0] + taken[1]) == sorted(names.values())
    assert all(name.startswith("layers.") and "norm" not in name for name in taken[0])
    assert {"layers.1.mlp.gate.weight", "lm_head.weight", "embed_tokens.weight", "norm.weight"} <= set(taken[1])
    joined = {names[p] for group in muon.param_groups if group["joined"] == 2 for p in group["params"]}
    assert joined == {f"layers.{layer}.mlp.experts.gate_up_proj" for layer in (1, 2, 3)}
    scaled = {names[p] for group in adamw.param_groups if group["scale"] != 1 for p in group["params"]}
    assert scaled == {"embed_tokens.weight"}
    [alone] = optimisers(model, "adamw", 1e-3, 0.1)
    assert {group["scale"] for group in alone.param_groups} == {1.0}
