"""What the settings of every family of editors say: which artefacts an edit reads, and the memory and work that its steps take."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from d4s.editors.parts.input_settings import PrepareSettings
from d4s.editors.parts.part import DOUBLE, Part
from d4s.editors.parts.part_families import InputKind
from d4s.editors.parts.target_rule import TargetSettings
from d4s.settings_base import Frozen

if TYPE_CHECKING:
    from d4s.models.model_shape import Shape

SINGLE = 4  # bytes of a number in single precision


class ModelPasses(NamedTuple):
    """Passes of tokens through all blocks: how many tokens, in how many calls of each block, how often."""

    tokens: float
    calls: float
    times: float


@runtime_checkable
class HasLayers(Protocol):
    """Settings that name the layers whose weights change: a field of some families, a property of others."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Those layers, ascending."""
        ...


class Family(Frozen):
    """What an editor's settings say of what it reads beside model and facts: nothing, unless a family says otherwise.

    The members under "memory and work" are what plans count with: no result depends on them.
    """

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """Which artefacts an edit reads."""
        return frozenset()

    @property
    def moment_layers(self) -> tuple[int, ...]:
        """Layers whose second moments are taken: for the edits themselves, or for what is prepared from them."""
        return ()

    def parts(self) -> tuple[Part, ...]:
        """The parts that an edit runs through; their code is a run's code."""
        return ()

    def shared_targets(self) -> TargetSettings | None:
        """Settings of the targets that the `targets` stage computes; None where there are none at the original weights."""
        return None

    def prepare_settings(self) -> PrepareSettings | None:
        """Settings of the `prepare` stage; None where the editor needs none."""
        return None

    @property
    def is_beside_model(self) -> bool:
        """Whether edits answer beside the model, no weight of which changes; so there is nothing to export."""
        return False

    def session_settings(self, edits: int) -> "Family | None":
        """The settings of the session that makes the edited model from a state; None where states are folded without one."""
        return None

    # --- memory and work ----------------------------------------------------------------------------------------------

    @property
    def is_measured(self) -> bool:
        """Whether recorded states are measured: all but those of the unedited model, whose answers are the baseline."""
        return True

    @property
    def raises_target(self) -> bool:
        """Whether an edit makes its target likelier after the prompt as it is; only of such editors success is a criterion of a model."""
        return True

    @property
    def is_refitted(self) -> bool:
        """Whether the change of weights is solved from the records of all edits."""
        return False

    @property
    def is_deferred(self) -> bool:
        """Whether steps only record requests, which are solved when the edited model is asked for."""
        return False

    @property
    def null_space_layers(self) -> tuple[int, ...]:
        """Layers of which an edit reads free directions."""
        return ()

    def step_targets(self) -> TargetSettings | None:
        """Settings of the targets that steps optimise at the edited model; None where there are none."""
        return None

    def requests_per_pass(self, edits: int) -> int:
        """The most requests of a sequence of edits whose keys are read in one pass."""
        return 0

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """Tokens of a pass of which all blocks keep what a gradient needs; `tokens` are those of a prompt."""
        return 0

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """Passes of a sequence of edits, but for those of targets, with the wordings of a request and the tokens of each."""
        return ()

    def replay_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """Passes by which the edited model is made from a state of recorded requests."""
        return ()

    def solver_operations(self: HasLayers, shape: "Shape", edits: int) -> float:
        """Operations in double precision of a sequence of edits: solvers, and the weights that are written."""
        return edits * len(self.layers) * 4 * float(shape.mlp_out)

    def view_bytes(self: HasLayers, shape: "Shape", item: int) -> dict[str, float]:
        """What is held to make the edited model from a state without a session: per layer the change and the original weight twice."""
        layers = len(self.layers)
        return {
            "state": layers * shape.mlp_out * (DOUBLE + 2.0 * item),
            "temporaries": 3.0 * shape.mlp_out * DOUBLE if layers else 0.0,
        }

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """What a session holds beside a model with `item` bytes per weight, by what it is, in a sequence of edits."""
        return {}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """Bytes of the ledger of a sequence of edits."""
        return float(edits * DOUBLE * shape.width)
