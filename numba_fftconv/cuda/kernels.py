"""Which kernels the passes of a plan run in, where measurements have chosen them: by default the models choose.

The choice changes no bit of a result: planes of a transform do not meet in a sum, and all tiles of a precision sum the
products of an element in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .block_tile import BlockTile


@dataclass(frozen=True)
class Kernels:
    """Planes of a block of transforms, and tiles of products by pass; None and no tile where the models choose."""

    planes: int | None = None
    tiles: tuple[tuple[str, str], ...] = ()

    def tile(self, pass_name: str, tiles: Sequence[BlockTile]) -> BlockTile | None:
        """The one of `tiles` that is chosen for a pass."""
        return next((tile for tile in tiles if (pass_name, str(tile)) in self.tiles), None)

    def with_tile(self, pass_name: str, tile: BlockTile) -> "Kernels":
        rest = tuple(pair for pair in self.tiles if pair[0] != pass_name)
        return Kernels(self.planes, (*rest, (pass_name, str(tile))))

    def __str__(self) -> str:
        words = [f"{self.planes} planes a block"] if self.planes else []
        return ", ".join([*words, *(f"{name} in tiles of {tile}" for name, tile in self.tiles)])


MODELS = Kernels()
