#!/bin/sh
basename "$0"; echo "$@"; pwd; exit ${CODE:-0}
