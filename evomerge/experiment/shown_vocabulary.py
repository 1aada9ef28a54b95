"""What `check` and the one command say of the vocabulary: its rows and their rule, or the tokens that are not kept."""

from collections.abc import Iterator

from evomerge.experiment.experiment import Experiment
from evomerge.models import other_tokens
from evomerge.recipes import ModelRef

RULES = {
    "default": "that of the only model with the token, else the base's, else the mean of those with it",
    "pieces": "the mean of the rows of the token's pieces",
}
LABEL = f"{'tokens':10}"


def vocabulary_lines(experiment: Experiment) -> Iterator[str]:
    """The lines; without a requested vocabulary, one for each expert with other tokens."""
    found = experiment.family.vocabulary
    request = found.request if found else experiment.config.tokenizer_request
    if request:
        source = request.source if isinstance(request.source, ModelRef) else f"the {request.source}"
        whose = {"base": "of the base", "union": "of all models together"}.get(str(request.source), f"of {source}")
        if found is None:
            yield f"{LABEL}those {whose}: the rows stay as they are in all models"
            return
        listed = f", and {len(request.tokens)} rules for tokens" if request.tokens else ""
        yield f"{LABEL}those {whose}: {found.plan.size} rows (the base has {found.rows[experiment.base]})"
        yield f"{'':10}a row that a model lacks is {RULES[request.missing]}{listed}"
        return
    labels = {ref: label for label, ref in experiment.experts.items()}
    for ref, difference in other_tokens(experiment.family):
        yield f"{LABEL}{labels[ref]}: {difference}"
