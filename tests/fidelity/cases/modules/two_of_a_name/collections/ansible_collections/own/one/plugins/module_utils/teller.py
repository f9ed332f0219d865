# SPDX-License-Identifier: BSD-3-Clause
"""One of three of this name."""

WHO = "one"
