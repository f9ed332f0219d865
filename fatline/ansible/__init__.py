# SPDX-License-Identifier: BSD-3-Clause
"""How Fatline meets ansible-core: the only package of Fatline that imports ``ansible``."""
