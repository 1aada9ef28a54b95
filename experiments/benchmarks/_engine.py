"""What runs in this process: a copy, evomerge's engine, and plain torch for the same candidates."""

from collections.abc import Callable, Sequence

import torch
from _cases import Case, Values
from _rows import Contestant, timed
from torch import Tensor

from evomerge.kernels.factors import Factors
from evomerge.kernels.sources import Update
from evomerge.merging import COMPILE, Materializer
from evomerge.merging.placement import Placement
from evomerge.models.family import Family

COPY_BYTES = {"cpu": 1 << 29, "cuda": 1 << 32}  # of one buffer: larger than any cache
AGREEMENT = 0.01  # share of elements: sums in another order may round or elect another way
FIRST = -1  # the values of the first candidate: those of no repeat, which would be skipped as unchanged


def engine(family: Family, device: str, mode: str) -> Materializer:
    """The one construction of what is measured."""
    placement = Placement("device" if torch.device(device).type == "cuda" else "mmap", torch.device(device))
    return Materializer(family, device, compiled=COMPILE[mode], placement=placement)


def engines(modes: list[str]) -> dict[str, str]:
    """Contestant → mode of the engine, the first one as `ours`."""
    return {"ours": modes[0], **{f"ours, compile={mode}": mode for mode in modes[1:]}}


def copy_bytes(device: str) -> int:
    """What a copy of the large buffer moves: every byte is read and written."""
    return 2 * COPY_BYTES[torch.device(device).type]


def copying(device: str) -> Contestant:
    """dst.copy_(src) of one large buffer."""
    source = torch.ones(copy_bytes(device) // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return lambda turn: timed(lambda: target.copy_(source), device)


def writing(case: Case, materializer: Materializer, device: str) -> Contestant:
    """A candidate into the live model."""

    def run(turn: int) -> float:
        recipe = case.recipe(turn)
        return timed(lambda: materializer.write(recipe, case.members.model), device)

    return run


def check_agreement(case: Case, device: str) -> None:
    """Plain torch must give what the engine has just written as FIRST; DARE's masks are random."""
    if case.label == "dare_ties":
        return
    parameters = dict(case.members.model.named_parameters())
    for name in (case.names[1], case.names[-1]):
        mine, other = parameters[name].float(), plain_tensor(case, name, case.values(FIRST), device).bfloat16().float()
        share = float(((mine - other).abs() > 2**-7 * other.abs() + 1e-6).float().mean())
        if share > AGREEMENT:
            raise SystemExit(
                f"{case.label}: {share:.1%} of {name} differs from plain torch; a ratio would mean nothing"
            )


def plain_torch(case: Case, device: str) -> Contestant:
    """Whole tensors in fp32, one after the other, copied into the live model: what one would write at first."""
    parameters = dict(case.members.model.named_parameters())

    @torch.no_grad()
    def write(values: Values) -> None:
        for name in case.names:
            parameters[name].copy_(plain_tensor(case, name, values, device))

    return lambda turn: timed(lambda: write(case.values(turn)), device)


def products(case: Case) -> Contestant:
    """What low-rank updates cost at least in fp32: one product a tensor, of factors that are already joined."""
    family, pairs = case.members.family, []
    for name in case.names:
        factors = [update for ref in case.experts if isinstance(update := family.update(ref, name), Factors)]
        if factors:
            pairs.append((torch.cat([f.up.float() for f in factors], 1), torch.cat([f.down.float() for f in factors])))
    target = torch.empty(max(len(up) * down.shape[1] for up, down in pairs))

    def multiply() -> None:
        for up, down in pairs:
            torch.mm(up, down, out=target[: len(up) * down.shape[1]].view(len(up), -1))

    return lambda turn: timed(multiply, "cpu")


def plain_tensor(case: Case, name: str, values: Values, device: str) -> Tensor:
    """One merged tensor in fp32."""
    family = case.members.family
    base = family.base.tensor(name).float()
    updates = [family.update(ref, name) for ref in case.experts]
    if case.label == "adapters":
        return _adapted(base, updates, values, device)
    experts = [update.float() for update in updates if isinstance(update, Tensor)]
    return _FORMULAS[case.label](base, experts, values)


def _adapted(base: Tensor, updates: Sequence[Update], values: Values, device: str) -> Tensor:
    out = base.clone()
    for weight, update in zip(values.weights, updates, strict=True):
        if isinstance(update, Factors):
            product = update.up.to(device).float() @ update.down.to(device).float()
            out += values.lam * weight * update.scale * product
    return out


def _linear(base: Tensor, experts: list[Tensor], values: Values) -> Tensor:
    out = values.base * base
    for weight, expert in zip(values.weights, experts, strict=True):
        out += weight * expert
    return out / (values.base + sum(values.weights))


def _task_arithmetic(base: Tensor, experts: list[Tensor], values: Values) -> Tensor:
    out = torch.zeros_like(base)
    for weight, expert in zip(values.weights, experts, strict=True):
        out += weight * (expert - base)
    return base + values.lam * out


def _slerp(base: Tensor, experts: list[Tensor], values: Values) -> Tensor:
    expert, t = experts[0], values.t
    cosine = torch.dot((base / base.norm()).flatten(), (expert / expert.norm()).flatten())
    if cosine.abs() > 0.9995:
        return (1 - t) * base + t * expert
    angle = cosine.acos()
    return (((1 - t) * angle).sin() * base + (t * angle).sin() * expert) / angle.sin()


def _ties(base: Tensor, experts: list[Tensor], values: Values) -> Tensor:
    deltas = []
    for density, expert in zip(values.densities, experts, strict=True):
        delta = expert - base
        size = delta.numel()
        place = size - max(1, int(density * size)) + 1
        threshold = delta.abs().flatten().kthvalue(place).values
        deltas.append(torch.where(delta.abs() >= threshold, delta, 0.0))
    total, weight = _elect(deltas, values)
    return base + values.lam * total / torch.where(weight == 0, 1.0, weight)


def _dare_ties(base: Tensor, experts: list[Tensor], values: Values) -> Tensor:
    deltas = []
    for density, expert in zip(values.densities, experts, strict=True):
        delta = expert - base
        dropped = delta * (torch.rand_like(delta) < density)
        before, after = delta.abs().sum(), dropped.abs().sum()
        deltas.append(dropped * torch.where(torch.minimum(before, after) < 1e-7, 1.0, before / after))
    return base + values.lam * _elect(deltas, values)[0]


def _elect(deltas: list[Tensor], values: Values) -> tuple[Tensor, Tensor]:
    """The sum of what agrees with the weighted majority's sign, and the weights behind it."""
    weighted = [weight * delta for weight, delta in zip(values.weights, deltas, strict=True)]
    sign = torch.where(torch.stack(weighted).sum(0) >= 0, 1.0, -1.0)
    total, weight_sum = torch.zeros_like(sign), torch.zeros_like(sign)
    for weight, delta in zip(values.weights, weighted, strict=True):
        agrees = delta.sign() == sign
        total += delta * agrees
        weight_sum += weight * agrees
    return total, weight_sum


_FORMULAS: dict[str, Callable[[Tensor, list[Tensor], Values], Tensor]] = {
    "linear": _linear,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare_ties": _dare_ties,
    "slerp": _slerp,
}
