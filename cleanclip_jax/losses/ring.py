"""InfoNCE without its matrix: memory grows with the batch, not with its square.

Each device keeps its queries. The keys travel from device to device, are worked on a tile at a
time, and their log-sum-exp is accumulated online. On the way back the keys travel once more, the
logits are computed again, and each key's gradient travels along with it until both are home.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from cleanclip_jax.losses.compare import LEFT_OUT, Compare, Rows, info_nce, rows_of

TILE = 512  # keys at a time: [b / devices, TILE] logits are in memory
# As with the whole matrix: not TF32, not bfloat16 passes.
product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def ringed(
    units: Mapping[str, jax.Array], scale: Float[Array, ""], mesh: Mesh | None = None
) -> Compare:
    """Compares in a ring over the mesh, all of whose axes split the rows of `units`."""

    def compare(queries: Rows, keys: Rows, among: Bool[Array, " b"] | None = None) -> jax.Array:
        q, k = rows_of(units, queries), rows_of(units, keys)
        if among is None:
            return info_nce(q, k, scale, ring_log_sum_exp(q, k, scale, mesh))
        # Which keys are left out travels with them, as one more dimension.
        ones, out = jnp.ones_like(q[:, :1]), jnp.where(among, 0.0, LEFT_OUT)[:, None]
        wide = (jnp.concatenate([q, ones], 1), jnp.concatenate([k, out.astype(k.dtype)], 1))
        return info_nce(q, k, scale, ring_log_sum_exp(*wide, scale, mesh), among)

    return compare


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def ring_log_sum_exp(
    queries: Float[Array, "b d"],
    keys: Float[Array, "b d"],
    scale: Float[Array, ""],
    mesh: Mesh | None = None,
) -> Float[Array, " b"]:
    """The log-sum-exp of each row of `scale * queries @ keys.T`."""
    return _over(mesh, _log_sum_exp, "rrs", "r")(queries, keys, scale)


def _forward(q: jax.Array, k: jax.Array, scale: jax.Array, mesh: Mesh | None) -> Any:
    total = ring_log_sum_exp(q, k, scale, mesh)
    return total, (q, k, scale, total)


def _backward(mesh: Mesh | None, saved: Any, cotangent: jax.Array) -> Any:
    return _over(mesh, _gradients, "rrsrr", "rrs")(*saved, cotangent)


ring_log_sum_exp.defvjp(_forward, _backward)


def _over(mesh: Mesh | None, local: Callable, inputs: str, outputs: str) -> Callable:
    """`local` on each device's rows (r) and on scalars (s), with the names of the ring's axes."""
    if mesh is None:
        return partial(local, axes=(), count=1)
    kinds = {"r": PartitionSpec(mesh.axis_names), "s": PartitionSpec()}
    given, returned = [kinds[c] for c in inputs], [kinds[c] for c in outputs]
    return jax.shard_map(
        partial(local, axes=mesh.axis_names, count=mesh.devices.size),
        mesh=mesh,
        in_specs=tuple(given),
        out_specs=tuple(returned) if len(returned) > 1 else returned[0],
        check_vma=False,
    )


def _send(x: jax.Array, axes: tuple[str, ...], count: int) -> jax.Array:
    """To the next device of the ring, from the one before."""
    if count == 1:
        return x
    return jax.lax.ppermute(x, axes, [(i, (i + 1) % count) for i in range(count)])


def _log_sum_exp(
    q: Float[Array, "n d"],
    k: Float[Array, "n d"],
    scale: Float[Array, ""],
    *,
    axes: tuple[str, ...],
    count: int,
) -> Float[Array, " n"]:
    def see(seen: Any, tile: jax.Array) -> tuple[Any, None]:
        largest, total = seen
        logits = scale * product("nd,td->nt", q, tile)
        new = jnp.maximum(largest, logits.max(-1))
        total = total * jnp.exp(largest - new) + jnp.exp(logits - new[:, None]).sum(-1)
        return (new, total), None

    def hop(carry: Any, _: None) -> tuple[Any, None]:
        k, seen = carry
        # Sent before it is worked on, so that the next keys are under way meanwhile.
        return (_send(k, axes, count), _tiles(see, seen, k)[0]), None

    seen = jnp.full_like(q[:, 0], -jnp.inf), jnp.zeros_like(q[:, 0])
    (k, seen), _ = jax.lax.scan(hop, (k, seen), None, count - 1)
    largest, total = _tiles(see, seen, k)[0]
    return largest + jnp.log(total)


def _gradients(
    q: Float[Array, "n d"],
    k: Float[Array, "n d"],
    scale: Float[Array, ""],
    log_sum_exp: Float[Array, " n"],
    cotangent: Float[Array, " n"],
    *,
    axes: tuple[str, ...],
    count: int,
) -> tuple[Float[Array, "n d"], Float[Array, "n d"], Float[Array, ""]]:
    """Of the queries, the keys and the scale: the softmax is the log-sum-exp's gradient."""

    def see(by_query: jax.Array, tile: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = scale * product("nd,td->nt", q, tile)
        softmax = jnp.exp(logits - log_sum_exp[:, None]) * cotangent[:, None]
        return by_query + product("nt,td->nd", softmax, tile), product("nt,nd->td", softmax, q)

    def hop(carry: Any, _: None) -> tuple[Any, None]:
        k, by_key, by_query = carry
        arriving = _send(k, axes, count)
        by_query, more = _tiles(see, by_query, k)
        return (arriving, _send(by_key + more, axes, count), by_query), None

    carry = k, jnp.zeros_like(k), jnp.zeros_like(q)
    (k, by_key, by_query), _ = jax.lax.scan(hop, carry, None, count - 1)
    by_query, more = _tiles(see, by_query, k)
    home = _send(by_key + more, axes, count)
    by_scale = (q * by_query).sum().astype(scale.dtype)
    if count > 1:
        by_scale = jax.lax.psum(by_scale, axes)
    return scale * by_query, scale * home, by_scale


def _tiles(see: Callable, carry: Any, k: Float[Array, "n d"]) -> tuple[Any, jax.Array | None]:
    """Scans `see` over the rows of k, TILE at a time and then what is left, with its outputs."""
    n, d = k.shape
    whole = n - n % TILE
    outputs = []
    if whole:
        carry, tiled = jax.lax.scan(see, carry, k[:whole].reshape(-1, TILE, d))
        outputs.append(None if tiled is None else tiled.reshape(whole, d))
    if whole < n:
        carry, rest = see(carry, k[whole:])
        outputs.append(rest)
    return carry, None if outputs[0] is None else jnp.concatenate(outputs)
