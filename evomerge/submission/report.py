"""REPORT.md: the skeleton of a report of four pages, filled from the run's files; brackets mark what an author adds."""

from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.parsing import dump_yaml
from evomerge.recipes import dump_recipe, original_recipe
from evomerge.submission.markdown import interval, table
from evomerge.submission.pack_facts import PackFacts
from evomerge.submission.validation import FileScores

SET_UP = ("method", "space", "optimizer", "objective", "budget", "finalise", "seed")
LONGEST_RECIPE = 60  # lines of a recipe that the report quotes


def report_text(facts: PackFacts) -> str:
    """The text of REPORT.md."""
    sections = (
        ("", _abstract),
        ("Method", _method),
        ("Experts", _experts),
        ("Search", _search),
        ("Where the time went", _time),
        ("Results of the search", _results),
        ("Predictions", _predictions),
        ("Limits", _limits),
        ("Reproduction", _reproduction),
    )
    parts = [f"# {facts.config.name}: a merge of {len(facts.table.models) - 1} experts"]
    for title, write in sections:
        parts += [f"## {title}"] * bool(title) + [part for part in write(facts) if part]
    return "\n\n".join(parts) + "\n"


def _abstract(facts: PackFacts) -> Iterator[str]:
    result, recipe = facts.run.result, original_recipe(facts.merged.recipe)
    yield "**Abstract.** " + " ".join(
        (
            f"We merge {len(facts.table.models) - 1} fine-tuned models of {facts.table.models[0]['path']} by"
            f" {recipe.method}, without training.",
            *_claim(result),
            "[Say in a sentence why these experts, and what the merge does better.]",
        )
    )


def _claim(result: Mapping[str, Any]) -> Iterator[str]:
    rows = list(result.get("rows") or ())
    if not rows:
        return
    counts = result.get("counts") or {}
    yield f"The coefficients were found by a search of {counts.get('candidates', '?')} candidates."
    yield f"On items that neither search nor choice has seen, the winner scores {rows[-1]['scores']['holdout']:.3f};"
    difference = result.get("difference")
    if difference is not None:
        yield (
            f"the best baseline is {result.get('best_baseline')}, the difference {difference:+.3f}"
            f" {interval(result.get('interval'))} ({result.get('verdict')})."
        )


def _method(facts: PackFacts) -> Iterator[str]:
    recipe = original_recipe(facts.merged.recipe)
    yield (
        f"Every tensor is computed in float32 from the base and the experts and rounded once to {facts.merged.dtype}. "
        "[Describe the method in a paragraph, with its source.]"
    )
    yield "How the class in this pack rebuilds the tensors:"
    yield "\n".join(f"- {line}" for line in facts.table.forms())
    lines = dump_recipe(recipe).splitlines()
    more = f"\n# … {len(lines) - LONGEST_RECIPE} more lines in recipe.yaml" if len(lines) > LONGEST_RECIPE else ""
    yield "The recipe:\n\n```yaml\n" + "\n".join(lines[:LONGEST_RECIPE]) + more + "\n```"


def _experts(facts: PackFacts) -> Iterator[str]:
    verdicts = list((facts.run.result.get("rules") or {}).get("verdicts") or ())
    labels = ["base", *_labels(facts)]
    rows = []
    for label, model in zip(labels, facts.table.models, strict=True):
        known = {verdict["rule"]: verdict["reason"] for verdict in verdicts if verdict["model"] == label}
        licence, date = known.get("licence", "[licence]"), known.get("upload date", "[date of upload]")
        rows.append([label, model["path"], model["revision"], licence, date])
    yield table(("", "model", "revision", "licence", "uploaded"), rows)


def _labels(facts: PackFacts) -> list[str]:
    """The labels that the run gave to the experts; a number for an expert that has none."""
    experts = facts.run.config.get("experts")
    named = {str(ref): str(label) for label, ref in experts.items()} if isinstance(experts, Mapping) else {}
    found = []
    for number, model in enumerate(facts.table.models[1:], 1):
        path = str(model["path"])
        ends = (label for ref, label in named.items() if ref.partition("@")[0].rstrip("/").endswith(path.strip("/")))
        resolved = (label for ref, label in named.items() if path.endswith("/" + ref.lstrip("./").rstrip("/")))
        found.append(next(ends, next(resolved, str(number))))
    return found


def _search(facts: PackFacts) -> Iterator[str]:
    config, counts = facts.run.config, dict(facts.run.result.get("counts") or {})
    chosen = {key: config[key] for key in SET_UP if key in config}
    scorer = dict(config.get("scorer") or {})
    tasks = [task.get("name", task) if isinstance(task, Mapping) else task for task in scorer.get("tasks") or ()]
    chosen |= {"tasks": tasks, "slices": scorer.get("slices")} if scorer else {}
    yield (
        "Candidates are scored on the search slice, the winner is chosen on `select`, and its score is reported on"
        " `holdout`, whose items neither saw."
    )
    yield table(("count", "number"), counts.items()) if counts else ""
    yield "```yaml\n" + dump_yaml(chosen, sort_keys=False).strip() + "\n```" if chosen else ""


def _time(facts: PackFacts) -> Iterator[str]:
    seconds = dict(facts.run.result.get("seconds") or {})
    rows = [[f"search: {name.replace('_', ' ')}", f"{value:.0f}"] for name, value in seconds.items() if _number(value)]
    rows += [[f"predictions of {file.file.name} ({file.rows} rows)", f"{file.seconds:.0f}"] for file in facts.scores]
    yield table(("part", "seconds"), [*rows, ["merge, predictions and pack, on this machine", f"{facts.seconds:.0f}"]])
    machine = facts.run.result.get("machine") or {}
    yield f"The search ran on: {', '.join(f'{key} {value}' for key, value in machine.items())}." if machine else ""


def _number(value: object) -> bool:
    return isinstance(value, int | float)


def _results(facts: PackFacts) -> Iterator[str]:
    result = facts.run.result
    rows = list(result.get("rows") or ())
    if not rows:
        yield "[The run's result.json has no rows.]"
        return
    tasks = list(rows[-1]["tasks"])
    cells = ([row["label"], *row["scores"].values(), *map(row["tasks"].get, tasks)] for row in rows)
    yield table(("model", *rows[-1]["scores"], *tasks), cells)
    yield "The winner against each baseline on `holdout`, paired by item, p-values corrected by Holm's method:"
    tests = result.get("comparisons") or ()
    names = ("label", "difference", "interval", "p", "corrected", "test", "verdict")
    yield table(
        names, [[interval(found[name]) if name == "interval" else found.get(name) for name in names] for found in tests]
    )


def _predictions(facts: PackFacts) -> Iterator[str]:
    mode = facts.config.predict
    yield (
        f"The pack predicts by `{mode}`. `right` chooses by the summed log-likelihood of all tokens of a choice after"
        " the input and a space. `kit` is what the starter kit's own functions do: with decoders the first token of a"
        " choice is never scored. Generated answers are greedy and equal in both."
    )
    rows = [line for file in facts.scores for line in _score_rows(file)]
    yield table(("file", "rows", "convention", "score"), rows) if rows else "[No file with targets was given.]"
    found = ((file, mode, scores) for file in facts.scores for mode, scores in file.scores.items())
    reasons = [(mode, why.replace(str(file.file), file.file.name)) for file, mode, why in found if isinstance(why, str)]
    yield "\n".join(f"- `{mode}`: {why}" for mode, why in reasons)


def _score_rows(file: FileScores) -> Iterator[list[Any]]:
    for convention, values in file.scores.items():
        for name, value in values.items() if isinstance(values, Mapping) else [("no predictions", None)]:
            yield [file.file.name, file.rows, convention, f"{name} {value:.3f}" if value is not None else name]


def _limits(facts: PackFacts) -> Iterator[str]:
    lines = [
        "The holdout slice is of the same tasks as the search; the contest's hidden tasks are not.",
        "The kit writes the first digit of an index, so a row with more than ten choices has no choice above 9.",
        "On another kind of processor the last bit of a tensor can differ, and so can a close choice.",
    ]
    if facts.table.reasons:
        lines.append(f"Weights are shipped, because the recipe needs {'; '.join(facts.table.reasons)}.")
    yield "\n".join(f"- {line}" for line in [*lines, "[What the merge does worse than its experts.]"])


def _reproduction(facts: PackFacts) -> Iterator[str]:
    name = facts.config.name
    yield (
        "Extract the pack over a checkout of the starter kit (the folder is called LLM-Merging), in the kit's"
        " environment:"
    )
    yield (
        f"```\ntar xf PACK.tar\ncd LLM-Merging\nexport HF_AUTH_TOKEN= PYTHONPATH=$PWD\n"
        f"python llm_merging/main.py -m {name} --dataset_filepaths data/test.csv --output_folder output\n```"
    )
    yield (
        "The pack's `llm_merging/main.py` finds methods by their files. To keep the kit's own, leave it out and add two"
        f" lines: `from llm_merging.merging.{name} import EvomergeMerge` in `llm_merging/merging/__init__.py`, and"
        f' `"{name}": EvomergeMerge,` in the dictionary of `main.py`.'
    )
    versions = facts.run.result.get("versions") or {}
    yield (
        "Versions of the search: " + ", ".join(f"{key} {value}" for key, value in versions.items()) if versions else ""
    )
