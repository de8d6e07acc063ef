"""The benchmark of leg controllers, ``wbvla eval lmo``: any controller behind a small interface, the same suites for all (docs/benchmark.md).

controllers  the interface, the exported checkpoint behind it, other people's Python factories, checks on what they return
conditions   what the world does to the robot: noise, bodies, delays, arm motion, pulses, pushes; each a seeded law
arms         seeded reaching, lifting, carrying and pushing motions of both arms, replayed faster or larger
programs     what is commanded when; the flag planner that closes the loop on true pose
runner       N robots through one program under one set of conditions -> Log
measures     Log -> numbers per episode
suites       the table of suites: cells of program, conditions and measures
results      episodes -> rows with intervals, terminal table, report.md, comparison of runs
plots, video pictures of it
command      the command line
lockstep     a small protocol of its own: one robot in the lock-step world through the whole LmoController
"""
