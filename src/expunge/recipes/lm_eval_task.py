"""A local lm-eval task as a set of an audit: its questions, in its words, scored as other multiple-choice questions are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError
from expunge.examples import Example


def lm_eval_examples(path: Path) -> list[Example]:
    """The questions of a multiple-choice task of lm-eval, each with its prompt and options.

    Args:
        path: the task's YAML. Functions in it (`!function`) are code, and are refused.

    Raises:
        ExpungeError: lm-eval is not installed, or this is no such task.
    """
    import yaml

    try:
        from lm_eval.api.task import ConfigurableTask
    except ImportError:
        raise ExpungeError("lm-eval is not installed", remedy='pip install "expunge[lm-eval]"') from None
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        words = str(error).replace("\n", " ")
        raise ExpungeError(f"cannot be read as a task ({words})", where=path, remedy="give a YAML without functions") from None
    if not isinstance(config, dict) or config.get("output_type") != "multiple_choice":
        raise ExpungeError("is no multiple-choice task", where=path, remedy="give one with output_type: multiple_choice")
    if config.get("target_delimiter", " ") != " " or config.get("num_fewshot"):
        raise ExpungeError("asks with examples or without a blank", where=path, remedy="leave out num_fewshot and delimiter")
    try:
        task: Any = ConfigurableTask(config=config)
        return [_example(task, row, f"{path}:{number}") for number, row in enumerate(task.eval_docs, 1)]
    except ExpungeError:
        raise
    except Exception as error:  # whatever a template or a data set makes of it
        raise ExpungeError(f"lm-eval cannot make the task ({error})", where=path, remedy="try it with lm-eval") from None


def _example(task: Any, row: dict[str, Any], where: str) -> Example:
    prompt, choices, answer = task.doc_to_text(row), task.doc_to_choice(row), task.doc_to_target(row)
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if not isinstance(prompt, str) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise ExpungeError("has no prompt or no right option", where=where, remedy="mend doc_to_text and doc_to_target")
    prompt = f"{task.config.description or ''}{prompt}"
    # Nobody says what a question is about: each counts for itself.
    metadata = {"choices": list(choices), "answer": answer, "asked_as": prompt, "evaluation_only": True}
    return Example(prompt, str(choices[answer]), where, metadata, where)
