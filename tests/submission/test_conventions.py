"""`right` predictions are scored by the requests with which a search scores the same file."""

from pathlib import Path

from evomerge.scoring.tasks import LMEvalScorer, ScorerConfig
from evomerge.submission import read_rows, right_requests
from tests.submission.runs import write_inputs


def test_a_search_asks_the_model_what_a_submission_asks(tmp_path: Path) -> None:
    path = write_inputs(tmp_path / "rows.csv", 12, ("yes", "it's ", "no way", "never, ever"))
    slices = {"search": 4, "select": 4, "holdout": 4}
    scorer = LMEvalScorer(ScorerConfig(tasks=[{"name": "rows", "file": str(path)}], slices=slices), None, 1)
    asked = {
        request.arguments
        for chunks in scorer.plan.chunks.values()
        for chunk in chunks
        for request in scorer.requests(chunk)
    }
    ours = {request.arguments for row in read_rows(path) for request in right_requests(row.input, row.choices)}
    assert len(ours) == 36 and asked == ours
