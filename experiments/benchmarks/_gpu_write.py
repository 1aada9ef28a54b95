"""How fast a candidate is written into a model on a device, beside a copy of as many bytes, and the memory it takes."""

import shutil
from collections.abc import Callable, Iterator

import torch
from _cases import Case, cases
from _engine import FIRST, copy_bytes, copying, engine, writing
from _families import SIZES as ARCHITECTURES
from _families import Members, build, move_to_host, parameter_shapes
from _gpu_family import HAS_PEFT, Setting, at_layer, peak_gb, start_peak
from _rows import Race, Row, timed

from evomerge import kernels
from evomerge.environment import free_host_memory
from evomerge.errors import ConfigError
from evomerge.kernels import Runner
from evomerge.merging import AvailableMemory, Materializer, MemoryNeed, Mode, memory_need, plan_placement
from evomerge.merging.placement import Placement

EXPERTS, ADAPTERS = 3, 4 if HAS_PEFT else 0
METHODS = ["linear", "slerp", *["adapters"] * HAS_PEFT, "dare_ties", "ties"]
COMPARED = ("q_proj", "up_proj", "norm")  # kinds of tensors whose bytes are computed on the CPU too


def run(name: str, setting: Setting) -> Iterator[Row]:
    """Rows for each method: the first candidate with its compilation, seconds, bytes against the CPU, memory."""
    size = setting.size(name)
    experts, mode = _fitting(size, setting)
    if not experts:
        yield {"case": f"write {name}", "note": "left out: the device does not hold the model and one expert"}
        return
    members = build(size, experts, ADAPTERS, setting.folder / size, setting.device, resident=True)
    if mode == "pinned":
        move_to_host(members)
    copy = copying(setting.device)
    for case in cases(members, METHODS, [experts]):
        yield from _race(name, case, mode, copy, setting)
    if mode == "device" and size != "8B":
        move_to_host(members)
        case = cases(members, ["linear"], [experts])[0]
        yield from _race(name, case, "pinned", copy, setting)
    del members
    shutil.rmtree(setting.folder / size)


def _fitting(size: str, setting: Setting) -> tuple[int, Mode]:
    """The largest number of experts, up to three, that is not read from files, and the placement of the planner."""
    if not setting.is_cuda:
        return EXPERTS, "device"
    elements = [torch.Size(shape).numel() for shape in parameter_shapes(ARCHITECTURES[size]).values()]
    free = AvailableMemory(torch.cuda.mem_get_info(setting.device)[0], free_host_memory())
    for experts in range(EXPERTS, 0, -1):
        each = 2 * (1 + experts)
        try:
            mode = plan_placement(MemoryNeed(2 * sum(elements), each * sum(elements), each * max(elements)), free)
        except ConfigError:
            continue
        built = 2 * sum(elements) * (2 + experts)  # on the card, before it moves to the host
        if mode == "device" or (mode == "pinned" and built < free.device):
            return experts, mode
    return 0, "mmap"


def _race(name: str, case: Case, mode: Mode, copy: Callable[[int], float], setting: Setting) -> Iterator[Row]:
    device, members = setting.device, case.members
    writer = engine(members.family, device, "auto") if mode == "device" else _pinned(members, device)
    start_peak(device)
    prepared = timed(lambda: list(writer.prepare(case.recipe(FIRST))), device)
    first = timed(lambda: writer.write(case.recipe(FIRST), members.model), device)
    bytes_found, equal = _bytes(writer, case)
    race = Race(repeats=5, limit=6.0).run({"copy": copy, "ours": writing(case, writer, device)})
    ours, floor = race.row("ours", "copy"), race.row("copy", "copy")
    share = case.bytes * floor["seconds"] / copy_bytes(device) / ours["seconds"]
    planned = memory_need(members.family, "bfloat16").device_size(mode) / 1e9
    label = f"write {name}: {case.label} ×{len(case.experts)}" + f", {mode}" * (mode != "device")
    label += ", without a compiler" * (not writer.runner.compiled)
    yield {
        "case": label,
        **ours,
        "ratio": None,
        "rate": case.bytes / ours["seconds"] / 1e9,
        "unit": "GB/s",
        "share": share,
        "first_seconds": first,
        "prepare_seconds": prepared,
        "peak_gb": peak_gb(device),
        "planned_gb": round(planned, 2),
        "bytes": bytes_found,
        **({} if equal else {"ok": False}),
    }


def _pinned(members: Members, device: str) -> Materializer:
    return Materializer(members.family, device, placement=Placement("pinned", torch.device(device)))


def _bytes(writer: Materializer, case: Case) -> tuple[str, bool]:
    """Some written tensors against the same merge on the CPU: how many have equal bytes, and whether that is enough.

    Low-rank updates may differ, because a matrix product adds in another order; `checks` bounds by how much.
    """
    members, live = case.members, dict(case.members.model.named_parameters())
    wanted = {at_layer(members, kind) for kind in COMPARED}
    equal, worst = 0, 0.0
    for merge in writer.tensor_merges(case.recipe(FIRST)):
        if merge.name not in wanted:
            continue
        out = torch.empty(live[merge.name].shape, dtype=torch.bfloat16)
        kernels.apply(merge.coefficients, merge.setup.sources.to(torch.device("cpu")), out, Runner())
        mine = live[merge.name].cpu()
        equal += torch.equal(mine, out)
        worst = max(worst, float((mine.float() - out.float()).abs().max()))
    found = f"{equal} of {len(wanted)} tensors" + f", others within {worst:.1g}" * (equal < len(wanted))
    return found, equal == len(wanted) or case.label == "adapters"
