"""Windows of neighbouring layers. Nothing here imports torch."""


def layers_around(layer: int, width: int, n_layers: int) -> range:
    """The layers max(0, l − ⌊w/2⌋) to min(L, l + ⌈w/2⌉) − 1 of a window of w layers at layer l of L; that layer at least."""
    return range(max(0, layer - width // 2), max(layer + 1, min(n_layers, layer + -(-width // 2))))
