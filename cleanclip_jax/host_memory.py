"""The host's memory, for where XLA computes on the host."""

import ctypes

import jax

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_memory() -> None:
    """Has this process keep the memory that it frees. To be called before JAX touches a device.

    XLA's CPU backend frees a step's memory after the step. By default that goes back to the
    system, which has to clear every page of it again for the next step: in a small model almost
    half of the time (docs/performance.md). Where there is another device, or another C library
    than glibc, it changes nothing that matters.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _LARGEST)
    # glibc keeps large pieces for the main thread alone: steps are to run there, and nothing else
    # is waiting for that thread.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
