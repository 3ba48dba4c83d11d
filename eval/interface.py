"""What experiments ask of evaluation, under the names of :class:`coincide.protocols.EvalStage`."""

from eval.before import examine
from eval.stage import eval_steps, evaluate

__all__ = ["eval_steps", "evaluate", "examine"]
