/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The frame header (docs/protocol.md, section 1) and the incremental framer
 * that both ends of every C stream read through.
 *
 * Decoding has three results: 1 a frame, 0 not enough bytes yet, negative
 * (FL_EMAGIC, FL_EVERSION, FL_EFLAGS, FL_ELENGTH) the stream is broken and
 * can only be closed. A broken header is reported as soon as its first bad
 * byte is seen, so that a peer who talks another language is not waited for.
 */
#ifndef FL_FRAME_H
#define FL_FRAME_H

#include <stddef.h>
#include <stdint.h>

#define FL_MAGIC_0 0xFAu
#define FL_MAGIC_1 0x71u
#define FL_VERSION 1u

/*
 * The unit of bulk data and of socket I/O. Large enough that the system call
 * and the wake-up are small against the copy, small enough that a buffer of
 * it stays in a core's second-level cache and that one slow reader holds up
 * little memory.
 */
#define FL_CHUNK_SIZE ((size_t)128 * 1024)
#define FL_PAYLOAD_MAX ((size_t)1024 * 1024)
#define FL_HEADER_SIZE ((size_t)32)
#define FL_FRAME_MAX (FL_HEADER_SIZE + FL_PAYLOAD_MAX)

/* X(field, offset): the 32-bit fields of a header, in wire order. */
#define FL_FRAME_FIELDS(X)                                                    \
    X(dst_id, 4)                                                              \
    X(src_id, 8)                                                              \
    X(auth_id, 12)                                                            \
    X(handle, 16)                                                             \
    X(reply_to, 20)                                                           \
    X(stream, 24)                                                             \
    X(length, 28)

enum fl_handle {
#define FL_HANDLE(name, number) FL_H_##name = (number),
#include "protocol.def"
};

enum fl_kind {
#define FL_KIND(name, number) FL_K_##name = (number),
#include "protocol.def"
};

enum fl_flag {
#define FL_FLAG(name, bit) FL_F_##name = (bit),
#include "protocol.def"
};

enum fl_refusal {
#define FL_REFUSAL(name, number) FL_R_##name = (number),
#include "protocol.def"
};

enum fl_death {
#define FL_DEATH(name, number) FL_D_##name = (number),
#include "protocol.def"
};

enum fl_attach {
#define FL_ATTACH(name, number) FL_A_##name = (number),
#include "protocol.def"
};

#define FL_FLAGS_KNOWN (FL_F_COMPRESSED | FL_F_LAST | FL_F_SECRET)

struct fl_frame {
    uint8_t flags;
#define FL_FRAME_MEMBER(field, offset) uint32_t field;
    FL_FRAME_FIELDS(FL_FRAME_MEMBER)
#undef FL_FRAME_MEMBER
};

/* Big-endian integers at any alignment. */
static inline void
fl_put_u16(uint8_t *out, uint16_t value)
{
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
}

static inline void
fl_put_u32(uint8_t *out, uint32_t value)
{
    out[0] = (uint8_t)(value >> 24);
    out[1] = (uint8_t)(value >> 16);
    out[2] = (uint8_t)(value >> 8);
    out[3] = (uint8_t)value;
}

static inline uint16_t
fl_get_u16(const uint8_t *data)
{
    return (uint16_t)((unsigned)data[0] << 8 | data[1]);
}

static inline uint32_t
fl_get_u32(const uint8_t *data)
{
    return (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16
           | (uint32_t)data[2] << 8 | data[3];
}

/* Writes the header of `frame`; the payload is the caller's business. */
void
fl_frame_encode(const struct fl_frame *frame, uint8_t out[32]);

/*
 * Looks at the header at `data`. 1: `*ret` is filled; the payload may still
 * be incomplete. 0: the bytes so far are the beginning of a valid header.
 * Negative: they are not, whatever follows. `*ret` is untouched unless 1.
 */
int
fl_frame_decode(const uint8_t *data, size_t size, struct fl_frame *ret);

/*
 * Says in words what is wrong with the bytes that fl_frame_decode() refused
 * with `err`, first bytes included, control characters escaped. Always
 * terminated. Returns `text`.
 */
const char *
fl_frame_complain(int err, const uint8_t *data, size_t size, char *text,
                  size_t text_size);

/*
 * Escapes bytes of a peer for people to read: printable ASCII stays, all else
 * becomes \xNN. Cut at `text_size`, always terminated. Returns the length.
 */
size_t
fl_escape(const uint8_t *data, size_t size, char *text, size_t text_size);

/*
 * Incremental framer: a linear buffer that is read into at its end and parsed
 * in place from its start. Complete frames are never moved; the incomplete
 * last one is moved to the front when room is needed, once a read at most.
 * Not thread-safe. Holds at most one frame of the greatest size plus
 * FL_CHUNK_SIZE.
 */
struct fl_framer;

/* 0, or -ENOMEM with `*ret` untouched. The caller frees it. */
int
fl_framer_new(struct fl_framer **ret);

/* Accepts NULL. What is still held is wiped if part of it is SECRET. */
void
fl_framer_free(struct fl_framer *framer);

/*
 * Finds room to read into: at least what the frame that has begun still
 * lacks, and some more. 0 or -ENOMEM. Pointers got from the framer before are
 * invalid afterwards.
 */
int
fl_framer_reserve(struct fl_framer *framer, uint8_t **ret_data,
                  size_t *ret_size);

/* Adds `size` bytes, written into the space of the last reserve. */
void
fl_framer_commit(struct fl_framer *framer, size_t size);

/*
 * 1: a complete frame; `*ret_payload` points at its `length` bytes, valid
 * until the next reserve. 0: not yet. Negative: broken, as fl_frame_decode().
 * Calling it again gives the same frame until fl_framer_consume().
 */
int
fl_framer_next(const struct fl_framer *framer, struct fl_frame *ret,
               const uint8_t **ret_payload);

/* All unconsumed bytes, contiguous; NULL is possible if there are none. */
const uint8_t *
fl_framer_peek(const struct fl_framer *framer, size_t *ret_size);

/*
 * Drops `size` bytes from the front (a whole number of frames). They stay
 * readable until the next reserve.
 */
void
fl_framer_consume(struct fl_framer *framer, size_t size);

/* Overwrites `size` unconsumed bytes at `offset` with zeros (SECRET). */
void
fl_framer_wipe(struct fl_framer *framer, size_t offset, size_t size);

/* Gives memory back if nothing is held. For streams gone quiet. */
void
fl_framer_trim(struct fl_framer *framer);

#endif
