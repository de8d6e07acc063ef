"""Judging: did the robot do what the sentence said, how often, and what went wrong when not.

The robot never claims success; this room does, from simulator truth. Read in this order:

    stats      Wilson interval, Poisson bound, mean and spread: no number leaves without its uncertainty
    trace      what the body did, sampled: one form for lock-step episodes and for recorded bags
    tasks      success of each instruction and the kinds of failure
    protocol   seeds (training, development, test kept apart) and trials
    walk_to    `wbvla eval walk-to`: many trials in several processes, tables, JSON
    lmo/       `wbvla eval lmo`: benchmark of leg controllers, ours or anybody's
    episode_video, report   the demo's video and its one-page report

Nothing imports this room but the command line and tests.
"""

import wbvla_sim  # noqa: F401  (chooses the GL platform, which must happen before anything imports mujoco)
