# SPDX-License-Identifier: BSD-3-Clause
"""What an agent has in addition if a Router has started it: functions of the caller's own modules run there.

It travels in front of the last lines of agent.py, under the rules of that file, and uses its names.
"""
# ruff: noqa: F821 - agent.py has them


class FunctionCall(Call):
    """A CALL_FUNCTION: waits its turn, then runs in the function host."""

    def __init__(self, agent, reply, payload):
        Call.__init__(self, agent, reply)
        self.payload = payload
        self.cancelled = False
        self.awaits_module = False
        agent.host.enqueue(self)

    def cancel(self):
        if self.agent.host.withdraw(self):
            self.done()
            self.reply.error('Cancelled', 'cancelled before it started')
            return
        self.cancelled = True
        self.agent.host.deny(self)

    def fail(self, words):
        self.done()
        self.reply.error('HostDied', words)


class FunctionHost(object):
    """The parent's side of the one child in which functions run, so that module state lasts."""

    def __init__(self, agent):
        self.agent = agent
        self.fd = None
        self.pid = None
        self.running = None
        self.queue = deque()
        agent.handlers[CALL_FUNCTION] = self.on_call_function
        agent.handlers[LOAD_MODULE] = self.on_load_module

    def on_call_function(self, frame):
        self.agent.check_call(frame)
        body = unpack(frame.payload[2:])
        if not isinstance(body, dict) or 'module' not in body or 'function' not in body:
            raise Refusal(MALFORMED, 'CALL_FUNCTION: the body is a map with module and function')
        FunctionCall(self.agent, Reply(self.agent, frame), frame.payload)

    def enqueue(self, call):
        self.queue.append(call)
        self.next()

    def withdraw(self, call):
        if call not in self.queue:
            return False
        self.queue.remove(call)
        return True

    def next(self):
        if self.running is not None or not self.queue:
            return
        call = self.running = self.queue.popleft()
        call.reply.send(STARTED, pack({'pid': self.pid or os.getpid()}))
        self.agent.flush()
        try:
            if self.fd is None:
                self.fork()
        except OSError:
            self.running = None
            call.done()
            call.reply.refuse(BUSY, 'the target cannot start a process: %s' % sys.exc_info()[1])
            return
        self.pass_on(CALL_FUNCTION, call.reply, call.payload)

    def fork(self):
        import socket
        near, far = socket.socketpair()
        # Raw descriptors: a socket object would close them when it is collected.
        self.fd, other = [self.agent.own(os.dup(end.fileno())) for end in (near, far)]
        near.close()
        far.close()
        self.agent.flush()
        self.pid = os.fork()
        if self.pid == 0:
            in_child(self.agent, OnePlumbing(self.agent, other), lambda: serve_functions(other, self.agent.ident))
        self.agent.close(other)
        self.framer = Framer()
        self.outbox = Outbox(self.fd)
        set_nonblocking(self.fd)
        self.agent.pids[self.pid] = self
        self.watch()

    def pass_on(self, handle, reply, payload):
        self.outbox.put(encode_frame(0, self.agent.ident, reply.dst, 0, handle, reply.handle, reply.stream, payload),
                        False)
        self.watch()

    def on_load_module(self, frame):
        call = self.running
        if call is not None and call.reply.key == (frame.src, frame.stream) and self.fd is not None:
            call.awaits_module = False
            self.pass_on(LOAD_MODULE, call.reply, frame.payload)

    def deny(self, call):
        """A caller that has gone serves no module; without an answer the calls behind it would wait for ever."""
        if call.cancelled and call.awaits_module:
            call.awaits_module = False
            self.pass_on(LOAD_MODULE, call.reply, pack({'name': None, 'source': None}))

    def watch(self):
        if self.fd is None:
            return
        try:
            events = READ
            if self.outbox.flush():
                events |= WRITE
        except OSError:
            events = READ  # it has died: reading tells
        if self.agent.congested:
            events &= ~READ
        self.agent.poller.watch(self.fd, events, self.on_ready)

    def on_ready(self, events):
        try:
            data = read_some(self.fd, CHUNK_MAX)
        except OSError:
            data = EMPTY
        if data is not None and not data:
            self.lost()
            return
        for frame in self.framer.feed(data or EMPTY):
            self.relay(frame)
        self.watch()

    def relay(self, frame):
        """An answer of the host: only ever for the call that it runs."""
        call = self.running
        if call is None:
            return
        self.agent.send(call.reply.dst, call.reply.handle, frame.payload, frame.flags, call.reply.stream, True)
        if frame.payload and byte_at(frame.payload, 0) == WANT_MODULE:
            call.awaits_module = True
            self.deny(call)
        if frame.flags & LAST:
            call.done()
            self.running = None
            self.next()

    def lost(self):
        self.agent.poller.forget(self.fd)
        self.agent.close(self.fd)
        self.fd = None
        if self.running is not None:
            call, self.running = self.running, None
            call.fail('the process that ran the function ended')
        self.next()

    def reaped(self, status):
        self.pid = None


def serve_functions(fd, ident):
    """The function host: one call after the other, until its parent is gone."""
    host = HostLoop(fd, ident)
    host.install()
    while True:
        frame = host.receive(CALL_FUNCTION)
        if frame is None:
            return 0
        host.call(frame)


class HostLoop(object):
    """The child's side: imports over the wire, results, logs."""

    def __init__(self, fd, ident):
        self.fd = fd
        self.ident = ident
        self.framer = Framer()
        self.frames = deque()
        self.current = None
        self.remote = set()
        self.absent = set()

    def install(self):
        """Names whose root came over the wire are looked for there first, all others there last."""
        import logging
        sys.meta_path.insert(0, RemoteFinder(self, True))
        sys.meta_path.append(RemoteFinder(self, False))
        root = logging.getLogger()
        root.addHandler(log_handler(logging.Handler, self))
        root.setLevel(logging.DEBUG)

    def receive(self, handle):
        while True:
            while self.frames:
                frame = self.frames.popleft()
                if frame.handle == handle:
                    return frame
            data = read_some(self.fd, CHUNK_MAX)
            if not data:
                return None
            self.frames.extend(self.framer.feed(data))

    def send(self, kind, value, flags=0):
        frame = self.current
        payload = struct.pack('>B', kind) + pack(value)
        size = len(payload)
        if PAYLOAD_MAX < size <= INFLATED_MAX:
            payload = struct.pack('>I', size) + zlib.compress(payload)
            flags |= COMPRESSED
        if len(payload) > PAYLOAD_MAX:
            raise ValueError('the value takes %d bytes, which is too much for one message' % size)
        data = encode_frame(flags, frame.src, self.ident, self.ident, frame.reply_to, 0, frame.stream, payload)
        while data:
            data = data[os.write(self.fd, data):]

    def call(self, frame):
        self.current = frame
        # What one function may not have, the next may.
        self.absent.clear()
        try:
            self.send(RESULT, self.run(unpack(frame.payload[2:])), LAST)
        except:  # noqa: E722 - SystemExit of a function is the function's result too
            self.send_error()

    def run(self, body):
        name = native(body['module'])
        self.remote.add(name.split('.')[0])
        __import__(name)
        function = getattr(sys.modules[name], native(body['function']))
        kwargs = {}
        for key in body.get('kwargs') or {}:
            kwargs[native(key)] = body['kwargs'][key]
        return function(*body.get('args') or (), **kwargs)

    def send_error(self):
        import traceback
        kind, value, stack = sys.exc_info()
        stack = below_agent(stack)
        name = kind.__name__
        if kind.__module__ not in ('builtins', 'exceptions'):
            name = kind.__module__ + '.' + name
        number = getattr(value, 'errno', None)
        if not isinstance(number, int):
            number = None
        words = ''.join(traceback.format_exception(kind, value, stack))
        fields = {'type': name, 'message': safe_text(value), 'traceback': words[-65536:], 'errno': number}
        self.send(ERROR, fields, LAST)

    def ask(self, name):
        """The module from the caller: a map, or None if it has none of that name."""
        if name in self.absent or self.current is None:
            return None
        self.send(WANT_MODULE, name)
        frame = self.receive(LOAD_MODULE)
        if frame is None:
            os._exit(0)
        answer = unpack(frame.payload)
        if answer.get('source') is None:
            if answer.get('name'):
                self.absent.add(name)
            return None
        self.remote.add(name.split('.')[0])
        return answer


def safe_text(value):
    try:
        return str(value)
    except Exception:
        return '(its text cannot be made)'


class RemoteFinder(object):
    """Finder and loader of modules that the caller has."""

    def __init__(self, host, is_first):
        self.host = host
        self.is_first = is_first
        self.answers = {}

    def look(self, name):
        root = name.split('.')[0]
        is_remote = root in self.host.remote
        if is_remote != self.is_first:
            return None
        if not is_remote and (name != root or root in getattr(sys, 'stdlib_module_names', ())):
            return None  # what is missing in a package of this machine is missing
        answer = self.host.ask(name)
        if answer is not None:
            self.answers[name] = answer
        elif name == root:
            self.host.remote.discard(root)
        return answer

    def find_spec(self, name, path=None, target=None):
        answer = self.look(name)
        if answer is None:
            return None
        spec = ModuleSpec(name, self, origin=self.file_name(answer), is_package=bool(answer.get('package')))
        spec._set_fileattr = True
        if answer.get('package'):
            spec.submodule_search_locations.append(os.path.dirname(spec.origin))
        return spec

    def find_module(self, name, path=None):
        if self.look(name) is not None:
            return self

    def file_name(self, answer):
        # Not the bare path: a traceback would show lines of whatever has that name here.
        return 'fatline:' + native(answer.get('path') or '?')

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        answer = self.answers[module.__name__]
        exec(compile(answer['source'], self.file_name(answer), 'exec', 0, 1), module.__dict__)

    def load_module(self, name):
        answer = self.answers[name]
        module = sys.modules.setdefault(name, type(sys)(name))
        module.__loader__ = self
        module.__file__ = self.file_name(answer)
        module.__package__ = parent_of(name)
        if answer.get('package'):
            module.__path__ = [os.path.dirname(module.__file__)]
            module.__package__ = name
        try:
            self.exec_module(module)
        except Exception:
            sys.modules.pop(name, None)
            raise
        return sys.modules[name]

    def get_source(self, name):
        source = self.answers[name]['source']
        if isinstance(source, str):
            return source
        return source.decode('utf-8', 'replace')


def log_handler(base, host):
    """A handler that sends records to the caller of the function under way."""

    class Forward(base):
        def emit(self, record):
            if host.current is None:
                return
            try:
                host.send(LOG, [record.name, record.levelno, self.format(record)])
            except Exception:
                pass  # a record that cannot be sent must not change what the function does

    return Forward()
