"""Packages of a user's own, written from templates: a method or a data set that works, with its test."""

from vodbench.scaffold.package import Written, write_package

__all__ = ["Written", "write_package"]
