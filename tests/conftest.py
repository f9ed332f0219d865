# SPDX-License-Identifier: BSD-3-Clause
"""What holds for every test."""

from __future__ import annotations

import signal

# Started by nohup, a test run would hand its ignored SIGHUP on to every process whose signals are looked at.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
