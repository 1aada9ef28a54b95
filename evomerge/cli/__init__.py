"""The command line: one parser for every sub-command, Hydra's composition of an experiment, one line for each error.

It knows the words of the commands and their exit codes; what a command does is done by the rooms below. The rule: a
command imports its room when it runs, so that usage, versions and misspelt keys are answered without torch.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.cli.entry import main
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = ["main"]
