"""The one parser: every sub-command with a line for each of its arguments, and the function that runs it."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from evomerge.cli import commands
from evomerge.errors import ConfigError, UsageError
from evomerge.suggest import did_you_mean
from evomerge.version import __version__

COMPOSED = {"search": commands.search, "check": commands.check}  # their arguments are Hydra's, flags included
HELP = {"-h", "--help"}
QUICK = ("--tasks", "--for")  # a line with one of these names models instead of an experiment
EXAMPLES = """examples:
  evomerge BASE EXPERT EXPERT --for questions.csv everything is chosen; `evomerge init --help` describes the arguments
  evomerge +experiment=quickstart                 the same as `evomerge search +experiment=quickstart`
  evomerge -m +experiment=a,b seed=1,2,3          a sweep: one search for each combination
  evomerge merge runs/quickstart/recipe.yaml out  the merged model as a folder that transformers loads"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all errors of the program are."""

    def error(self, message: str) -> NoReturn:
        """ConfigError instead of a page of usage and an exit."""
        command = self.prog.partition(" ")[2]
        raise ConfigError(f"{command}{': ' * bool(command)}{message}; see {self.prog} --help")


def run_command(arguments: Sequence[str], console: Console) -> int:
    """Parse a command line and run its command; returns its exit code. ConfigError if the line cannot be parsed."""
    parser, names = command_parsers()
    first, *rest = arguments or ("",)
    if first == "help":
        first, *rest = "--help", *rest
    elif first not in names and not commands.names_file(arguments) and _is_quick(arguments, names):
        return commands.quick_search(quick_parser().parse_args(arguments), console)
    elif not first or (first.isidentifier() and first not in names):
        unknown = f"unknown command {first!r}{did_you_mean(first, names)}\n" if first else ""
        raise UsageError(unknown + parser.format_help().rstrip())
    elif first not in (*names, *HELP, "--version"):
        first, rest = "search", list(arguments)
    if first in COMPOSED and not HELP.intersection(rest):
        return COMPOSED[first](rest, console)
    parsed = parser.parse_args([first, *rest])
    return int(parsed.run(parsed, console))


def _is_quick(arguments: Sequence[str], names: Iterable[str]) -> bool:
    """Whether a line names models and tasks, or models alone, instead of an experiment or a misspelt command."""
    words = [text for text in arguments if not text.startswith("-")]
    bare = [text for text in words if "=" not in text and not text.startswith(("+", "~"))]
    options = {text.partition("=")[0] for text in arguments}
    if options.intersection(QUICK):
        return True
    misspelt = words and words[0].isidentifier() and did_you_mean(words[0], names) and not Path(words[0]).exists()
    return len(bare) == len(words) > 1 and not misspelt


def quick_parser() -> argparse.ArgumentParser:
    """The parser of a line that names models and tasks, and no command."""
    words = "Search for the best merge; everything that is not given is chosen."
    parser = _Parser("evomerge", description=words, allow_abbrev=False)
    _add_quick(parser)
    parser.add_argument("--merged", type=Path, metavar="DIR", help="also write the merged model there at the end")
    return parser


def command_parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of a whole line, and that of each sub-command by its name."""
    parser = _Parser(
        "evomerge",
        description="Search for the best merge of a base model and its fine-tuned experts, without training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"evomerge {__version__}")
    added = parser.add_subparsers(metavar="COMMAND", title="commands (search, where none is named)")
    _add_search(added.add_parser("search", help="search, resume or finish an experiment"))
    _add_init(added.add_parser("init", help="write the experiment file that BASE EXPERT… --tasks … would run"))
    _add_screen(added.add_parser("screen", help="which of many experts a search should merge, and why"))
    _add_check(added.add_parser("check", help="everything that can be known before weights are read"))
    _add_merge(added.add_parser("merge", help="build the model, or one adapter, of a recipe"))
    _add_score(added.add_parser("score", help="lm-eval's table of a model or a recipe, by the scoring engine"))
    _add_replay(added.add_parser("replay", help="rebuild a run's winner, compare fingerprint and scores"))
    _add_submit(added.add_parser("submit", help="pack a run for the LLM Merging contest's starter kit"))
    _add_ledger(added.add_parser("ledger", help="check a run's ledger, and say what it holds"))
    _add_report(added.add_parser("report", help="write the HTML report of a run again; compare several runs"))
    return parser, added.choices


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    words = (
        "+experiment=NAME chooses conf/experiment/NAME.yaml, yours in ./conf or the package's; FILE.yaml [--out DIR]"
    )
    words += " is an experiment file anywhere; key=value sets a key"
    words += " (seed=2, budget.hours=1); group=preset chooses a preset (optimizer=optuna, pool=ray)."
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=f"{words} conf/config.yaml lists every key.")


def _add_quick(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "base", metavar="BASE", help="the model that all experts were fine-tuned from: hub id or folder"
    )
    parser.add_argument("experts", nargs="*", metavar="EXPERT", help="checkpoints or LoRA adapters: hub ids or folders")
    parser.add_argument("--tasks", metavar="A,B", action="append", default=[], help="names of lm-eval tasks")
    words = "a CSV, TSV or JSON file of your questions (question, answer, and choices or a, b, c, …); may be repeated"
    parser.add_argument("--for", dest="files", metavar="FILE", action="append", default=[], help=words)
    parser.add_argument("--hours", type=float, metavar="H", help="the time that the whole command may take")
    parser.add_argument("--items", type=int, metavar="N", help="the items that the search may score")
    words = "the rules of a contest, conf/rules/NAME.yaml, that models and time are judged by, such as lmc2024"
    parser.add_argument("--rules", metavar="NAME", help=words)
    words = "the experts that the search may merge, by default 8; more are screened before it"
    parser.add_argument("--most", type=int, metavar="N", help=words)
    words = "CSV files to predict for the submission of a contest; by default the files of --for in its format"
    parser.add_argument("--inputs", metavar="FILE", nargs="+", action="extend", default=[], help=words)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder; by default below runs/")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another number gives another search")


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.description = "Choose a configuration as `evomerge BASE EXPERT… --tasks …` does, and write it to edit."
    _add_quick(parser)
    parser.add_argument("--name", metavar="NAME", help="write conf/experiment/NAME.yaml, which +experiment=NAME runs")
    parser.set_defaults(run=commands.init)


def _add_screen(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Score each expert alone and in a few merges, compare task vectors, and propose which to merge. The same "
        "command without `screen` then searches in the same folder, and scores nothing twice."
    )
    _add_quick(parser)
    parser.set_defaults(run=commands.screen)


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.description = "Search for the best recipe. The same command again resumes the run, or finishes it."
    _add_overrides(parser)
    parser.add_argument("-m", "--multirun", action="store_true", help="one search for each combination of values a,b")
    words = "so many searches of a sweep at a time, each in a process of its own, sharing one Ray with pool=ray"
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help=words)


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.description = "Describe a search without reading weights; exit 2 or 1 with one line where it cannot run."
    _add_overrides(parser)
    words = "read the weights too, and report wrong bases, faulty values, duplicates and the like; exit 1 for an error"
    parser.add_argument(commands.DEEP, action="store_true", help=words)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.description = "Build the merged model of an evomerge or mergekit recipe."
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="an evomerge or mergekit recipe")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="a new folder, which transformers or peft loads")
    parser.add_argument("--adapter", action="store_true", help="write one LoRA adapter, where all experts are adapters")
    parser.add_argument("--rank", type=int, metavar="R", help="the largest rank of that adapter; exact without it")
    words = "write one file by llama.cpp's programs, such as gguf, gguf:Q8_0 or gguf:Q4_K_M; OUT_DIR is then OUT.gguf"
    parser.add_argument("--format", metavar="gguf[:TYPE]", help=words)
    words = "a checkout of llama.cpp; by default its programs are found by EVOMERGE_LLAMA_CPP or on the PATH"
    parser.add_argument("--llama-cpp", type=Path, metavar="DIR", help=words)
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with a model")
    words = "upload OUT_DIR to this repository of the Hugging Face hub; the token and the network are checked first"
    parser.add_argument("--push", metavar="OWNER/NAME", help=words)
    parser.add_argument("--private", action="store_true", help="make that repository private, if it is new")
    parser.set_defaults(run=commands.merge)


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print lm-eval's table of a finished model, or of a recipe merged in memory."
    parser.add_argument("model", metavar="MODEL", help="a folder, a GGUF file, a hub id, or a recipe file")
    words = "tasks=a,b, and options of lm_eval.simple_evaluate or of an experiment's model: num_fewshot=5 limit=100"
    words += " apply_chat_template=true gen_kwargs={...} dtype=bfloat16 device=cuda batch_size=16 out=scores.json"
    words += "; or run=RUN_DIR, which prints the score on that run's holdout beside the scores that it recorded"
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=words)
    parser.set_defaults(run=commands.score)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.description = "Rebuild the winner of a finished run and score it again; exit 1 where a value differs."
    parser.add_argument("folder", type=Path, metavar="RUN_DIR", help="the folder of a finished run")
    parser.set_defaults(run=commands.replay)


def _add_submit(parser: argparse.ArgumentParser) -> None:
    parser.description = "Predict files of inputs with a run's winner, and pack them with a class that rebuilds it."
    parser.add_argument("folder", type=Path, metavar="RUN_DIR", help="the folder of a finished run")
    parser.add_argument("out", type=Path, metavar="OUT.tar", help="a new file, to extract over a checkout of the kit")
    words = "CSV files with the columns id, input, answer_choices, eval_type and, where known, target"
    parser.add_argument("--inputs", type=Path, nargs="+", action="extend", default=[], metavar="FILE.csv", help=words)
    words = "right scores all tokens of a choice; kit predicts what the starter kit's own functions do (default: right)"
    parser.add_argument("--predict", choices=("right", "kit"), default="right", help=words)
    parser.add_argument("--name", metavar="NAME", help="the method's name in the kit; by default that of the run")
    parser.add_argument("--max-gen-len", type=int, default=64, metavar="N", help="the tokens of an answer (64)")
    words = "the tokens that the kit cuts inputs to, which is also what the class in the pack does; by default no limit"
    parser.add_argument("--max-seq-len", type=int, metavar="N", help=words)
    parser.set_defaults(run=commands.submit)


def _add_ledger(parser: argparse.ArgumentParser) -> None:
    parser.description = "Read and check trials.jsonl, also of a run that is going on, and summarise it."
    parser.add_argument("folder", type=Path, metavar="RUN_DIR", help="the folder of a run")
    parser.set_defaults(run=commands.ledger)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write report.html of a finished run again; of several runs, print tables that compare them."
    words = "the folder of a finished run; or several, or a folder of runs, such as that of a sweep"
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN_DIR", help=words)
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write its figures there as SVG and PDF, too")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="of several runs: write an HTML page with charts, too"
    )
    parser.set_defaults(run=commands.report)
