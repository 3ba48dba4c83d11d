"""``python -m coincide.dashboard sync [method=...]``: write results of the ledger to wandb.

``sync`` takes the same words as a run or sweep and writes the results with these settings; without
words, all results. ``create`` makes a dashboard that compares them. ``logger=wandb_offline`` writes
files instead. Results that wandb has already are not written again.
"""

from __future__ import annotations

import sys

from coincide.terminal.inert import guard_terminal
from coincide.terminal.program import hand_over

ACTIONS = ("sync", "create")


def main() -> int:
    """Pass the action and the words on to ``run.py``."""
    action, words = "".join(sys.argv[1:2]), sys.argv[2:]
    if action not in ACTIONS:
        print(f"usage: python -m coincide.dashboard {' | '.join(ACTIONS)} [words of a run]\n")
        print(__doc__)
        return 2
    if not any(word.startswith("logger=") for word in words):
        words.append("logger=wandb")
    return hand_over(f"dashboard_{action}", words)


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
