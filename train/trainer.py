"""Transformers' Trainer with our batches, parameter groups, loss, log and checkpoints."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from coincide.models.encode import IGNORE
from train.average import TailAverage
from train.checkpoint import mark_complete
from train.job import TrainingJob
from train.lora import parameter_groups, save_adapter, trainable_state
from train.moments import keep


def answer_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
    """Cross-entropy summed over the answer tokens / answer tokens of the whole global batch.

    ``labels`` int64 [B, T], -100 on all tokens that are not part of an answer. Trainer counts
    ``num_items_in_batch`` over all micro-batches and ranks, so the split of the global batch has no
    effect.
    """
    targets = labels[:, 1:]
    answer = targets != IGNORE
    logits = outputs.logits[:, :-1][answer].float()
    total = torch.nn.functional.cross_entropy(logits, targets[answer], reduction="sum")
    return total / torch.as_tensor(num_items_in_batch, device=total.device).clamp(min=1)


class LoraTrainer(Trainer):
    """Trainer for the job's adapter.

    Replaced are the data loader, the optimizer's groups and saving. The loader shards by itself;
    only the trained tensors are saved, without pickle.
    """

    def __init__(
        self,
        job: TrainingJob,
        model: PeftModel,
        arguments: TrainingArguments,
        batches: DataLoader[Any],
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=batches.dataset,
            compute_loss_func=answer_loss,
        )
        self.job = job
        self.adapted = model
        self.batches = batches
        self.answer_tokens = 0
        share = job.recipe.average
        self.tail = TailAverage(model, share, job.resume_from) if share else None
        if self.tail is not None:
            self.add_callback(self.tail)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The rank's own batches, unchanged."""
        return self.batches

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with the recipe's parameter groups."""
        if self.optimizer is None:
            groups = parameter_groups(self.adapted, self.job.recipe)
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """This rank's share of one global batch, and the number of answer tokens of all ranks."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.answer_tokens = 0 if items is None else int(items)
        return samples, items

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log record, with the answer tokens of the step added."""
        if "loss" in logs:
            logs["answer_tokens"] = self.answer_tokens
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter with the projector. A collective call under ZeRO-3."""
        averaged = self.tail is not None and output_dir == str(self.job.adapter)
        state = self.tail.state() if averaged and self.tail else trainable_state(self.adapted)
        if self.args.should_save:
            save_adapter(self.adapted, state, Path(output_dir or self.job.output))


class Monitor(TrainerCallback):
    """Callback that writes ``log.jsonl``, marks checkpoints as complete, and stops on request.

    A request is SIGTERM or SIGUSR2 to any rank, or the job's stop file. All ranks agree on it at
    the end of a step; then a checkpoint is written and ``stopped`` is True.
    """

    def __init__(self, job: TrainingJob, seconds_before: float) -> None:
        self.job = job
        self.stopped = False
        self._seconds_before = seconds_before
        self._started = time.monotonic()
        self._signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._request)

    @property
    def seconds(self) -> float:
        """Training time in seconds over all attempts."""
        return round(self._seconds_before + time.monotonic() - self._started, 3)

    @property
    def reason(self) -> str:
        """Who or what asked this rank to stop, in words."""
        name = signal.Signals(self._signal).name if self._signal else "the launcher or another rank"
        return f"stopped on request of {name}"

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Append the step to ``log.jsonl``; raises UserError for a loss that is not finite."""
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"The loss is {logs['loss']} at step {state.global_step}. "
                "Lower train.lr, or look for broken images and empty answers in the subset."
            )
        if state.is_world_process_zero:
            fields = ("loss", "learning_rate", "grad_norm", "answer_tokens")
            record = {"step": state.global_step, **{f: logs.get(f) for f in fields}}
            with self.job.log.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Keep what a warm-up is to keep, and end with the last of it; stop with a checkpoint if
        any rank was asked to.
        """
        if state.global_step in self.job.keep:
            keep(self.job, state.global_step, options["model"], options["optimizer"])
        last = self.job.keep[-1] if self.job.keep else state.max_steps
        if state.global_step >= last:
            control.should_training_stop = True
        elif self._agreed():
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as complete, with the log so far, once every rank has written its
        part.
        """
        _barrier()
        if state.is_world_process_zero:
            folder = self.job.checkpoints / f"checkpoint-{state.global_step}"
            shutil.copyfile(self.job.log, folder / self.job.log.name)
            mark_complete(
                folder,
                step=state.global_step,
                world_size=self.job.world_size,
                zero_stage=self.job.recipe.zero_stage,
                seconds=self.seconds,
            )
        _barrier()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _agreed(self) -> bool:
        asked = self._signal is not None or self.job.stop_file.exists()
        if not _distributed():
            return asked
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        flag = torch.tensor([int(asked)], device=device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _barrier() -> None:
    if _distributed():
        torch.distributed.barrier()
