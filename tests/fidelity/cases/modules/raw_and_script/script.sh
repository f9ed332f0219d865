#!/bin/sh
echo "$# $1 $2 in $(pwd)"
echo err >&2
