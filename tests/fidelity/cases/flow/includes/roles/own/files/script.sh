#!/bin/sh
echo "$# $*"
