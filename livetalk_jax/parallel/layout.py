"""A plan laid over devices for one picture: what `stream` needs to run the networks on it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from livetalk_jax.kernels.norm_rope import norm_rope
from livetalk_jax.parallel import placement
from livetalk_jax.parallel.mesh import BATCH, Axes, axes, make_mesh
from livetalk_jax.parallel.overlap import OverlapVAE
from livetalk_jax.parallel.placement import WHOLE as WHOLE
from livetalk_jax.parallel.plan import Pair, Plan
from livetalk_jax.parallel.seams import Parallel
from livetalk_jax.parallel.sequence import SequenceAttention
from livetalk_jax.parallel.spatial import Picture, Side

ROWS = PartitionSpec(BATCH)
ROW_MULTIPLE = 16  # tokens of a device, see `Parallel`: what 8-bit products want; 16 ms of a 14B step on an H200


@dataclasses.dataclass(frozen=True)
class Layout:
    """Who holds what.

    Attributes:
        plan: for these devices.
        heads: of the model's self-attention.
        token_grid: (h, w) of the true picture.
        devices: as many as the plan has; process by process.
        weights: "whole" on every device, or "cut" as `parallel.placement` says.
    """

    plan: Plan
    heads: int
    token_grid: Pair
    devices: tuple[jax.Device, ...]
    weights: Literal["whole", "cut"] = "whole"

    @functools.cached_property
    def mesh(self) -> Mesh:
        return make_mesh(self.plan, self.devices)

    @functools.cached_property
    def axes(self) -> Axes:
        return axes(self.plan)

    @functools.cached_property
    def picture(self) -> Picture:
        rows = Side(self.axes.rows, self.plan.rows, self.token_grid[0])
        columns = Side(self.axes.columns, self.plan.columns, self.token_grid[1])
        return Picture(rows, columns, self.axes.model)

    def explain(self) -> str:
        """One line for people."""
        return self.plan.explain(self.heads, self.token_grid)

    def parallel(self, kernel: Callable[..., jax.Array], norm_rope: Callable[..., jax.Array] = norm_rope) -> Parallel:
        """The seams that networks run with inside `spread`; `kernel` is the attention of one device, `norm_rope` its norm."""
        if self.plan.model_devices == 1:
            return Parallel(attend=kernel, attend_local=kernel, norm_rope=norm_rope, row_multiple=ROW_MULTIPLE)
        picture = self.picture
        return Parallel(
            attend=SequenceAttention(kernel, self.plan, self.token_grid, self.axes.ulysses, self.axes.ring),
            attend_local=kernel,
            norm_rope=norm_rope,
            row_multiple=ROW_MULTIPLE,
            pad_spatial=picture.pad,
            gather_spatial=picture.gather,
            take_spatial=picture.take,
            mean=picture.mean,
            max=picture.max,
            min=picture.min,
        )

    def vae(self, vae: Any) -> Any:
        """The VAE as the plan splits it, inside `spread`."""
        if self.plan.vae_split == "halo" or self.plan.model_devices == 1:
            return vae
        return OverlapVAE(vae, self.picture)

    @property
    def whole(self) -> Sharding:
        """Where arrays live that every device holds."""
        if self.plan.devices == 1:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, WHOLE)

    def weight_specs(self, network: Any) -> Any:
        """How the weights of a network, or of a tree that has its names, enter `spread`."""
        if self.weights == "whole":
            return jax.tree.map(lambda _: WHOLE, network)
        return placement.specs(self.mesh, network)

    def weight_shardings(self, network: Any) -> Any:
        """Where the weights of a network live, or those of a tree that has its names."""
        if self.plan.devices == 1:
            return jax.tree.map(lambda _: self.whole, network)
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self.weight_specs(network))

    def cut(self, axis: int) -> PartitionSpec:
        """Of arrays with picture rows at `axis` and columns behind them."""
        return PartitionSpec(*(None,) * axis, self.axes.rows or None, self.axes.columns or None)

    def spread(self, fn: Callable[..., Any], in_specs: Sequence[Any], out_specs: Any) -> Callable[..., Any]:
        """`fn` on every device with the part that it holds; specs are `WHOLE`, `ROWS`, `cut(axis)` or trees of these."""
        if self.plan.devices == 1:
            return fn
        # What leaves as WHOLE is equal on all devices by construction, which types cannot follow through gathers.
        return jax.shard_map(fn, mesh=self.mesh, in_specs=tuple(in_specs), out_specs=out_specs, check_vma=False)
