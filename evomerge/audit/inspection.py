"""A whole audit: all findings of a family, and the table that shows them."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evomerge.audit.centre import centres
from evomerge.audit.configurations import configurations
from evomerge.audit.finding import Finding
from evomerge.audit.measure import measure
from evomerge.audit.named_bases import named_bases
from evomerge.audit.no_delta import missing_deltas
from evomerge.audit.origins import origins
from evomerge.audit.pairs import dependent_pairs
from evomerge.audit.scales import scales
from evomerge.audit.stored_values import stored_values
from evomerge.audit.survey import Survey
from evomerge.audit.tokenizers import tokenizers
from evomerge.audit.unusual_norms import unusual_norms
from evomerge.errors import ExpertError
from evomerge.models import AdapterExpert, Family, FullExpert
from evomerge.recipes import ModelRef

# Stored values are first: they mark the tensors that the others leave out.
CHECKS = (
    *(stored_values, origins, named_bases, missing_deltas, unusual_norms),
    *(scales, centres, dependent_pairs, tokenizers, configurations),
)


@dataclass(frozen=True)
class Audit:
    """The findings of a family, errors first; `facts` are lines about its norms and cosines, which are no findings."""

    findings: tuple[Finding, ...]
    facts: tuple[str, ...]
    tensors: int
    seconds: float

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make every merge with the model meaningless."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def refuse_errors(self) -> None:
        """ExpertError that names the findings that are errors, if there are any."""
        if self.errors:
            named = "; ".join(f"{finding.kind} ({', '.join(finding.who)})" for finding in self.errors)
            raise ExpertError(f"the audit found {named}: every candidate would have it; its remedy is in the table")

    def lines(self) -> Iterator[str]:
        """The facts, then the findings as a table: what, who and the evidence, and below each its remedy."""
        yield from self.facts
        count = len(self.findings)
        verdict = f"{count or 'no'} finding{'s' * (count != 1)}"
        yield f"audit     {verdict} in {self.tensors} tensors of each model, {self.seconds:.0f} s"
        whos = [", ".join(finding.who) for finding in self.findings]
        kinds = max((len(finding.kind) for finding in self.findings), default=0)
        width = max(map(len, whos), default=0)
        for finding, who in zip(self.findings, whos, strict=True):
            yield f"{finding.severity:<9} {finding.kind:<{kinds}}  {who:<{width}}  {finding.evidence}"
            yield f"          {'':<{kinds}}  {'':<{width}}  → {finding.remedy}"


def audit_family(family: Family, experts: Mapping[str, ModelRef], dtype: str = "float32") -> Audit:
    """Read all models of a family once and look for what would spoil a merge; `experts` are label → reference.

    `dtype` is that in which the search merges. Needs time in proportion to the sizes of the files, and memory for some
    blocks of rows of each model.
    """
    start = time.monotonic()
    found = [_same_path(label) for label, ref in experts.items() if ref == family.ref]
    others = {label: ref for label, ref in experts.items() if ref != family.ref}
    refs = tuple(others.values())
    survey = Survey(family, tuple(others), refs, tuple(measure(family, refs)), dtype)
    survey.faulty |= _tied_by_experts(survey)
    found += [finding for check in CHECKS for finding in check(survey)]
    found.sort(key=lambda finding: finding.severity != "error")  # stable: errors first
    return Audit(tuple(found), tuple(_facts(survey)), len(survey.tensors), time.monotonic() - start)


def _tied_by_experts(survey: Survey) -> set[tuple[str, int]]:
    """The tensors that the base has apart and an expert has tied to another one, which are not comparable."""
    found: set[tuple[str, int]] = set()
    for model, expert in enumerate(survey.experts, 1):
        if isinstance(expert, FullExpert):
            places = survey.family.base.destination.items()
            found |= {(name, model) for name, place in places if expert.is_tied(place)}
    return found


def _same_path(label: str) -> Finding:
    remedy = "give the expert's own path, or leave the expert out"
    return Finding("equal to the base", (label,), "warning", "its path is that of the base", remedy)


def _facts(survey: Survey) -> Iterator[str]:
    """Norm and size of every task vector, and its cosines with those before it."""
    for number, (label, expert) in enumerate(zip(survey.labels, survey.experts, strict=True)):
        changed = [tensor for tensor in survey.tensors if tensor.changed[number]]
        cosines = " ".join(f"{survey.cosines[number, other]:+.2f}" for other in range(number))
        rank = f", r {expert.adapter.config.get('r', 8)}" if isinstance(expert, AdapterExpert) else ""
        after = f", cosines {cosines}" if cosines else ""
        relative = f"‖δ‖ {survey.norms[number]:.3g}, ‖δ‖/‖base‖ {survey.relative_norm(number):.2g}"
        yield f"delta     {label}: {len(changed)} tensors changed{rank}, {relative}{after}"
