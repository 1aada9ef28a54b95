"""The rows of one model in the merged order, against a loop over rows."""

import pytest
import torch
from torch import Tensor

from evomerge.models.row_plan import NONE, RowPlan
from evomerge.recipes import ModelRef

A, B, C = (ModelRef(name) for name in "abc")
WIDTH = 5


def tables(dtype: torch.dtype = torch.float32) -> dict[ModelRef, Tensor]:
    generator = torch.Generator().manual_seed(3)
    rows = {A: 4, B: 6, C: 3}
    return {ref: torch.randn(count, WIDTH, generator=generator).to(dtype) for ref, count in rows.items()}


def plan(**changes: object) -> RowPlan:
    own = {
        A: [0, 1, 2, 3, NONE, NONE, NONE],
        B: [5, 4, NONE, 0, 1, NONE, NONE],
        C: [NONE, 2, NONE, 0, NONE, NONE, NONE],
    }
    shared = {0: ((A, 0), (B, 5)), 2: ((A, 2),), 4: ((B, 1), (A, 3), (B, 2)), 5: ()}
    values = {"shared": shared, "pieces": {C: {2: (1, 2)}}, "unnamed": (6,), **changes}
    return RowPlan(7, {ref: torch.tensor(rows) for ref, rows in own.items()}, **values)  # type: ignore[arg-type]


def by_hand(found: RowPlan, ref: ModelRef, read: dict[ModelRef, Tensor]) -> Tensor:
    rows = []
    for row in range(found.size):
        own, parts = int(found.own[ref][row]), found.pieces.get(ref, {}).get(row)
        if parts:
            rows.append(sum(read[ref][part].double() for part in parts) / len(parts))
        elif own != NONE:
            rows.append(read[ref][own].double())
        else:
            pairs = found.shared.get(row, ())
            zeros = torch.zeros(WIDTH, dtype=torch.float64)
            rows.append(sum((read[other][place].double() for other, place in pairs), zeros) / max(1, len(pairs)))
    named = [value for row, value in enumerate(rows) if row not in found.unnamed]
    for row in found.unnamed:
        rows[row] = torch.stack(named).mean(dim=0)
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ref", [A, B, C], ids="abc")
def test_every_kind_of_row(ref: ModelRef, dtype: torch.dtype) -> None:
    read, found = tables(dtype), plan()
    result = found.merged_order(ref, read[ref], found.shared_rows(read.__getitem__))
    assert result.dtype == torch.float32  # a mean is rounded once, when the merge is written
    torch.testing.assert_close(result.double(), by_hand(found, ref, read), atol=1e-7, rtol=1e-6)


def test_copies_alone_keep_the_dtype_and_the_bits() -> None:
    read = tables(torch.bfloat16)
    found = plan(shared={row: ((B, 1),) for row in (0, 2, 4, 5, 6)}, pieces={}, unnamed=())
    result = found.merged_order(A, read[A], found.shared_rows(read.__getitem__))
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, torch.stack([*read[A], read[B][1], read[B][1], read[B][1]]))


def test_rows_at_the_end_leave_as_a_view() -> None:
    found, table = RowPlan(4, {A: torch.arange(4), B: torch.arange(4)}), tables()[B]
    assert found.merged_order(B, table, None).data_ptr() == table.data_ptr()
    assert found.keeps(A, 4) and not found.keeps(B, 6)


def test_the_digest_is_of_all_that_decides_the_rows() -> None:
    changed = [plan(shared={}), plan(pieces={}), plan(unnamed=()), plan()]
    assert len({found.digest for found in changed}) == 4 and plan().digest == plan().digest
    assert plan().agrees_with(plan()) and not plan().agrees_with(plan(pieces={}))
