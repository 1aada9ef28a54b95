"""Where experts live: the plan on paper, and the stream of tensors with a stand-in for the device."""

import math
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ConfigError
from evomerge.kernels import Sources
from evomerge.kernels.factors import Factors
from evomerge.merging import PLACEMENTS
from evomerge.merging import placement as room
from evomerge.merging.placement import AHEAD, HOST_RESERVE, RESERVE, Memory, Mode, Placement, Sizes, plan_placement
from evomerge.models.family import Family
from tests.families import save_adapter, save_family

GB = 10**9
CUDA = torch.device("cuda")  # a name: no such device is needed
SMALL = Sizes(model=2 * GB, sources=8 * GB, largest=GB)


@pytest.mark.parametrize(
    ("memory", "mode"),
    [
        (Memory(device=0, host=64 * GB), "mmap"),
        (Memory(device=0, host=0), "mmap"),
        (Memory(device=80 * GB, host=64 * GB), "device"),
        (Memory(device=15 * GB, host=0), "device"),
        (Memory(device=14 * GB, host=11 * GB), "pinned"),
        (Memory(device=8 * GB, host=11 * GB), "pinned"),
        (Memory(device=8 * GB, host=9 * GB), "mmap"),
        (Memory(device=8 * GB, host=0), "mmap"),
    ],
)
def test_the_fastest_mode_that_fits(memory: Memory, mode: Mode) -> None:
    assert plan_placement(SMALL, memory) == mode


def test_too_small_a_device_is_refused_with_one_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"^model\.device: 7\.0 GB do not hold .* use a device with 7\.1 GB, or cpu$"):
        plan_placement(SMALL, Memory(device=7 * GB, host=64 * GB))
    need = math.ceil((SMALL.model + AHEAD * SMALL.largest) / (1 - RESERVE)) + 1
    assert plan_placement(SMALL, Memory(need, 64 * GB)) == "pinned"


def llama_3_1_8b() -> list[tuple[int, ...]]:
    """Every parameter of Llama-3.1-8B."""
    hidden, inner, key_values, vocabulary = 4096, 14336, 1024, 128256
    layer = [(hidden, hidden), (key_values, hidden), (key_values, hidden), (hidden, hidden)]
    layer += [(inner, hidden), (inner, hidden), (hidden, inner), (hidden,), (hidden,)]
    return [(vocabulary, hidden), *(layer * 32), (hidden,), (vocabulary, hidden)]


def test_a_base_of_8b_and_three_experts_on_a_card_of_48_gb() -> None:
    each = [2 * math.prod(shape) for shape in llama_3_1_8b()]  # bf16
    assert sum(each) == 2 * 8_030_261_248
    sizes = Sizes(model=sum(each), sources=4 * sum(each), largest=4 * max(each))
    host = math.ceil(sizes.sources / (1 - HOST_RESERVE))
    assert plan_placement(sizes, Memory(48 * GB, host)) == "pinned"
    assert plan_placement(sizes, Memory(48 * GB, host - 8 * GB)) == "mmap"
    assert plan_placement(sizes, Memory(141 * GB, host)) == "device"
    staged = AHEAD * sizes.largest
    assert staged == AHEAD * 4 * 2 * 128256 * 4096 and sizes.model + staged <= (1 - RESERVE) * 48 * GB
    with pytest.raises(ConfigError):
        plan_placement(sizes, Memory(24 * GB, host))


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    folders = save_family("llama", tmp_path, torch.bfloat16, experts=2)
    adapter, _ = save_adapter("llama", folders.base, tmp_path / "lora", rank=2, seed=1)
    files = [load_file(Path(ref.path) / "model.safetensors") for ref in (folders.base, *folders.experts)]
    lora = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    found = room.sizes(Family(folders.base, [*folders.experts, adapter]), "float32")
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


# --- streaming ---


class Lane:
    """A lane that copies on the host and keeps a diary; `most` is how many of its copies were there at once."""

    def __init__(self, device: torch.device) -> None:
        assert device == CUDA
        self.diary: list[str] = []
        self.sent: list[weakref.ref[torch.Tensor]] = []
        self.most = 0
        LANES.append(self)

    def send(self, sources: Sources) -> Sources:
        copy = Sources(sources.name, sources.base.clone(), [sources.expert(0).clone()])
        copy.set_prepared(sources.prepared)
        self.sent.append(weakref.ref(copy.base))
        self.diary.append(f"send {sources.name}")
        self.most = max(self.most, sum(held() is not None for held in self.sent))
        return copy

    def arrived(self) -> None:
        self.diary.append("arrived")

    def used(self) -> None:
        self.diary.append("used")


LANES: list[Lane] = []


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> list[Lane]:
    monkeypatch.setattr(room, "_Lane", Lane)
    LANES.clear()
    return LANES


def models(count: int) -> list[Sources]:
    return [Sources(str(i), torch.full((3,), float(i)), [torch.full((3,), -float(i))]) for i in range(count)]


@pytest.mark.parametrize("mode", ["mmap", "pinned"])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_next_tensor_is_on_its_way_while_one_is_used(mode: Mode, count: int, lanes: list[Lane]) -> None:
    """Every pass waits for its own copies, and what it read is free before more than AHEAD tensors are there."""
    given, seen = models(count), []
    for sources in Placement(mode, CUDA).stream(iter(given)):
        lanes[0].diary.append(f"pass {sources.name}")
        seen.append((sources.name, sources.base.tolist(), sources.expert(0).tolist()))
    assert seen == [(one.name, one.base.tolist(), one.expert(0).tolist()) for one in given]
    diary = lanes[0].diary
    for i in range(count):
        assert diary.index(f"send {i}") < diary.index(f"pass {i}")
        assert "arrived" in diary[diary.index(f"send {i}") : diary.index(f"pass {i}")]
        if i + 1 < count:
            assert diary.index(f"send {i + 1}") < diary.index(f"pass {i}"), "nothing arrives while this one is used"
        if i + 2 < count:
            assert "used" in diary[diary.index(f"pass {i}") : diary.index(f"send {i + 2}")]
    assert lanes[0].most == min(count, AHEAD)
    assert all(torch.equal(one.base, torch.full((3,), float(i))) for i, one in enumerate(given)), "the originals"


def test_one_tensor_alone_can_be_unpacked(lanes: list[Lane]) -> None:
    (only,) = Placement("mmap", CUDA).stream(models(1))
    assert only.base.tolist() == [0.0, 0.0, 0.0] and len(only) == 1


@pytest.mark.parametrize(("mode", "device"), [("device", CUDA), *((m, torch.device("cpu")) for m in PLACEMENTS)])
def test_what_is_there_already_is_not_copied(mode: Mode, device: torch.device, lanes: list[Lane]) -> None:
    given = models(3)
    assert all(a is b for a, b in zip(Placement(mode, device).stream(given), given, strict=True))
    assert not lanes


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
