# SPDX-License-Identifier: BSD-3-Clause
"""The command line: ``fatline demo``, ``doctor``, ``bench`` and ``mux``."""
