"""One tensor of every model: what moves to a device, and what stays as it is stored."""

import torch

from evomerge.kernels import Sources
from evomerge.kernels.factors import Factors

BASE = torch.arange(12.0, dtype=torch.bfloat16).view(3, 4)
LOW = Factors(torch.ones(3, 2), torch.ones(2, 4), 2.0)


def sources() -> Sources:
    found = Sources("w", BASE, [BASE + 1, LOW, None])
    found.set_prepared({"bank.direction.0": BASE * 2, "table": torch.ones(3, dtype=torch.float64)})
    return found


def test_experts_and_task_vectors_in_fp32() -> None:
    found = sources()
    wanted = [BASE.float() + 1, BASE.float() + 4, BASE.float()]
    for index, expert in enumerate(wanted):
        assert torch.equal(found.expert(index), expert) and found.expert(index).dtype == torch.float32
        assert torch.equal(found.delta(index), expert - BASE.float())
    assert len(found) == 3 and found.shape == (3, 4) and found.name == "w"


def test_on_a_device_everything_but_the_tables_moves() -> None:
    staged = sources().to(torch.device("meta"))
    assert all(tensor.device.type == "meta" for tensor in staged.tensors())
    assert len(staged.tensors()) == 1 + 1 + 2 + 1
    assert staged.device.type == "meta" and staged.bank("direction.0").device.type == "meta"
    assert staged.prepared["table"].device.type == "cpu"
    assert staged.update(2) is None and staged.expert(2).device.type == "meta"


def test_what_is_prepared_is_not_there_before_it_is_held() -> None:
    empty = Sources("w", BASE, [])
    assert not empty.is_prepared and not empty.prepared and len(empty.tensors()) == 1
    empty.set_prepared({})
    assert empty.is_prepared


def test_an_update_that_is_made_when_it_is_asked_for() -> None:
    made: list[int] = []

    def make() -> torch.Tensor:
        made.append(1)
        return BASE + 1

    held = Sources("w", BASE, [make])
    assert not made
    assert torch.equal(held.delta(0), torch.ones(3, 4)) and len(made) == 1
    assert torch.equal(held.to(torch.device("cpu")).expert(0), BASE.float() + 1) and len(made) == 2
