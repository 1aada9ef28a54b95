"""`score`: lm-eval's table of a finished model, or of a recipe merged in memory, by this package's engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import ConfigError
from evomerge.experiment.score_config import ScoreConfig, read_score_config
from evomerge.export import open_recipe
from evomerge.merging import Materializer, choose_placement
from evomerge.models import (
    check_device,
    fetch,
    is_adapter,
    load_model,
    load_tokenizer,
    model_config,
    pin_revisions,
    plain_folder,
    resolve_device,
)
from evomerge.recipes import ModelRef
from evomerge.scoring import silence_lm_eval
from evomerge.scoring.engine import check_tokenizer
from evomerge.scoring.tasks import EngineLM, Evaluation, TaskLoader, evaluate_tasks, read_tasks

SLICES = {"search": "all", "select": "all", "holdout": "all"}  # an entry wants sizes; every document is scored here


def score_model(source: str, given: Mapping[str, Any], progress: Console) -> Evaluation:
    """lm-eval's results for a checkpoint folder, a GGUF file, a hub id or a recipe.

    `given` are keywords of `ScoreConfig`. A bar on the console `progress` shows how far the requests
    are. The caller writes the results to `out`.
    """
    config = read_score_config(given)
    check_device(config.device, is_local=True)
    loader = TaskLoader(config.include_path)
    tasks = _tasks(config, loader)
    model, tokenizer = open_model(source, config)
    lm = EngineLM(
        model,
        tokenizer,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        max_length=config.max_length,
        scoring=config.scoring,
        track=lambda blocks: track(blocks, "scoring", console=progress, transient=True),
    )
    multiturn = config.fewshot_as_multiturn
    evaluation = evaluate_tasks(
        lm,
        tasks,
        loader,
        num_fewshot=config.num_fewshot,
        limit=config.limit,
        apply_chat_template=config.apply_chat_template,
        fewshot_as_multiturn=config.apply_chat_template if multiturn is None else multiturn,
        system_instruction=config.system_instruction,
        gen_kwargs=dict(config.gen_kwargs) if config.gen_kwargs else None,
    )
    return evaluation


def _tasks(config: ScoreConfig, loader: TaskLoader) -> list[str | dict[str, Any]]:
    """Task names and inline specs, each loaded once: what is wrong with one is said before a model is read."""
    listed = config.tasks.split(",") if isinstance(config.tasks, str) else config.tasks
    tasks: list[str | dict[str, Any]] = []
    with silence_lm_eval():
        for entry in read_tasks(listed, SLICES):
            if entry.score or entry.aggregate:
                raise ConfigError(
                    f"tasks: {entry.name}: this table has lm-eval's metrics only; drop score and aggregate"
                )
            tasks.append(loader.load_spec(entry))
    return tasks


def open_model(source: str, config: ScoreConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The live model of a recipe, written in place as a search writes it, or of a folder or hub id."""
    device = resolve_device(config.device)
    options: dict[str, Any] = {"device": device, "attn_implementation": config.attn_implementation}
    if source.endswith((".yaml", ".yml")):
        recipe, family = open_recipe(Path(source), config.trust_remote_code)
        dtype = config.dtype or recipe.out_dtype or _stored(family.base.folder, config)
        model, tokenizer = family.load_model(dtype=dtype, **options), family.load_tokenizer()
        placed = choose_placement("auto", family, device, dtype, loaded=True)
        Materializer(family, device, placement=placed).write(recipe, model)
    else:
        ref = pin_revisions(ModelRef.parse(source))
        folder = plain_folder(fetch(ref.path, ref.revision))
        if ref.adapter or is_adapter(folder):
            raise ConfigError(f"{source}: a LoRA adapter; give a recipe that puts it on its base")
        options["trust_remote_code"] = config.trust_remote_code
        model = load_model(folder, dtype=config.dtype or _stored(folder, config), **options)
        tokenizer = load_tokenizer(folder, config.trust_remote_code)
    check_tokenizer(tokenizer, model.config.is_encoder_decoder)
    if config.apply_chat_template and not tokenizer.chat_template:
        raise ConfigError(f"apply_chat_template: the tokenizer of {source} has no chat template; unset it")
    return model, tokenizer


def _stored(folder: Path, config: ScoreConfig) -> str:
    """The dtype that a checkpoint says it is in."""
    return str(model_config(folder, config.trust_remote_code).dtype or "float32").removeprefix("torch.")
