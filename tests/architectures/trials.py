"""One architecture tried: its family written, merged, loaded again, compared with merges by hand, and scored."""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from evomerge.errors import ExpertError
from evomerge.export import export_recipe
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from evomerge.scoring.protocol import Request
from tests.architectures.configurations import BRIDGE, NO_FORWARD, UNSCORED, Architecture
from tests.families import shift
from tests.methods.oracles_core import trimmed
from tests.methods.oracles_sparsifiers import vote
from tests.scoring.conftest import Answers, char_tokenizer

WEIGHTS = {"one": 0.6, "two": 0.5}
DENSITY = 0.4
FILE = "model.safetensors"


@dataclass(frozen=True)
class Seen:
    """What a trial showed: the columns of the table, behind the architecture's name."""

    written_by: str
    merges: str
    scored: str = "–"
    notes: tuple[str, ...] = ()


def tried(architecture: Architecture, folder: Path) -> Seen:
    """What a merge and three items show; AssertionError where something is not as transformers has it."""
    base = write_family(architecture, folder)
    name = type(base).__name__
    try:
        family = Family(reference(folder / "base"), [reference(folder / expert) for expert in WEIGHTS])
    except ExpertError as error:
        return Seen(name, _reason(error, folder))
    loads = type(base).from_pretrained
    compare_destinations(family)
    touched: dict[str, None] = {}
    for method, by_hand in (("task_arithmetic", added), ("ties", elected)):
        made = recipe(method, family)
        digest = export_recipe(made, family, folder / method)
        touched |= dict.fromkeys(compare_files(architecture, folder / "base", folder / method))
        exported, wanted = loads(folder / method).eval(), by_hand(folder, loads).eval()
        compare_parameters(exported, wanted)
        live, again = written(made, family, digest), load_model(folder / method, dtype="float32")
        compare_parameters(live, again)
        if architecture.model_type not in NO_FORWARD:
            compare_logits(exported, wanted)
            compare_logits(live, again)
    unscored = UNSCORED.get(architecture.model_type)
    return Seen(
        name, "yes", f"no: {unscored}" if unscored else scored(live), tuple(notes(architecture, family, list(touched)))
    )


def write_family(architecture: Architecture, folder: Path) -> PreTrainedModel:
    """A base and two experts that differ from it in the whole language model and nowhere else; returns the base."""
    torch.manual_seed(0)
    base: PreTrainedModel = architecture.auto_class.from_config(architecture.config()).eval()
    if architecture.own_head:
        head = base.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone())
    shift(base, 0.1, seed=1)
    models = {"base": base}
    for seed, expert in enumerate(WEIGHTS, start=2):
        models[expert] = copy.deepcopy(base)
        shift(models[expert], 0.1, seed, lambda name: not architecture.frozen(name))
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return base


def reference(folder: Path) -> ModelRef:
    return ModelRef(str(folder))


def recipe(method: str, family: Family) -> Recipe:
    settings = {"density": DENSITY} if method == "ties" else {}
    sources = zip(family.experts, WEIGHTS.values(), strict=True)
    models = tuple(Source(ref, {"weight": weight, **settings}) for ref, weight in sources)
    return recipe_of_models(method, family.ref, models, {}, out_dtype="float32")


@torch.no_grad()
def added(folder: Path, loads: Any) -> PreTrainedModel:
    """Task arithmetic on the parameters of the models that transformers loads."""
    merged: PreTrainedModel = loads(folder / "base")
    base = {name: parameter.double() for name, parameter in merged.named_parameters()}
    experts = {name: dict(loads(folder / name).named_parameters()) for name in WEIGHTS}
    for name, parameter in merged.named_parameters():
        change = sum(weight * (experts[expert][name].double() - base[name]) for expert, weight in WEIGHTS.items())
        parameter.copy_(base[name] + change)
    return merged


def elected(folder: Path, loads: Any) -> PreTrainedModel:
    """TIES on the tensors of the files, in a folder that transformers loads."""
    base, *experts = (load_file(folder / name / FILE) for name in ("base", *WEIGHTS))
    by_hand = folder / "by_hand"
    by_hand.mkdir()
    (by_hand / "config.json").write_bytes((folder / "base" / "config.json").read_bytes())
    merged = {name: ties(tensor, [expert[name] for expert in experts]) for name, tensor in base.items()}
    save_file(merged, by_hand / FILE, metadata={"format": "pt"})
    model: PreTrainedModel = loads(by_hand)
    return model


def ties(base: Tensor, experts: list[Tensor]) -> Tensor:
    if not base.is_floating_point():
        return base
    # Task vectors in fp32, as a merge has them; equal magnitudes at the threshold stay.
    deltas = [(expert - base).double().numpy() for expert in experts]
    deltas = [trimmed(delta, DENSITY) for delta in deltas]
    found = vote(np.zeros(base.shape), deltas, list(WEIGHTS.values()), lambda _, x: x, elect=True, normalize=True)
    return (base.double() + torch.from_numpy(found)).to(base.dtype)


def compare_destinations(family: Family) -> None:
    """Writing the base's own tensors into their destinations gives the model that transformers loads, to the bit."""
    live = load_model(family.base.folder, dtype="float32", untied=family.base.untied)
    wanted = {name: parameter.clone() for name, parameter in live.named_parameters()}
    places = family.base.live_tensors(live)
    for path in {path for place in family.base.destination.values() for path in place.paths}:
        live.get_parameter(path).fill_(float("nan"))
    for name, place in places.items():
        place.copy_(family.base.tensor(name))
        assert torch.equal(place.tensor(), family.base.tensor(name)), name
    for name, parameter in live.named_parameters():
        assert torch.equal(parameter, wanted[name]), name


def written(made: Recipe, family: Family, digest: str) -> PreTrainedModel:
    """The recipe in a live model, which has the fingerprint of the export."""
    live = load_model(family.base.folder, dtype="float32", untied=family.base.untied)
    Materializer(family, compiled=False).write(made, live)
    assert fingerprint((name, place.tensor()) for name, place in family.base.live_tensors(live).items()) == digest, (
        "the live model has another fingerprint"
    )
    return live


def compare_files(architecture: Architecture, base: Path, merged: Path) -> list[str]:
    """The base's names, and other towers to the bit; returns what was frozen and is merged all the same."""
    before, after = load_file(base / FILE), load_file(merged / FILE)
    assert before.keys() == after.keys(), sorted(before.keys() ^ after.keys())[:4]
    touched = [name for name in before if architecture.frozen(name) and not torch.equal(before[name], after[name])]
    towers = [name for name in touched if not BRIDGE.search(name)]
    assert not towers, f"{towers[0]} and {len(towers) - 1} more are no longer the base's"
    return touched


def compare_parameters(ours: nn.Module, theirs: nn.Module) -> None:
    found, wanted = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())[:4]
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda why, at=name: f"{at}: {why}")


def compare_logits(ours: PreTrainedModel, theirs: PreTrainedModel) -> None:
    found, wanted = logits(ours), logits(theirs)
    assert wanted.isfinite().all()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    ids = torch.arange(3, 27).view(2, 12)
    more = {"decoder_input_ids": ids.flip(1)} if model.config.is_encoder_decoder else {}
    found: Tensor = model(input_ids=ids, **more).logits
    return found


def scored(model: PreTrainedModel) -> str:
    """The path by which three items are scored, and why not by trees; both paths answer alike."""
    tokenizer = char_tokenizer(bos=not model.config.is_encoder_decoder, eos=model.config.is_encoder_decoder)
    questions = [
        Request("loglikelihood", (f"{n}+{n}=", f"{answer}")) for n in (3, 14, 15) for answer in (2 * n, n, "no")
    ]
    auto, plain = (Answers(model, tokenizer, path=path) for path in ("auto", "plain"))
    ours, theirs = auto.respond(questions), plain.respond(questions)
    for (own, _), (other, _) in zip(ours, theirs, strict=True):
        assert abs(own - other) <= 2e-5 * (1 + abs(other)), f"{own} by the path that auto takes, {other} plainly"
    why = auto.engine.plain_reason
    if why:
        return f"plain: {re.sub(r' [(][^)]*[)]', '', why)}"
    return "a context encoded once" if model.config.is_encoder_decoder else "trees"


def notes(architecture: Architecture, family: Family, touched: list[str]) -> Iterator[str]:
    base = family.base
    if base.untied:
        yield "the head is a tensor of its own"
    elif base.skeleton.aliases:
        yield "head and embedding are one tensor"
    if any(name != place.path for name, place in base.destination.items()):
        yield "names change at load"
    if base.skeleton.outside or any(map(architecture.frozen, base.unmerged)):
        yield "what is beside the language model stays the base's"
    if touched:
        yield f"merged with it: {touched[0]}"


def _reason(error: ExpertError, folder: Path) -> str:
    text = str(error)
    assert "\n" not in text, text
    return f"no: {re.sub(re.escape(str(folder)) + r'[^ :]*: ', '', text)}"
