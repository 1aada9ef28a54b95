"""A search that cannot descend is refused before it has a folder, so its name stays free for other settings."""

from pathlib import Path
from typing import cast

import pytest

from evomerge.errors import TaskError
from evomerge.experiment.descent_losses import find_losses
from evomerge.experiment.experiment import from_config
from evomerge.scoring import Chunk, ItemLoss, Plan, Request, Scorer
from evomerge.searching import Objective
from tests.cli.test_conf import composed
from tests.conftest import QUICKSTART, SMALL, Command, Said
from tests.toys import toy_space

DESCENTS = ("optimizer=slope", "optimizer.start=slope")
FREE = """
task: free
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{query}}}}"
doc_to_target: ""
generation_kwargs: {{until: [" "], max_gen_toks: 1}}
process_results: !function answers.score
metric_list: [{{metric: length, aggregation: mean, higher_is_better: true}}]
"""
CODE = "def score(doc, results):\n    return {'length': float(len(results[0]))}\n"


@pytest.mark.parametrize("descent", DESCENTS)
@pytest.mark.parametrize("verb", [(), ("check",)], ids=["search", "check"])
def test_a_space_without_a_slope_is_refused(
    command: Command, tmp_path: Path, descent: str, verb: tuple[str, ...]
) -> None:
    switch = "+space.genes.weight={values: [0, 1]}"
    said = command(*verb, "+experiment=quickstart", *SMALL, descent, switch).refused(2)
    assert "no searched gene of task_arithmetic has a slope" in said and "optimizer.start=seeds" in said
    assert not (tmp_path / "runs").exists()


def free_task(command: Command, folder: Path, *tasks: str) -> Said:
    """A search on a task without a target text, and on others."""
    (folder / "free").mkdir()
    (folder / "free" / "free.yaml").write_text(FREE.format(data=QUICKSTART / "data" / "copy.jsonl"))
    (folder / "free" / "answers.py").write_text(CODE)
    return command("+experiment=quickstart", *SMALL, "optimizer=slope", "scorer.include_path=free", *tasks)


def test_tasks_of_which_none_has_a_loss_are_refused(command: Command, tmp_path: Path) -> None:
    said = free_task(command, tmp_path, "scorer.tasks=[free]").refused(2)
    assert "no task has a right choice or a target text" in said
    assert not (tmp_path / "runs").exists()


class Half:
    """A scorer of which only one task has losses."""

    plan = Plan(
        {"search": (Chunk("search/0", "search", ("a/0", "a/1", "b/0", "c/0")),)}, {"a": 1.0, "b": 1.0, "c": 1.0}
    )

    def loss(self, item: str) -> ItemLoss | None:
        return None if item.startswith("b/") else ItemLoss((Request("loglikelihood", ("", item)),))


def test_a_task_without_a_loss_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    objective = Objective(Half.plan.weights, maximise=["a", "b"])
    found = find_losses(cast(Scorer, Half()), objective, toy_space())
    assert list(found) == ["a/0", "a/1"]  # the objective does not count c
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["['b']"]


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.filterwarnings("ignore:.*searchpath.*")
def test_items_whose_target_is_too_long_are_counted_and_left_out(fits: bool, caplog: pytest.LogCaptureFixture) -> None:
    experiment = from_config(composed("+experiment=quickstart", *SMALL, "optimizer=slope"))
    long = ItemLoss((Request("loglikelihood", ("a", " b" * 5000)),))
    known = dict(list(experiment.item_losses.items())[: 3 if fits else 0])
    experiment.__dict__["item_losses"] = {**known, "copy/test/none": long}
    if not fits:
        with pytest.raises(TaskError, match=r"no item fits the model with its target.*raise model\.max_length"):
            experiment.worker_spec()
        return
    assert list(experiment.worker_spec().losses) == list(known)
    assert "1 items do not fit the model with their targets" in caplog.text
