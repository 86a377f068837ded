"""The parts that least-squares editors are composed of: one class each, in one file each, found by listing this folder.

A part is a frozen settings model that also holds its mathematics, the memory it takes, its formula and its label. A new one is a
file here, or a class outside of the package: subclassing a family of `part_families` registers it under its `kind`.
"""

import importlib
import pkgutil

for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")
