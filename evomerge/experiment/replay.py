"""A finished run, rebuilt: the winner's fingerprint and scores, compared with what the run recorded."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evomerge.experiment.experiment import Experiment, from_config
from evomerge.experiment.generation_engine import recorded_engine
from evomerge.ledger import Ledger, refuse_other_search
from evomerge.paths import LEDGER, RECIPE, refuse_unfinished
from evomerge.recipes import Recipe, load_recipe
from evomerge.run_files import read_config_file, read_result, refuse_misfits
from evomerge.searching import Candidate, Evaluator


@dataclass(frozen=True)
class Replayed:
    """One value of a finished run: what was recorded, and what was found when it was computed again."""

    what: str
    recorded: Any
    found: Any

    @property
    def same(self) -> bool:
        """Whether the two are equal."""
        return bool(self.recorded == self.found)

    def __str__(self) -> str:
        """One line for a terminal."""
        if self.same:
            return f"same  {self.what}: {self.found}"
        return f"DIFFERS  {self.what}: recorded {self.recorded}, now {self.found}"


def open_run(folder: Path) -> tuple[Experiment, Recipe, dict[str, Any]]:
    """Experiment, winner and result of a finished run; RunError where the folder does not hold them."""
    refuse_unfinished(folder)
    config, result = read_config_file(folder), read_result(folder)
    with refuse_misfits(folder):
        kept = [str(label) for label in (result.get("screen") or {}).get("kept", ())]
        _ = result["fingerprint"], result["rows"][-1]["scores"]
    # A tracker's package, which may be missing here, is not needed to compute scores again.
    experiment = from_config(config | {"tracker": {}}, folder)
    if kept:
        experiment = experiment.with_experts(kept)
    return experiment, load_recipe(folder / RECIPE), result


def replay_run(folder: Path) -> Iterator[Replayed]:
    """Rebuild the winner and score it again on every slice; yields the fingerprint, then each score.

    RunError where a scoring function of the user's has changed.
    """
    experiment, recipe, result = open_run(folder)
    refuse_other_search(folder / LEDGER, recorded_engine(experiment))
    if functions := experiment.scorer.functions:
        refuse_other_search(folder / LEDGER, {"functions": functions})
    candidate = Candidate.of("winner", recipe)
    pool = experiment.pool(experiment.worker_spec())
    scratch = folder / "replay.partial"
    scratch.unlink(missing_ok=True)
    ledger, held = Ledger(scratch, {}), Ledger(folder / LEDGER, {})
    try:
        recorded = Evaluator(experiment.scorer, pool, held, objective=experiment.objective)
        recorded.baselines = {label: recipe.key() for label, recipe in experiment.baselines.items()}
        evaluator = Evaluator(experiment.scorer, pool, ledger)
        cuts = [cut for cut in held.cuts if cut.budget in (None, asdict(experiment.config.budget))]
        for one in (recorded, evaluator):
            one.apply_cuts(cuts)
        if held.rechunking and not held.rechunking.chunks.keys().isdisjoint(held[candidate.key].scores):
            evaluator.rechunk(held.rechunking)  # in other batches scores may differ by rounding
        yield Replayed("fingerprint", result["fingerprint"], pool.fingerprint(recipe))
        for name, score in result["rows"][-1]["scores"].items():
            evaluator.evaluate([candidate], name)
            fitness = experiment.objective.fitness(evaluator.means(candidate.key, name), recorded.baseline_means(name))
            yield Replayed(f"score on {name}", score, fitness.score)
    finally:
        pool.close()
        ledger.close()
        held.close()
        scratch.unlink(missing_ok=True)
