"""The accuracy pass: whole snippets, streamed in order through a method, kept as detections."""

from vodbench.streaming.snippet import SnippetError, detect_snippet
from vodbench.streaming.split import detect_split

__all__ = ["SnippetError", "detect_snippet", "detect_split"]
