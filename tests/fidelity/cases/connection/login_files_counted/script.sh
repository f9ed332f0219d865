#!/bin/sh
echo script $PATH $DEPTH $SHLVL
