"""What all settings share: immutable pydantic models, problems told in one message, canonical JSON."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from d4s.errors import SettingsError
from d4s.registry import nearest

Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Frozen(BaseModel):
    """Parent of all settings models: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)


def describe(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One message with every problem of a validation error: its place, what was found, and the nearest key."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            known = _keys_at(model, item["loc"][:-1])
            lines.append(f"{place}: unknown key; {nearest(str(item['loc'][-1]), known)}")
        elif item["type"] == "value_error" and isinstance(item.get("input"), Mapping):
            lines.append(f"{place}: {item.get('ctx', {})['error']}")
        else:
            lines.append(f"{place}: {item['msg']}, found {item.get('input')!r}")
    return f"{where} has {len(lines)} problem(s):\n" + "\n".join(f"  {line}" for line in lines)


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Known keys of the settings model reached by a path of keys (union members are merged)."""
    models: list[type[BaseModel]] = [model]
    for part in path:
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if fields:
            models = [found for annotation in fields for found in _models_in(annotation)]
    return sorted({key for m in models for key in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation, *annotation.__subclasses__()]  # those of a family of parts
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]


def validate(model: type[S], settings: Any, where: str) -> S:
    """Settings as an instance of `model`, checked.

    Raises:
        SettingsError: naming every problem at once.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise SettingsError(describe(error, model, where)) from None


def canonical(value: Any) -> str:
    """Canonical JSON text of plain settings: sorted keys, no spaces; equal settings give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
