"""What ``FrameEncoder.encode`` gives, kept between trials, processes and machines: "propose once"."""

from vodbench.features.settings import GB, CacheSettings

__all__ = ["GB", "CacheSettings"]
