#!/usr/bin/python
# SPDX-License-Identifier: BSD-3-Clause
"""Starts processes or threads in the way that it is told."""

import asyncio
import concurrent.futures
import multiprocessing
import multiprocessing.shared_memory
import os
import threading
import time

from ansible.module_utils.basic import AnsibleModule


def square(number):
    """Work for a child."""
    return number * number


def put(queue):
    """Work for a child that answers."""
    queue.put((multiprocessing.current_process().name, os.getppid() > 0))


def by_method(method):
    """Start one process by one of the start methods."""
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=put, args=(queue,), name="child")
    process.start()
    found = queue.get(timeout=20)
    process.join(20)
    return [found, process.exitcode]


def pool():
    """Run a pool."""
    with multiprocessing.Pool(2) as workers:
        return workers.map(square, range(5))


def threads():
    """Run threads by an executor that is never shut down."""
    executor = concurrent.futures.ThreadPoolExecutor(3)
    return list(executor.map(square, range(5)))


def process_pool():
    """Run processes by an executor that is never shut down."""
    executor = concurrent.futures.ProcessPoolExecutor(2)
    return list(executor.map(square, range(5)))


async def _talk():
    process = await asyncio.create_subprocess_exec("echo", "hello", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    await asyncio.sleep(0)
    return [out.decode(), process.returncode]


def daemon_thread():
    """Leave a thread that nobody waits for."""
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return threading.active_count()


def late_thread():
    """Leave a thread that is waited for."""
    threading.Thread(target=lambda: (time.sleep(0.3), os.write(2, b"late\n"))).start()
    return threading.active_count()


def manager():
    """Share a dictionary."""
    with multiprocessing.Manager() as made:
        shared = made.dict(a=1)
        process = multiprocessing.Process(target=shared.update, kwargs={"b": 2})
        process.start()
        process.join()
        return dict(shared)


def double_fork():
    """Wait for the child of a child."""
    reader, writer = os.pipe()
    session = os.getsid(0)
    if os.fork() == 0:
        if os.fork() == 0:
            os.write(writer, b"%d" % (os.getsid(0) == session))
            os._exit(0)
        os._exit(3)
    status = os.wait()[1]
    return [os.WEXITSTATUS(status), os.read(reader, 10).decode()]


def shared_memory():
    """Share a block of memory, which starts a tracker."""
    block = multiprocessing.shared_memory.SharedMemory(create=True, size=10)
    block.buf[0] = 7
    value = block.buf[0]
    block.close()
    block.unlink()
    return value


WAYS = {
    "pool": pool, "threads": threads, "process_pool": process_pool, "daemon_thread": daemon_thread,
    "late_thread": late_thread, "manager": manager, "double_fork": double_fork, "shared_memory": shared_memory,
    "asyncio": lambda: asyncio.run(_talk()),
}  # fmt: skip

if __name__ == "__main__":
    module = AnsibleModule(argument_spec={"way": {"type": "str"}})
    name = module.params["way"]
    module.exit_json(found=WAYS[name]() if name in WAYS else by_method(name))
