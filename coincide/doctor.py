"""``python -m coincide.doctor data=llava ...``: what a run needs, what is there, what is missing.

Takes the same words as the run. Nothing is downloaded, hashed or built.
"""

from __future__ import annotations

import sys

from coincide.terminal.program import hand_over

if __name__ == "__main__":
    sys.exit(hand_over("doctor", sys.argv[1:]))
