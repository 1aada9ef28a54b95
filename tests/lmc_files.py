"""Files in the format of the LLM Merging competition's starter kit, with the columns and kinds of its own."""

import csv
from pathlib import Path


def write_lmc_files(folder: Path, words: tuple[str, ...] = ("A", "B", "C", "D"), rows: int = 160) -> Path:
    """cosmos_qa.csv with choices and xsum.csv with texts, below `folder`."""
    head = ("id", "input", "target", "answer_choices", "eval_type")
    choice = [(n, f"{words[n % 4]} {n} ?", words[n % 4], str(list(words)), "multiple_choice") for n in range(rows)]
    text = [(n, f"{words[n % 4]} {words[0]} {n}", f"{words[n % 4]} {words[1]}", "", "generation") for n in range(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("cosmos_qa", choice), ("xsum", text)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *table])
    return folder
