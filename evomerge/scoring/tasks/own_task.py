"""A file of questions as an lm-eval task: `file: questions.csv` in a task entry, without a task configuration."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

from evomerge.errors import ConfigError
from evomerge.scoring.tasks.questions import Question, read_questions

CUES = (":", "=", "→", "->", ">")
SENTENCE_ENDS = (".", "?", "!", "…", '"', "'", ")")
LONG_ANSWER = 8  # words; a typical answer of more is compared by what it shares with the reference, not word for word
PROMPT_TOKENS = 64  # of an answer to a prompt of the competition
TOKENS_PER_WORD = 4  # an upper bound for most languages with spaces
PUNCTUATION = ".,;:!?\"')]"  # at the end of an answer; a sign or a point within a number counts
SPLIT = "test"


def file_spec(path: Path, kind: str | None = None) -> dict[str, Any]:
    """An lm-eval task configuration for a file of questions with choices, or with answers in words.

    Choices are compared by log-likelihood (`acc`). Short answers are generated up to the end of the line and compared
    without case and outer punctuation (`exact_match`), long ones by ROUGE-L (`rougeL`). Where most rows end as a
    sentence or hold a question mark, they become "Question: …\\nAnswer:"; other rows, such as "Topic:" or "because",
    are prompts as they are.

    Rows with an `eval_type` are prompts of the LLM Merging competition, and `kind` is the one that is read: nothing is
    put around them, and generated answers have up to 64 tokens and end only with the end token, as in its starter kit.
    """
    questions = _questions(path.resolve(), _stamp(path), kind)
    common = {
        "custom_dataset": partial(_dataset, str(path.resolve()), _stamp(path), kind),
        "test_split": SPLIT,
        "doc_to_text": "prompt",
    }
    return {**common, **(_choice_keys() if questions[0].choices else _answer_keys(questions))}


def count_questions(path: Path, kind: str | None = None) -> int:
    """The number of different questions in a file, of those of a kind."""
    return len(_questions(path.resolve(), _stamp(path), kind))


def _choice_keys() -> dict[str, Any]:
    return {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }


def _answer_keys(questions: Sequence[Question]) -> dict[str, Any]:
    words = [len(question.answer.split()) for question in questions]
    several_lines = any("\n" in question.answer for question in questions)
    long = median(words) > LONG_ANSWER or several_lines
    until = ["\n\n"] if several_lines else ["\n"]
    tokens = max(16, TOKENS_PER_WORD * max(words))
    if questions[0].is_prompt:
        until, tokens = [], PROMPT_TOKENS
    keys: dict[str, Any] = {
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": until, "do_sample": False, "max_gen_toks": tokens},
    }
    if long:
        metric = {"metric": "rougeL", "aggregation": "mean", "higher_is_better": True}
        return keys | {"process_results": _rouge, "metric_list": [metric]}
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    return keys | {"process_results": _exact, "metric_list": [exact]}


def _exact(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 if answer and reference are the same words, without case, outer punctuation and the number of spaces."""
    return {"exact_match": float(_words(results[0]) == _words(doc["answer"]))}


def _words(text: str) -> str:
    bare = " ".join(text.casefold().split()).rstrip(PUNCTUATION)
    return bare.lstrip("\"'([") or text.strip()


def _rouge(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """ROUGE-L's F-measure with stemming, the metric of summaries (Lin 2004)."""
    score = _rouge_scorer().score(doc["answer"], results[0])
    return {"rougeL": float(score["rougeL"].fmeasure)}


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


@cache
def _questions(path: Path, stamp: tuple[int, int], kind: str | None) -> Sequence[Question]:
    """The questions of a file, read once while it does not change."""
    return tuple(read_questions(path, kind))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a CSV or JSONL file") from None
    return found.st_mtime_ns, found.st_size


def _dataset(path: str, stamp: tuple[int, int], kind: str | None, **_: Any) -> dict[str, Any]:
    """The data set that lm-eval asks for: documents with prompt, question, context, answer, choices and gold."""
    from datasets import Dataset

    questions = _questions(Path(path), stamp, kind)
    asks = sum(_asks(question.text) for question in questions) > len(questions) / 2
    docs = [
        {"prompt": _prompt(question, asks), "answer": question.answer}
        | {"question": question.text, "context": question.context}
        | ({"choices": list(question.choices), "gold": question.gold} if question.choices else {})
        for question in questions
    ]
    return {SPLIT: Dataset.from_list(docs)}


def _asks(text: str) -> bool:
    """Whether a text is a question or a sentence, after which a model needs a cue to answer."""
    return text.endswith(SENTENCE_ENDS) or ("?" in text and not text.endswith(CUES))


def _prompt(question: Question, asks: bool) -> str:
    text = f"Question: {question.text}\nAnswer:" if asks and not question.is_prompt else question.text
    return f"{question.context}\n{text}" if question.context else text
