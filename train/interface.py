"""The functions that experiments use of finetuning, by the names of
:class:`coincide.protocols.TrainStage`.
"""

from train.estimate import estimate_gpu_hours
from train.requirements import requirements, resumable, trainable
from train.self_filter import difficulty_step
from train.stage import train_step
from train.warmup import warmup_step

__all__ = [
    "difficulty_step",
    "estimate_gpu_hours",
    "requirements",
    "resumable",
    "train_step",
    "trainable",
    "warmup_step",
]
