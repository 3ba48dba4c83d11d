"""``python -m coincide.dashboard sync [method=...]``: replay the ledger into wandb, at any time.

``sync`` takes the words of a run or sweep and writes the results that have what they say, all
results without words; ``create`` makes the dashboard that compares them. ``logger=wandb_offline``
writes files instead. What wandb has already is not written again.
"""

from __future__ import annotations

import sys

from coincide.terminal.program import hand_over

ACTIONS = ("sync", "create")


def main() -> int:
    """Hand the action and its words to ``run.py``."""
    action, words = "".join(sys.argv[1:2]), sys.argv[2:]
    if action not in ACTIONS:
        print(f"usage: python -m coincide.dashboard {' | '.join(ACTIONS)} [words of a run]\n")
        print(__doc__)
        return 2
    if not any(word.startswith("logger=") for word in words):
        words.append("logger=wandb")
    return hand_over(f"dashboard_{action}", words)


if __name__ == "__main__":
    sys.exit(main())
