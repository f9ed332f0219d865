# SPDX-License-Identifier: BSD-3-Clause
"""The agent: one file of standard-library Python that runs on the target.

It is sent as text, compiled by the stage and started by the last line. Rules of this file:

- Python 2.4 syntax and nothing newer (no "with", no conditional expression, no "as" in except, no b'').
  What a Python can do is asked once, in the compatibility block; below it nothing looks at versions.
- One thread, one poll loop. Every module and command runs in a forked child; the parent never calls
  the name service or the resolver and never writes through a buffered file, because children inherit
  whatever such calls leave behind (systems fact 20).
- Comments, docstrings and blank lines are stripped before it travels, so they cost nothing.

Order: compatibility, protocol numbers, MessagePack, frames, poll loop, calls, commands, files, main.
To run it by hand: docs/bootstrap.md.
"""

import errno
import fcntl
import os
import select
import signal
import struct
import sys
import time
import zlib
from binascii import hexlify
from collections import deque

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
INFLATED_MAX = 16777216
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
        self.warm = warm
        self.status = None
        self.began = time.time()
        self.has_pty = False
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
        self.agent.close(fd)

    def on_data(self, data, last):
        if self.input is not None:
            self.input.add(data, last)

    def cancel(self):
        """Close the pipes; the kernel sends SIGHUP where there was a pty. Never SIGKILL (systems fact 17)."""
        if self.input is not None:
            self.input.close()
        for fd in list(self.outputs):
            self.end_output(fd)
        self.finish()

    def reaped(self, status):
        self.status = status
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
        code = exit_code(self.status)
        if self.warm and code > 128 and os.WIFSIGNALED(self.status):
            self.report_signal(os.WTERMSIG(self.status))
        fields = {'rc': code, 'warm': self.warm, 'ms': int((time.time() - self.began) * 1000)}
        self.reply.send(EXIT, pack(fields), LAST, True)

    def report_signal(self, number):
        # The words of the shell around stock's interpreter (ansible fact 2).
        if number not in (signal.SIGINT, signal.SIGPIPE):
            self.reply.send(STDERR, latin('%s\n' % signal_words(number)), 0, True)


def exit_code(status):
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def signal_words(number):
    if hasattr(signal, 'strsignal'):
        return signal.strsignal(number)
    words = {1: 'Hangup', 3: 'Quit', 4: 'Illegal instruction', 6: 'Aborted', 7: 'Bus error', 9: 'Killed',
             11: 'Segmentation fault', 14: 'Alarm clock', 15: 'Terminated'}
    return words.get(number, 'Signal %d' % number)


# ---- commands -----------------------------------------------------------------------------------------


def start_run(agent, reply, body, child, warm):
    """Fork child for an EXEC. STARTED goes out first: from then on a loss is never retried (rule 13)."""
    reply.send(STARTED, pack({'pid': os.getpid()}))
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


def in_child(agent, plumbing, child):
    """Become the child: own session, own descriptors, signals as a new process has them. Never returns."""
    code = 255
    try:
        os.setsid()
        plumbing.child()
        agent.leave()
        code = child()
    finally:
        os._exit(code)


class PipePlumbing(object):
    """Three pipes, as sshd gives a command without a terminal."""

    def __init__(self, agent):
        self.agent = agent
        self.stdin, self.stdout, self.stderr = agent.pipe(), agent.pipe(), agent.pipe()

    def child(self):
        os.dup2(self.stdin[0], 0)
        os.dup2(self.stdout[1], 1)
        os.dup2(self.stderr[1], 2)

    def parent(self):
        for fd in (self.stdin[0], self.stdout[1], self.stderr[1]):
            self.agent.close(fd)
        return self.stdin[1], {self.stdout[0]: STDOUT, self.stderr[0]: STDERR}, False


class PtyPlumbing(object):
    """A controlling terminal on all three, as sshd gives a command run with -tt."""

    def __init__(self, agent, body):
        self.agent = agent
        self.typed = bool(body.get('stdin') or body.get('stdin_more'))
        self.term = body.get('term', latin('xterm'))
        self.master, self.slave = os.openpty()
        agent.own(self.master)
        agent.own(self.slave)

    def child(self):
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


def command_child(body):
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
    elif not argv or [word for word in argv if not isinstance(word, bytes_type)]:
        raise Refusal(MALFORMED, 'EXEC: argv is a list of one or more byte strings')


# ---- the agent ----------------------------------------------------------------------------------------


class Agent(object):
    """The parent process: the wire, the calls under way and the loop."""

    def __init__(self, wire_in, wire_out, words_fd, source):
        self.source = source
        self.words_fd = words_fd
        self.ident = 0
        self.nonce = os.urandom(16)
        self.wire_in = wire_in
        self.framer = Framer()
        self.outbox = Outbox(wire_out)
        self.poller = Poller()
        self.fds = set([wire_in, wire_out, words_fd])
        self.calls = {}
        self.pids = {}
        self.congested = False
        self.ending = False
        self.handlers = {HELLO: self.on_hello, PING: self.on_ping, EXEC: self.on_exec, CANCEL: self.on_cancel,
                         DATA: self.on_data, CREDIT: self.on_credit, SHUTDOWN: self.on_shutdown}

    # Descriptors: every one the parent has is known, so that a child closes exactly those (systems fact 20).

    def own(self, fd):
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
        for fd in self.fds:
            os.close(fd)
        for number in self.dispositions:
            signal.signal(number, self.dispositions[number])

    # The wire

    def send(self, dst, handle, payload, flags=0, stream=0, bulk=False):
        frame = encode_frame(flags, dst, self.ident, self.ident, handle, 0, stream, payload)
        self.outbox.put(frame, bulk)
        if self.outbox.bulk_size > BULK_HIGH:
            self.congested = True

    def flush(self):
        if self.outbox.flush():
            self.watch_wire(READ | WRITE)
        else:
            self.watch_wire(READ)
        if self.congested and self.outbox.bulk_size < BULK_LOW:
            self.congested = False
            for call in list(self.calls.values()):
                call.pace()

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
            for frame in self.framer.feed(data):
                self.dispatch(frame)

    def dispatch(self, frame):
        handler = self.handlers.get(frame.handle)
        if handler is None or (frame.dst != self.ident and frame.handle != HELLO):
            return
        try:
            if frame.flags & COMPRESSED:
                frame.payload = inflate(frame.payload)
            handler(frame)
        except Refusal:
            code, reason = sys.exc_info()[1].args
            Reply(self, frame).refuse(code, reason)
        except (struct.error, ValueError):
            # One client's malformed frame is that client's trouble; others share this agent.
            Reply(self, frame).refuse(MALFORMED, 'handle %d: %s' % (frame.handle, sys.exc_info()[1]))

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

    def on_ping(self, frame):
        Reply(self, frame).send(PONG, frame.payload, LAST)

    def on_exec(self, frame):
        if self.ending:
            raise Refusal(BUSY, 'the agent is about to end')
        if (frame.src, frame.stream) in self.calls:
            raise Refusal(MALFORMED, 'stream %d is in use' % frame.stream)
        body = parse_exec(frame)
        if body.get('mode') != 'command':
            raise Refusal(UNSUPPORTED, 'mode %r is not known here' % body.get('mode'))
        check_command(body)
        start_run(self, Reply(self, frame), body, command_child(body), False)

    def on_cancel(self, frame):
        call = self.calls.get((frame.src, frame.stream))
        if call is not None:
            call.cancel()

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
            self.poller.wait(self.next_deadline())
            self.expire()
        self.drain()

    def next_deadline(self):
        deadlines = [call.deadline for call in self.calls.values() if call.deadline]
        if deadlines:
            return min(deadlines) - time.time()
        return None

    def expire(self):
        now = time.time()
        for call in list(self.calls.values()):
            if call.deadline and call.deadline <= now:
                call.expire()

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


def main(source):
    wire_in, wire_out, words = take_wire()
    agent = Agent(wire_in, wire_out, words, source)
    code = 0
    try:
        agent.watch_signals()
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
    os._exit(code)


if __name__ == 'fatline_agent':
    main(SOURCE)  # noqa: F821
