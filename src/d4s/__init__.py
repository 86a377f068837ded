"""Why language models get worse as facts are edited into them, and what stops that.

    import d4s
    edited = d4s.edit(model, tokenizer, facts, editor="d4s")

`d4s.edit` edits a model that is loaded; the command `d4s` does the same with folders, and runs studies.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d4s.apply.input_preparation import TextSource
    from d4s.errors import D4SError
    from d4s.library import Edited, edit, load

__version__ = "0.1.0"
__all__ = ["D4SError", "Edited", "TextSource", "__version__", "edit", "load"]
_LAZY_IMPORTS = {
    "edit": "d4s.library",
    "load": "d4s.library",
    "Edited": "d4s.library",
    "TextSource": "d4s.apply.input_preparation",
    "D4SError": "d4s.errors",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: it brings PyTorch along, which `import d4s` does not.

    Raises:
        AttributeError: if there is no such name.
    """
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'd4s' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_LAZY_IMPORTS[name]), name)
