"""The base of a study file's sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import ConfigDict, model_validator

from vodbench.errors import unknown


class Strict(pydantic.BaseModel):
    """Frozen; an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        """pydantic forbids unknown keys too, but does not say which one was meant."""
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise unknown("key", str(key), cls.model_fields)
        return values
