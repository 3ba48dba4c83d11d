"""One rank of a training job: ``python -m train.worker recipe.json``.

Rank and world size come from the environment (``RANK``, ``WORLD_SIZE``, as torchrun sets them). Its
output goes to ``logs/rank<r>.log``, its exit code and message to ``logs/rank<r>.json``.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from coincide.store import sealed
from coincide.system.disk import is_full
from coincide.system.files import sha256_file, write_json
from coincide.system.memory import keep_freed_memory
from coincide.system.processes import die_with_parent
from coincide.terminal.inert import guard_terminal
from coincide.terminal.redact import redact
from train.job import (
    ADAPTER,
    EXIT_DISK,
    EXIT_ERROR,
    EXIT_OUT_OF_MEMORY,
    EXIT_STOPPED,
    LOG,
    TrainingJob,
)
from train.oom import is_out_of_memory

SCHEDULER_NAMES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
MESSAGE_LIMIT = 2000


def main(job_path: Path) -> int:
    """Train; returns the exit code (``train.job``) after writing the rank's status."""
    job = TrainingJob.read(job_path)
    rank = int(os.environ.setdefault("RANK", "0"))
    die_with_parent()
    if job.world_size > 1 and os.getppid() == 1:
        return EXIT_ERROR  # torchrun was killed before that line
    _redirect_output(job.rank_log(rank))
    keep_freed_memory()
    try:
        stopped = train(job, rank)
    except Exception as error:
        with suppress(OSError):  # the log may lie on the full disk
            traceback.print_exc()
        code = EXIT_OUT_OF_MEMORY if is_out_of_memory(error) else EXIT_ERROR
        code = EXIT_DISK if is_full(error) else code
        message = redact(f"{type(error).__name__}: {error}")[:MESSAGE_LIMIT]
    else:
        code = EXIT_STOPPED if stopped else 0
        message = stopped or "done"
    status = {"rank": rank, "exit_code": code, "message": message, "host": socket.gethostname()}
    try:
        write_json(job.rank_status(rank), {**status, "at": time.time()})
    except OSError as error:
        return EXIT_DISK if is_full(error) else code  # the exit code has to say it
    return code


def train(job: TrainingJob, rank: int) -> str | None:
    """Train and save the adapter. Returns None, or who asked if it was stopped on request."""
    import torch
    from transformers import set_seed

    from coincide.models.load import load_processor
    from train.checkpoint import contents, newest_complete
    from train.data import loader, open_subset
    from train.lora import add_lora, fused_experts
    from train.merged import merge_products
    from train.tensors_only import tensors_only
    from train.trainer import LoraTrainer, Monitor

    recipe = job.recipe
    bf16 = _bf16(recipe.precision)
    # Order matters: ZeRO-3 shards the weights while from_pretrained reads them, and it knows
    # that it must from the live TrainingArguments.
    arguments = training_arguments(job, bf16)
    if recipe.threads is not None:  # after the arguments: accelerate sets a number of its own
        torch.set_num_threads(recipe.threads)
    model = _base_model(job, bf16)
    set_seed(job.seed)
    if rank == 0 and (experts := fused_experts(model)):
        print(f"train: LoRA leaves {len(experts)} weights of fused experts as they are", flush=True)
    model = add_lora(model, recipe, base=job.base, keep_dtype=recipe.zero_stage > 0)
    if recipe.merged:
        merge_products(model)
    if rank == 0:
        write_json(job.size, {"bytes": _trained(model, in_bytes=True)})
    processor = load_processor(Path(job.model))
    batches = loader(job, open_subset(job), processor, rank)
    trainer = LoraTrainer(job, model, arguments, batches)
    begun = newest_complete(job.checkpoints) if job.resume_from else None
    monitor = Monitor(job, begun.seconds if begun else 0.0)
    trainer.add_callback(monitor)
    set_seed(job.seed + rank)  # each rank its own dropout
    with tensors_only(job.resume_from, recipe.zero_stage):
        trainer.train(resume_from_checkpoint=job.resume_from)
    if not monitor.stopped:
        trainer.save_model(str(job.adapter))
        if rank == 0:
            made = {ADAPTER: contents(job.adapter), LOG: sha256_file(job.log)}
            write_json(job.result, sealed({**_result(trainer, monitor.seconds, bf16), **made}))
    _leave()
    return monitor.reason if monitor.stopped else None


def _base_model(job: TrainingJob, bf16: bool) -> Any:
    import torch

    from coincide.models.load import load_model
    from train.quantized import load_quantized

    dtype = torch.bfloat16 if bf16 else torch.float32
    load = load_quantized if job.recipe.quantization else load_model
    return load(Path(job.model), dtype, _device(job))


def training_arguments(job: TrainingJob, bf16: bool) -> Any:
    """Transformers' TrainingArguments for the job; with ZeRO, DeepSpeed is set up first."""
    import torch
    from transformers import TrainingArguments

    recipe = job.recipe
    cpu = not torch.cuda.is_available()
    if recipe.zero_stage:
        start_deepspeed(cpu, recipe.timeout)
    return TrainingArguments(
        output_dir=str(job.checkpoints),
        per_device_train_batch_size=job.micro_batch,
        gradient_accumulation_steps=job.accumulation,
        num_train_epochs=1,  # the loader holds all epochs in a row
        lr_scheduler_type=SCHEDULER_NAMES[recipe.schedule],
        learning_rate=recipe.lr,
        warmup_steps=recipe.warmup_ratio,
        max_grad_norm=recipe.max_grad_norm,
        weight_decay=recipe.weight_decay,
        bf16=bf16,
        tf32=True if bf16 else None,
        activation_checkpointing=recipe.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        save_strategy="steps" if recipe.save_every else "no",
        save_steps=recipe.save_every or 1,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        average_tokens_across_devices=True,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and job.world_size > 1 else None,
        ddp_timeout=recipe.timeout,
        seed=job.seed,
        deepspeed=deepspeed_config(recipe.zero_stage) if recipe.zero_stage else None,
    )


def deepspeed_config(stage: int) -> dict[str, Any]:
    """DeepSpeed's configuration; ``auto`` values are filled from the training arguments."""
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
        },
    }


def start_deepspeed(cpu: bool, timeout: int) -> None:
    """Join the process group through DeepSpeed, from torchrun's variables or as a single process.

    A collective call that takes longer than ``timeout`` seconds fails. On a CPU DeepSpeed would
    compile its shared-memory all-reduce (which takes a minute and a compiler, and serves inference
    only); it is declared incompatible, as on other platforms than Linux, and gloo is used.
    """
    import deepspeed

    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**alone, "MASTER_PORT": "0"}.items():
        os.environ.setdefault(name, value)
    if cpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        "gloo" if cpu else "nccl", auto_mpi_discovery=False, timeout=timedelta(seconds=timeout)
    )


def _bf16(precision: str) -> bool:
    import torch

    if precision != "auto":
        return precision == "bf16"
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _device(job: TrainingJob) -> str:
    """Device for loading weights: the rank's GPU, unless ZeRO-3 places them itself."""
    import torch

    if not torch.cuda.is_available() or job.recipe.zero_stage == 3:
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _result(trainer: Any, seconds: float, bf16: bool) -> dict[str, Any]:
    import torch

    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {
        "seconds": seconds,
        "steps": trainer.state.global_step,
        "trained_parameters": _trained(trainer.model),
        "precision": "bf16" if bf16 else "fp32",
        "peak_gpu_bytes": peak,
        "threads": torch.get_num_threads(),
    }


def _trained(model: Any, *, in_bytes: bool = False) -> int:
    """Values of the weights that are trained, or their bytes; whole where ZeRO-3 shards them."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    sizes = [p.element_size() if in_bytes else 1 for p in parameters]
    counts = [getattr(p, "ds_numel", p.numel()) for p in parameters]
    return sum(size * count for size, count in zip(sizes, counts, strict=True))


def _leave() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _redirect_output(path: Path) -> None:
    """Redirect stdout and stderr, including those of native code, to ``path``."""
    with path.open("ab") as handle:
        os.dup2(handle.fileno(), sys.stdout.fileno())
        os.dup2(handle.fileno(), sys.stderr.fileno())


def end(code: int) -> NoReturn:
    """Exit the process; after an error immediately, since NCCL and data workers would wait for
    other ranks.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # their file may lie on a full disk
            stream.flush()
    if code not in (0, EXIT_STOPPED):
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    guard_terminal()
    end(main(Path(sys.argv[1])))
