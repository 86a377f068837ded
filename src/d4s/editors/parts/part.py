"""What a part of an editor is: settings that know their mathematics, memory, formula and label, registered by family and kind.

Nothing here imports torch: a study is resolved, hashed and planned from settings alone. Methods that compute import it
where they run, and `Tensor` stands for its type in their annotations, which check shapes and dtypes all the same.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from d4s.registry import nearest
from d4s.settings_base import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from d4s.models.model_shape import Shape
else:
    Tensor = Any
if TYPE_CHECKING or "jaxtyping" in sys.modules:  # which imports numpy; where it is not loaded, nothing checks shapes
    from jaxtyping import Float, Float64

    Weight = Float64[Tensor, "d_out d_in"]
    Original = Float[Tensor, "d_out d_in"]
    Keys = Float64[Tensor, "b d_in"]
    Context = Float64[Tensor, "c d_in"]
    Residuals = Float64[Tensor, "b d_out"]
    Square = Float64[Tensor, "r r"]
    Basis = Float64[Tensor, "d_in r"]
else:
    Weight = Original = Keys = Context = Residuals = Square = Basis = Any

Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

DOUBLE = 8
"""Bytes of a number in double precision, in which editors keep their sums and changes."""


class Choice(NamedTuple):
    """One choice that an editor is made of, for people: `name` and `kind` as settings spell them, its formula, and where it is computed.

    `label` is a word for figures and tables; empty where the choice is MEMIT's.
    """

    name: str
    kind: Any  # a literal in each part
    formula: str
    module: str
    label: str = ""


class Part(Frozen):
    """A part of a least-squares editor. Families derive from it (`part_families`), and parts from families.

    A part has a `kind` of its own and says its `label` and its `formula`. In settings it stands as `{kind: rect, keep: 0.3}`, or
    as its kind alone where its settings have defaults.
    """

    kind: Any  # a literal in each part
    name: ClassVar[str]
    """The key of settings that a family's parts stand under."""
    label: ClassVar[str] = ""
    """Words for figures and tables; none for what MEMIT does."""
    formula: ClassVar[str] = ""
    """What the part computes, in the symbols of docs/notation.md."""
    kinds: ClassVar[dict[str, type["Part"]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Open a registry for a family, or register a part in that of its family.

        Raises:
            TypeError: if another part of the family has the kind, or the part has no formula.
        """
        kind = cls.model_fields["kind"].default
        if not isinstance(kind, str):
            cls.kinds = {}
            return
        if kind in cls.kinds:
            raise TypeError(f"{cls.name} `{kind}` of {cls.__module__} is registered already by {cls.kinds[kind].__module__}")
        if not cls.formula:
            raise TypeError(f"{cls.name} `{kind}` of {cls.__module__} has no formula; give the class one")
        cls.kinds[kind] = cls

    @classmethod
    def choose(cls, value: object) -> "Part":
        """A part of this family from its kind, or from a mapping with its kind and settings.

        Raises:
            PydanticCustomError: if there is no such kind, naming the nearest one.
        """
        if isinstance(value, cls):
            return value
        settings = {"kind": value} if isinstance(value, str) else value
        kind = settings.get("kind") if isinstance(settings, Mapping) else None
        if not isinstance(kind, str) or kind not in cls.kinds:
            raise PydanticCustomError("unknown_part", "{reason}", {"reason": f"unknown {cls.name}; {nearest(str(kind), [*cls.kinds])}"})
        return cls.kinds[kind].model_validate(settings)

    def bytes(self, shape: "Shape") -> int:
        """What the part holds at one layer while a model of a shape is edited."""
        return 0

    def choices(self) -> Iterator[Choice]:
        """What the part is, and those of its settings that have a formula of their own."""
        yield self.choice(self.label)

    @classmethod
    def all_choices(cls) -> Iterator[Choice]:
        """All that the part may be, for a table of formulas."""
        yield cls.choice(cls.label)

    @classmethod
    def choice(cls, label: str) -> Choice:
        """The part as a choice with a label."""
        return Choice(cls.name, cls.model_fields["kind"].default, cls.formula, cls.__module__, label)

    # --- how settings models read and write a family --------------------------------------------------------------------

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A part is read like any model, a family by kind."""
        if not inspect.isabstract(cls):
            return handler(source)
        dump = core_schema.plain_serializer_function_ser_schema(lambda part, info: part.model_dump(mode=info.mode), info_arg=True)
        return core_schema.no_info_plain_validator_function(cls.choose, serialization=dump)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Of a family the kinds that can be written alone, and the models of those with settings."""
        if not inspect.isabstract(cls):
            return handler(schema)
        fields = {kind: [one for name, one in part.model_fields.items() if name != "kind"] for kind, part in cls.kinds.items()}
        alone = [kind for kind, found in fields.items() if not any(one.is_required() for one in found)]
        models = [handler(cls.kinds[kind].__pydantic_core_schema__) for kind, found in fields.items() if found]
        return {"anyOf": [*([{"enum": alone}] if alone else []), *models]}
