# SPDX-License-Identifier: BSD-3-Clause
"""``fatline bench``: the same playbooks under Fatline, stock ansible-core and Mitogen, run in turn.

Reading order: `scenarios` (what is run), `variants` (under what), `meter` (how a run is measured), `lab`
(targets and one measured run), `runner` (the order of runs, and the check that all did the same work),
`report` (table, JSON, plot), `command` (the options).
"""
