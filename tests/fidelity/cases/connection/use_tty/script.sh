#!/bin/sh
tty
echo err >&2
