"""The rules of a contest as configuration, and the verdict on each of them for each model, before weights are read.

Each kind of rule has a file, whose functions return a verdict: `ok`, `broken`, or `unknown` with the reason why it
cannot be known here. The room knows no task and no search. The rule: what is not known is never reported as kept, and
every verdict names the file or the answer of the hub that it was read from.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.rules.config import RulesConfig
    from evomerge.rules.gpu_memory import judge_gpu_memory
    from evomerge.rules.judgement import is_any_broken, judge, refuse_broken, verdict_lines
    from evomerge.rules.licence import stated_licence
    from evomerge.rules.verdict import Verdict
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "RulesConfig",
    "Verdict",
    "is_any_broken",
    "judge",
    "judge_gpu_memory",
    "refuse_broken",
    "stated_licence",
    "verdict_lines",
]
