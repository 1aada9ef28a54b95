"""`submit`: from a finished run and files of inputs to a tar file that is extracted over the starter kit."""

import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from evomerge.errors import ConfigError, TaskError, write_error
from evomerge.recipes import dump_recipe
from evomerge.submission.config import Predict, SubmissionConfig, method_name, output_name
from evomerge.submission.csv_rows import Row, read_rows, write_predictions
from evomerge.submission.finished_run import FinishedRun
from evomerge.submission.frozen_table import freeze_table
from evomerge.submission.merged_model import RunMerge
from evomerge.submission.older_transformers import (
    config_after_loading,
    needs_plain_tokenizer,
    older_config,
    read_tokenizer_config,
)
from evomerge.submission.pack_facts import PackFacts
from evomerge.submission.predictions import Predictor, Scored
from evomerge.submission.report import report_text
from evomerge.submission.rules_report import rules_text
from evomerge.submission.validation import FileScores, score_file

Files = Mapping[Path, Sequence[Row]]
TOP = "LLM-Merging"
KIT_FILES = Path(__file__).parent / "kit_files"
MOST_CHOICES = 10  # whose index is one digit, which is all that the kit writes of it
OTHER: dict[Predict, Predict] = {"right": "kit", "kit": "right"}


@dataclass(frozen=True)
class Pack:
    """A written pack; `lines` describe it."""

    path: Path
    name: str
    lines: tuple[str, ...]


def write_pack(
    run: Path,
    out: Path,
    inputs: Sequence[Path] = (),
    *,
    predict: Predict = "right",
    name: str | None = None,
    max_gen_len: int = 64,
    max_seq_len: int | None = None,
    device: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Pack:
    """Write the pack of a finished run to the new tar file `out`; `say` gets a line for each step.

    TaskError, ConfigError or RunError for anything that is wrong with the arguments or the files, before weights are
    read; `out` is complete or is not there.
    """
    config = SubmissionConfig(tuple(inputs), predict, max_gen_len, max_seq_len, name or method_name(run.resolve().name))
    _refuse_path(out)
    files = {path: read_rows(path) for path in config.inputs}
    finished, started = FinishedRun.open(run), time.monotonic()
    merged = RunMerge.open(finished)
    predictor = _predictor(finished, merged, files, config, device)
    say(f"merged: {merged.recipe.method} of {len(merged.family.experts)} experts in {merged.dtype}")
    for line in _warnings(files, predictor, config, merged.is_encoder_decoder):
        say(line)
    predicted = [_predict(predictor, path, rows, config.predict, say) for path, rows in files.items()]
    table = freeze_table(merged.recipe, merged.family, merged.dtype)
    scores = tuple(found for _, found in predicted)
    facts = PackFacts(config, finished, merged, table, scores, time.monotonic() - started)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent) as folder:
        top = Path(folder) / TOP
        _write_files(top, facts, [scored for scored, _ in predicted], predictor.max_length)
        _write_tar(top, out)
    return Pack(out, config.name, tuple(_summary(out, facts)))


def _refuse_path(out: Path) -> None:
    if out.exists():
        raise ConfigError(f"{out}: exists already; give a new file")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: its folder is not there; make it first")


def _predictor(
    run: FinishedRun, merged: RunMerge, files: Files, config: SubmissionConfig, device: str | None
) -> Predictor:
    """The predictor with the merged model; TaskError for a row that the kit cannot predict, before it is loaded."""
    kit = merged.kit_tokenizer(config.max_seq_len)
    if config.predict == "kit":
        for path, rows in files.items():
            kit.refuse_failing(path, rows)
    return Predictor(
        merged.load(run, device),
        merged.tokenizer,
        kit,
        max_gen_len=config.max_gen_len,
        longest=max((kit.longest(row) for rows in files.values() for row in rows), default=1),
        max_length=run.model.get("max_length"),
        batch_tokens=int(run.model.get("batch_tokens", 4096)),
        path=str(run.model.get("scoring", "auto")),
    )


def _warnings(files: Files, predictor: Predictor, config: SubmissionConfig, is_encoder_decoder: bool) -> Iterator[str]:
    """A line for each thing in the files that costs predictions without being an error."""
    room = predictor.max_length - config.max_gen_len
    for path, rows in files.items():
        long = [number for number, row in enumerate(rows, 1) if not row.choices and predictor.input_length(row) > room]
        if long and not is_encoder_decoder:  # those have positions of their own for the answer
            remedy = f"--max-seq-len {room} cuts them as the kit would" if room > 0 else "give a smaller --max-gen-len"
            more = f" and {len(long) - 1} more leave" if len(long) > 1 else " leaves"
            yield f"{path.name}: row {long[0]}{more} no room for an answer in {predictor.max_length} tokens; {remedy}"
        if is_encoder_decoder and config.predict == "kit" and any(row.choices for row in rows):
            yield f"{path.name}: the kit takes each character of answer_choices for a choice; right reads the list"
        if many := [number for number, row in enumerate(rows, 1) if len(row.choices) > MOST_CHOICES]:
            yield f"{path.name}: row {many[0]} has more than {MOST_CHOICES} choices, and the kit can write none above 9"


def _predict(
    predictor: Predictor, path: Path, rows: Sequence[Row], predict: Predict, say: Callable[[str], None]
) -> tuple[Scored, FileScores]:
    """The predictions of a file, and the scores of both conventions if it has targets."""
    begun = time.monotonic()
    scored = predictor.predict(path, rows, predict)
    seconds = time.monotonic() - begun
    say(f"{path.name}: {len(rows)} predictions in {seconds:.1f} s")
    found: dict[Predict, dict[str, float] | str] = {predict: score_file(scored)}
    if found[predict]:
        try:
            found[OTHER[predict]] = score_file(predictor.predict(path, rows, OTHER[predict], scored))
        except TaskError as error:
            found[OTHER[predict]] = str(error)
    return scored, FileScores(path, len(rows), seconds, found)


def _write_files(top: Path, facts: PackFacts, scored: Sequence[Scored], max_length: int) -> None:
    name, table = facts.config.name, facts.table
    methods, about = top / "llm_merging" / "merging", top / name
    for folder in (methods, about / "predictions"):
        folder.mkdir(parents=True)
    shutil.copyfile(KIT_FILES / "main.py", top / "llm_merging" / "main.py")
    shutil.copyfile(KIT_FILES / "method.py", methods / f"{name}.py")
    shutil.copyfile(KIT_FILES / "evomerge_tensors.py", methods / "evomerge_tensors.py")
    document = _document(facts, max_length)
    (methods / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if table.shipped:
        save_file(table.shipped, methods / f"{name}.safetensors", metadata={"format": "pt"})
    for file in scored:
        write_predictions(about / "predictions" / output_name(file.file), file.rows, file.predictions)
    (about / "recipe.yaml").write_text(dump_recipe(facts.merged.recipe), encoding="utf-8")
    (about / "RULES.md").write_text(rules_text(facts), encoding="utf-8")
    (about / "REPORT.md").write_text(report_text(facts), encoding="utf-8")


def _document(facts: PackFacts, max_length: int) -> dict[str, Any]:
    """The JSON file that the class in the pack reads."""
    merged, config, table = facts.merged, facts.config, facts.table
    tokenizer = read_tokenizer_config(merged.base_folder)
    return {
        "predict": config.predict,
        "architecture": "encoder_decoder" if merged.is_encoder_decoder else "decoder",
        "dtype": merged.dtype,
        "max_seq_len": config.max_seq_len,
        "max_gen_len": config.max_gen_len,
        "max_length": max_length,
        "is_peft": any(ref.adapter for ref in merged.recipe.models()),
        "models": table.models,
        "config": older_config(merged.base_folder),
        "config_after_loading": config_after_loading(merged.base_folder),
        "plain_tokenizer": needs_plain_tokenizer(tokenizer),
        "clean_up": bool(tokenizer.get("clean_up_tokenization_spaces", False)),
        "untied": list(merged.family.base.untied),
        "tensors": table.entries,
    }


def _write_tar(top: Path, out: Path) -> None:
    partial = out.with_name(out.name + ".partial")
    try:
        with tarfile.open(partial, "w") as archive:
            for path in sorted(path for path in top.rglob("*") if path.is_file()):
                path.chmod(0o644)
                archive.add(path, str(path.relative_to(top.parent)), filter=_anonymous)
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise write_error(out, error) from error


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member without the names of this machine's users."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _summary(out: Path, facts: PackFacts) -> Iterator[str]:
    name = facts.config.name
    yield f"{out}: {out.stat().st_size / 1e6:.1f} MB"
    yield from facts.table.forms()
    yield f"use it: tar xf {out.name} over a checkout of the starter kit, then python llm_merging/main.py -m {name}"
