"""What a call costs in energy, by counting: an estimate under stated assumptions, not a measurement.

Figures are those of a 45 nm process at 0.9 V (Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9): they
are known for every part, and newer processes change all of them, so compare networks by them, never machines.
"""

from __future__ import annotations

from dataclasses import dataclass

# A multiplication of fp32 takes 3.7 pJ, an addition 0.9 pJ.
MAC_PJ = 3.7 + 0.9
# 64 bits from 32 KB take 20 pJ, from 1 MB 100 pJ, from DRAM at least 1.3 nJ.
NEAR_PJ, CACHE_PJ, DRAM_PJ = 20 / 8, 100 / 8, 1300 / 8
# Assumed: each multiply-accumulate reads a float of a plane nearby, shared by the rows of a block of four.
_NEAR_BYTES_A_MAC = 4 / 4
# Assumed: what is larger does not stay in the cache until the next layer, or the next call, wants it.
CACHE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Energy:
    """Millijoules of a call: arithmetic with its operands, weights and indices once, planes once written and read."""

    arithmetic_mj: float
    weights_mj: float
    planes_mj: float

    @property
    def total_mj(self) -> float:
        """All of it."""
        return self.arithmetic_mj + self.weights_mj + self.planes_mj


def energy_of(macs: int, weight_bytes: int, plane_bytes: int, arena_bytes: int) -> Energy:
    """Estimate a call's energy.

    Args:
        macs: surviving multiply-accumulates.
        weight_bytes: weights and indices; they come from DRAM if they outgrow the cache.
        plane_bytes: what all steps read and write; from DRAM if `arena_bytes`, which hold it, outgrow the cache.
    """
    weights, planes = (DRAM_PJ if held > CACHE_BYTES else CACHE_PJ for held in (weight_bytes, arena_bytes))
    arithmetic = macs * (MAC_PJ + _NEAR_BYTES_A_MAC * NEAR_PJ)
    return Energy(1e-9 * arithmetic, 1e-9 * weight_bytes * weights, 1e-9 * plane_bytes * planes)
