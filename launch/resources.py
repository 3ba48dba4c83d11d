"""Resources that a job requests from the cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """Resources of a job. None: the cluster's default."""

    gpus: int = 0
    """GPUs per machine, for training with ``train.processes=auto``; other jobs take one."""
    gres: str = "gpu"
    """Name of the generic resource, possibly with a type, e.g. ``gpu:a100``."""
    cpus: int = 4
    """Cores per GPU; of the whole job if it has none."""
    memory_gb: float = 16
    """GB per GPU; of the whole job if it has none."""
    time: str = "24:00:00"
    """Time limit in SLURM's format."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    options: tuple[str, ...] = ()
    """Further options of sbatch, e.g. ``--constraint=hbm80``."""

    def flags(self, gpus: int, machines: int) -> list[str]:
        """sbatch options for a job with ``gpus`` on each of ``machines``."""
        times = max(1, gpus)
        places = {"partition": self.partition, "account": self.account, "qos": self.qos}
        return [
            *(f"--{name}={value}" for name, value in places.items() if value),
            f"--nodes={machines}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={self.cpus * times}",
            f"--mem={round(self.memory_gb * times * 1024)}M",
            f"--time={self.time}",
            *([f"--gres={self.gres}:{gpus}"] if gpus else []),
            *self.options,
        ]


def seconds(limit: str) -> int:
    """Seconds of a time limit in SLURM's format: ``30``, ``30:00``, ``12:00:00``, ``1-12``,
    ``1-12:00:00``.
    """
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        hours, minutes, secs = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, secs = parts
    else:
        hours, (minutes, secs) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs
