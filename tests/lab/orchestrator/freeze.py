"""Stops one thread of a process, and no other, until stdin is closed.

    freeze.py TID

By ptrace, which knows threads, where SIGSTOP knows processes only.
"""

import ctypes
import os
import sys

# sys/ptrace.h
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, thread):
    if libc.ptrace(request, thread, None, None) != 0:
        sys.exit(f"ptrace of thread {thread}: {os.strerror(ctypes.get_errno())}")


thread = int(sys.argv[1])
ptrace(PTRACE_SEIZE, thread)
ptrace(PTRACE_INTERRUPT, thread)
print("stopped", flush=True)
sys.stdin.read()
# The kernel lets the thread go on when its tracer ends.
