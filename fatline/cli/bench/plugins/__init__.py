# SPDX-License-Identifier: BSD-3-Clause
"""Callback plugins that the bench hands to ansible-core; the folder is its ``callback_plugins`` path."""
