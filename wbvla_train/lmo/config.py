"""The whole training problem on one page: physics, commands, disturbances, rewards, curriculum, the two stages, PPO.

Source of each number in brackets: paper (A4, Tables 4 and 5 as transcribed), prior work (which), ours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from wbvla_lmo.arm_motion import ReplayConfig
from wbvla_lmo.balance import BalanceConfig
from wbvla_lmo.gait import GaitConfig
from wbvla_lmo.gating import GatingConfig
from wbvla_lmo.observation import ObservationConfig
from wbvla_lmo.path import PathConfig
from wbvla_lmo.pipeline import PipelineConfig

STATE_FILE = "state.pt"  # resumable state in a run folder
STATE_HOLDS = ("config", "policy", "steps")  # by which it is known


@dataclass(frozen=True)
class PhysicsConfig:
    """One env step = one 20 ms command slot. Lags are counted in 5 ms physics steps and drawn once per episode."""

    threads: int = 2  # of mujoco.batch
    delay_steps_max: int = 8  # command delay 0..40 ms [paper: action lag 2..8 steps, read as simulation steps]
    joint_lag_steps_max: int = 4  # age of joint angles and speeds, times the difficulty: 20 ms [ours: twice the benchmark's; paper 0..8 of unknown unit]
    imu_lag_steps: tuple[int, int] = (1, 5)  # age of gyro and gravity, times the difficulty: 25 ms [ours, likewise; paper 1..10]
    substeps: int = 4  # physics steps per slot: 5 ms each [OpenHomie; equals the lock-step world]
    integrator: Literal["implicitfast", "euler"] = "implicitfast"
    leg_frictionloss: bool = True  # dry friction on the legs only: each row costs solver time [ours]
    fall_height_m: float = 0.34  # pelvis below this is a fall [ours: 0.12 below the deepest squat]
    fall_tilt_rad: float = 0.8  # [OpenHomie |g_xy| > 0.8; equals the safety ladder's damping threshold]
    episode_s: float = 20.0  # [OpenHomie]


@dataclass(frozen=True)
class CommandConfig:
    """Random command streams: held for a while, then switched, also mid-stride."""

    hold_s: tuple[float, float] = (0.8, 5.0)  # of a moving command [ours]
    rest_s: tuple[float, float] = (0.8, 5.0)  # of zero flags [ours]
    p_stand: float = 0.3  # flags zero, at any height [OpenHomie: a third of the robots squat]
    p_rest_after: float = 0.0  # a moving command is followed by zero flags [stage II: the paper's start/stop episodes]
    p_combined: float = 0.2  # of the moving commands: more than one flag
    p_height: float = 0.4  # a switch also draws a new height, else back to the default
    cruise_factor: tuple[float, float] = (
        0.0,
        1.3,
    )  # v_goal ~ U(0, v_max), v_max = 1.3 x cruise [paper stage I without the number]; (1, 1): fixed [paper stage II]
    per_axis: bool = False  # every direction its own factor: continuous velocities [the velocity-tracking baseline]


@dataclass(frozen=True)
class DisturbanceConfig:
    """Full-scale disturbances; multiplied by the curriculum's difficulty in [0, 1] and by what is drawn for each episode, in three groups apart."""

    # Of body and senses, arms, pushes: lowest, highest, and the share of episodes at full size. All at full size: nobody ever stands still [ours].
    severity: tuple[tuple[float, float, float], ...] = ((0.5, 1.0, 0.0), (0.3, 1.0, 0.0), (0.0, 1.0, 0.0))
    push_m_s: float = 0.5  # [paper]
    push_every_s: tuple[float, float] = (2.0, 6.0)  # [paper: 4 s]
    pulse_n: float = 0.0  # horizontal force on the trunk for pulse_s [stage II; paper tests at 150 N]
    pulse_nm: float = 0.0  # yaw moment likewise [paper tests at 30 Nm]
    pulse_s: float = 0.1
    pulse_every_s: tuple[float, float] = (2.0, 5.0)  # of each of the two trains [ours]
    arm_replay: bool = False  # recorded segments [paper stage II] in place of random reaching [paper stage I, OpenHomie]
    arm_speed: tuple[float, float] = (1.0, 1.0)  # factor on the replay's rate, per robot group [ours; paper tests at 2.0]
    arm_scale: float = 1.0  # factor on the replay's way from the default posture [ours; paper tests at 1.5]
    arm_amplitude: float = 0.9  # reaching: of the way from the default pose to the joint limit [paper: curriculum on limits]
    arm_move_s: tuple[float, float] = (0.5, 2.5)  # duration of one reach [OpenHomie: new targets every 1 s]
    arm_rest_s: float = 1.5  # mean pause between reaches [ours]
    friction: tuple[float, float] = (0.4, 1.3)  # [paper 0.1..3.0; FALCON 0.25..1.25]
    link_mass: tuple[float, float] = (0.9, 1.1)  # [paper 0.8..1.2]
    payload_kg: tuple[float, float] = (-1.0, 3.0)  # on the torso [paper -5..10; FALCON -1..3]
    hand_payload_kg: tuple[float, float] = (0.0, 0.0)  # in each hand [paper -0.1..0.3]
    com_m: float = 0.0  # displacement of the torso's centre of mass, each axis [OpenHomie 0.1]
    gains: tuple[float, float] = (0.9, 1.1)  # kp and kd [paper]
    torque_noise: float = 0.0  # of the torque limit, every slot, uniform [paper torque injection 0.05]
    torque_offset: float = 0.0  # of the torque limit, per episode, uniform [OpenHomie actuation offset 0.05]
    packet_loss: float = 0.0  # commands that do not arrive: the driver holds the last one [ours]
    noise_gyro: float = 0.04  # rad/s, standard deviation: twice the benchmark's, as all of these [ours; OpenHomie: uniform 0.5]
    noise_gravity: float = 0.02  # [OpenHomie: uniform 0.05]
    noise_q: float = 0.004  # rad [OpenHomie: uniform 0.02]
    noise_qd: float = 0.1  # rad/s [OpenHomie: uniform 2.0; 0.25 shook the ankles by 0.4 rad through the reflexes, and nothing precise could be learned]
    bias_gravity: float = 0.01  # constant per episode: mounting error of the IMU, rad [ours]
    lag: bool = True  # age of joint states and IMU, see PhysicsConfig [paper]


@dataclass(frozen=True)
class RewardConfig:
    """Weights per second (multiplied by the 20 ms step). Velocity errors are filtered over a stride: a biped sways.

    Kernel k(e; wide, fine) = (exp(-(e/wide)^2) + exp(-(e/fine)^2)) / 2 [ours; paper exp(-4 e^2) hardly sees 0.1 m/s].
    """

    alive: float = 0.5  # ours
    # intent
    forward: float = 2.5  # paper I 1.5, II 1.8; at that weight the policy settled at two thirds of the speed
    lateral: float = 2.0  # paper I 1.0, II 1.2
    yaw: float = 2.0  # paper
    drift: float = 1.0  # same three errors, filtered over drift_s: straightness and turn accuracy; ours
    path_position: float = 2.0  # true distance of the place over the feet from the commanded path; ours
    path_heading: float = 2.0  # true heading error to it; ours, the dense sister of J_dir
    heading_end: float = 0.0  # J_dir = |wrap(psi_end - psi_reference)|, once per start-stop episode, rad; paper stage II, weight ours
    # posture and joints
    height: float = 1.0  # paper 2.0 with a wider kernel
    upright: float = 2.0  # kernel form of paper's -1.5 |g_xy|^2, about the reference lean
    residual: float = -0.01  # stay near the reference: in place of hip, knee and ankle deviation (OpenHomie -0.2, -0.75, -0.5)
    roll_action: float = -0.05  # (action of hip and ankle roll)^2 while nothing lateral is commanded; paper I -0.05, II -0.1 "roll action zero", form ours
    joint_limit: float = -2.0  # rad beyond 95 % of the range; OpenHomie pos_lim -2
    # locomotion structure
    contact: float = 1.0  # feet on the ground when the clock says so; in place of no-fly (OpenHomie 0.75) and air time (0.05)
    clearance: float = -4.0  # m of sole below the reference lift; OpenHomie has a squared form
    slip: float = -0.4  # m/s of feet on the ground; OpenHomie -0.25. On a flat floor nothing can stumble
    foot_flat: float = -1.0  # OpenHomie ground_parallel -2
    feet_close: float = -5.0  # m below feet_close_m; OpenHomie feet_lat 0.5
    feet_parallel: float = -2.0  # (rad between the feet)^2; OpenHomie feet_parallel -3 on distances; at -0.5 one of two seeds turned its toes out more and more
    no_fly: float = 0.0  # one foot in the air, one on the ground while moving; OpenHomie 0.75; only without a clock
    # energy and smoothness
    vertical: float = -0.5  # paper I -0.5, II -0.75
    roll_pitch_rate: float = -0.05  # OpenHomie ang_xy -0.025
    action_rate: float = -0.03  # OpenHomie -0.01
    action_jerk: float = -0.015  # OpenHomie smoothness -0.05
    joint_acceleration: float = -2.5e-7  # paper
    torque: float = -0.4  # mean (torque / limit)^2; OpenHomie torques
    torque_limit: float = -0.1  # sum over joints of demanded torque beyond 90 % of the limit, parts of it; OpenHomie torque_lim -0.1
    speed_limit: float = -0.5  # sum of joint speed beyond 80 % of the limit, parts of it; OpenHomie vel_lim
    # stability
    stand_action: float = -0.04  # J_stand = |a_leg|^2 at zero flags; paper stand-still I -0.05, II -0.1 per step, weight ours
    stand_motion: float = -3.0  # m/s of the centre of mass at zero command and frozen clock; ours
    stand_centre: float = -30.0  # m of the centre of mass from over the middle of the soles, likewise: off centre a push makes it step; ours
    stand_bias: float = -0.3  # (action of the last second)^2 likewise: the reference stands over the middle of the soles, the policy leaned back from it; ours
    stand_joints: float = -0.02  # (rad/s)^2 of the legs, likewise
    stand_step: float = -0.8  # stepping at zero command without need
    fall: float = -1.0  # once, not per second; ours
    velocity_filter_s: float = 0.3
    drift_s: float = 2.0
    wide: tuple[float, float, float] = (0.2, 0.2, 0.35)  # m/s, m/s, rad/s
    fine: tuple[float, float, float] = (0.07, 0.07, 0.1)
    drift_scale: tuple[float, float, float] = (0.05, 0.05, 0.07)
    path_wide: tuple[float, float] = (0.12, 0.12)  # m, rad
    path_fine: tuple[float, float] = (0.03, 0.025)  # m, rad; a cusp: it pulls all the way to zero
    height_scale_m: float = 0.035
    upright_scale: float = 0.12
    feet_close_m: float = 0.17


@dataclass(frozen=True)
class CurriculumConfig:
    """Difficulty rises while robots stay up and falls when they do not; gated on falls, not on velocity errors (prior work: our prototype)."""

    start: float = 0.0
    step: float = 0.05
    raise_above_s: float = 25.0  # mean time between falls over the last window
    double_above_s: float = 60.0  # two steps at once
    lower_below_s: float = 8.0
    window_falls_s: float = 4000.0  # simulated seconds that make one measurement
    squat_from: float = 0.3  # lowest commanded height goes from 0.58 m at difficulty 0 to the range's end at this one


@dataclass(frozen=True)
class StageConfig:
    """A part of the training with its own commands, disturbances, rewards and curriculum."""

    name: str
    share: float  # of all environment steps
    command: CommandConfig = field(default_factory=CommandConfig)
    disturbance: DisturbanceConfig = field(default_factory=DisturbanceConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)


# Stage I, gait: goal speeds drawn, arms to random targets over a growing range, moderate disturbances [paper].
STAGE_I = StageConfig(name="I", share=0.15)

# Stage II, precision and stability: cruise speed fixed, start-stop-turn episodes with J_dir and J_stand, arm replay, stronger and more frequent pushes,
# the paper's randomisation [paper].
STAGE_II = StageConfig(
    name="II",
    share=0.35,
    command=CommandConfig(hold_s=(0.8, 6.0), rest_s=(1.0, 8.0), p_rest_after=0.5, p_combined=0.35, cruise_factor=(1.0, 1.0)),
    disturbance=DisturbanceConfig(
        push_m_s=0.6,
        push_every_s=(3.0, 8.0),
        pulse_n=150.0,
        pulse_nm=30.0,
        pulse_every_s=(3.0, 7.0),
        arm_replay=True,
        arm_speed=(1.0, 2.0),
        arm_scale=1.5,
        friction=(0.1, 3.0),
        link_mass=(0.8, 1.2),
        payload_kg=(-5.0, 10.0),
        hand_payload_kg=(-0.1, 0.3),
        com_m=0.03,
        torque_noise=0.05,
        torque_offset=0.05,
        packet_loss=0.02,
    ),
    reward=RewardConfig(path_position=2.5, path_heading=2.5, heading_end=-6.0, roll_action=-0.1, vertical=-0.75, stand_action=-0.05),
    curriculum=CurriculumConfig(start=0.4),
)

# Stage III, endurance: stage II with half of the bodies, arm motions and pushes at full size: stage II's mild ones teach precision and forget the rest [ours].
STAGE_III = dataclasses.replace(
    STAGE_II,
    name="III",
    share=0.5,
    disturbance=dataclasses.replace(
        STAGE_II.disturbance,
        severity=((0.5, 1.0, 0.5), (0.3, 1.0, 0.5), (0.0, 1.0, 0.6)),
        push_m_s=0.65,
        push_every_s=(2.0, 6.0),
        friction=(0.25, 1.25),  # [FALCON]: of the paper's 0.1..3.0 one episode in twenty is slippery, and that is where robots fell
    ),
    curriculum=CurriculumConfig(start=0.9),
)


@dataclass(frozen=True)
class PPOConfig:
    """stable-baselines3 PPO. [legged_gym family where not said]"""

    envs: int = 512  # twice the updates of 1024 at the same samples: learns half as fast again per sample
    steps: int = 24
    minibatches: int = 4
    epochs: int = 4  # 5 in OpenHomie
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.001  # ours; OpenHomie 0.01
    learning_rate: float = 1e-3  # start; then by KL
    learning_rate_range: tuple[float, float] = (5e-5, 1e-3)
    desired_kl: float = 0.01
    log_std_init: float = -0.7
    average_share: float = 0.05  # what is evaluated and exported is a running mean of the weights over this share of all steps [ours; Polyak and Juditsky 1992]
    layers: tuple[int, ...] = (256, 128, 64)


def _pipeline() -> PipelineConfig:
    """The interface that new policies are trained with: 0.3 m/s, 0.3 m/s, 0.3 rad/s [paper, Table 3], path error on [ours]."""
    return PipelineConfig(
        gating=GatingConfig(cruise=(0.3, 0.3, 0.3)),
        # Capture point: about the places of the sole that (0.055, 0.07, 0.11) means where the robot stands over the soles' outline [ours].
        gait=GaitConfig(arm_mass=True, over_contacts=True, capture_m=(0.0625, 0.0625, 0.11)),
        observation=ObservationConfig(history=6, odometry=True, path=True, balance=True),  # 6 frames [OpenHomie]
        path=PathConfig(enabled=True),
        balance=BalanceConfig(enabled=True),
    )


@dataclass(frozen=True)
class TrainConfig:
    """All of it."""

    robot: str = "x2"
    ablation: str = "none"  # word of :mod:`wbvla_train.lmo.ablations`
    seed: int = 1
    total_steps: int = 32_000_000
    checkpoint_every: int = 1_000_000
    physics: PhysicsConfig = field(default_factory=PhysicsConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    pipeline: PipelineConfig = field(default_factory=_pipeline)
    stages: tuple[StageConfig, ...] = (STAGE_I, STAGE_II, STAGE_III)

    def stage_at(self, steps: int) -> int:
        """Index of the stage that environment step ``steps`` belongs to."""
        part, end = steps / max(self.total_steps, 1), 0.0
        for i, stage in enumerate(self.stages):
            end += stage.share / sum(s.share for s in self.stages)
            if part < end - 1e-12:
                return i
        return len(self.stages) - 1

    def each_stage(self, part: str, **changes: Any) -> TrainConfig:
        """The same with ``changes`` to one part ("command", "reward", ...) of every stage."""
        stages = (dataclasses.replace(s, **{part: dataclasses.replace(getattr(s, part), **changes)}) for s in self.stages)
        return dataclasses.replace(self, stages=tuple(stages))
