"""Seeded video with exact truth, written as an ILSVRC tree: ``generate(root, GeneratorConfig())``.

Textured objects of a few classes, some of which look alike, move over textured backgrounds. The deteriorations that
papers on video detection name come in bursts, so that neighbouring frames can help, and are recorded per frame.
"""

from vodbench_datasets.generated.config import GeneratorConfig
from vodbench_datasets.generated.writer import generate

__all__ = ["GeneratorConfig", "generate"]
