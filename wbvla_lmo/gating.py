"""From discrete flags to smooth references: directional intent gating and the stance height rate limit.

The paper (A4) filters each flag, s_bar <- (1 - lambda) s_bar + lambda s, and forms v_ref = v_goal tanh(alpha (s - s_bar)).
Read literally this is a pulse: it fades to zero while the flag is held (s_bar -> s) and reverses when the flag is
released. The default here is the soft start v_goal tanh(alpha s_bar) / tanh(alpha), which rises to exactly the cruise
speed and falls back to zero; the literal form stays behind ``literal=True`` for the ablation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbvla_core.numeric import clip


@dataclass(frozen=True)
class GatingConfig:
    """Constants of the gate.

    Attributes:
        alpha: slope of the tanh; 1 = nearly symmetric rise and fall, so that a held flag integrates to
            cruise speed x hold time within 0.02 m (ours; the paper gives no value).
        lam: filter gain per 50 Hz tick; 0.15 = 90 % after 0.25 s, below 6 % of cruise 0.4 s after a stop (ours).
        cruise: speeds at a fully open gate (forward m/s, lateral m/s, yaw rad/s) (paper, Table 3 tests at 0.3).
        height_rate_m_s: how fast the stance height reference may move, m/s (ours: 0.18 m of squat in 0.9 s).
        literal: use the paper's transcribed formula instead of the soft start (the ablation).
        enabled: False = the flag times cruise speed at once (the velocity-tracking baseline).
    """

    alpha: float = 1.0
    lam: float = 0.15
    cruise: tuple[float, float, float] = (0.3, 0.3, 0.4)
    height_rate_m_s: float = 0.2
    literal: bool = False
    enabled: bool = True


class IntentGate:
    """State of the gate for N robots. ``step`` is one 50 Hz tick."""

    def __init__(self, config: GatingConfig, count: int, initial_height_m: float) -> None:
        self.config = config
        self.filtered = np.zeros((count, 3))  # s_bar [N, 3]
        self.height_m = np.full(count, float(initial_height_m))  # [N]

    def reset(self, ids: np.ndarray | slice = slice(None), height_m: float | np.ndarray | None = None) -> None:
        """Close the gate of the robots ``ids``; their height reference starts at ``height_m``."""
        self.filtered[ids] = 0.0
        if height_m is not None:
            self.height_m[ids] = height_m

    def step(self, flags: np.ndarray, height_m: np.ndarray, dt_s: float, cruise: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Advance one tick.

        Args:
            flags: direction flags [N, 3] in {-1, 0, 1}.
            height_m: commanded stance height [N], m.
            dt_s: tick period, s (for the height rate; ``lam`` is per tick).
            cruise: goal speeds [N, 3] that replace the configured ones (training stage I draws them).

        Returns:
            velocity reference [N, 3] (m/s, m/s, rad/s) and height reference [N], m. Copies.
        """
        c = self.config
        flags = np.asarray(flags, dtype=np.float64)
        if c.literal:
            shape = np.tanh(c.alpha * (flags - self.filtered))
        self.filtered += c.lam * (flags - self.filtered)
        if not c.enabled:
            shape = flags
        elif not c.literal:
            shape = np.tanh(c.alpha * self.filtered) / np.tanh(c.alpha)
        goal = np.asarray(c.cruise) if cruise is None else cruise
        limit = c.height_rate_m_s * dt_s
        self.height_m += clip(height_m - self.height_m, -limit, limit)
        return goal * shape, self.height_m.copy()
