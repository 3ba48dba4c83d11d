"""The embedded dataset of the demo."""

from coincide.data.demo.source import Demo

__all__ = ["Demo"]
