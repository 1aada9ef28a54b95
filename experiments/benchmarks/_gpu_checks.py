"""Checks of one device against the CPU: bytes of merged weights, prefetched sources, token trees, generated tokens.

A check is a function of a setting that returns what it has found, in words, and raises if something is wrong. They need
torch, transformers and safetensors alone.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from _gpu_family import TINY, Setting, at_layer, mergeable, on, random_model, recipe_of, tiny_members
from _gpu_generate import alone, decode
from _rows import Row
from torch import nn
from transformers import PreTrainedModel

from evomerge import methods
from evomerge.errors import CandidateError
from evomerge.kernels import Runner
from evomerge.kernels.lincomb import SUM
from evomerge.merging import Materializer, fingerprint
from evomerge.merging.placement import Mode, Placement
from evomerge.recipes import Recipe
from evomerge.scoring.engine import head
from evomerge.scoring.engine.batches import plan
from evomerge.scoring.engine.loglikelihood import TreeEngine, target_log_probabilities
from evomerge.scoring.engine.tree import Costs, Pair

COMPILED = ("linear", "dare_ties")  # the methods that a small run compiles
ULP = 2.0**-7  # of bf16, relative
SUMMED = "the sums of a matrix product have another order"


def run(setting: Setting) -> Iterator[Row]:
    """A row for each check and each method."""
    for name, check in CHECKS.items():
        yield _row(name, partial(check, setting))
    yield from _bytes_of_methods(setting)


def _row(name: str, check: Callable[[], str]) -> Row:
    try:
        return {"case": name, "ok": True, "note": check()}
    except Exception as error:  # a check that fails, of whatever kind, is a result
        return {"case": name, "ok": False, "note": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def _bytes_of_methods(setting: Setting) -> Iterator[Row]:
    """Every method, block by block and compiled, in place, against the CPU's bytes."""
    members = tiny_members(setting.folder / "methods")
    prepared = setting.folder / "prepared"  # by the CPU, as in a search with workers
    cpu = Materializer(members.family, "cpu", compiled=False, prepared=prepared)
    live = on(setting.device, members.model)
    writers = {
        mode: Materializer(members.family, setting.device, compiled=mode == "compiled", prepared=prepared)
        for mode in ("eager", "compiled")
    }
    for mode, writer in writers.items():
        for name in COMPILED if mode == "compiled" and setting.small else mergeable(members):
            recipe = recipe_of(name, members)
            cpu.write(recipe, members.model)
            yield _row(f"bytes of {name}, {mode}", partial(_same, writer, recipe, live, members.model))


def _same(writer: Materializer, recipe: Recipe, live: nn.Module, wanted: nn.Module) -> str:
    """Write in place and compare all parameters; a matrix product may differ by a unit in the last place."""
    places = {name: parameter.data_ptr() for name, parameter in live.named_parameters()}
    writer.invalidate()
    before = writer.runner.compiled
    writer.write(recipe, live)
    assert writer.runner.compiled == writer._rules.compiled == before, "the compiler failed, and eager passes were run"
    assert places == {name: parameter.data_ptr() for name, parameter in live.named_parameters()}, "not in place"
    if fingerprint(live.named_parameters()) == fingerprint(wanted.named_parameters()):
        return "the fingerprint equals the CPU's"
    worst, where, differ, total = 0.0, "", 0, 0
    for (name, mine), other in zip(live.named_parameters(), wanted.parameters(), strict=True):
        gap = (mine.cpu().float() - other.float()).abs() / other.float().abs().clamp_min(1e-3)
        worst, where = max((worst, where), (float(gap.max()), name))
        differ, total = differ + int((gap > 0).sum()), total + gap.numel()
    found = f"{differ} of {total} elements differ, by {worst / ULP:.2g} units in the last place at most ({where})"
    factors = any(source.model.adapter for part in recipe.slices for source in part.sources) and worst <= 2 * ULP
    assert factors, found
    return f"{found}: {SUMMED}"


def _placements(setting: Setting) -> str:
    """Every placement of the sources, prefetched or not, gives the bytes of resident ones."""
    members = tiny_members(setting.folder / "placements")
    live, found = on(setting.device, members.model), dict[str, set[str]]()
    modes: tuple[Mode, ...] = ("device", "pinned", "mmap")
    for mode in modes:
        placement = Placement(mode, torch.device(setting.device))
        writer = Materializer(members.family, setting.device, compiled=False, placement=placement)
        for method in ("linear", "ties", "slerp"):
            writer.write(recipe_of(method, members), live)
            found.setdefault(method, set()).add(fingerprint(live.named_parameters()))
    assert all(len(prints) == 1 for prints in found.values()), f"placements differ: {found}"
    return f"{', '.join(modes)}: the same bytes"


def _own_tables(setting: Setting) -> str:
    """The tables of methods, prepared on the device: which methods get other bytes than with those of the CPU."""
    members = tiny_members(setting.folder / "tables")
    live, cpu = on(setting.device, members.model), Materializer(members.family, "cpu", compiled=False)
    own, differ = Materializer(members.family, setting.device, compiled=False), []
    for name in mergeable(members):
        if methods.adapters_only(methods.load(name)):
            continue  # products of matrices
        recipe = recipe_of(name, members)
        cpu.write(recipe, members.model)
        own.write(recipe, live)
        if fingerprint(live.named_parameters()) != fingerprint(members.model.named_parameters()):
            differ.append(name)
    return f"other last digits for {', '.join(differ)}" if differ else "the bytes of all methods equal the CPU's"


def _overflow(setting: Setting) -> str:
    """Weights that overflow are refused by the name of their tensor, compiled or not."""
    members = tiny_members(setting.folder / "overflow")
    recipe = recipe_of("linear", members)
    part = recipe.slices[0]
    sources = tuple(replace(source, settings={"weight": 1e38 * 10.0**i}) for i, source in enumerate(part.sources))
    far = replace(recipe, slices=(replace(part, sources=sources),), settings={"normalize": False})
    live = on(setting.device, members.model)
    for compiled in (False, not setting.small):
        writer = Materializer(members.family, setting.device, compiled=compiled)
        try:
            writer.write(far, live)
        except CandidateError as error:
            assert "not finite" in str(error), error
        else:
            raise AssertionError("infinite weights were written")
    return "refused by name"


def _long_tensor(setting: Setting) -> str:
    """A tensor of more than 2³¹ elements: the last ones are written and random masks use 64-bit indices."""
    elements = 2**16 if setting.small else 2**31 + 2**20
    base = torch.ones(elements, dtype=torch.bfloat16, device=setting.device)
    base[-1000:] = torch.arange(1000, dtype=torch.bfloat16, device=setting.device)
    out = torch.zeros_like(base)
    numbers = torch.tensor([0.5], device=setting.device)
    flag = Runner(compiled=not setting.small).run(SUM, out, [base], numbers)
    assert not float(flag) and bool((out[:1000] == 0.5).all()), "the first elements are wrong"
    assert torch.equal(out[-1000:], (base[-1000:].float() * 0.5).bfloat16()), "the last elements are wrong"
    return f"{elements} elements"


def _trees(setting: Setting) -> str:
    """Log-likelihoods on token trees, against plain forward passes here and against the CPU's, all in fp32."""
    pairs = _pairs(vocabulary=515)
    mine = random_model(TINY, torch.float32, setting.device, std=0.1)
    scored = [value for value, _ in _scores(mine, pairs)]
    plain = _plain(mine, pairs)
    cpu = [value for value, _ in _scores(random_model(TINY, torch.float32, "cpu", std=0.1), pairs)]
    apart, across = _largest_gap(scored, plain), _largest_gap(scored, cpu)
    assert apart < 1e-3 and across < 1e-2, f"{apart:.2g} nats from a plain pass, {across:.2g} from the CPU"
    return f"at most {apart:.1g} nats from a plain pass, {across:.1g} from the CPU"


def _pairs(vocabulary: int) -> list[Pair]:
    """Items with a common beginning, each with four continuations."""
    draw = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, vocabulary) for _ in range(count))

    start = tokens(200)
    contexts = [start + tokens(draw.randint(20, 60)) for _ in range(8)]
    return [Pair(context, tokens(draw.randint(1, 9))) for context in contexts for _ in range(4)]


@torch.inference_mode()
def _scores(model: PreTrainedModel, pairs: list[Pair]) -> list[tuple[float, bool]]:
    width = 6 * model.config.get_text_config().hidden_size
    return TreeEngine(model).score(plan(pairs, 2048, Costs(width, max_tokens=512, max_states=256)))


@torch.inference_mode()
def _plain(model: PreTrainedModel, pairs: list[Pair]) -> list[float]:
    """One sequence after the other, without a mask of ours."""
    found = []
    for pair in pairs:
        tokens = torch.tensor([pair.context + pair.continuation], device=model.device)
        logits = model(input_ids=tokens[:, :-1]).logits[0, -len(pair.continuation) :].float()
        chosen = logits.log_softmax(-1).gather(1, tokens[0, -len(pair.continuation) :, None])
        found.append(float(chosen.double().sum()))
    return found


def _largest_gap(mine: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(mine, other, strict=True))


def _generated(setting: Setting) -> str:
    """Greedy answers of the decoding loop in fp32 against the CPU's, and against transformers' own loop."""
    draw = random.Random(1)
    prompts = [[draw.randrange(3, 515) for _ in range(draw.randint(5, 40))] for _ in range(12)]
    mine = random_model(TINY, torch.float32, setting.device, std=0.1)
    answers = decode(mine, prompts, 24)
    cpu = decode(random_model(TINY, torch.float32, "cpu", std=0.1), prompts, 24)
    equal = sum(a == b for a, b in zip(answers, cpu, strict=True))
    assert equal == len(prompts), f"{equal} of {len(prompts)} answers equal the CPU's"
    own = sum(a == alone(mine, prompt, 24) for a, prompt in zip(answers, prompts, strict=True))
    assert own == len(prompts), f"{own} of {len(prompts)} answers equal those of transformers' own loop"
    return f"{equal} of {len(prompts)} answers of 24 tokens equal the CPU's, and those of transformers' own loop"


def _peak_of_logits(setting: Setting) -> str:
    """Log-softmax of a large vocabulary: the logits exist once, in bf16, and in fp32 only in slices."""
    states, vocabulary = (64, 4096) if setting.small else (4096, 128256)
    logits = torch.randn(states, vocabulary, device=setting.device, dtype=torch.bfloat16)
    scored = torch.arange(states, device=setting.device)
    before = torch.cuda.memory_allocated(setting.device) if setting.is_cuda else 0
    if setting.is_cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    values = target_log_probabilities(logits, scored, scored % vocabulary)[0]
    more = torch.cuda.max_memory_allocated(setting.device) - before if setting.is_cuda else 0
    wanted = logits[-8:].float().log_softmax(-1)[torch.arange(8), (scored % vocabulary)[-8:]]
    assert torch.allclose(values[-8:], wanted, atol=1e-4), "the slices differ from one log-softmax"
    assert more <= 5 * 4 * head.BLOCK * vocabulary, f"{more / 1e9:.2f} GB more than the logits"
    return f"{states} × {vocabulary}: {more / 1e9:.2f} GB beside logits of {logits.nbytes / 1e9:.2f} GB"


def _unchanged(setting: Setting) -> str:
    """A tensor that is unchanged is not written again: another candidate of the same coefficients costs no write."""
    members = tiny_members(setting.folder / "unchanged")
    live, writer = on(setting.device, members.model), Materializer(members.family, setting.device, compiled=False)
    recipe = recipe_of("linear", members)
    writer.write(recipe, live)
    name = at_layer(members, "q_proj")
    parameter = dict(live.named_parameters())[name]
    with torch.no_grad():
        parameter.zero_()
    writer.write(recipe, live)
    assert not bool(parameter.any()), "an unchanged tensor was written"
    writer.invalidate()
    writer.write(recipe, live)
    assert bool(parameter.any()), "after invalidate the tensor was not written"
    return "skipped, and written after invalidate"


CHECKS: dict[str, Callable[[Setting], str]] = {
    "placements": _placements,
    "tables prepared on the device": _own_tables,
    "overflow": _overflow,
    "unchanged tensors": _unchanged,
    "more than 2³¹ elements": _long_tensor,
    "token trees": _trees,
    "decoding loop": _generated,
    "log-softmax in slices": _peak_of_logits,
}
