"""The command line: sub-commands, Hydra's composition, one line for each error. The only file that imports Hydra."""

import argparse
import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from yaml import YAMLError

from evomerge.errors import ConfigError, EvomergeError, remedy
from evomerge.experiment import refuse_changed, run_name
from evomerge.suggest import nearest

USAGE = """usage: evomerge +experiment=NAME [key=value …]        search, resume, finish
       evomerge -m +experiment=a,b seed=1,2,3         sweep
       evomerge check +experiment=NAME [key=value …]  everything that can be known before weights are read
       evomerge merge RECIPE.yaml OUT_DIR             a checkpoint folder from an evomerge or mergekit recipe
                   [--adapter [--rank R]]             one LoRA adapter instead, where all experts are adapters
       evomerge score MODEL_OR_RECIPE tasks=a,b [key=value …]   lm-eval's table, by the scoring engine
       evomerge replay RUN_DIR                        rebuild the winner, compare fingerprint and score
       evomerge report RUN_DIR [--figures DIR]        the HTML report again, and its figures as PNG and SVG"""

HERE = Path(__file__).resolve().parent
Action = Callable[[dict[str, Any], Path, Console], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -m evomerge` and of the console script; exits 0, 1 for a failure, 2 for usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    try:
        code = _dispatch(given, console)
    except EvomergeError as error:
        code = _complain(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has enough
        code = 0
    except YAMLError as error:
        code = _complain(f"a file in conf/ is not YAML: {' '.join(str(error).split())}", ConfigError.exit_code)
    except RecursionError:
        code = _complain("a file is nested too deeply, or refers to itself; look at its anchors", ConfigError.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        code = _complain(_explain(error), ConfigError.exit_code)
    except OSError as error:
        code = _complain(f"{error.filename or 'system'}: {error.strerror or error}; {remedy(error)}", 1)
    except KeyboardInterrupt:
        code = _complain("interrupted; repeat the command to continue", 130)
    sys.exit(code)


def _dispatch(given: list[str], console: Console) -> int:
    command = given[0] if given else ""
    if command in ("-h", "--help", "help"):
        console.print(USAGE, highlight=False, markup=False, soft_wrap=True)
        return 0
    if command == "merge":
        return _merge(given[1:], console)
    if command == "score":
        return _score(given[1:], console)
    if command == "replay":
        return _replay(given[1:], console)
    if command == "report":
        return _report(given[1:], console)
    if command == "check":
        return _compose(given[1:], _check, console)
    if not given or (command.isidentifier() and "=" not in command):
        raise ConfigError((f"unknown command {command!r}\n" if command else "") + USAGE)
    return _compose(given, _run, console)


def _run(config: dict[str, Any], folder: Path, console: Console) -> int:
    from evomerge.experiment import run_experiment

    run_experiment(config, folder, console)
    return 0


def _check(config: dict[str, Any], folder: Path, console: Console) -> int:
    from evomerge.experiment import describe

    for line in describe(config, folder):
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def _merge(given: list[str], console: Console) -> int:
    parser = argparse.ArgumentParser("evomerge merge")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--adapter", action="store_true")
    parser.add_argument("--rank", type=int, metavar="R")
    parser.add_argument("--trust-remote-code", action="store_true")
    parsed = parser.parse_args(given)
    if parsed.rank is not None and not parsed.adapter:
        raise ConfigError(f"--rank {parsed.rank}: only an adapter has one; add --adapter")
    made = _merge_adapter(parsed) if parsed.adapter else _merge_checkpoint(parsed)
    console.print(f"{parsed.out}: {made}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _merge_checkpoint(parsed: argparse.Namespace) -> str:
    from evomerge.export import merge_recipe

    digest = merge_recipe(parsed.recipe, parsed.out, trust_remote_code=parsed.trust_remote_code)
    return f"fingerprint {digest}"


def _merge_adapter(parsed: argparse.Namespace) -> str:
    from evomerge.export import merge_adapter

    trust = parsed.trust_remote_code
    return str(merge_adapter(parsed.recipe, parsed.out, rank=parsed.rank, trust_remote_code=trust))


def _score(given: list[str], console: Console) -> int:
    source, settings = given[:1], given[1:]
    wrong = next((text for text in settings if not re.match(r"[a-z_]\w*=", text)), None)
    if not source or "=" in source[0] or wrong:
        raise ConfigError(f"score: {wrong or 'no model'}: give a folder, a hub id or a recipe, then key=value")
    try:
        options = OmegaConf.to_container(OmegaConf.from_dotlist(settings), resolve=True)
    except YAMLError as error:
        raise ConfigError(f"score: a value is not YAML: {' '.join(str(error).split())}") from None
    assert isinstance(options, dict)
    from evomerge.experiment import score_model

    score_model(source[0], {str(key): value for key, value in options.items()}, console)
    return 0


def _replay(given: list[str], console: Console) -> int:
    parser = argparse.ArgumentParser("evomerge replay")
    parser.add_argument("run", type=Path)
    parsed = parser.parse_args(given)
    from evomerge.experiment import replay

    return 0 if replay(parsed.run, console) else 1


def _report(given: list[str], console: Console) -> int:
    parser = argparse.ArgumentParser("evomerge report")
    parser.add_argument("run", type=Path)
    parser.add_argument("--figures", type=Path, metavar="DIR")
    parsed = parser.parse_args(given)
    from evomerge.report import save_figures, write_report

    written = [write_report(parsed.run), *(save_figures(parsed.run, parsed.figures) if parsed.figures else [])]
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def _compose(overrides: list[str], action: Action, console: Console) -> int:
    """Let Hydra compose the configuration (once per job of a sweep) and hand plain objects to the action."""
    codes: list[int] = []

    def job(config: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            assert isinstance(plain, dict)
            settings = {str(key): value for key, value in plain.items()}
            refuse_changed(settings, _shortest(folder))
            codes.append(action(settings, _shortest(folder), console))
        except EvomergeError as error:  # a sweep goes on with its other jobs
            codes.append(_complain(str(error), error.exit_code))
        except OmegaConfBaseException as error:  # Hydra would print a line of its own first
            codes.append(_complain(_explain(error), ConfigError.exit_code))
        finally:
            _remove_empty(folder)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print a page and exit; main prints one line
    warnings.filterwarnings("ignore", message=".*searchpath.*", category=UserWarning)  # no ./conf here: fine
    OmegaConf.register_new_resolver("home", _home, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    logging.getLogger("evomerge").setLevel(logging.WARNING)  # ours are for the user; other libraries’ are noise
    sys.argv = ["evomerge", *overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(_conf()), config_name="config")(job)()
    except ValueError as error:  # Hydra's own slip: not one of its exceptions
        if "Config group override" not in str(error):
            raise
        raise ConfigError("a group such as space, scorer or pool takes the name of a preset, as in pool=ray") from None
    return max(codes, default=0)


def _conf() -> Path:
    """conf/ inside the package of a wheel, beside it in a checkout."""
    return Path(_home("conf"))


def _home(path: str) -> str:
    """A path of the project: packaged in a wheel, beside the package in a checkout."""
    found = next((root / path for root in (HERE, HERE.parent) if (root / path).exists()), None)
    if found is None:
        raise ConfigError(f"{path}: not found beside the package; run from a checkout of the project")
    return str(found)


def _remove_empty(folder: Path) -> None:
    """Hydra makes the run's folder first; a check, or a search that was refused, leaves none behind."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _shortest(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _explain(error: Exception) -> str:
    """Hydra's message on one line, with the nearest name for a misspelt key or choice."""
    text = str(error)
    if found := re.match(r"ConfigError raised while resolving interpolation: (.+)", text):
        return found[1]  # one of ours, from a resolver
    if found := re.search(r"Could not find '(\w+)/(.+?)'", text):
        group, choice = found.groups()
        options = text.partition(f"Available options in '{group}':")[2].partition("Config search path")[0].split()
        return f"{group}={choice}: no such choice{nearest(choice, options)}; there are {', '.join(options) or 'none'}"
    if found := re.search(r"Could not override '(.+?)'", text):
        known = _known_keys()
        if found[1] in known:
            return f"{found[1]}: names are added to it one by one: +{found[1]}.NAME=VALUE"
        return f"{found[1]}: unknown key{nearest(found[1], known)}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _known_keys() -> list[str]:
    """Every key of the default configuration, dotted, from config.yaml and the groups' presets."""
    conf = _conf()
    top = _plain(conf / "config.yaml")
    found = list(top)
    for key, value in top.items():
        found += [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
    for preset in conf.glob("*/*.yaml"):
        found += [f"{preset.parent.name}.{key}" for key in _plain(preset)]
    return found


def _plain(path: Path) -> dict[str, Any]:
    tree = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _complain(message: str, code: int) -> int:
    Console(stderr=True).print(f"evomerge: {message}", highlight=False, markup=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    main()
