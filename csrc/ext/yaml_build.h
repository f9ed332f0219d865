/* SPDX-License-Identifier: BSD-3-Clause */
/* A composed document as Python objects of a profile. Wants the GIL. */
#ifndef FL_EXT_YAML_BUILD_H
#define FL_EXT_YAML_BUILD_H

#include "core/yaml_document.h"
#include "ext/yaml_mark.h"

/*
 * New reference to the root, or NULL with an exception: `yaml_error` where
 * the document holds what is not built here, or what `other` or a key raised.
 *
 * `other(tag, text, line, column)`, line and column from 0, builds the rare
 * scalars. To the list `duplicates`, a tuple (key, mapping) is appended for
 * every key that was there before, in the order in which PyYAML's deferred
 * construction meets them: a collection is filled after all those that were
 * begun before it.
 */
PyObject *
fl_ext_yaml_build(const struct fl_yaml_document *document,
                  struct fl_ext_yaml_marker *marker, PyObject *other,
                  PyObject *duplicates, PyObject *yaml_error);

/* Raises `yaml_error` with line and column (from 1). Returns NULL. */
PyObject *
fl_ext_yaml_raise(PyObject *yaml_error, size_t line, size_t column,
                  const char *words);

#endif
