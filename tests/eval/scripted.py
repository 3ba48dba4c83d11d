"""The evaluation process with a scripted answerer instead of a model: ``python -m`` this file.

Everything else is production: requests, tasks, ranks, scores. ``SCRIPT`` in the environment says
which are answered right: ``right`` (all), the number of the first so many, ``unreadable`` (every
third; every third is wrong and every third unreadable), or ``fail <benchmark> on <rank>``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms

from eval import worker
from eval.request import EvaluationRequest
from tests.eval.hub import right_answer, wrong


class Answerer(lmms):
    """Answers by a function of benchmark, document and the document's number."""

    is_simple = False
    batch_size = 1

    def __init__(
        self,
        reply: Callable[[str, dict[str, Any], int], str],
        device: str = "cpu",
        answered: Callable[[int], None] = lambda count: None,
    ) -> None:
        super().__init__()
        self.reply, self.device, self.answered = reply, device, answered
        self.prompts: list[tuple[str, int, Any]] = []
        """Benchmark, document and the messages that a model would have seen."""

    def generate_until(self, requests: list[Any]) -> list[str]:
        answers = []
        for _, messages, _, doc_id, task, split in (request.args for request in requests):
            document = self.task_dict[task][split][doc_id]
            self.prompts.append((task, doc_id, messages(document)))
            answers.append(self.reply(task, document, doc_id))
            self.answered(1)
        return answers

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError


def by_script(script: str) -> Callable[[str, dict[str, Any], int], str]:
    """The reply function of a script."""

    def reply(benchmark: str, document: dict[str, Any], doc_id: int) -> str:
        match script.split():
            case ["right"]:
                return right_answer(benchmark, document)
            case ["unreadable"]:
                said = [right_answer, wrong, lambda name, doc: "?"][doc_id % 3]
                return said(benchmark, document)
            case ["fail", failing, "on", rank]:
                if benchmark == failing and str(worker.RANK) == rank:
                    raise RuntimeError(f"rank {rank} was told to fail")
                return right_answer(benchmark, document)
        return (right_answer if doc_id < int(script) else wrong)(benchmark, document)

    return reply


def make_model(
    request: EvaluationRequest, device: str, answered: Callable[[int], None]
) -> Answerer:
    return Answerer(by_script(os.environ["SCRIPT"]), device, answered)


if __name__ == "__main__":
    sys.exit(worker.main(Path(sys.argv[1]), make_model))
