"""``python -m coincide.prefetch data=llava ...``: fetch all downloads, on a machine with a network.

Takes the same words as the run. What is there is not fetched again.
"""

from __future__ import annotations

import sys

from coincide.terminal.program import hand_over

if __name__ == "__main__":
    sys.exit(hand_over("prefetch", sys.argv[1:]))
