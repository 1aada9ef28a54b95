"""Search for the best merge of a base model and its fine-tuned experts, without training.

The functions here do what the commands of the same names do, for notebooks and programs. What a user can get wrong is
raised as an `EvomergeError` of one line. `import evomerge` is fast: torch is imported by the first call that needs it.

    >>> import evomerge
    >>> result = evomerge.search("models/base", ["models/math", "models/law"], tasks=["gsm8k", "law.csv"])
    >>> config = {"base": "models/base", "experts": {"math": "models/math"}, "scorer": {"tasks": ["gsm8k"]}}
    >>> result = evomerge.search(config, "runs/mine")  # or with every choice of your own
    >>> result.to_pandas()
    >>> evomerge.merge(result.recipe, "merged")
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from evomerge.atomic import write_atomically
from evomerge.errors import ConfigError, EvomergeError
from evomerge.lazy import on_demand
from evomerge.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from evomerge.experiment import Replayed, Result
    from evomerge.recipes import Recipe, load_recipe
    from evomerge.submission import Pack
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "EvomergeError",
    "Pack",
    "Recipe",
    "Replayed",
    "Result",
    "__version__",
    "check",
    "load_recipe",
    "merge",
    "replay",
    "score",
    "search",
    "submit",
]


@overload
def search(
    config: Mapping[str, Any] | str | Path, folder: str | Path | None = None, *, console: "Console | None" = None
) -> "Result": ...


@overload
def search(
    config: str,
    folder: Sequence[str] | Mapping[str, str],
    *,
    tasks: Sequence[str | Mapping[str, Any]],
    hours: float | None = None,
    items: int | None = None,
    out: str | Path | None = None,
    seed: int = 1,
    rules: str | None = None,
    most: int | None = None,
    inputs: Sequence[str | Path] | None = None,
    console: "Console | None" = None,
) -> "Result": ...


def search(
    config: Any,
    folder: Any = None,
    *,
    tasks: Sequence[str | Mapping[str, Any]] | None = None,
    hours: float | None = None,
    items: int | None = None,
    out: str | Path | None = None,
    seed: int = 1,
    rules: str | None = None,
    most: int | None = None,
    inputs: Sequence[str | Path] | None = None,
    console: "Console | None" = None,
) -> "Result":
    """Search, resume or finish: `search(config, folder)`, or `search(base, experts, tasks=[…])` with all else chosen.

    In the first form `config` is a mapping of the keys of conf/config.yaml, or the path of a file with them; keys that
    it leaves out have the defaults of the command line. `folder` is by default runs/ and the configuration's `name`.
    In the second form `experts` is a list of models or label → model. A task is a name of lm-eval, the path of a file
    of questions or a task entry. `hours` limits the whole call, `items` the search; `out` is the run's folder,
    `rules` names a preset of conf/rules/, and `inputs` are CSV files to predict for its submission. More experts than
    `most`, by default 8, are screened before the search. Progress goes to `console`. Without one the second form prints
    it, and the first form does so only in a notebook.

    Raises ConfigError for a wrong key or value, ExpertError, TaskError or RunError for what cannot be read, scored or
    continued, and RulesError for a broken rule. A candidate that fails is recorded and does not raise.
    """
    from rich.console import Console

    from evomerge.experiment import Result, prepare_run, run_experiment

    limits: dict[str, Any] = {"hours": hours, "items": items, "out": out, "rules": rules}
    limits |= {"most": most, "inputs": inputs}
    if tasks is not None:
        from evomerge.autoconfig import Request, run_quick

        limits["inputs"] = inputs or ()
        request = Request.of(config, () if folder is None else folder, tasks, seed=seed, **limits)
        return Result.load(run_quick(request, console or Console()))
    if named := [name for name, value in limits.items() if value is not None]:
        raise ConfigError(f"{', '.join(named)}: only with a base, experts and tasks; a configuration has keys for it")
    if isinstance(folder, list | tuple | Mapping):
        raise ConfigError("no tasks: give tasks=[…], names of lm-eval or files of questions, beside base and experts")
    plain, place = prepare_run(config, folder)
    run_experiment(plain, place, console or Console(quiet=not Console().is_jupyter))
    return Result.load(place)


def check(config: Mapping[str, Any] | str | Path, folder: str | Path | None = None, *, deep: bool = False) -> list[str]:
    """The lines that describe a search, without reading a weight; the first problem is raised as `search` would.

    With `deep`, all weights are read once, and the lines of the audit follow: norms, cosines, and findings with their
    remedies.
    """
    from evomerge.experiment import audit_experiment, describe, prepare_run

    plain, place = prepare_run(config, folder)
    lines = list(describe(plain, place))
    return [*lines, *audit_experiment(plain).lines()] if deep else lines


def merge(
    recipe: "Recipe | str | Path",
    out: str | Path,
    *,
    adapter: bool = False,
    rank: int | None = None,
    format: str | None = None,
    llama_cpp: str | Path | None = None,
    push: str | None = None,
    private: bool = False,
    trust_remote_code: bool = False,
) -> str:
    """Build the model of a recipe, or of an evomerge or mergekit file, in the new folder `out`.

    Returns the fingerprint of the weights. With `format` `gguf` or `gguf:TYPE`, `out` is a GGUF file, which llama.cpp's
    programs make of the merged folder; `llama_cpp` is a checkout of it. With `adapter`, where all experts are adapters,
    `out` holds one LoRA adapter instead, exact or of at most `rank`, and the words that describe it are returned.
    With `push` "owner/name" the folder is uploaded to that repository of the hub, which is made if it is not there;
    the token and the network are checked before the merge, and a folder that could not be uploaded stays.
    Raises ConfigError, ExpertError or RunError; `out` is then not left behind.
    """
    if rank is not None and not adapter:
        raise ConfigError(f"rank={rank}: only an adapter has one; set adapter=True")
    if format is not None and adapter:
        raise ConfigError(f"format={format}: an adapter has no such format; leave one of the two out")
    if private and push is None:
        raise ConfigError("private=True: only a repository of the hub is private; give push='owner/name'")
    if push is not None and format is not None:
        raise ConfigError(f"push={push}: pushes a folder, not a GGUF file; leave one of the two out")
    from evomerge.recipes import Recipe

    source = Path(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(source, Recipe | Path):
        raise ConfigError("recipe: give a Recipe, such as result.recipe, or the path of a recipe file")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}

    def made() -> str:
        from evomerge.export import merge_adapter, merge_gguf, merge_recipe, parse_format

        if adapter:
            return str(merge_adapter(source, Path(out), rank=rank, **options))
        if format is not None:
            checkout = Path(llama_cpp) if llama_cpp else None
            return merge_gguf(source, Path(out), parse_format(format), llama_cpp=checkout, **options)
        return merge_recipe(source, Path(out), **options)

    if push is None:
        return made()
    from evomerge.export import PushTarget, adapter_options, merge_and_push, recorded_fingerprint

    found, _ = merge_and_push(PushTarget(push, private), source, Path(out), adapter_options(adapter, rank), made)
    return found or recorded_fingerprint(Path(out))


def score(
    model: str | Path,
    tasks: str | Sequence[str | Mapping[str, Any]],
    *,
    num_fewshot: int | None = None,
    limit: float | None = None,
    apply_chat_template: bool = False,
    dtype: str | None = None,
    device: str = "auto",
    batch_size: int = 16,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """lm-eval's results, as `lm_eval.simple_evaluate` returns them, for a folder, GGUF file, hub id or recipe file.

    `tasks` are names, comma-separated or as a list, or task configurations. `settings` are further keys of the command
    `evomerge score`, such as gen_kwargs or batch_tokens. Raises ConfigError, ExpertError or TaskError.
    """
    from rich.console import Console

    from evomerge.experiment import score_model

    named: dict[str, Any] = {"num_fewshot": num_fewshot, "limit": limit, "apply_chat_template": apply_chat_template}
    named |= {"tasks": tasks, "dtype": dtype, "device": device, "batch_size": batch_size}
    evaluation = score_model(str(model), {**named, **(settings or {})}, Console(quiet=True))
    if out := (settings or {}).get("out"):
        write_atomically(Path(out), evaluation.text())
    return evaluation.results


def replay(run: str | Path) -> "list[Replayed]":
    """Rebuild the winner of a finished run: its fingerprint and scores, each `same` as recorded or not.

    Raises RunError where the folder holds no finished run.
    """
    from evomerge.experiment import replay_run

    return list(replay_run(Path(run)))


def submit(
    run: str | Path,
    out: str | Path,
    inputs: Sequence[str | Path] = (),
    *,
    predict: Literal["right", "kit"] = "right",
    name: str | None = None,
    max_gen_len: int = 64,
    max_seq_len: int | None = None,
    device: str | None = None,
) -> "Pack":
    """Write the pack of a finished run for the LLM Merging contest's starter kit, as the new tar file `out`.

    `inputs` are CSV files in the contest's format, which are predicted by the winner. With `predict` "right" all tokens
    of a choice are scored; "kit" gives the predictions of the starter kit's own functions. Answers have at most
    `max_gen_len` tokens; `device` None is that of the run. Raises ConfigError, TaskError or RunError, for arguments and
    files before weights are read.
    """
    from evomerge.submission import write_pack

    options: dict[str, Any] = {"max_gen_len": max_gen_len, "max_seq_len": max_seq_len, "device": device}
    return write_pack(Path(run), Path(out), [Path(file) for file in inputs], predict=predict, name=name, **options)
