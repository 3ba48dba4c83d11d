"""A command without a network: where it is allowed, in a namespace that has none."""

from __future__ import annotations

import subprocess
import warnings
from functools import cache

NAMESPACES = (["unshare", "--net"], ["unshare", "--net", "--map-root-user"])
"""For root, and for users where the system lets them have namespaces of their own."""
LOOPBACK = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""This machine still reaches itself, as a compute node does."""
NOWHERE = "http://127.0.0.1:9"


@cache
def namespace() -> list[str]:
    """The words before a command that leave it no network; none where that is not allowed."""
    for words in NAMESPACES:
        try:
            if subprocess.run([*words, *LOOPBACK, "true"], capture_output=True).returncode == 0:
                return [*words, *LOOPBACK]
        except FileNotFoundError:
            pass
    return []


def without_network(command: list[str], env: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """``command`` and ``env`` such that no other machine is reached.

    Where namespaces are not allowed, a proxy that is not there and the hub's offline mode stand
    for them, and a warning says so.
    """
    if found := namespace():
        return [*found, *command], env
    warnings.warn("no network namespace here: blocked by proxy and HF_HUB_OFFLINE", stacklevel=2)
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
    return command, {**env, **proxies, "HF_HUB_OFFLINE": "1"}
