"""One verdict: a plain value that a table, a program or a test can read."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "broken", "unknown"]
Rule = Literal["size", "licence", "upload date", "public", "revision", "hours", "GPU memory"]


@dataclass(frozen=True)
class Verdict:
    """Whether a rule holds for a model, the evidence, and what to do; `model` is `run` for a rule of the whole run.

    `model` is otherwise `base`, the label of an expert, or `base of LABEL`. The remedy of a rule that is kept is empty.
    """

    rule: Rule
    model: str
    status: Status
    reason: str
    remedy: str = ""
