# SPDX-License-Identifier: BSD-3-Clause
"""The agent: one file of standard-library Python that runs on the target.

It is sent as text, compiled by the stage and started by the last line. Rules of this file:

- Python 2.4 syntax and nothing newer (no "with", no conditional expression, no "as" in except, no b'').
  What a Python can do is asked once, in the compatibility block; below it nothing looks at versions.
- One thread, one poll loop. Every module and command runs in a forked child; the parent never calls
  the name service or the resolver and never writes through a buffered file, because children inherit
  whatever such calls leave behind (systems fact 20).
- Comments, docstrings and blank lines are stripped before it travels, so they cost nothing.

Order: compatibility, protocol numbers, MessagePack, frames, poll loop, calls, commands, blobs and zips,
warm modules, the module's child, freshness, the agent, main.
To run it by hand: docs/bootstrap.md.
"""

import errno
import fcntl
import os
import select
import signal
import stat
import struct
import sys
import time
import zlib
from collections import deque
from functools import partial

OWN_FILE = sys._getframe().f_code.co_filename

# ---- compatibility: capabilities bound to names -----------------------------------------------------


def latin(text):
    """Bytes of an ASCII literal (the 2.4 subset has no b'')."""
    return text.encode('latin-1')


EMPTY = latin('')
bytes_type = EMPTY.__class__
if bytes_type is str:
    text_type = unicode  # noqa: F821
    int_types = (int, long)  # noqa: F821

    def byte_at(data, index):
        return ord(data[index])
else:
    text_type = str
    int_types = (int,)

    def byte_at(data, index):
        return data[index]

ENVIRON = getattr(os, 'environb', os.environ)

try:
    from _frozen_importlib import ModuleSpec
except ImportError:
    ModuleSpec = None  # Python 2: loaders are called through load_module()

try:
    from _imp import _fix_co_filename as fix_filename
except ImportError:
    fix_filename = None  # Python 2: a code object keeps its name, another takes its place

# What an interpreter says of output that cannot be flushed; %.0s takes the stream and prints nothing.
FLUSHING = 'Exception ignored in: %r'
if sys.version_info >= (3, 13):
    FLUSHING = 'Exception ignored on flushing sys.stdout:%.0s'

# Descriptors are made close-on-exec since Python 3.4 (PEP 446).
BORN_CLOEXEC = hasattr(os, 'set_inheritable')

# Bytecode is pairs of bytes since Python 3.6; before that an instruction was one byte or three.
WORDCODE = byte_at(compile('1', '', 'eval').co_code, -1) == 0

# What zipfile notes for a file without attributes: nothing before the same Python 3.6, then "rw for the owner".
SITE_ATTRIBUTES = WORDCODE * (384 << 16)



def native(value):
    """A str of this Python from protocol text, for names of modules and attributes."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes_type):
        return value.decode('utf-8')
    return value.encode('utf-8')


def as_bytes(value):
    if isinstance(value, text_type):
        return value.encode('utf-8', 'replace')
    return value


# ---- protocol numbers (a test holds them against the protocol's table) --------------------------------

MAGIC = struct.pack('>H', 0xFA71)
VERSION = 1
HEADER = '>2sBBIIIIIII'
HEADER_SIZE = 32
PAYLOAD_MAX = 1048576
CHUNK_MAX = 131072
INFLATED_MAX = 4194304
BLOB_MAX = 16777216
WINDOW = 262144

COMPRESSED, LAST, SECRET = 1, 2, 4
CALL_FUNCTION, SHUTDOWN, LOAD_MODULE = 101, 106, 107
HELLO, PUT_BLOB, NEED_BLOB, DROP_BLOB, EXEC, CANCEL, FILE, DATA, CREDIT, PING = range(200, 210)
STARTED, STDOUT, STDERR, EXIT, REFUSED, GRANT, RESULT, ERROR, OPENED, CHUNK = range(1, 11)
WANT_MODULE, LOG, PONG = 12, 13, 14
STALE, BUSY, UNSUPPORTED, MALFORMED, BLOB_MISSING = range(1, 6)

# Fairness: the wire's bulk queue stops the reading of children above HIGH and lets it go on below LOW.
BULK_HIGH = 524288
BULK_LOW = 131072
WRITE_SIZE = 131072


class Refusal(Exception):
    """The call cannot be served and nothing of it has run: args are code and reason."""


# ---- MessagePack --------------------------------------------------------------------------------------

DEPTH_MAX = 64


def pack(value):
    pieces = []
    pack_into(pieces.append, value, 0)
    return EMPTY.join(pieces)


def pack_into(put, value, depth):
    if depth > DEPTH_MAX:
        raise ValueError('nested deeper than %d' % DEPTH_MAX)
    if value is None:
        put(struct.pack('>B', 0xC0))
    elif value is True or value is False:
        put(struct.pack('>B', 0xC2 + value))
    elif isinstance(value, int_types):
        put(pack_int(value))
    elif isinstance(value, float):
        put(struct.pack('>Bd', 0xCB, value))
    elif isinstance(value, (bytes_type, text_type)):
        pack_string(put, value)
    elif isinstance(value, (list, tuple)):
        put(pack_size(len(value), 0x90, 16, None, 0xDC, 0xDD))
        for item in value:
            pack_into(put, item, depth + 1)
    elif isinstance(value, dict):
        put(pack_size(len(value), 0x80, 16, None, 0xDE, 0xDF))
        for key in value:
            pack_into(put, key, depth + 1)
            pack_into(put, value[key], depth + 1)
    else:
        raise TypeError('a value of type %s cannot be sent' % type(value).__name__)


def pack_int(value):
    if -32 <= value < 128:
        return struct.pack('>b', value)
    if -2147483648 <= value < 2147483648:
        return struct.pack('>Bi', 0xD2, value)
    if value < 0:
        return struct.pack('>Bq', 0xD3, value)
    return struct.pack('>BQ', 0xCF, value)


def pack_string(put, value):
    if isinstance(value, str) and str is bytes_type:
        # Python 2: a str is text where it can be, since literals and names are.
        try:
            value = value.decode('utf-8')
        except UnicodeDecodeError:
            pass
    if isinstance(value, text_type):
        value = value.encode('utf-8', 'replace')
        put(pack_size(len(value), 0xA0, 32, 0xD9, 0xDA, 0xDB))
    else:
        put(pack_size(len(value), None, 0, 0xC4, 0xC5, 0xC6))
    put(value)


def pack_size(size, fix, fix_limit, code8, code16, code32):
    if size < fix_limit:
        return struct.pack('>B', fix + size)
    if code8 and size < 256:
        return struct.pack('>BB', code8, size)
    if size < 65536:
        return struct.pack('>BH', code16, size)
    return struct.pack('>BI', code32, size)


def unpack(data):
    """Decode one value; ValueError for anything else than exactly one."""
    try:
        value, end = unpack_at(data, 0, 0)
    except (struct.error, IndexError):
        raise ValueError('MessagePack data ends too early')
    if end != len(data):
        raise ValueError('MessagePack data goes on after its value')
    return value


SCALARS = {0xCA: '>f', 0xCB: '>d', 0xCC: '>B', 0xCD: '>H', 0xCE: '>I', 0xCF: '>Q',
           0xD0: '>b', 0xD1: '>h', 0xD2: '>i', 0xD3: '>q'}
SIZES = {0xC4: '>B', 0xC5: '>H', 0xC6: '>I', 0xD9: '>B', 0xDA: '>H', 0xDB: '>I',
         0xDC: '>H', 0xDD: '>I', 0xDE: '>H', 0xDF: '>I'}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def unpack_at(data, at, depth):
    code = byte_at(data, at)
    at += 1
    if code < 0x80:
        return code, at
    if code >= 0xE0:
        return code - 256, at
    if code in CONSTANTS:
        return CONSTANTS[code], at
    if code in SCALARS:
        layout = SCALARS[code]
        end = at + struct.calcsize(layout)
        return struct.unpack(layout, data[at:end])[0], end
    if code < 0x90:
        return unpack_map(data, at, code & 15, depth)
    if code < 0xA0:
        return unpack_list(data, at, code & 15, depth)
    if code < 0xC0:
        return unpack_string(data, at, code & 31, True)
    if code not in SIZES:
        raise ValueError('MessagePack type 0x%02x is not allowed here' % code)
    end = at + struct.calcsize(SIZES[code])
    size = struct.unpack(SIZES[code], data[at:end])[0]
    if code <= 0xC6 or code <= 0xDB:
        return unpack_string(data, end, size, code > 0xC6)
    if code <= 0xDD:
        return unpack_list(data, end, size, depth)
    return unpack_map(data, end, size, depth)


def unpack_string(data, at, size, is_text):
    end = at + size
    if end > len(data):
        raise IndexError
    value = data[at:end]
    if is_text:
        value = value.decode('utf-8')
    return value, end


def unpack_list(data, at, size, depth):
    check_container(data, at, size, depth)
    items = []
    for _ in range(size):
        item, at = unpack_at(data, at, depth + 1)
        items.append(item)
    return items, at


def unpack_map(data, at, size, depth):
    check_container(data, at, size * 2, depth)
    items = {}
    for _ in range(size):
        key, at = unpack_at(data, at, depth + 1)
        if isinstance(key, (list, dict)):
            raise ValueError('a list or map cannot be a key')
        items[key], at = unpack_at(data, at, depth + 1)
    return items, at


def check_container(data, at, least, depth):
    # Every element takes a byte, so a lie about the count costs nothing.
    if least > len(data) - at:
        raise IndexError
    if depth >= DEPTH_MAX:
        raise ValueError('nested deeper than %d' % DEPTH_MAX)


# ---- frames -------------------------------------------------------------------------------------------


class BadFrame(Exception):
    """The stream cannot go on: args are the name of the error and the words."""


class Frame(object):
    __slots__ = ('flags', 'dst', 'src', 'auth', 'handle', 'reply_to', 'stream', 'payload')

    def __init__(self, fields, payload):
        self.flags, self.dst, self.src, self.auth, self.handle, self.reply_to, self.stream = fields
        self.payload = payload


class Framer(object):
    """Cuts a byte stream into frames; pieces are joined only once a whole frame is there."""

    def __init__(self):
        self.pieces = []
        self.have = 0
        self.need = HEADER_SIZE

    def feed(self, data):
        self.pieces.append(data)
        self.have += len(data)
        if self.have < self.need and self.need > HEADER_SIZE:
            return []
        buf = EMPTY.join(self.pieces)
        frames, at = self.cut(buf)
        self.pieces = [buf[at:]]
        self.have = len(buf) - at
        return frames

    def cut(self, buf):
        frames = []
        at = 0
        while True:
            self.need = HEADER_SIZE
            header = buf[at:at + HEADER_SIZE]
            check_start(header)
            if len(header) < HEADER_SIZE:
                return frames, at
            fields, length = parse_header(header)
            self.need += length
            if len(buf) - at < self.need:
                return frames, at
            frames.append(Frame(fields, buf[at + HEADER_SIZE:at + self.need]))
            at += self.need


def check_start(header):
    """Noise is named at its first byte: a start-up file may never print a whole header's worth."""
    if not MAGIC.startswith(header[:2]):
        raise BadFrame('FL_EMAGIC', 'not a Fatline frame, which is often the output of a start-up file: the '
                       'stream goes on with %r' % header[:16])
    if len(header) > 2 and byte_at(header, 2) != VERSION:
        raise BadFrame('FL_EVERSION', 'frame of protocol version %d; this agent speaks %d'
                       % (byte_at(header, 2), VERSION))
    if len(header) > 3 and byte_at(header, 3) & ~(COMPRESSED | LAST | SECRET):
        raise BadFrame('FL_EFLAGS', 'frame with unknown flags 0x%02x' % byte_at(header, 3))


def parse_header(header):
    fields = struct.unpack(HEADER, header)
    if fields[9] > PAYLOAD_MAX:
        raise BadFrame('FL_ELENGTH', 'frame of %d bytes; at most %d are allowed' % (fields[9], PAYLOAD_MAX))
    return fields[2:9], fields[9]


def inflate(payload):
    if len(payload) < 4:
        raise ValueError('compressed frame without its size')
    size = struct.unpack('>I', payload[:4])[0]
    if size > INFLATED_MAX:
        raise ValueError('compressed frame of %d bytes; at most %d are allowed' % (size, INFLATED_MAX))
    try:
        data = zlib.decompressobj().decompress(payload[4:], size + 1)
    except zlib.error:
        raise ValueError('compressed frame that does not inflate')
    if len(data) != size:
        raise ValueError('compressed frame that lies about its size')
    return data


def encode_frame(flags, dst, src, auth, handle, reply_to, stream, payload):
    return struct.pack(HEADER, MAGIC, VERSION, flags, dst, src, auth, handle, reply_to, stream,
                       len(payload)) + payload


# ---- poll loop ----------------------------------------------------------------------------------------

READ, WRITE = 1, 4
BLOCKED = (errno.EAGAIN, errno.EWOULDBLOCK)


class Poller(object):
    """Descriptors and the function to call when one is ready."""

    def __init__(self):
        self.handlers = {}
        self.events = {}
        self.poll = None
        if hasattr(select, 'poll'):
            self.poll = select.poll()

    def watch(self, fd, events, handler):
        self.handlers[fd] = handler
        if self.events.get(fd) != events:
            self.events[fd] = events
            if self.poll:
                self.poll.register(fd, events)

    def forget(self, fd):
        if self.events.pop(fd, None) is not None:
            del self.handlers[fd]
            if self.poll:
                self.poll.unregister(fd)

    def wait(self, seconds):
        """Call what is ready; at most seconds (None: for ever) of waiting."""
        try:
            ready = self.ready(seconds)
        except (select.error, OSError):
            # EINTR before Python 3.5; the signal has written to the wake-up pipe.
            if sys.exc_info()[1].args[0] != errno.EINTR:
                raise
            return
        for fd, events in ready:
            # An earlier callback may have closed this descriptor or changed what it waits for.
            if self.events.get(fd, 0):
                self.handlers[fd](events)

    def ready(self, seconds):
        if self.poll:
            if seconds is None:
                return self.poll.poll()
            return self.poll.poll(max(0, int(seconds * 1000 + 0.999)))
        reads = [fd for fd in self.events if self.events[fd] & READ]
        writes = [fd for fd in self.events if self.events[fd] & WRITE]
        reads, writes, _ = select.select(reads, writes, [], seconds)
        return [(fd, READ) for fd in reads] + [(fd, WRITE) for fd in writes]


def set_nonblocking(fd):
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)


def set_cloexec(fd):
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.fcntl(fd, fcntl.F_GETFD) | fcntl.FD_CLOEXEC)


def read_some(fd, size):
    """Bytes, empty at the end, None when there are none yet. A pty master ends with EIO."""
    while True:
        try:
            return os.read(fd, size)
        except OSError:
            code = sys.exc_info()[1].errno
            if code in BLOCKED:
                return None
            if code == errno.EIO:
                return EMPTY
            if code != errno.EINTR:
                raise


def write_some(fd, data):
    """Number of bytes written, 0 when the descriptor is full."""
    while True:
        try:
            return os.write(fd, data)
        except OSError:
            code = sys.exc_info()[1].errno
            if code in BLOCKED:
                return 0
            if code != errno.EINTR:
                raise


class Outbox(object):
    """The way out: control frames overtake bulk, a frame once begun is finished first."""

    def __init__(self, fd):
        self.fd = fd
        self.control = deque()
        self.bulk = deque()
        self.bulk_size = 0
        self.current = EMPTY

    def put(self, data, is_bulk):
        if is_bulk:
            self.bulk.append(data)
            self.bulk_size += len(data)
        else:
            self.control.append(data)

    def flush(self):
        """Write what the descriptor takes; true when something is left."""
        while True:
            if not self.current:
                self.current = self.gather()
                if not self.current:
                    return False
            sent = write_some(self.fd, self.current)
            if not sent:
                return True
            self.current = self.current[sent:]

    def waits(self):
        return bool(self.current or self.control or self.bulk)

    def gather(self):
        pieces = []
        size = 0
        while self.control and size < WRITE_SIZE:
            pieces.append(self.control.popleft())
            size += len(pieces[-1])
        while self.bulk and size < WRITE_SIZE:
            pieces.append(self.bulk.popleft())
            size += len(pieces[-1])
            self.bulk_size -= len(pieces[-1])
        return EMPTY.join(pieces)


# ---- calls --------------------------------------------------------------------------------------------


class Reply(object):
    """Where the answers to one call go."""

    announced = False

    def __init__(self, agent, frame):
        self.agent = agent
        self.dst = frame.src
        self.handle = frame.reply_to
        self.stream = frame.stream
        self.key = (frame.src, frame.stream)

    def send(self, kind, body=EMPTY, flags=0, bulk=False):
        if self.handle:
            self.agent.send(self.dst, self.handle, struct.pack('>B', kind) + body, flags, self.stream, bulk)

    def grant(self, size):
        self.send(GRANT, struct.pack('>I', size))

    def refuse(self, code, reason):
        self.send(REFUSED, struct.pack('>H', code) + as_bytes(reason), LAST)

    def result(self, value):
        # Behind the call's own bulk, never before it.
        self.send(RESULT, pack(value), LAST, True)

    def error(self, kind, message, traceback='', number=None):
        fields = {'type': kind, 'message': message, 'traceback': traceback, 'errno': number}
        self.send(ERROR, pack(fields), LAST, True)


class Call(object):
    """Something under way for a caller: a run, a file, a function."""

    def __init__(self, agent, reply):
        self.agent = agent
        self.reply = reply
        self.credit = WINDOW
        self.deadline = None
        agent.calls[reply.key] = self

    def done(self):
        self.agent.calls.pop(self.reply.key, None)

    def expire(self):
        """The time set in self.deadline has come."""

    def on_data(self, data, last):
        """Input from the caller."""

    def on_credit(self):
        """The caller consumed output: self.credit has grown."""

    def pace(self):
        """The wire's bulk queue passed one of its marks."""

    def cancel(self):
        """The caller wants no more of it."""


class Input(object):
    """What goes into a child's stdin; takes a window ahead of the child and grants as the child reads."""

    def __init__(self, run, fd, first, more):
        self.run = run
        self.fd = fd
        self.queue = deque([first])
        self.more = more

    def start(self):
        if self.more:
            self.run.reply.grant(WINDOW)
        self.write(WRITE)

    def add(self, data, last):
        if last:
            self.more = False
        if self.fd is None:
            if self.more:
                self.run.reply.grant(len(data))
            return
        self.queue.append(data)
        self.write(WRITE)

    def write(self, events):
        try:
            while self.queue:
                data = self.queue[0]
                sent = write_some(self.fd, data)
                if self.more and sent:
                    self.run.reply.grant(sent)
                if sent < len(data):
                    self.queue[0] = data[sent:]
                    self.run.agent.poller.watch(self.fd, WRITE, self.write)
                    return
                self.queue.popleft()
        except OSError:
            # The child closed its stdin: what is left has no reader, as with a pipe in a shell.
            self.close()
            return
        self.run.agent.poller.forget(self.fd)
        if not self.more:
            self.close()

    def close(self):
        if self.fd is not None:
            self.run.agent.poller.forget(self.fd)
            self.run.agent.close(self.fd)
            self.fd = None
            self.queue.clear()


class Run(Call):
    """One child process: its pipes, its credit and how it ended (systems fact 23)."""

    PTY_GRACE = 1.0

    def __init__(self, agent, reply, warm):
        Call.__init__(self, agent, reply)
        self.is_module = warm is not None
        self.warm = bool(warm)
        self.status = None
        self.began = time.time()
        self.has_pty = False
        self.terminal = None
        self.input = None
        self.outputs = {}

    def attach(self, stdin, outputs, has_pty, first, more):
        """Take the parent's ends: outputs maps a descriptor to its kind; stdin may be None."""
        self.has_pty = has_pty
        self.outputs = outputs
        for fd in outputs:
            set_nonblocking(fd)
        if stdin is not None:
            set_nonblocking(stdin)
            self.input = Input(self, stdin, first, more)
            self.input.start()
        self.pace()

    def pace(self):
        for fd in self.outputs:
            if self.credit > 0 and not self.agent.congested:
                self.agent.poller.watch(fd, READ, self.reader(fd))
            else:
                self.agent.poller.forget(fd)

    on_credit = pace

    def reader(self, fd):
        def read(events):
            self.read(fd)
        return read

    def read(self, fd):
        data = read_some(fd, min(CHUNK_MAX, self.credit))
        if data is None:
            return
        if not data:
            self.end_output(fd)
            self.finish()
            return
        self.credit -= len(data)
        self.reply.send(self.outputs[fd], data, 0, True)
        if self.credit <= 0 or self.agent.congested:
            self.pace()

    def end_output(self, fd):
        self.agent.poller.forget(fd)
        del self.outputs[fd]
        if self.has_pty and self.status is None:
            # Closed, it would hang up on a child that has let go of its terminal, but has not ended.
            self.terminal = fd
        else:
            self.agent.close(fd)

    def hang_up(self):
        if self.terminal is not None:
            self.agent.close(self.terminal)
            self.terminal = None

    def on_data(self, data, last):
        if self.input is not None:
            self.input.add(data, last)

    def cancel(self):
        """Close the pipes; the kernel sends SIGHUP where there was a pty. Never SIGKILL (systems fact 17)."""
        if self.input is not None:
            self.input.close()
        for fd in list(self.outputs):
            self.end_output(fd)
        self.hang_up()
        self.finish()

    def reaped(self, status):
        self.status = status
        self.hang_up()
        if self.has_pty and self.outputs:
            # Something in the background may keep the terminal open.
            self.deadline = time.time() + self.PTY_GRACE
        self.finish()

    def expire(self):
        self.deadline = None
        self.cancel()

    def finish(self):
        """Report once the child has ended and its output too."""
        if self.status is None or self.outputs or self.reply.key not in self.agent.calls:
            return
        if self.input is not None:
            self.input.close()
        self.done()
        fields = {'rc': exit_code(self.status), 'warm': self.warm, 'ms': int((time.time() - self.began) * 1000)}
        if os.WIFSIGNALED(self.status):
            # What leads the session has died, as a login shell may: ssh has no exit status to give then.
            fields['signal'] = os.WTERMSIG(self.status)
        self.reply.send(EXIT, pack(fields), LAST, True)


def exit_code(status):
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def signal_words(status):
    """What the shell around stock's interpreter says of its death (ansible fact 2)."""
    number = os.WTERMSIG(status)
    words = {1: 'Hangup', 3: 'Quit', 4: 'Illegal instruction', 6: 'Aborted', 7: 'Bus error', 9: 'Killed',
             11: 'Segmentation fault', 14: 'Alarm clock', 15: 'Terminated'}.get(number, 'Signal %d' % number)
    if hasattr(signal, 'strsignal'):
        words = signal.strsignal(number)
    if os.WCOREDUMP(status):
        words += ' (core dumped)'
    return words


# ---- commands -----------------------------------------------------------------------------------------


def announce(reply):
    """STARTED goes out before any output, and once: from then on a loss is never retried (rule 13)."""
    if not reply.announced:
        reply.announced = True
        reply.send(STARTED, pack({'pid': os.getpid()}))


def start_run(agent, reply, body, child, warm):
    """Fork child for an EXEC; warm is None for a command."""
    announce(reply)
    agent.flush()
    run = Run(agent, reply, warm)
    first = body.get('stdin', EMPTY)
    more = bool(body.get('stdin_more'))
    try:
        if body.get('pty'):
            plumbing = PtyPlumbing(agent, body)
        else:
            plumbing = PipePlumbing(agent)
        pid = os.fork()
    except OSError:
        run.done()
        raise Refusal(BUSY, 'the target cannot start a process: %s' % sys.exc_info()[1])
    if pid == 0:
        in_child(agent, plumbing, child)
    run.attach(*plumbing.parent() + (first, more))
    agent.pids[pid] = run


class Spare(object):
    """A child forked ahead of the module run that it is for, so that nobody waits for the fork.

    A fresh child for every run all the same: it has run nothing, and serves one call or none. It is only used
    while what it was forked from is unchanged (the plan, the files that Freshness looks at).
    """

    SECONDS = 10.0
    has_pty = False
    # One write to an empty pipe never waits.
    CALL_MAX = 32768

    def __init__(self, agent, child, key):
        self.agent = agent
        self.child = child
        self.key = key
        self.deadline = time.time() + self.SECONDS
        self.orders = agent.pipe()
        self.verdict = agent.pipe()
        self.plumbing = PipePlumbing(agent)
        self.pid = os.fork()
        if self.pid == 0:
            in_child(agent, self, self.wait)
        agent.pids[self.pid] = self
        agent.close(self.verdict[1])
        self.ends = self.plumbing.parent()

    def become(self):
        """In the child: the descriptors of the run, the pipe that it waits on and the one for its end."""
        self.plumbing.become()
        self.agent.fds.discard(self.orders[0])
        self.agent.fds.discard(self.verdict[1])

    def wait(self):
        """In the child: get ready, then run what comes. The end of the pipe says that nothing will."""
        verdict = Verdict(self.verdict[1])
        self.child.enter(verdict)
        os.close(verdict.fd)
        self.child.prepare()
        size = self.take(4)
        if len(size) < 4:
            return 0
        body = unpack(self.take(struct.unpack('>I', size)[0]))
        os.close(self.orders[0])
        code = self.child.run(body)
        verdict.announce(code)
        return code

    def take(self, size):
        pieces = []
        while size > 0:
            piece = os.read(self.orders[0], size)
            if not piece:
                break
            size -= len(piece)
            pieces.append(piece)
        return EMPTY.join(pieces)

    def send(self, call):
        """Let it run."""
        os.write(self.orders[1], struct.pack('>I', len(call)) + call)
        self.agent.close(self.orders[1])

    def unread(self):
        """Once it has ended: whether it took less than the whole call, so that nothing of it has run."""
        left = os.read(self.orders[0], 1)
        self.agent.close(self.orders[0])
        return bool(left)

    def reaped(self, status):
        """It ended before it was used."""
        if self.agent.spare is self:
            self.drop()

    def drop(self):
        """Let it end, unused."""
        self.agent.spare = None
        stdin, outputs, has_pty = self.ends
        for fd in [stdin, self.verdict[0]] + list(self.orders) + list(outputs):
            self.agent.close(fd)


class Verdict(object):
    """The pipe that tells the agent how a module in a child forked ahead has ended: its wait status.

    Two processes as large as the agent, the module's and the shell's above it, take a millisecond each to be taken
    down. Nobody waits for that when the module's process has closed all that it had and has told its own end.
    """

    def __init__(self, fd):
        self.fd = fd
        self.holder = self.sender = None
        self.pipe = identity(fd)

    def enter(self):
        """In the module's process, which has lost the descriptor: a module shall not find it."""
        self.holder = os.getppid()
        self.sender = os.getpid()

    def announce(self, code):
        """In the module's process: its end. Of its own forks none may speak for it."""
        if self.sender != os.getpid():
            return
        try:
            # Another /proc may be mounted by now, or another process may have the number.
            fd = os.open('/proc/%d/fd/%d' % (self.holder, self.fd), os.O_WRONLY | os.O_NONBLOCK)
            if self.pipe == identity(fd):
                close_all_but(fd)
                tell_end(fd, code << 8)
        except OSError:
            pass  # its shell will tell


def identity(fd):
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def close_all_but(kept):
    """Close what this process has open: who waits for its output or its locks waits no longer."""
    for name in os.listdir('/proc/self/fd'):
        if int(name) != kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # that of the listing itself


def tell_end(fd, status):
    """Write how a module has ended; the first to do so counts."""
    os.write(fd, struct.pack('>H', status))


class SpareRun(Run):
    """A run in a child that was forked ahead. If that ends without having read its call, another is forked."""

    def __init__(self, agent, reply, spare, again):
        Run.__init__(self, agent, reply, True)
        self.spare = spare
        self.again = again
        self.words = EMPTY
        self.verdict = spare.verdict[0]
        set_nonblocking(self.verdict)
        agent.poller.watch(self.verdict, READ, self.on_verdict)
        self.attach(*spare.ends + (EMPTY, False))

    def cancel(self):
        self.again = None
        Run.cancel(self)

    def on_verdict(self, events):
        """The module has ended, and so its run; that its processes are taken down is not waited for."""
        data = read_some(self.verdict, 2)
        if data is None:
            return
        self.end_verdict()
        if data:
            status = struct.unpack('>H', data)[0]
            self.words = told_by_shell(status)
            self.ended(exit_code(status) << 8)

    def speak(self):
        """Say what a shell would say of the module's death, after what that has left in the pipe."""
        for fd in [fd for fd in self.outputs if self.outputs[fd] == STDERR]:
            if self.words and self.credit > 0:
                self.read(fd)
        if self.words and self.credit >= len(self.words):
            self.credit -= len(self.words)
            self.reply.send(STDERR, self.words, 0, True)
            self.words = EMPTY

    def on_credit(self):
        Run.on_credit(self)
        self.finish()

    def finish(self):
        self.speak()
        if not self.words:
            Run.finish(self)

    def end_verdict(self):
        self.agent.poller.forget(self.verdict)
        self.agent.close(self.verdict)
        self.verdict = None

    def reaped(self, status):
        if self.verdict is not None:
            # What it told before its end may not have been looked at yet.
            self.on_verdict(READ)
        if self.verdict is not None:
            self.end_verdict()
        if self.spare is not None:
            self.ended(status)

    def ended(self, status):
        spare, self.spare = self.spare, None
        if spare.unread() and self.again:
            self.input.close()
            for fd in list(self.outputs):
                self.end_output(fd)
            self.done()
            self.agent.guard(self.reply, self.again)
            return
        Run.reaped(self, status)


def use_spare(agent, spare, reply, body, again):
    """Hand a call to the child forked ahead; false if it has to be forked after all, which again() does."""
    call = pack(body)
    if len(call) > spare.CALL_MAX:
        return False
    announce(reply)
    spare.send(call)
    agent.spare = None
    agent.pids[spare.pid] = SpareRun(agent, reply, spare, again)
    return True


def in_child(agent, plumbing, child):
    """Become the child: own session, own descriptors, signals as a new process has them. Never returns."""
    code = 255
    try:
        if agent.own_session or plumbing.has_pty:
            os.setsid()
        plumbing.become()
        agent.leave()
        code = child()
    finally:
        os._exit(code)


def below_shell(verdict=None):
    """Go on in a child, as stock's interpreter does below a shell that leads session and group and waits.

    What a module does to its parent, its group or itself then ends in what it ends in there. With a verdict,
    the agent says on stderr what the shell would say, so that only the module's process has the outputs.
    """
    try:
        pid = os.fork()
    except OSError:
        os.write(2, latin('/bin/sh: 1: Cannot fork\n'))
        os._exit(2)
    if pid == 0:
        if verdict is not None:
            verdict.enter()
        return
    try:
        for number in (signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if verdict is not None:
            for fd in (0, 1, 2):
                os.close(fd)
        status = os.waitpid(pid, 0)[1]
        code = exit_code(status)
        if verdict is None:
            os.write(2, told_by_shell(status))
        else:
            tell_end(verdict.fd, status)
    except:  # noqa: E722
        code = 255
    os._exit(code)


def told_by_shell(status):
    """What a shell writes to stderr when its command has ended so."""
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) in (signal.SIGINT, signal.SIGPIPE):
        return EMPTY
    return latin('%s\n' % signal_words(status))


class PipePlumbing(object):
    """Three pipes, as sshd gives a command without a terminal."""

    has_pty = False

    def __init__(self, agent):
        self.agent = agent
        self.stdin, self.stdout, self.stderr = agent.pipe(), agent.pipe(), agent.pipe()

    def become(self):
        os.dup2(self.stdin[0], 0)
        os.dup2(self.stdout[1], 1)
        os.dup2(self.stderr[1], 2)

    def parent(self):
        for fd in (self.stdin[0], self.stdout[1], self.stderr[1]):
            self.agent.close(fd)
        return self.stdin[1], {self.stdout[0]: STDOUT, self.stderr[0]: STDERR}, False


class PtyPlumbing(object):
    """A controlling terminal on all three, as sshd gives a command run with -tt."""

    has_pty = True

    def __init__(self, agent, body):
        self.agent = agent
        self.typed = bool(body.get('stdin') or body.get('stdin_more'))
        self.term = body.get('term', latin('xterm'))
        self.master, self.slave = os.openpty()
        agent.own(self.master)
        agent.own(self.slave)

    def become(self):
        import termios
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
        os.environ['TERM'] = native(self.term)
        os.environ['SSH_TTY'] = os.ttyname(self.slave)
        for fd in (0, 1, 2):
            os.dup2(self.slave, fd)

    def parent(self):
        self.agent.close(self.slave)
        stdin = None
        if self.typed:
            stdin = self.agent.own(os.dup(self.master))
        return stdin, {self.master: STDOUT}, True


def locale_is_coerced():
    """Whether this Python has put LC_CTYPE into its own environment (PEP 538); a login shell would not have it."""
    if 'LC_CTYPE' not in os.environ:
        return False
    try:
        fd = os.open('/proc/self/environ', os.O_RDONLY)
    except OSError:
        return False
    pieces = [latin('\0')]
    while pieces[-1]:
        pieces.append(os.read(fd, CHUNK_MAX))
    os.close(fd)
    return latin('\0LC_CTYPE=') not in EMPTY.join(pieces)


def command_child(agent, body):
    """Function that turns the child into the command: through the login shell, or argv as it is."""
    argv = body.get('argv')
    if argv is None:
        # sshd has put the login shell here; asking the name service is the children's business.
        shell = ENVIRON.get(same_type(ENVIRON, 'SHELL')) or same_type(ENVIRON, '/bin/sh')
        argv = [shell.split(same_type(ENVIRON, '/'))[-1], latin('-c'), body['command']]
        path = shell
    else:
        path = argv[0]

    def child():
        for number in (signal.SIGPIPE, getattr(signal, 'SIGXFSZ', signal.SIGPIPE)):
            # Python ignores these two; a program must not inherit that.
            signal.signal(number, signal.SIG_DFL)
        agent.uncoerce()
        add_environment(body.get('env'))
        try:
            if body.get('cwd'):
                os.chdir(body['cwd'])
            os.execvp(path, argv)
        except OSError:
            error = sys.exc_info()[1]
            os.write(2, as_bytes('fatline: %s: %s\n' % (native(path), error.strerror)))
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return 127
            return 126
    return child


def same_type(mapping, text):
    """A literal in the type of os.environ's or os.environb's keys."""
    if mapping is os.environ:
        return text
    return latin(text)


def add_environment(env):
    for key in (env or {}):
        ENVIRON[key] = env[key]


def parse_exec(frame):
    """Body of an EXEC; the mux has cut the blob names out and left a zero count."""
    try:
        count = struct.unpack('>H', frame.payload[:2])[0]
        body = unpack(frame.payload[2 + 32 * count:])
    except (struct.error, ValueError):
        raise Refusal(MALFORMED, 'EXEC: %s' % sys.exc_info()[1])
    if not isinstance(body, dict):
        raise Refusal(MALFORMED, 'EXEC: the body is not a map')
    return dict([(native(key), body[key]) for key in body])


def check_command(body):
    argv = body.get('argv')
    if not isinstance(body.get('env', {}), dict):
        raise Refusal(MALFORMED, 'EXEC: env is not a map')
    if argv is None:
        if not isinstance(body.get('command'), bytes_type):
            raise Refusal(MALFORMED, 'EXEC: command mode needs command or argv')
        if not os.path.isdir(os.path.expanduser('~')):
            raise Refusal(UNSUPPORTED, 'no home directory')  # sshd has words for that
    elif not argv or [word for word in argv if not isinstance(word, bytes_type)]:
        raise Refusal(MALFORMED, 'EXEC: argv is a list of one or more byte strings')


# ---- blobs and zips -----------------------------------------------------------------------------------


def sha256(data):
    """Digest, or None on a Python without it (systems fact 24). The small module first: less to import."""
    for name in ('_sha2', '_sha256', 'hashlib'):
        try:
            return __import__(name).sha256(data).digest()
        except ImportError:
            pass
    return None


class Blobs(object):
    """Immutable bytes by their SHA-256. Only the mux evicts (systems fact 30)."""

    def __init__(self):
        self.whole = {}
        self.partial = {}

    def add(self, name, total, offset, piece):
        """Take one piece; true when the blob is complete. ValueError for a piece that does not fit."""
        pieces, have = self.partial.pop(name, ([], 0))
        if total > BLOB_MAX or offset not in (0, have) or offset + len(piece) > total:
            raise ValueError('the pieces of a blob do not fit together')
        if offset == 0:
            pieces, have = [], 0
        pieces.append(piece)
        have += len(piece)
        if have < total:
            self.partial[name] = (pieces, have)
            return False
        data = EMPTY.join(pieces)
        if sha256(data) not in (name, None):
            raise ValueError('a blob is not what its name says')
        self.whole[name] = data
        return True

    def drop(self, names):
        for at in range(0, len(names), 32):
            self.whole.pop(names[at:at + 32], None)
            self.partial.pop(names[at:at + 32], None)


class Entry(object):
    """One file of a payload's zip: a row of the manifest."""

    def __init__(self, row):
        (self.path, self.blob, self.crc, self.compressed, self.inflated, self.method, self.external, self.date,
         self.warm) = row
        # zipimport wants a str; on Python 2 that is bytes.
        self.path = native(self.path)
        self.is_package = self.path.endswith('/__init__.py')
        # What zipimport looks up before it adds a suffix.
        self.stem = self.path[:-3]
        if self.is_package:
            self.stem = self.path[:-12]
        self.module = None
        if self.path.endswith('.py'):
            self.module = self.stem.replace('/', '.')

    def source(self, blobs):
        data = blobs.whole[self.blob]
        if self.method:
            data = zlib.decompress(data, -15)
        return data


class Manifest(object):
    """What is in a payload's zip, and the zip itself, rebuilt byte for byte."""

    def __init__(self, name, data):
        self.name = name
        self.entries = [Entry(row) for row in unpack(data)]
        self.modules = {}
        self.files = {}
        for entry in self.entries:
            if entry.module:
                self.modules[entry.module] = entry
            if entry.module and (entry.is_package or entry.stem not in self.files):
                self.files[entry.stem] = entry
        self.built = None

    def blob_of(self, module):
        entry = self.modules.get(module)
        if entry is None:
            return None
        return entry.blob

    def zip_parts(self, blobs, date):
        """What build_zip() gives: cached, since the items of a loop differ in nothing but their parameters."""
        if self.built is None or self.built[0] != date:
            self.built = (date, build_zip(self.entries, blobs, date))
        return self.built[1]


LOCAL_ENTRY = '<4s5H3L2H'
CENTRAL_ENTRY = '<4s6H3L5H2L'
END_ENTRY = '<4s4H2LH'
CREATED_BY_UNIX = 3 << 8 | 20
UTF8_NAME = 0x800


def dos_time(date):
    year, month, day, hour, minute, second = date
    return hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day


def zip_entry(path, date, method, crc, compressed, inflated, external, at):
    """Local header and directory record of one file, as Python's zipfile writes them."""
    name = as_bytes(path)
    if isinstance(path, bytes_type):
        path = path.decode('utf-8')
    flags = 0
    if len(path) != len(name):
        flags = UTF8_NAME
    clock, day = dos_time(date)
    common = (method, clock, day, crc, compressed, inflated, len(name), 0)
    local = struct.pack(LOCAL_ENTRY, latin('PK\3\4'), 20, flags, *common) + name
    central = struct.pack(CENTRAL_ENTRY, latin('PK\1\2'), CREATED_BY_UNIX, 20, flags,
                          *common + (0, 0, 0, external, at)) + name
    return local, central


def build_zip(entries, blobs, date):
    """(files, directory, places): places is what zipimport wants to know of each file."""
    body, directory, places, at = [], [], [], 0
    for entry in entries:
        local, central = zip_entry(entry.path, entry.date or date, entry.method, entry.crc, entry.compressed,
                                   entry.inflated, entry.external, at)
        body.append(local)
        body.append(blobs.whole[entry.blob])
        directory.append(central)
        places.append((entry.path, entry.method, entry.compressed, entry.inflated, at)
                      + dos_time(entry.date or date) + (entry.crc,))
        at += len(local) + entry.compressed
    return EMPTY.join(body), EMPTY.join(directory), places


def complete_zip(parts, site, site_date):
    """The pieces of the whole zip, with the sitecustomize.py that the wrapper adds."""
    body, directory, places = parts
    count = len(places) + 1
    local, central = zip_entry('sitecustomize.py', site_date, 0, zlib.crc32(site) & 0xFFFFFFFF, len(site), len(site),
                               SITE_ATTRIBUTES, len(body))
    end = struct.pack(END_ENTRY, latin('PK\5\6'), 0, 0, count, count, len(directory) + len(central),
                      len(body) + len(local) + len(site), 0)
    return [body, local, site, directory, central, end]


def site_place(site, site_date, parts):
    return ('sitecustomize.py', 0, len(site), len(site), len(parts[0])) + dos_time(site_date) + (
        zlib.crc32(site) & 0xFFFFFFFF,)


# ---- warm modules -------------------------------------------------------------------------------------

# Packages whose code looks around on sys.path (pkgutil.extend_path): an empty one stands in the parent, and
# every child runs the code of its own zip in it.
SHELLS = ('ansible', 'ansible.module_utils')
ROOTS = ('ansible', 'ansible_collections')

# Stands for the path of a payload's zip in what the parent holds.
ARCHIVE = '/fatline.zip'

# What the parent may import ahead for a module: nothing that reads configuration, asks the name service, warns
# or starts anything when imported.
AHEAD = set("""abc argparse ast base64 binascii bisect calendar codecs collections configparser contextlib copy csv
    datetime decimal difflib errno fcntl filecmp fileinput fnmatch functools getpass glob grp gzip hashlib heapq hmac
    io itertools json locale logging math mimetypes numbers operator os pickle platform pprint pwd queue random re
    resource select selectors shlex shutil signal socket stat string struct subprocess syslog tarfile tempfile
    termios textwrap threading time traceback types typing unicodedata uuid warnings zipfile zlib""".split())


class Unreadable(Exception):
    """Bytecode whose imports this agent cannot tell; the module stays cold."""


class Foreign(BaseException):
    """An import that must not happen in the parent. No "except ImportError" of a module may take it for absence."""


def import_sites(code, nested):
    """(level, names, module) of every import statement of a code object, and of what is nested in it."""
    import opcode
    number = opcode.opmap['IMPORT_NAME']
    found = []
    waiting = [code]
    while waiting:
        code = waiting.pop()
        if nested:
            waiting.extend([const for const in code.co_consts if hasattr(const, 'co_code')])
        if struct.pack('B', number) in code.co_code:
            last = [None, None]
            for name, value in loads_and_imports(code, opcode):
                if name != 'IMPORT_NAME':
                    last = [last[1], (value,)]
                    continue
                if None in last or not isinstance(last[0][0], int_types):
                    raise Unreadable
                found.append((last[0][0], last[1][0] or (), code.co_names[value]))
                last = [None, None]
    return found


def loads_and_imports(code, opcode):
    """(opcode name, value) of the instructions that load constants or import."""
    data, extended, at = code.co_code, 0, 0
    while at < len(data):
        number = byte_at(data, at)
        name = opcode.opname[number]
        argument = None
        if WORDCODE:
            argument = byte_at(data, at + 1) | extended << 8
            at += 2
        elif number >= opcode.HAVE_ARGUMENT:
            argument = byte_at(data, at + 1) | byte_at(data, at + 2) << 8 | extended << 16
            at += 3
        else:
            at += 1
        extended = 0
        if name == 'EXTENDED_ARG':
            extended = argument
        elif name == 'LOAD_CONST':
            yield name, code.co_consts[argument]
        elif name == 'LOAD_SMALL_INT':
            yield name, argument
        elif name == 'IMPORT_NAME':
            yield name, argument


def mentioned(code, entry, nested):
    """Full names of ansible's modules that the code of entry may import, as far as it says so."""
    package = entry.module
    if not entry.is_package:
        package = parent_of(package)
    names = set()
    for level, tail, target in import_sites(code, nested):
        bases = [target]
        if level > 0:
            bases = ['.'.join(package.split('.')[:len(package.split('.')) - level + 1] + [target]).strip('.')]
        elif level < 0:
            bases.append(package + '.' + target)
        for base in bases:
            if base.split('.')[0] in ROOTS:
                parts = base.split('.')
                names.update(['.'.join(parts[:end]) for end in range(1, len(parts) + 1)])
                names.update([base + '.' + name for name in tail])
            elif not nested:
                names.add(base)
    return names


class Warm(object):
    """The modules that the parent holds for its children, and the rule by which a child may keep them.

    A module is kept for a payload only if the payload's zip has the same content under its name, and the same holds
    for everything that its code mentions, directly or through others: same content, or absent in both (ansible
    fact 6: an equal hash is not enough, because an optional import may be missing from this zip).
    """

    CODES_MAX = 600
    PLANS_MAX = 64

    def __init__(self, blobs):
        self.blobs = blobs
        self.loaded = {}
        self.seen = {}
        self.fixups = {}
        self.codes = {}
        self.running = {}
        self.mentions = {}
        self.plans = {}
        self.settled = None
        self.elsewhere = [path for path in sys.path if path and os.path.isdir(os.path.join(path, 'ansible'))]

    def code(self, entry):
        """Compiled code of a file, by content. The name in it is replaced in the child."""
        code = self.codes.get(entry.blob)
        if code is None:
            if len(self.codes) > self.CODES_MAX:
                self.codes.clear()
            code = compile(entry.source(self.blobs), ARCHIVE + '/' + entry.path, 'exec', 0, 1)
            self.codes[entry.blob] = code
        return code

    def mentions_of(self, entry):
        """Names that the module's code may import; None if that cannot be told."""
        key = (entry.module, entry.blob)
        if key not in self.mentions:
            if len(self.mentions) > self.CODES_MAX:
                self.mentions.clear()
            try:
                self.mentions[key] = mentioned(self.code(entry), entry, True)
            except (Unreadable, SyntaxError, ValueError, IndexError):
                self.mentions[key] = None
        return self.mentions[key]

    def kept(self, manifest):
        """Names of the warm modules that a payload may keep."""
        keep = set([name for name in self.loaded
                    if manifest.blob_of(name) == self.loaded[name] and self.fixups[name] is not None])
        removed = True
        while removed:
            removed = [name for name in keep if not self.may_keep(name, keep, manifest)]
            keep.difference_update(removed)
        return keep

    def is_foreign_to(self, manifest):
        """Whether what is warm came with another ansible-core: it may have patched the standard library here."""
        name = 'ansible.module_utils.basic'
        return name in self.loaded and manifest.blob_of(name) not in (None, self.loaded[name])

    def may_keep(self, name, keep, manifest):
        for other in self.seen[name]:
            if other in self.loaded and other not in keep:
                return False
            if manifest.blob_of(other) != self.seen[name][other]:
                return False
        return parent_of(name) in keep or parent_of(name) in SHELLS

    def plan(self, manifest, main, profile):
        """(plan, whether it is new): how a child makes the warm modules its own."""
        key = (manifest.name, main)
        plan = self.plans.get(key)
        if self.settled is not None and self.settled is not plan:
            self.settled.unsettle()
            self.settled = None
        if plan is not None:
            return plan, False
        self.warm(manifest, main, profile)
        if len(self.plans) >= self.PLANS_MAX:
            self.plans.clear()
        self.plans[key] = Plan(self, manifest, self.kept(manifest))
        return self.plans[key], True

    def warm(self, manifest, main, profile):
        """Import what the payload will import first, as far as it is ansible-core's own."""
        names = ['ansible.module_utils.basic', 'ansible.module_utils._internal._ansiballz._loader']
        for way in ('c2m', 'm2c'):
            # Named by the payload's profile, so no import statement mentions these two.
            names.append('ansible.module_utils._internal._json._profiles._module_%s_%s' % (profile, way))
        for entry in self.cold_reachable(manifest, main):
            names.extend(sorted(self.top_level(entry)))
        hidden = self.hide(self.kept(manifest))
        for name in names:
            entry = manifest.modules.get(name)
            if name in sys.modules or (name not in AHEAD and (entry is None or not entry.warm)):
                continue
            self.import_quietly(name, manifest)
        self.unhide(hidden)

    def hide(self, keep):
        """Take out of sight what this payload's zip has not, or has with another content."""
        hidden = {}
        for name in self.loaded:
            if name not in keep:
                hidden[name] = detach(name)
        return hidden

    def unhide(self, hidden):
        # A package before what is in it: a module's own imports are noted before it.
        for name in sorted(hidden):
            attach(name, hidden[name])

    def top_level(self, entry):
        try:
            return mentioned(self.code(entry), entry, False)
        except (Unreadable, SyntaxError, ValueError, IndexError):
            return ()

    def cold_reachable(self, manifest, main):
        """The module itself and the files it leads to that must not be imported here: compiled ahead, not run."""
        found = []
        waiting = [main]
        done = set()
        while waiting:
            name = waiting.pop()
            entry = manifest.modules.get(name)
            if entry is None or name in done or name in SHELLS or (entry.warm and name != main):
                continue
            done.add(name)
            found.append(entry)
            waiting.extend(self.mentions_of(entry) or ())
        return found

    def import_quietly(self, name, manifest):
        """Import; whatever goes wrong goes wrong again in the child, where the module's author expects it."""
        finder = WarmFinder(self, manifest)
        before = set(self.loaded)
        for shell in SHELLS:
            if shell not in sys.modules:
                stand_in(shell)
        sys.meta_path.insert(0, finder)
        try:
            try:
                __import__(name)
            except (Exception, Foreign):
                # Others may be bound to what failed half-way.
                for other in set(self.loaded) - before:
                    detach(other)
                    del self.loaded[other], self.seen[other], self.fixups[other]
        finally:
            sys.meta_path.remove(finder)
        if set(self.loaded) - before:
            self.plans.clear()

    def note(self, entry, manifest, module):
        if entry.module == 'ansible.module_utils.basic':
            ease_spawning(module)
        self.loaded[entry.module] = entry.blob
        self.fixups[entry.module] = []
        if sys.modules.get(entry.module) is module:
            self.fixups[entry.module] = archive_names(module)
        seen = {}
        for other in self.mentions_of(entry):
            seen[other] = manifest.blob_of(other)
        for shell in SHELLS:
            seen.pop(shell, None)
        self.seen[entry.module] = seen


def ease_spawning(basic):
    """Let run_command() start commands by vfork, as subprocess does where it has nothing to run in between.

    run_command() hands it a function that sets a umask if it was given one, and else (on Python 3) does nothing. For
    that subprocess copies the page tables of the whole interpreter, and each page that is written to later: half of
    the time that the command module takes. A function that would do nothing is therefore left out.
    """
    idle = [code for code in basic.AnsibleModule.run_command.__code__.co_consts
            if getattr(code, 'co_name', None) == 'preexec' and 'umask' in code.co_freevars
            and set(code.co_names) <= set(['_restore_signal_handlers', 'os', 'umask'])]
    if not idle or sys.version_info < (3, 10):
        return
    holder, name = sys.modules['subprocess'], '_fork_exec'
    if not hasattr(holder, name):
        holder, name = holder._posixsubprocess, 'fork_exec'
    fork_exec = getattr(holder, name)

    def needed(argument):
        if getattr(argument, '__code__', None) is idle[0]:
            cells = dict(zip(idle[0].co_freevars, argument.__closure__))
            if not cells['umask'].cell_contents:
                return None
        return argument

    def spawn(*arguments):
        return fork_exec(*map(needed, arguments))

    setattr(holder, name, spawn)


def archive_names(module):
    """Global names whose value was made from the path of the zip; None if it went where it cannot be replaced."""
    found = []
    for name in module.__dict__:
        value = module.__dict__[name]
        if holds_archive(value):
            if name not in ('__file__', '__cached__', '__builtins__'):
                found.append(name)
            continue
        inside = ()
        if isinstance(value, dict):
            inside = value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            inside = value
        elif isinstance(value, type) and value.__module__ == module.__name__:
            inside = value.__dict__.values()
        if name not in ('__builtins__', '__path__') and [item for item in inside if holds_archive(item)]:
            return None
    return found


def holds_archive(value):
    """Whether a text or a path (which knows how to be a file name) begins where the parent's zip would be."""
    if hasattr(type(value), '__fspath__'):
        value = str(value)
    return isinstance(value, str) and ARCHIVE in value


def parent_of(name):
    return name[:max(name.rfind('.'), 0)]


def detach(name):
    """Remove a module from sight: from sys.modules and from its package."""
    module = sys.modules.pop(name, None)
    for other in [other for other in sys.modules if other.startswith(name + '.moves')]:
        # six puts modules that no file stands for below its own name.
        del sys.modules[other]
    package = sys.modules.get(parent_of(name))
    if module is not None and getattr(package, name.split('.')[-1], None) is module:
        delattr(package, name.split('.')[-1])
    return module


def attach(name, module):
    package = sys.modules.get(parent_of(name))
    if module is not None and package is not None:
        sys.modules[name] = module
        setattr(package, name.split('.')[-1], module)


def stand_in(name):
    """An empty package in sys.modules; the child fills it from its zip."""
    module = type(sys)(name)
    module.__path__ = [ARCHIVE + '/' + name.replace('.', '/')]
    module.__file__ = module.__path__[0] + '/__init__.py'
    if ModuleSpec is not None:
        module.__package__ = name
        module.__cached__ = module.__path__[0] + '/__pycache__/__init__.%s.pyc' % sys.implementation.cache_tag
        as_zipimport_leaves_it(module)
    sys.modules[name] = module
    if parent_of(name):
        setattr(sys.modules[parent_of(name)], name.split('.')[-1], module)


class WarmFinder(object):
    """Serves ansible-core's own files from blobs during one warm-up, and nothing else under ansible's names."""

    def __init__(self, warm, manifest):
        self.warm = warm
        self.manifest = manifest

    def entry(self, name):
        if name.split('.')[0] not in ROOTS:
            return None
        entry = self.manifest.modules.get(name)
        if entry is None:
            package = sys.modules.get(parent_of(name))
            if getattr(package, '__path__', None) and self.warm.elsewhere:
                # A child would look for it in the ansible that is installed here.
                raise Foreign(name)
            return None
        if not entry.warm or not name.startswith('ansible.module_utils.') or name in self.warm.loaded:
            raise Foreign(name)
        if self.warm.mentions_of(entry) is None:
            raise Foreign(name)
        return entry

    def find_spec(self, name, path=None, target=None):
        entry = self.entry(name)
        if entry is not None:
            return payload_spec(entry, ARCHIVE, self)

    def find_module(self, name, path=None):
        if self.entry(name) is not None:
            return self

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        entry = self.manifest.modules[module.__name__]
        as_zipimport_leaves_it(module)
        code = self.warm.running[entry.module] = self.warm.code(entry)
        exec(code, module.__dict__)
        self.warm.note(entry, self.manifest, module)

    def load_module(self, name):
        return load_module(self, name, self.manifest.modules[name], ARCHIVE)


def load_module(loader, name, entry, archive):
    """Import protocol of Python 2."""
    module = sys.modules.setdefault(name, type(sys)(name))
    module.__loader__ = loader
    module.__file__ = archive + '/' + entry.path
    module.__package__ = None
    if entry.is_package:
        module.__path__ = [os.path.dirname(module.__file__)]
    try:
        loader.exec_module(module)
    except Exception:
        sys.modules.pop(name, None)
        raise
    return sys.modules[name]


def payload_spec(entry, archive, loader):
    """The spec that zipimport would make for a file of the archive."""
    spec = ModuleSpec(entry.module, loader, origin=archive + '/' + entry.path, is_package=entry.is_package)
    spec._set_fileattr = True
    if entry.is_package:
        spec.submodule_search_locations.append(os.path.dirname(spec.origin))
    return spec


def as_zipimport_leaves_it(module):
    """__cached__ comes with specs; zipimport loads modules in the old way up to Python 3.9."""
    import zipimport
    if not hasattr(zipimport.zipimporter, 'exec_module'):
        module.__dict__.pop('__cached__', None)


# What says of a module where it is from.
ORIGIN = ('__file__', '__path__', '__cached__', '__loader__', '__spec__')


class Plan(object):
    """What a child does to the parent's modules before it runs one payload; made once, used per fork."""

    def __init__(self, warm, manifest, keep):
        self.manifest = manifest
        self.keep = [manifest.modules[name] for name in sorted(keep)]
        self.running = warm.running
        self.fixups = [(name, warm.fixups[name]) for name in keep if warm.fixups[name]]
        self.drop = [name for name in warm.loaded if name not in keep]
        self.codes = {}
        for entry in manifest.entries:
            # The codes of kept modules are in use already, and the shells are run by every child.
            if entry.module and entry.module not in keep:
                if entry.module in SHELLS or entry.blob in warm.codes:
                    self.codes[entry.module] = warm.code(entry)
        self.directories = set([os.path.dirname(entry.stem) for entry in manifest.entries if entry.module])
        self.functions = ()
        if fix_filename is None:
            self.functions = functions_of_archive()
        self.settled = None
        self.origins = []

    def settle(self, archive, places):
        """In the parent: do now, once, what every child would do to a fifth of its memory. It can be undone.

        The kept modules get the origin that the zips of the next runs will have, if they find its path free.
        """
        self.origins = []
        for entry in self.keep:
            names = sys.modules[entry.module].__dict__
            self.origins.append((names, dict([(name, names[name]) for name in ORIGIN if name in names])))
        self.importers = self.importers_of(archive, places)
        self.move(archive, ARCHIVE)
        self.settled = archive

    def unsettle(self):
        import zipimport
        zipimport._zip_directory_cache.pop(self.settled, None)
        self.settled = None
        for names, origin in self.origins:
            names.update(origin)
        for entry in self.keep:
            fix_filename(self.running[entry.module], ARCHIVE + '/' + entry.path)

    def importers_of(self, archive, places):
        """The importer of each directory in the zip."""
        import zipimport
        files = zipimport._zip_directory_cache[archive] = listing(archive, places)
        importers = {'': new_importer(importer_class(zipimport, self), archive, files)}
        for directory in self.directories:
            if directory:
                importers[directory] = importers[''].within(archive, directory)
        return importers

    def move(self, archive, before):
        for entry in self.keep:
            rebind(sys.modules[entry.module], entry, archive, self.importers, before)
            if fix_filename is not None:
                fix_filename(self.running[entry.module], archive + '/' + entry.path)

    def apply(self, archive, places, before):
        """In the child: this zip becomes the origin of what is kept, everything else is gone.

        before is what stands for the zip's path until now.
        """
        import zipimport
        if self.settled != archive:
            zipimport._zip_directory_cache.pop(self.settled, None)
            self.importers = self.importers_of(archive, places)
        else:
            # Another zip of this kind: the same files, of another date.
            zipimport._zip_directory_cache[archive].update(listing(archive, places))
        for directory in self.importers:
            sys.path_importer_cache[(archive + '/' + directory).rstrip('/')] = self.importers[directory]
        for name in self.drop:
            detach(name)
        if self.settled != archive:
            self.move(archive, self.settled or before)
        self.settled = None
        for function, code in self.functions:
            function.__code__ = renamed(code, code.co_filename.replace(ARCHIVE, archive))
        for name in SHELLS:
            self.fill(name, archive, before)
        for name, globals_made in self.fixups:
            names = sys.modules[name].__dict__
            for made in globals_made:
                names[made] = type(names[made])(str(names[made]).replace(before, archive))

    def fill(self, name, archive, before):
        """Run a shell package's own code in it, so that what is bound to it stays bound."""
        module = sys.modules.get(name)
        entry = self.manifest.modules.get(name)
        if entry is None or module is None:
            sys.modules.pop(name, None)
            return
        rebind(module, entry, archive, self.importers, before)
        exec(under_name(self.codes[name], module.__file__), module.__dict__)


def under_name(code, name):
    """A code object for a file of that name: the same one, where this Python can rename it."""
    if fix_filename is None:
        return renamed(code, name)
    fix_filename(code, name)
    return code


def renamed(code, name):
    """A copy of a code object, and of those nested in it, under another file name."""
    kind = type(code)
    consts = code.co_consts
    for at in range(len(consts)):
        if type(consts[at]) is kind:
            consts = consts[:at] + (renamed(consts[at], name),) + consts[at + 1:]
    return kind(code.co_argcount, code.co_nlocals, code.co_stacksize, code.co_flags, code.co_code, consts,
                code.co_names, code.co_varnames, name, code.co_name, code.co_firstlineno, code.co_lnotab,
                code.co_freevars, code.co_cellvars)


def functions_of_archive():
    """(function, its code) for every function that has come from the parent's zip, methods and closures too."""
    import gc
    kind = type(renamed)
    return [(found, found.__code__) for found in gc.get_objects()
            if type(found) is kind and found.__code__.co_filename.startswith(ARCHIVE)]


def listing(archive, places):
    """The zip's directory as zipimport would read it, which costs it a millisecond."""
    files = {}
    for path, method, compressed, inflated, at, clock, day, crc in places:
        files[path] = (archive + '/' + path, method, compressed, inflated, at, clock, day, crc)
    return files


def new_importer(kind, archive, files):
    """kind(archive), but without a look at the zip where zipimport is Python: it may not be there yet."""
    if not waits_for_zip():
        return kind(archive)
    importer = kind.__new__(kind)
    importer.__dict__.update({'archive': archive, 'prefix': '', '_files': files})
    return importer


def waits_for_zip():
    """Whether importers can be made before their zip is: zipimport is written in Python from 3.8 on."""
    import zipimport
    return hasattr(zipimport, '_read_directory')


def rebind(module, entry, archive, importers, before):
    """Make this zip the module's origin (ansible fact 5: getsource, importlib.resources and respawn look there)."""
    if module.__name__ != entry.module:
        return  # it has put another module in its place, as distro does
    loader = importers[os.path.dirname(entry.stem)]
    module.__loader__ = loader
    module.__file__ = archive + '/' + entry.path
    if hasattr(module, '__path__'):
        module.__path__ = [path.replace(before, archive) for path in module.__path__]
    if ModuleSpec is not None:
        spec = payload_spec(entry, archive, loader)
        if entry.is_package:
            # A package may have changed where its modules are looked for; six does.
            spec.submodule_search_locations = module.__path__
        module.__spec__ = spec
        if hasattr(module, '__cached__'):
            spec.cached = module.__cached__ = module.__cached__.replace(before, archive)


def importer_class(zipimport, plan):
    """zipimport's importer for the payload's zip, with the parent's compiled code.

    What has no such code is left to the genuine importer, and what is overridden is what is not under way while
    a module runs: an import that fails tells of stock's frames. Up to Python 3.7 load_module is, being C in stock.
    """
    zipimporter = zipimport.zipimporter

    def module_code(importer, name):
        entry = importer.compiled(name)
        if entry is None:
            return zipimport._get_module_code(importer, name)
        return importer.get_code(name), entry.is_package, importer.archive + '/' + entry.path

    class PayloadImporter(zipimporter):

        def within(self, archive, directory):
            """The importer of a directory, without reading the zip's directory again."""
            if 'archive' not in self.__dict__:
                return PayloadImporter(archive + '/' + directory)
            other = PayloadImporter.__new__(PayloadImporter)
            other.__dict__.update(self.__dict__)
            other.prefix = directory + '/'
            return other

        def entry_of(self, name):
            entry = plan.manifest.modules.get(name)
            if entry is not None and self.prefix + name.split('.')[-1] == entry.stem:
                return entry

        def file_of(self, name):
            """By zipimport's own rule, for pkgutil.extend_path: it asks for the last part of a name only."""
            return plan.manifest.files.get(self.prefix + name.split('.')[-1])

        def compiled(self, name):
            """The entry of a module whose code is there."""
            entry = self.entry_of(name)
            if entry is not None and entry.module in plan.codes:
                return entry

        def loader_of(self, name):
            """Itself for what it has code of, and for what only looks whether there is something."""
            if self.compiled(name) is not None or self.entry_of(name) is None:
                return self
            return zipimporter(self.archive + '/' + self.prefix)

        def find_spec(self, name, target=None):
            entry = self.entry_of(name) or self.file_of(name)
            if entry is not None:
                spec = payload_spec(entry, self.archive, self.loader_of(name))
                spec.name = name
                return spec
            if hasattr(zipimporter, 'find_spec'):
                return zipimporter.find_spec(self, name, target)

        def get_code(self, name):
            entry = self.compiled(name)
            if entry is None:
                return zipimporter.get_code(self, name)
            return under_name(plan.codes[entry.module], self.archive + '/' + entry.path)

        if not waits_for_zip():

            def find_module(self, name, path=None):
                found = zipimporter.find_module(self, name, path)
                if found is not None:
                    return self.loader_of(name)

            def load_module(self, name):
                entry = self.compiled(name)
                if entry is None:
                    return zipimporter.load_module(self, name)
                return load_module(self, name, entry, self.archive)

            def create_module(self, spec):
                return None

            def exec_module(self, module):
                as_zipimport_leaves_it(module)
                exec(self.get_code(module.__name__), module.__dict__)

        elif not hasattr(zipimporter, 'exec_module'):
            # Python 3.8 and 3.9: its own code, with another way to find a module's.
            load_module = type(module_code)(zipimporter.load_module.__code__,
                                            dict(zipimport.__dict__, _get_module_code=module_code))

    PayloadImporter.__name__ = zipimporter.__name__
    return PayloadImporter


# ---- the module's child -------------------------------------------------------------------------------

# Read by the interpreter or the C library before any Python code runs (ansible fact 9).
STARTUP_PREFIXES = ('PYTHON', 'LC_', 'LANG', 'LD_', 'GLIBC_', 'MALLOC_', 'OPENSSL_', 'LOCPATH', 'GCONV_PATH', 'NLSPATH')
STARTUP_NAMES = ('HOME',)
FAMILIES = (214, 219, 222)
if sys.version_info < (3, 7):
    FAMILIES = (214,)  # of the others the wrapper itself is a syntax error, and stock tells of that

# Whether sh becomes the one command that it is given, as bash does, or waits for it, as dash does.
SHELL_EXECUTES = os.path.basename(os.path.realpath('/bin/sh')) == 'bash'


def check_module(agent, body):
    """Refuse what this agent cannot run as stock would; nothing has been touched yet."""
    if native(body.get('interpreter', '')) != agent.interpreter:
        raise Refusal(UNSUPPORTED, 'this agent is %s, the payload wants %s'
                      % (agent.interpreter, native(body.get('interpreter', ''))))
    if body.get('family') not in FAMILIES:
        raise Refusal(UNSUPPORTED, 'payload family %r does not run here' % body.get('family'))
    for name in (body.get('env') or {}):
        name = native(name.decode('latin-1'))
        if name in STARTUP_NAMES or name.startswith(STARTUP_PREFIXES):
            raise Refusal(UNSUPPORTED, '%s is read when an interpreter starts' % name)
    for key in ('module', 'fqn', 'profile', 'site'):
        if not isinstance(body.get(key), text_type):
            raise Refusal(MALFORMED, 'EXEC: %s is not text' % key)
        body[key] = native(body[key])
    for key, size in (('date', 6), ('site_date', 6), ('lines', 6)):
        numbers = body.get(key)
        if not isinstance(numbers, list) or len(numbers) != size or [
                part for part in numbers if not isinstance(part, int) or not 0 < part + (key != 'lines') < 10000]:
            raise Refusal(MALFORMED, 'EXEC: %s is not a list of %d numbers' % (key, size))


def wrapper_frames(lines):
    """For each step of a wrapper the functions that stand for its own, at their lines of what came on stdin."""
    main, mkdtemp, write, call, imports, run = lines
    return {'main': compile('\n' * (main - 1) + 'result = rest[0](*rest[1:])', '<stdin>', 'exec'),
            'mkdtemp': [wrapper_frame('_ansiballz_main', mkdtemp)],
            'write': [wrapper_frame('_ansiballz_main', write)],
            'import': [wrapper_frame('_ansiballz_main', call), wrapper_frame('invoke_module', imports)],
            'run': [wrapper_frame('_ansiballz_main', call), wrapper_frame('invoke_module', run, 1)]}


def wrapper_frame(name, line, more=0):
    # Up to Python 3.7 a traceback tells the line of the last argument, which may be one of those that follow.
    scope = {}
    exec(compile('\n' * (line - 2) + 'def %s(*rest):\n return rest[0](' % name + '\n' * more + '*rest[1:])',
                 '<stdin>', 'exec'), scope)
    return scope[name]


class ModuleChild(object):
    """What a forked child does for one payload: all of it when forked for a call, or in two halves.

    The first half, prepare(), leaves no trace outside the process; a child forked ahead of its call does it
    while nobody waits.
    """

    FRAMES = {}

    def __init__(self, plan, parts, body):
        self.plan = plan
        self.parts = parts
        self.module = body['module']
        self.is_below_shell = body.get('chained') or not SHELL_EXECUTES
        self.is_old = body['family'] == 214
        lines = tuple(body['lines'])
        if lines not in self.FRAMES:
            self.FRAMES.clear()
            self.FRAMES[lines] = wrapper_frames(lines)
        self.frames = self.FRAMES[lines]
        self.site = body['site']
        self.site_date = body['site_date']
        self.directory = self.archive = self.made = None
        self.applied = ARCHIVE
        self.trouble = None

    def settle(self, warm):
        """In the parent, ahead of the fork: choose a directory, one for all runs of this kind while it is free."""
        import tempfile
        places = tempfile._candidate_tempdir_list()
        self.parent = ([place for place in places if os.access(place, os.W_OK | os.X_OK)] + places)[0]
        if self.parent != os.curdir:
            self.parent = os.path.abspath(self.parent)
        directory = os.path.join(self.parent, self.prefix() + '%08x' % struct.unpack('>I', os.urandom(4)))
        if not self.is_old:
            directory = os.path.realpath(directory)
        last = os.path.dirname(self.plan.settled or '')
        if last[:-8] == directory[:-8] and not os.path.lexists(last):
            directory = last
        self.directory = directory
        self.place()
        if self.archive != self.plan.settled:
            if self.plan.settled:
                self.plan.unsettle()
            self.plan.settle(self.archive, self.places)
            warm.settled = self.plan

    def enter(self, verdict=None):
        """Take the place that stock's interpreter has in its session."""
        if self.is_below_shell:
            below_shell(verdict)

    def prepare(self):
        import tempfile
        self.present = set(sys.modules)
        # Where a file can be made there, which is soon found out, it is what tempfile would say.
        tempfile.tempdir = self.parent
        try:
            self.apply()
        except Exception:
            self.trouble = sys.exc_info()[1]

    def prefix(self):
        return 'ansible_' + self.module + '_payload_'

    def place(self):
        """Make the zip as it will lie in self.directory."""
        self.archive = os.path.join(self.directory, 'ansible_' + self.module + '_payload.zip')
        site = as_bytes(self.site % self.archive)
        self.zip = complete_zip(self.parts, site, self.site_date)
        self.places = self.parts[2] + [site_place(site, self.site_date, self.parts)]

    def apply(self):
        """Make that zip the origin of the warm modules."""
        self.plan.apply(self.archive, self.places, self.applied)
        self.applied = self.archive

    def run(self, body):
        """Run the payload as its wrapper would; the exit status."""
        if self.applied == ARCHIVE:
            self.present = set(sys.modules)
        code = 0
        uncaught = (None, None, None)
        try:
            become_fresh(body)
            self.run_wrapper(body)
        except SystemExit:
            code = exit_status(sys.exc_info()[1].code)
        except:  # noqa: E722
            uncaught = sys.exc_info()
        interrupted = uncaught[0] is KeyboardInterrupt
        if uncaught[0] is not None:
            # Not in the handler: an excepthook finds no exception that is being handled.
            code = report_uncaught(*uncaught)
            uncaught = None
        code = end_as_python(code, self.present)
        if interrupted and hasattr(signal, 'raise_signal'):
            # An interpreter that a Ctrl-C ends dies of the signal, so that its shell knows (Python 3.8).
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        return code

    def run_wrapper(self, body):
        """The wrapper's steps in its order; what it does before the module is the same in every family."""
        if self.trouble is not None:
            raise self.trouble
        try:
            os.getcwd()
        except OSError:
            leave_lost_directory()
        if body.get('rlimit_nofile'):
            limit_files(body['rlimit_nofile'])
        if body.get('remote_tmp'):
            make_quietly(body['remote_tmp'])
        sys.path = [path for path in sys.path if path not in ('', '.')]
        try:
            if not self.written_as_planned():
                self.make_directory()
                self.write()
            if self.applied != self.archive:
                self.apply()
            sys.path.insert(0, self.archive)
            self.invoke(body)
        finally:
            if self.directory is not None:
                self.remove()

    def remove(self):
        """Remove the directory with whatever the module has left there; mostly nothing, and then this is cheaper.

        A fork that the module has left may come here late, when a later run has one of that name.
        """
        late = self.made is not None and self.made[0] != os.getpid()
        try:
            if late:
                self.unlink_own()
            else:
                os.unlink(self.archive)
            os.rmdir(self.directory)
        except OSError:
            if not late or sys.exc_info()[1].errno == errno.ENOTEMPTY:
                import shutil
                shutil.rmtree(self.directory, True)

    def unlink_own(self):
        """Remove the zip if it is the one that this run has made, wherever its directory's name leads meanwhile."""
        fd = os.open(self.directory, os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            name = os.path.basename(self.archive)
            if birth(os.stat(name, dir_fd=fd)) != self.made[1:]:
                raise OSError(errno.ENOENT, name)
            os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    def written_as_planned(self):
        """Make the directory that was chosen ahead, if one was, and the zip in it."""
        import shutil
        if self.directory is None:
            return False
        made = False
        try:
            os.mkdir(self.directory, 448)
            made = True
            write_zip(self.archive, self.zip)
            self.made = (os.getpid(),) + birth(os.stat(self.archive))
            return True
        except EnvironmentError:
            if made:
                shutil.rmtree(self.directory, True)
            self.directory = None
        return False

    def make_directory(self):
        """Choose and make a directory as the wrapper does, which looks for a place just before it writes."""
        import tempfile
        tempfile.tempdir = None
        self.directory = self.step('mkdtemp', tempfile.mkdtemp, '', self.prefix())
        if not self.is_old:
            self.directory = os.path.realpath(self.directory)
        self.place()

    def write(self):
        """Write the zip as the wrapper does."""
        archive = open(self.archive, 'wb')
        try:
            self.step('write', archive.write, EMPTY.join(self.zip))
        finally:
            archive.close()

    def invoke(self, body):
        """Run the module, genuine code of the payload's zip from here on."""
        params, fqn = body.get('stdin', EMPTY), body['fqn']
        if self.is_old:
            self.invoke_old(params, fqn)
            return
        self.step('import', __import__, 'ansible.module_utils._internal._ansiballz._loader')
        loader = sys.modules['ansible.module_utils._internal._ansiballz._loader']
        arguments = {'json_params': params, 'profile': body['profile'], 'module_fqn': fqn,
                     'modlib_path': self.archive, 'extensions': {}}
        if body['family'] >= 222:
            arguments['secrets'] = frozenset(body.get('secrets', ()))
        self.step('run', partial(loader.run_module, **arguments))

    def invoke_old(self, params, fqn):
        import runpy
        self.step('import', __import__, 'ansible.module_utils.basic')
        sys.modules['ansible.module_utils.basic']._ANSIBLE_ARGS = params
        self.step('run', partial(runpy.run_module, mod_name=fqn, run_name='__main__', alter_sys=True, init_globals={
            '_module_fqn': fqn, '_modlib_path': self.archive}))
        sys.stdout.write('{"msg": "New-style module did not handle its own exit", "failed": true}\n')
        sys.exit(1)

    def step(self, name, function, *arguments):
        """Call a function from frames that are, in a traceback, those of the wrapper at that step."""
        scope = {'rest': self.frames[name] + [function] + list(arguments)}
        exec(self.frames['main'], scope)
        return scope['result']


def birth(status):
    return status.st_dev, status.st_ino, status.st_ctime


def become_fresh(body):
    """What a new interpreter reading its program from stdin would have, and the forked one has not."""
    name = same_type(ENVIRON, 'SUDO_COMMAND')
    if name in ENVIRON and body.get('sudo_command'):
        # The command that sudo would have run for this task.
        ENVIRON[name] = body['sudo_command']
    add_environment(body.get('env'))
    if hasattr(time, 'tzset'):
        time.tzset()
    sys.argv[:] = ['']
    if hasattr(sys, 'orig_argv'):
        sys.orig_argv[:] = [body['interpreter']]
    main = type(sys)('__main__')
    main.__dict__['__builtins__'] = sys.modules['__main__'].__builtins__
    sys.modules['__main__'] = main
    if 'random' in sys.modules and not hasattr(os, 'register_at_fork'):
        sys.modules['random'].seed()
    forget_caught()
    platform = sys.modules.get('platform')
    for name, empty in (('_uname_cache', None), ('_platform_cache', {})):
        if hasattr(platform, name):
            setattr(platform, name, empty)


def leave_lost_directory():
    try:
        os.chdir(os.path.expanduser('~'))
    except OSError:
        os.chdir('/')


def make_quietly(directory):
    """Make what stock makes ahead of a module that it copies: a module that finds it missing says so."""
    mask = os.umask(63)
    try:
        os.makedirs(os.path.expanduser(os.path.expandvars(directory)))
    except OSError:
        pass
    os.umask(mask)


def limit_files(wanted):
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if min(hard, wanted) != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, wanted), hard))
        except ValueError:
            pass  # some platforms lie about their hard limit


def write_zip(path, pieces):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 438)
    try:
        for data in pieces:
            at = os.write(fd, data)
            while at < len(data):
                at += os.write(fd, data[at:])
    finally:
        os.close(fd)


def names_directory(env):
    """Whether these variables say where temporary files go."""
    for name in (env or {}):
        if native(name.decode('latin-1')) in ('TMPDIR', 'TEMP', 'TMP'):
            return True
    return False


def exit_status(code):
    """Exit status of sys.exit(code), by Python's own rule."""
    if code is None:
        return 0
    if isinstance(code, int):
        try:
            struct.pack('l', code)
        except (struct.error, OverflowError):
            return 255  # more than C can hold is -1
        return code & 255
    for text, is_lost in ((code, sys.stderr is not None), ('\n', False)):
        try:
            sys.stderr.write(str(text))
        except Exception:
            if not is_lost:
                last_words(str(text))
    return 1


def last_words(text):
    """Write to what was stderr at the start, where sys.stderr takes nothing any more."""
    try:
        os.write(2, as_bytes(text))
    except OSError:
        pass  # closed too


def forget_caught():
    """Python 2 keeps what was caught last, and a module that fails would tell it as its own."""
    if hasattr(sys, 'exc_clear'):
        sys.exc_clear()


def report_uncaught(kind, value, stack):
    """Tell of an exception as Python does, without the agent's own frames at the top; the exit status."""
    other = value
    while getattr(other, '__traceback__', None) is not None:
        other.__traceback__ = below_agent(other.__traceback__)
        other = other.__cause__ or other.__context__
    stack = below_agent(stack)
    forget_caught()
    if not hasattr(sys, 'excepthook'):
        last_words('sys.excepthook is missing\n')
        sys.excepthook = sys.__excepthook__
    try:
        sys.excepthook(kind, value, stack)
    except SystemExit:
        # The file module's hook, for one, is a fail_json() (ansible-core 2.14 to 2.18).
        return exit_status(sys.exc_info()[1].code)
    except:  # noqa: E722
        kind_again, value_again, stack_again = sys.exc_info()
        sys.stderr.write('Error in sys.excepthook:\n')
        sys.__excepthook__(kind_again, value_again, below_agent(stack_again))
        sys.stderr.write('\nOriginal exception was:\n')
        sys.__excepthook__(kind, value, stack)
    return 1


def below_agent(stack):
    """A traceback without the frames of this file at its top."""
    while stack is not None and stack.tb_frame.f_code.co_filename == OWN_FILE:
        stack = stack.tb_next
    return stack


def end_as_python(code, present):
    """End like the interpreter does (systems fact 19): flushes, threads, atexit, objects; the exit status."""
    flush_standard(code)  # the end of the program's text, whatever becomes of it afterwards
    if 'threading' in sys.modules:
        sys.modules['threading']._shutdown()
    try:
        import atexit
        atexit._run_exitfuncs()
    except Exception:
        sys.excepthook(*sys.exc_info())
    code = flush_standard(code)
    end_modules([name for name in list(sys.modules) if name not in present])
    return flush_standard(code)


def end_modules(names):
    """Let go of the modules of this run, then empty those that something still holds."""
    import gc
    import weakref
    held = []
    for name in names:
        module = sys.modules.pop(name)
        try:
            held.append(weakref.ref(module))
        except TypeError:
            held.append(lambda module=module: module)  # modules of Python 2 cannot be referred to weakly
    module = None
    gc.collect()
    for reference in held:
        module = reference()
        if isinstance(module, type(sys)):
            empty_module(module.__dict__)
    gc.collect()


def empty_module(names):
    """None in place of every name, private ones first: finalizers of the library test for exactly that."""
    for is_private in (True, False):
        for name in list(names):
            if name != '__builtins__' and name.startswith('_') == is_private:
                names[name] = None


def flush_standard(code):
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not getattr(stream, 'closed', False):
                stream.flush()
        except Exception:
            if stream is sys.stdout:
                report_flush(stream)
            if WORDCODE or (stream is sys.stdout and code == 0):
                code = 120  # whatever it was, since Python 3.6
    return code


def report_flush(stream):
    """The interpreter's words for output that it cannot get rid of at its end."""
    try:
        sys.stderr.write((FLUSHING + '\n%s: %s\n') % (stream, sys.exc_info()[0].__name__, sys.exc_info()[1]))
    except Exception:
        pass  # nobody reads them


# ---- module runs, in the parent -----------------------------------------------------------------------


class Waiting(Call):
    """A module run that cannot start yet: blobs are missing, or more of its parameters is to come."""

    PARAMS_MAX = 67108864

    def __init__(self, agent, reply, body):
        Call.__init__(self, agent, reply)
        self.body = body
        self.missing = set()
        self.more = bool(body.get('stdin_more'))
        self.pieces = [body.get('stdin', EMPTY)]
        self.size = len(self.pieces[0])
        if self.more:
            reply.grant(WINDOW)

    def on_data(self, data, last):
        self.pieces.append(data)
        self.size += len(data)
        if self.size > self.PARAMS_MAX:
            self.fail(MALFORMED, 'the parameters are longer than %d bytes' % self.PARAMS_MAX)
            return
        self.more = not last
        if self.more:
            self.reply.grant(len(data))
        self.try_start()

    def try_start(self):
        """Start if everything is there; ask for the blobs that are not."""
        missing = set(self.agent.missing_blobs(self.body))
        if missing:
            self.agent.ask_blobs(self.reply, missing - self.missing)
        self.missing = missing
        if missing or self.more or self.reply.key not in self.agent.calls:
            return
        self.done()
        self.body['stdin'] = EMPTY.join(self.pieces)
        self.agent.guard(self.reply, self.agent.run_module, self.reply, self.body)

    def fail(self, code, reason):
        self.done()
        self.reply.refuse(code, reason)

    def cancel(self):
        self.fail(BUSY, 'cancelled before it started')


# ---- files --------------------------------------------------------------------------------------------


def start_file(agent, reply, frame):
    body = unpack(frame.payload)
    if not isinstance(body, dict) or not isinstance(body.get('path'), bytes_type):
        raise Refusal(MALFORMED, 'FILE: the body is a map with a path')
    kinds = {'put': Put, 'fetch': Fetch}
    if body.get('op') not in kinds:
        raise Refusal(UNSUPPORTED, 'FILE: no operation %r' % body.get('op'))
    call = kinds[body['op']](agent, reply)
    call.attempt(call.start, body)


class Transfer(Call):
    """A file on its way; any trouble of the file system ends it with an ERROR."""

    fd = None

    def attempt(self, function, *arguments):
        try:
            function(*arguments)
        except EnvironmentError:
            error = sys.exc_info()[1]
            self.give_up(type(error).__name__, error.strerror or str(error), error.errno)

    def give_up(self, kind, message, number):
        self.close()
        self.done()
        self.reply.error(kind, message, '', number)

    def close(self):
        if self.fd is not None:
            fd, self.fd = self.fd, None
            self.agent.poller.forget(fd)
            self.agent.close(fd)

    def cancel(self):
        self.give_up('Cancelled', 'cancelled by the caller', None)


class Put(Transfer):
    """What sftp's put does: mode and umask for a new file, an existing one is truncated and keeps its mode."""

    created = False

    def start(self, body):
        self.path = body['path']
        self.size = 0
        self.more = bool(body.get('more'))
        self.fd = self.agent.own(self.open(body.get('mode', 438) & 511))
        self.reply.send(STARTED, pack({'pid': os.getpid()}))
        if self.more:
            self.reply.grant(WINDOW)
        self.write(body.get('data', EMPTY))

    def open(self, mode):
        # A device or FIFO must not hold up the other runs.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
        try:
            fd = os.open(self.path, flags | os.O_EXCL, mode)
            self.created = True
            return fd
        except OSError:
            if sys.exc_info()[1].errno != errno.EEXIST:
                raise
        return os.open(self.path, flags | os.O_TRUNC, mode)

    def on_data(self, data, last):
        if last:
            self.more = False
        self.attempt(self.write, data)

    def write(self, data):
        at = 0
        while at < len(data):
            at += os.write(self.fd, data[at:])
        self.size += len(data)
        if self.more:
            if data:
                self.reply.grant(len(data))
            return
        self.created = False
        self.close()
        self.done()
        self.reply.result({'size': self.size})

    def give_up(self, kind, message, number):
        if self.created:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # gone already; the first error is the one to report
        Transfer.give_up(self, kind, message, number)


class Fetch(Transfer):
    """Sends a file as credit allows, at most as much as it announced."""

    def start(self, body):
        self.fd = self.agent.own(os.open(body['path'], os.O_RDONLY | os.O_NONBLOCK))
        status = os.fstat(self.fd)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        self.sent = 0
        # Files of /proc say 0 and hold something; a device has no size at all.
        self.size = None
        if stat.S_ISREG(status.st_mode) and status.st_size:
            self.size = status.st_size
        self.reply.send(OPENED, pack({'size': self.size, 'mode': stat.S_IMODE(status.st_mode)}))
        self.pump(READ)

    def pump(self, events):
        self.attempt(self.send_some)

    def pace(self):
        self.pump(READ)

    on_credit = pace

    def send_some(self):
        while self.fd is not None and self.credit > 0 and not self.agent.congested:
            wanted = min(CHUNK_MAX, self.credit)
            if self.size is not None:
                wanted = min(wanted, self.size - self.sent)
            data = read_some(self.fd, wanted)
            if data is None:
                self.agent.poller.watch(self.fd, READ, self.pump)
                return
            if not data:
                self.close()
                self.done()
                self.reply.result({'size': self.sent})
                return
            self.sent += len(data)
            self.credit -= len(data)
            self.reply.send(CHUNK, data, 0, True)
        if self.fd is not None:
            self.agent.poller.forget(self.fd)


# ---- freshness ----------------------------------------------------------------------------------------

# What stock reads anew with every interpreter that it starts (systems fact 21).
WATCHED = ('/etc/ld.so.cache', '/etc/ld.so.preload', '/etc/nsswitch.conf', '/etc/resolv.conf', '/etc/host.conf',
           '/etc/localtime', '/etc/selinux/config', '/etc/ssl/openssl.cnf', '/etc/pki/tls/openssl.cnf',
           '/usr/lib/locale')

# What a login shell reads for a command (ansible fact 27), by the shell's name.
SHELL_FILES = {
    'bash': ('/etc/bash.bashrc', '~/.bashrc'),
    'zsh': ('/etc/zshenv', '/etc/zsh/zshenv', '~/.zshenv'),
    'tcsh': ('/etc/csh.cshrc', '~/.tcshrc', '~/.cshrc'),
    'csh': ('/etc/csh.cshrc', '~/.cshrc'),
    'fish': ('/etc/fish/config.fish', '~/.config/fish/config.fish', '~/.config/fish/conf.d'),
}
ANY_SHELL_FILES = ('~/.ssh/rc', '~/.ssh/environment', '/etc/ssh/sshrc')


def signature(paths):
    """What a look at these paths gives now: a change of any makes another value."""
    looks = []
    for path in paths:
        try:
            status = os.stat(path)
            looks.append((status.st_mtime, status.st_size, status.st_ino, status.st_ctime))
        except OSError:
            looks.append(None)
    return looks


def places_of(command):
    """The files that a shell looks at for a command: the one that it takes, and those that are not there before it."""
    if '/' in command:
        return [command]
    found = []
    for directory in os.environ.get('PATH', os.defpath).split(os.pathsep):
        found.append(os.path.join(directory, command))
        if os.path.isfile(found[-1]) and os.access(found[-1], os.X_OK):
            break
    return found


def is_elsewhere(path):
    """Whether a path no longer leads to where this process is: a home directory was moved, or mounted."""
    try:
        return os.stat(path)[1:3] != os.stat(os.curdir)[1:3]
    except OSError:
        return sys.exc_info()[1].errno == errno.ENOENT


class Freshness(object):
    """Tells whether a child forked now would see what a new interpreter would see (DESIGN rule 10)."""

    def __init__(self, interpreter):
        home = os.environ.get('HOME', '/')
        shell = os.path.basename(os.environ.get('SHELL', '/bin/sh'))
        names = SHELL_FILES.get(shell, ()) + ANY_SHELL_FILES
        self.login = [name.replace('~', home) for name in names]
        self.login_seen = signature(self.login)
        self.directory = working_directory() or os.curdir
        self.interpreter = places_of(interpreter) + [sys.executable]
        self.interpreter_seen = signature(self.interpreter)
        # A script that starts the interpreter gives it options and variables that nobody else knows.
        self.is_wrapped = self.interpreter_seen[-2] != self.interpreter_seen[-1]
        library = os.path.dirname(os.__file__)
        self.files = [library, library + '/sitecustomize.py', sys.prefix + '/pyvenv.cfg'] + list(WATCHED)
        site = sys.modules.get('site')
        places = [path for path in sys.path if path] + [getattr(site, 'USER_SITE', None) or os.devnull]
        for place in places + getattr(site, 'getsitepackages', list)():
            self.files.append(place)
            try:
                self.files.extend([place + '/' + name for name in os.listdir(place) if name.endswith('.pth')])
            except OSError:
                pass  # a zip, or not there yet
        self.seen = signature(self.files)
        self.known = set()

    def learn(self):
        """Watch the files of what was imported since, as far as it is not the standard library or a payload."""
        library = os.path.dirname(os.__file__) + os.sep
        for name in set(sys.modules) - self.known:
            path = getattr(sys.modules[name], '__file__', None)
            self.known.add(name)
            if path and not path.startswith(ARCHIVE) and (
                    not path.startswith(library) or '-packages' in path):
                self.files.append(path)
                self.seen.extend(signature([path]))

    def login_changed(self):
        return signature(self.login) != self.login_seen or is_elsewhere(self.directory)

    def interpreter_changed(self):
        return signature(self.interpreter) != self.interpreter_seen

    def changed(self):
        return signature(self.files) != self.seen

# What the new interpreter runs: read two lengths, the agent's source and its state from a pipe.
RESTART = '''import sys
sys.path[:] = [path for path in sys.path if path]
import os, struct, zlib
def take(size):
    pieces = []
    while size > 0:
        piece = os.read(%d, size)
        if not piece:
            os._exit(75)
        size -= len(piece)
        pieces.append(piece)
    return "".encode().join(pieces)
sizes = struct.unpack(">II", take(8))
SOURCE = take(sizes[0])
STATE = take(sizes[1])
os.close(%d)
os.waitpid(%d, 0)
exec(compile(zlib.decompress(SOURCE), "fatline-agent.py", "exec"),
     {"__name__": "fatline_agent", "SOURCE": SOURCE, "STATE": STATE, "WIRE": (%d, %d, %d)})
'''


class OnePlumbing(object):
    """Of the parent's descriptors only this one; standard streams as they are."""

    has_pty = False

    def __init__(self, agent, keep):
        self.agent = agent
        self.keep = keep

    def become(self):
        self.agent.fds.discard(self.keep)


def restart(agent, state):
    """Execute the interpreter anew in this process; a forked child feeds it what it must know. OSError if not."""
    reader, writer = agent.pipe()
    feeder = os.fork()
    if feeder == 0:
        in_child(agent, OnePlumbing(agent, writer), lambda: feed(writer, agent.source, state))
    agent.close(writer)
    wire = (agent.wire_in, agent.outbox.fd, agent.words_fd)
    program = RESTART % ((reader, reader, feeder) + wire)
    kept = wire + (reader,)
    for fd in kept:
        fcntl.fcntl(fd, fcntl.F_SETFD, 0)
    agent.uncoerce()
    try:
        os.execv(sys.executable, [agent.interpreter, '-c', program, agent.interpreter])
    finally:
        # Only reached when there is no such program any more.
        for fd in kept:
            set_cloexec(fd)
        agent.close(reader)
        os.waitpid(feeder, 0)


def feed(fd, source, state):
    for data in (struct.pack('>II', len(source), len(state)), source, state):
        while data:
            data = data[os.write(fd, data):]
    return 0


# An agent that a become plugin has started gets bootstrap/privileged.py as well, one that a Router has started gets
# bootstrap/functions.py; they have the classes of these names.
Accounts = FunctionHost = None


# ---- the agent ----------------------------------------------------------------------------------------


class Agent(object):
    """The parent process: the wire, the calls under way and the loop."""

    MANIFESTS_MAX = 64

    # The answer before is on its way to somebody who waits, and the fork takes a processor.
    AHEAD_SECONDS = 0.001

    def __init__(self, wire, source, interpreter):
        wire_in, wire_out, words_fd = wire
        self.source = source
        self.interpreter = interpreter
        self.words_fd = words_fd
        self.ident = 0
        self.renewed = None
        self.nonce = os.urandom(16)
        self.wire_in = wire_in
        self.framer = Framer()
        self.outbox = Outbox(wire_out)
        self.poller = Poller()
        self.fds = set([wire_in, wire_out, words_fd])
        self.calls = {}
        self.pids = {}
        self.inbox = deque()
        self.congested = False
        self.ending = False
        self.blobs = Blobs()
        self.manifests = {}
        self.warm = Warm(self.blobs)
        self.freshness = Freshness(interpreter)
        self.coerced = locale_is_coerced()
        self.previous = self.ahead = self.ahead_at = self.spare = None
        self.own_session = True
        self.handlers = {HELLO: self.on_hello, PING: self.on_ping, EXEC: self.on_exec, CANCEL: self.on_cancel,
                         DATA: self.on_data, CREDIT: self.on_credit, SHUTDOWN: self.on_shutdown,
                         PUT_BLOB: self.on_put_blob, DROP_BLOB: self.on_drop_blob, FILE: self.on_file}
        self.host = FunctionHost and FunctionHost(self)
        # Last: from here on the process may be closed to its own account.
        self.accounts = Accounts and Accounts()

    # Descriptors: every one the parent has is known, so that a child closes exactly those (systems fact 20).

    def own(self, fd):
        if not BORN_CLOEXEC:
            set_cloexec(fd)
        self.fds.add(fd)
        return fd

    def pipe(self):
        reader, writer = os.pipe()
        return self.own(reader), self.own(writer)

    def close(self, fd):
        self.fds.discard(fd)
        os.close(fd)

    def leave(self):
        """In a child: nothing of the parent stays open, and signals are as they were at the start."""
        if hasattr(signal, 'set_wakeup_fd'):
            signal.set_wakeup_fd(-1)
        for fd in self.fds:
            os.close(fd)
        if self.accounts:
            self.accounts.leave()
        for number in self.dispositions:
            signal.signal(number, self.dispositions[number])

    def uncoerce(self):
        if self.coerced:
            os.environ.pop('LC_CTYPE', None)

    # The wire

    def send(self, dst, handle, payload, flags=0, stream=0, bulk=False):
        frame = encode_frame(flags, dst, self.ident, self.ident, handle, 0, stream, payload)
        self.outbox.put(frame, bulk)
        if self.outbox.bulk_size > BULK_HIGH:
            self.congested = True

    def flush(self):
        self.outbox.flush()
        if self.congested and self.outbox.bulk_size < BULK_LOW:
            self.congested = False
            for call in list(self.calls.values()):
                call.pace()
            if self.host:
                self.host.watch()
        events = READ
        if self.outbox.waits():
            events |= WRITE
        self.watch_wire(events)

    def watch_wire(self, events):
        if self.wire_in == self.outbox.fd:
            self.poller.watch(self.wire_in, events, self.on_wire)
            return
        self.poller.watch(self.wire_in, READ, self.on_wire)
        if events & WRITE:
            self.poller.watch(self.outbox.fd, WRITE, self.on_wire)
        else:
            self.poller.forget(self.outbox.fd)

    def on_wire(self, events):
        # Writing happens before every wait; here it is enough to read.
        if events & ~WRITE:
            data = read_some(self.wire_in, CHUNK_MAX * 2)
            if data is None:
                return
            if not data:
                raise EOFError
            self.inbox.extend(self.framer.feed(data))
            self.work()

    def work(self):
        while self.inbox:
            self.dispatch(self.inbox.popleft())

    def dispatch(self, frame):
        if frame.dst != self.ident and frame.handle != HELLO:
            return
        handler = self.handlers.get(frame.handle, self.on_unknown)
        self.guard(Reply(self, frame), self.handle, handler, frame)

    def handle(self, handler, frame):
        if frame.flags & COMPRESSED:
            frame.payload = inflate(frame.payload)
        handler(frame)

    def guard(self, reply, function, *arguments):
        """Call; what cannot be served is refused in words, and the others go on."""
        try:
            function(*arguments)
        except Refusal:
            code, reason = sys.exc_info()[1].args
            reply.refuse(code, reason)
        except (struct.error, ValueError):
            reply.refuse(MALFORMED, str(sys.exc_info()[1]))

    # Handlers

    def on_hello(self, frame):
        low, high, ident = struct.unpack('>HHI', frame.payload)
        if not low <= VERSION <= high:
            raise BadFrame('FL_ENEGOTIATE', 'the mux speaks protocol versions %d to %d, this agent %d'
                           % (low, high, VERSION))
        self.ident = ident
        self.say_hello()

    def say_hello(self):
        facts = {'python': list(sys.version_info[:3]), 'executable': sys.executable, 'pid': os.getpid(),
                 'uid': os.getuid(), 'cwd': working_directory()}
        self.send(0, HELLO, struct.pack('>H', VERSION) + self.nonce + pack(facts))

    def on_unknown(self, frame):
        raise Refusal(UNSUPPORTED, 'nothing listens on handle %d here' % frame.handle)

    def on_ping(self, frame):
        if len(frame.payload) >= PAYLOAD_MAX:
            raise Refusal(MALFORMED, 'with its kind, the answer would be too long')
        Reply(self, frame).send(PONG, frame.payload, LAST)

    def check_call(self, frame):
        if self.ending:
            raise Refusal(BUSY, 'the agent is about to end')
        if (frame.src, frame.stream) in self.calls:
            raise Refusal(MALFORMED, 'stream %d is in use' % frame.stream)

    def on_file(self, frame):
        self.check_call(frame)
        start_file(self, Reply(self, frame), frame)

    def on_exec(self, frame):
        self.check_call(frame)
        body = parse_exec(frame)
        reply = Reply(self, frame)
        self.take_session(body)
        if body.get('mode') == 'module':
            check_module(self, body)
            Waiting(self, reply, body).try_start()
        elif body.get('mode') == 'command':
            check_command(body)
            if 'command' in body:
                self.check_login()
            start_run(self, reply, body, command_child(self, body), None)
        else:
            raise Refusal(UNSUPPORTED, 'mode %r is not known here' % body.get('mode'))

    def take_session(self, body):
        """What core itself starts on its own machine stays in core's session."""
        self.own_session = body.get('session') != 'inherit'

    # Module runs

    def manifest_of(self, name):
        manifest = self.manifests.get(name)
        if manifest is None:
            if len(self.manifests) >= self.MANIFESTS_MAX:
                self.manifests.clear()
            manifest = self.manifests[name] = Manifest(name, self.blobs.whole[name])
        return manifest

    def missing_blobs(self, body):
        name = body.get('manifest')
        if name not in self.blobs.whole:
            return [name]
        return [entry.blob for entry in self.manifest_of(name).entries if entry.blob not in self.blobs.whole]

    def ask_blobs(self, reply, names):
        if names:
            self.send(0, NEED_BLOB, struct.pack('>II', reply.dst, reply.stream) + EMPTY.join(names))

    def run_module(self, reply, body):
        """Everything is there: make the parent fit for the payload, then fork."""
        self.check_fresh(reply, body)
        manifest = self.manifest_of(body['manifest'])
        for name in ('runpy', 'pkgutil', 'shutil', 'tempfile', 'zipimport', 'atexit'):
            if name not in sys.modules:
                __import__(name)
        plan, is_new = self.warm.plan(manifest, body['fqn'], body['profile'])
        if is_new:
            self.freshness.learn()
            freeze()
        parts = manifest.zip_parts(self.blobs, body['date'])
        child = ModuleChild(plan, parts, body)
        if not self.run_ahead(reply, body, child):
            self.fork_run(reply, body, child, not is_new)

    def fork_run(self, reply, body, child, warm):
        def run():
            child.enter()
            return child.run(body)

        start_run(self, reply, {}, run, warm)

    def run_ahead(self, reply, body, child):
        """Give the call to the child that was forked ahead for its like, if there is one; note what to fork next.

        Forked ahead is what ran twice in a row: a playbook that does something else with every task would
        only throw such children away.
        """
        key = [body.get(name) for name in ('manifest', 'fqn', 'module', 'family', 'chained', 'date', 'site',
                                           'site_date')]
        self.ahead = None
        if key == self.previous and waits_for_zip():
            self.ahead = child
        self.previous = key
        spare = self.spare
        if spare is None:
            return False
        if spare.key == key and spare.child.plan is child.plan and not names_directory(body.get('env')):
            if use_spare(self, spare, reply, body, lambda: self.fork_run(reply, body, child, True)):
                return True
        if self.spare is not None:
            self.spare.drop()
        return False

    def fork_ahead(self):
        """While nothing else is to be done, fork the child for the next call."""
        if self.ahead is None or self.spare is not None or self.calls or self.inbox or self.ending:
            self.ahead_at = None
            return
        now = time.time()
        if self.ahead_at is None:
            self.ahead_at = now + self.AHEAD_SECONDS
        if now < self.ahead_at:
            return
        try:
            self.ahead.settle(self.warm)
            self.spare = Spare(self, self.ahead, self.previous)
        except OSError:
            pass  # a fork in time will do, or say what is wrong
        self.ahead = self.ahead_at = None

    def check_fresh(self, reply, body):
        if self.accounts:
            self.accounts.check()
        self.check_login()
        if self.freshness.interpreter_changed():
            # What is there now may be anything: a script with words of its own, or nothing at all.
            raise Refusal(STALE, 'the interpreter has changed on disk')
        if self.freshness.changed():
            words = 'what the interpreter loads has changed on disk'
        elif self.warm.is_foreign_to(self.manifest_of(body['manifest'])):
            words = 'another ansible-core has been here'
        else:
            return
        in_functions = self.host and self.host.fd is not None
        in_use = self.calls or in_functions or reply.stream == self.renewed
        if in_use or self.accounts or self.freshness.is_wrapped:
            raise Refusal(STALE, words)
        self.renew(reply, body)

    def check_login(self):
        """Refuse where only a new login can see what has changed (ansible fact 27)."""
        if self.freshness.login_changed():
            raise Refusal(STALE, 'a start-up file or directory of the login has changed')

    def renew(self, reply, body):
        """Become a new interpreter in the same process, and then serve this call."""
        if self.spare is not None:
            self.spare.drop()
        self.drain()
        names = [body['manifest']] + [entry.blob for entry in self.manifest_of(body['manifest']).entries]
        frames = [encode_frame(frame.flags, frame.dst, frame.src, frame.auth, frame.handle, frame.reply_to,
                               frame.stream, frame.payload) for frame in self.inbox]
        state = {'ident': self.ident, 'call': [reply.dst, reply.handle, reply.stream], 'body': body,
                 'blobs': [[name, self.blobs.whole[name]] for name in names],
                 'pending': EMPTY.join(frames + self.framer.pieces)}
        try:
            restart(self, pack(state))
        except OSError:
            raise Refusal(STALE, 'cannot start %s again: %s' % (sys.executable, sys.exc_info()[1]))

    def resume(self, state):
        """Go on where the interpreter before left off; a new nonce tells the mux that the blobs are gone."""
        state = dict([(native(key), state[key]) for key in state])
        self.ident = state['ident']
        self.say_hello()
        for name, data in state['blobs']:
            self.blobs.whole[name] = data
        dst, handle, self.renewed = state['call']
        reply = Reply(self, Frame((0, 0, dst, 0, 0, handle, self.renewed), EMPTY))
        body = dict([(native(key), state['body'][key]) for key in state['body']])
        for key in ('interpreter', 'module', 'fqn', 'profile', 'site'):
            body[key] = native(body[key])
        self.take_session(body)
        self.guard(reply, self.run_module, reply, body)
        self.renewed = None
        self.inbox.extend(self.framer.feed(state['pending']))
        self.work()

    def on_put_blob(self, frame):
        name = frame.payload[:32]
        total, offset = struct.unpack('>II', frame.payload[32:40])
        try:
            if not self.blobs.add(name, total, offset, frame.payload[40:]):
                return
        except ValueError:
            words = str(sys.exc_info()[1])
            for call in self.waiting_for(name):
                call.fail(MALFORMED, words)
            return
        for call in self.waiting_for(name):
            call.try_start()

    def waiting_for(self, name):
        return [call for call in list(self.calls.values()) if name in getattr(call, 'missing', ())]

    def on_drop_blob(self, frame):
        self.blobs.drop(frame.payload)

    def on_cancel(self, frame):
        call = self.calls.get((frame.src, frame.stream))
        if call is None:
            return
        if frame.payload:
            self.signal_run(call, struct.unpack('>B', frame.payload[:1])[0])
        call.cancel()

    def signal_run(self, call, number):
        """Pass on a signal that came to the caller, to a child with a process group of its own."""
        if number not in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            return
        for pid in self.pids:
            if self.pids[pid] is call and self.own_session:
                try:
                    os.killpg(pid, number)
                except OSError:
                    pass  # it has ended

    def on_data(self, frame):
        call = self.calls.get((frame.src, frame.stream))
        if call is not None:
            call.on_data(frame.payload, frame.flags & LAST)

    def on_credit(self, frame):
        call = self.calls.get((frame.src, frame.stream))
        if call is not None:
            # A caller that lies harms its own memory only; the sum stays within 32 bits.
            call.credit = min(call.credit + struct.unpack('>I', frame.payload)[0], 2147483647)
            call.on_credit()

    def on_shutdown(self, frame):
        self.ending = True

    # Children

    def watch_signals(self):
        """Children that end wake the loop through a pipe; TERM, HUP and INT end the agent as EOF does."""
        self.wake_in, self.wake_out = self.pipe()
        set_nonblocking(self.wake_in)
        set_nonblocking(self.wake_out)
        self.poller.watch(self.wake_in, READ, self.on_wake)
        # Python runs a handler between two of its instructions. After the last of them and before the
        # system call that waits, a signal would wake nobody; written by C, the byte is there in time.
        if hasattr(signal, 'set_wakeup_fd'):
            signal.set_wakeup_fd(self.wake_out)
        self.dispositions = {}
        for number, handler in ((signal.SIGCHLD, self.wake), (signal.SIGTERM, self.stop),
                                (signal.SIGHUP, self.stop), (signal.SIGINT, self.stop)):
            self.dispositions[number] = signal.signal(number, handler)

    def wake(self, number, stack):
        try:
            os.write(self.wake_out, latin('.'))
        except OSError:
            pass  # full: the loop is about to wake anyway

    def stop(self, number, stack):
        raise EOFError

    def on_wake(self, events):
        read_some(self.wake_in, 4096)
        for pid in list(self.pids):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.pids.pop(pid).reaped(status)

    # The loop

    def serve(self):
        while not (self.ending and not self.calls):
            self.flush()
            self.fork_ahead()
            self.poller.wait(self.next_deadline())
            self.expire()
        self.drain()

    def next_deadline(self):
        deadlines = [call.deadline for call in self.calls.values() if call.deadline]
        if self.spare is not None:
            deadlines.append(self.spare.deadline)
        if self.ahead_at is not None:
            deadlines.append(self.ahead_at)
        if deadlines:
            return min(deadlines) - time.time()
        return None

    def expire(self):
        now = time.time()
        for call in list(self.calls.values()):
            if call.deadline and call.deadline <= now:
                call.expire()
        if self.spare is not None and self.spare.deadline <= now:
            self.spare.drop()

    def drain(self):
        """Before an orderly end: the last answers out, for as long as the wire lives."""
        while self.outbox.flush():
            self.poller.wait(5)

    def speak(self, words):
        """Last words, on what was stderr: the mux keeps them as the reason."""
        try:
            os.write(self.words_fd, as_bytes('fatline agent: %s\n' % words))
        except OSError:
            pass


def working_directory():
    try:
        return os.getcwd()
    except OSError:
        return ''


def freeze():
    """Keep what the parent holds out of the children's garbage collection (systems fact 20)."""
    import gc
    gc.collect()
    if hasattr(gc, 'freeze'):
        gc.freeze()


def take_wire():
    """Move the wire off 0, 1 and 2 and put the null device there (systems fact 18)."""
    wire = [os.dup(fd) for fd in (0, 1, 2)]
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    for fd in wire:
        set_cloexec(fd)
    set_nonblocking(wire[0])
    set_nonblocking(wire[1])
    return wire


def main(source, wire, state):
    agent = Agent(wire or take_wire(), source, sys.argv[1])
    code = 0
    try:
        agent.watch_signals()
        if state:
            agent.resume(unpack(state))
        agent.serve()
    except EOFError:
        pass
    except BadFrame:
        agent.speak(sys.exc_info()[1].args[1])
        code = 76
    except Exception:
        import traceback
        agent.speak(traceback.format_exc())
        code = 70
    if agent.spare is not None:
        # It has run nothing; its account may be removed the moment after (ansible fact 25).
        os.kill(agent.spare.pid, signal.SIGKILL)
        os.waitpid(agent.spare.pid, 0)
    os._exit(code)


if __name__ == 'fatline_agent':
    main(SOURCE, globals().get('WIRE'), globals().get('STATE'))  # noqa: F821
