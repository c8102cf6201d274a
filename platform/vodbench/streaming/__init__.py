"""The accuracy pass: whole snippets, streamed in order through a method, kept as detections."""

from vodbench.streaming.passes import SnippetResult
from vodbench.streaming.snippet import SnippetError, detect_snippet
from vodbench.streaming.split import detect_configs, detect_split

__all__ = ["SnippetError", "SnippetResult", "detect_configs", "detect_snippet", "detect_split"]
