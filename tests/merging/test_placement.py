"""Where experts live: the plan on paper, and what is moved where."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ConfigError
from evomerge.kernels import Sources
from evomerge.kernels.factors import Factors
from evomerge.merging import PLACEMENTS
from evomerge.merging import placement as room
from evomerge.merging.placement import (
    PREFETCH_DEPTH,
    RESERVE,
    AvailableMemory,
    MemoryNeed,
    Mode,
    Placement,
    memory_need,
    plan_memory,
    plan_placement,
)
from evomerge.models.family import Family
from evomerge.recipes.recipe import ModelRef
from tests.families import save_adapter, save_family
from tests.models.sparse import (
    LLAMA_8B,
    MIXTRAL,
    llama_8b_shapes,
    mixtral_shapes,
    write_sparse,
    write_sparse_adapter,
)

GB = 10**9
CUDA = torch.device("cuda")  # a name: no such device is needed
SMALL = MemoryNeed(model=2 * GB, sources=8 * GB, largest=GB)


@pytest.mark.parametrize(
    ("memory", "mode"),
    [
        (AvailableMemory(device=0, host=64 * GB), "mmap"),
        (AvailableMemory(device=0, host=0), "mmap"),
        (AvailableMemory(device=80 * GB, host=64 * GB), "device"),
        (AvailableMemory(device=15 * GB, host=0), "device"),
        (AvailableMemory(device=14 * GB, host=11 * GB), "pinned"),
        (AvailableMemory(device=8 * GB, host=11 * GB), "pinned"),
        (AvailableMemory(device=8 * GB, host=9 * GB), "mmap"),
        (AvailableMemory(device=8 * GB, host=0), "mmap"),
    ],
)
def test_the_fastest_mode_that_fits(memory: AvailableMemory, mode: Mode) -> None:
    assert plan_placement(SMALL, memory) == mode


def test_too_small_a_device_is_refused_with_one_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"^model\.device: 7\.0 GB do not hold .* use a device with 7\.1 GB, or cpu$"):
        plan_placement(SMALL, AvailableMemory(device=7 * GB, host=64 * GB))
    need = math.ceil((SMALL.model + PREFETCH_DEPTH * SMALL.largest) / (1 - RESERVE)) + 1
    assert plan_placement(SMALL, AvailableMemory(need, 64 * GB)) == "pinned"


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    """A Llama of 8B in bf16 with three full experts, and with three LoRA adapters, from headers alone."""
    folder, shapes = tmp_path_factory.mktemp("llamas"), llama_8b_shapes()
    sizes = {write_sparse(folder / name, LLAMA_8B, shapes) for name in ("base", "e0", "e1", "e2")}
    assert sizes == {2 * 8_030_261_248}
    for name in ("a0", "a1", "a2"):
        assert write_sparse_adapter(folder / name, folder / "base", shapes, rank=16) == 2 * 16 * 2_621_440
    base = ModelRef(str(folder / "base"))
    adapters = [ModelRef(base.path, adapter=str(folder / name)) for name in ("a0", "a1", "a2")]
    full = [ModelRef(str(folder / name)) for name in ("e0", "e1", "e2")]
    return {"full": Family(base, full), "lora": Family(base, adapters)}


WEIGHTS = 16_060_522_496  # of the model in bf16
TABLE = 2 * 128256 * 4096  # its largest tensor
FACTORS = 3 * 4 * 16 * 2_621_440  # adapters are kept in fp32
ENGINE = WEIGHTS + 8 * 2**30  # vLLM's copy of the weights, and its KV cache


@pytest.mark.parametrize(
    ("kind", "total", "more", "mode", "on_device"),
    [
        ("full", 48, 0, "pinned", PREFETCH_DEPTH * 4 * TABLE),
        ("full", 80, 0, "pinned", PREFETCH_DEPTH * 4 * TABLE),
        ("full", 80, ENGINE, "pinned", PREFETCH_DEPTH * 4 * TABLE),
        ("full", 141, 0, "device", 4 * WEIGHTS),
        ("lora", 48, 0, "device", WEIGHTS + FACTORS),
        ("lora", 80, 0, "device", WEIGHTS + FACTORS),
        ("lora", 80, ENGINE, "pinned", PREFETCH_DEPTH * TABLE),
    ],
)
def test_a_llama_of_8b_and_three_experts(
    llamas: dict[str, Family],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    total: int,
    more: int,
    mode: Mode,
    on_device: int,
) -> None:
    monkeypatch.setattr(room, "free_host_memory", lambda: 128 * GB)
    found = plan_memory("auto", llamas[kind], "cpu", "bfloat16", limit=total * GB, more=more)
    assert found and found.mode == mode and found.sources_on_device == on_device
    assert found.need.model == WEIGHTS and found.total == total * GB
    assert found.free == total * GB - WEIGHTS - more - on_device >= RESERVE * total * GB
    monkeypatch.setattr(room, "free_host_memory", lambda: 8 * GB)
    poor = plan_memory("auto", llamas[kind], "cpu", "bfloat16", limit=total * GB, more=more)
    assert poor and poor.mode == ("device" if mode == "device" else "mmap")


@pytest.mark.parametrize(
    ("kind", "total", "more", "needed"),
    [
        ("full", 24, 0, "41 GB"),
        ("lora", 24, 0, "27.4 GB"),
        ("full", 48, ENGINE, "76.2 GB"),
        ("lora", 48, ENGINE, "62.7 GB"),
    ],
)
def test_a_llama_of_8b_that_does_not_fit_is_refused_in_a_line(
    llamas: dict[str, Family], kind: str, total: int, more: int, needed: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        limits = {"loaded": False, "limit": total * GB, "more": more}
        room.choose_placement("auto", llamas[kind], "cpu", "bfloat16", **limits)  # type: ignore[arg-type]
    said = str(refused.value)
    assert said.startswith(f"budget.gpu_gb: {needed} are needed and {total} GB are allowed; ") and "\n" not in said
    assert "merge fewer experts, or adapters" in said
    with pytest.raises(ConfigError, match=r"use a device with "):
        plan_memory("auto", llamas[kind], "cpu", "bfloat16", limit=total * GB, more=more)


def test_without_a_gpu_and_a_limit_nothing_is_planned(llamas: dict[str, Family]) -> None:
    assert plan_memory("auto", llamas["lora"], "cpu", "bfloat16") is None
    forced = plan_memory("mmap", llamas["lora"], "cpu", "bfloat16", limit=80 * GB)
    assert forced and forced.mode == "mmap"


def test_a_gpu_that_is_partly_used_is_planned_by_what_is_free(
    llamas: dict[str, Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available_memory", lambda device, model: AvailableMemory(60 * GB, 256 * GB))
    found = [plan_memory("auto", llamas["full"], "cuda", "bfloat16", limit=limit) for limit in (None, 80 * GB, 48 * GB)]
    assert [plan and plan.total for plan in found] == [60 * GB, 60 * GB, 48 * GB]


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    folders = save_family("llama", tmp_path, torch.bfloat16, experts=2)
    adapter, _ = save_adapter("llama", folders.base, tmp_path / "lora", rank=2, seed=1)
    files = [load_file(Path(ref.path) / "model.safetensors") for ref in (folders.base, *folders.experts)]
    lora = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    found = room.memory_need(Family(folders.base, [*folders.experts, adapter]), "float32")
    parameters = sum(tensor.numel() for tensor in files[0].values())
    assert found.model == 4 * parameters
    assert found.sources == 3 * 2 * parameters + 4 * sum(tensor.numel() for tensor in lora.values())
    assert found.largest == 3 * 2 * max(tensor.numel() for tensor in files[0].values())
    auto = room.choose_placement("auto", Family(folders.base, folders.experts), "cpu", "float32", loaded=True)
    assert auto.mode == "mmap"
    assert (
        room.choose_placement("pinned", Family(folders.base, folders.experts), "cpu", "float32", loaded=True).mode
        == "pinned"
    )


def test_a_limit_on_the_gpu_is_refused_where_it_does_not_fit(tmp_path: Path) -> None:
    folders = save_family("llama", tmp_path, torch.float32, experts=2)
    family = Family(folders.base, folders.experts)
    need = room.memory_need(family, "float32")
    place = partial(room.choose_placement, family=family, device="cpu", dtype="float32", loaded=False)
    all_placed, staged = (math.ceil(need.device_size(mode)) for mode in ("device", "pinned"))
    assert staged < all_placed
    assert place("device", limit=all_placed).mode == "device" and place("auto", limit=staged).mode == "mmap"
    with pytest.raises(ConfigError, match=r"budget.gpu_gb: .* GB are allowed; use model.placement=auto"):
        place("device", limit=all_placed - 1)
    with pytest.raises(ConfigError, match=r"budget.gpu_gb: .* use a smaller model.dtype"):
        place("auto", limit=staged - 1)


def models(count: int) -> list[Sources]:
    return [Sources(str(i), torch.full((3,), float(i)), [torch.full((3,), -float(i))]) for i in range(count)]


@pytest.mark.parametrize(("mode", "device"), [("device", CUDA), *((m, torch.device("cpu")) for m in PLACEMENTS)])
def test_what_is_there_already_is_not_copied(mode: Mode, device: torch.device) -> None:
    given = models(3)
    assert all(a is b for a, b in zip(Placement(mode, device).stream(given), given, strict=True))


def test_places_of_weights_factors_and_nothing() -> None:
    meta = Placement("device", torch.device("meta"))
    dense, low = torch.ones(2, 3), Factors(torch.ones(2, 1), torch.ones(1, 3), 0.5)
    assert meta.place(dense).device.type == "meta"  # type: ignore[union-attr]
    moved = meta.place(low)
    assert isinstance(moved, Factors) and moved.up.device.type == moved.down.device.type == "meta"
    assert moved.scale == 0.5 and meta.place(None) is None
    for mode in ("mmap", "pinned"):
        host = Placement(mode, torch.device("cpu"))  # type: ignore[arg-type]
        assert host.place_tensor(dense) is dense
    assert Placement("mmap", CUDA).place_tensor(dense) is dense


def test_a_mixtral_of_real_size_is_planned_from_headers(tmp_path: Path) -> None:
    sizes = [write_sparse(tmp_path / name, MIXTRAL, mixtral_shapes()) for name in ("base", "e0")]
    family = Family(ModelRef(str(tmp_path / "base")), [ModelRef(str(tmp_path / "e0"))])
    need = memory_need(family, "bfloat16")
    assert len(family.base.destination) == 995 and need.model == sizes[0] == 93_405_585_408
    assert need.sources == sum(sizes) and need.largest == 2 * 32000 * 4096 * 2
    big = AvailableMemory(int(144e9), int(1e12))
    assert plan_placement(need, big) == "pinned"
    with pytest.raises(ConfigError, match=r"use a device with 135.7 GB"):
        plan_placement(need, AvailableMemory(int(80e9), int(1e12)))
