"""The rights that a process gives up before it reads a file made by others; on Linux, by the kernel's own means.

Standard library only: it runs before torch is imported, so that every thread of the process inherits what it does.
Landlock (Linux 5.13) takes away making and changing files, starting programs and, from 6.7, TCP; seccomp takes away
what Landlock leaves: other sockets, file modes and owners, other processes' memory. A limit of 0 bytes a file works on
every POSIX system, but does not stop an existing file from being overwritten through shared memory.
"""

import ctypes
import glob
import os
import platform
import struct
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
WRITE_FILE, READ_FILE, READ_DIR, DEVICE_CONTROL = 1 << 1, 1 << 2, 1 << 3, 1 << 15
READS = READ_FILE | READ_DIR
# Rights over files that Landlock knows, by its version: 13, then linking elsewhere, truncating, controlling devices.
KNOWN = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
TCP, SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals to others
NO_NEW_PRIVILEGES = 38
DEVICES = ("/dev/nvidia*", "/dev/dxg", "/dev/kfd", "/dev/dri")
SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys")
HARMLESS = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
# The calls refused by seccomp, with their numbers on x86-64 and on aarch64, "-" for none.
CALLS = """
socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, execve 59 221, execveat 322 281, ptrace 101 117,
process_vm_readv 310 270, process_vm_writev 311 271, chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452,
chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, utime 132 -,
utimes 235 -, futimesat 261 -, utimensat 280 88, mount 165 40, bpf 321 280, perf_event_open 298 241,
userfaultfd 323 282, open_by_handle_at 304 265, init_module 175 105, finit_module 313 273, io_uring_setup 425 425
"""
# By machine: its name for seccomp, the number of the call seccomp, and the column of its numbers.
SECCOMP = {"x86_64": (0xC000003E, 317, 1), "aarch64": (0xC00000B7, 277, 2)}


def hold_writes(device: str) -> list[str]:
    """Give up making and changing files, starting programs and TCP, for good; on "cuda..." all but the driver's files.

    Returns:
        What this system cannot take away, in words; empty where all is held.
    """
    try:
        import resource
    except ImportError:
        return ["making and overwriting files"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    allowed = dict.fromkeys(["/dev/null", *_devices(device)], WRITE_FILE | DEVICE_CONTROL)
    return [] if _landlock(KNOWN[max(KNOWN)] & ~READS, allowed, alone=True) else ["making and overwriting files"]


def hold_reads(device: str) -> list[str]:
    """Give up reading files but the system's and what Python imports from, sockets and the like, for good.

    Arguments and what is returned are as for `hold_writes`.
    """
    allowed = dict.fromkeys([*_read_places(), *_devices(device)], READS)
    held = [] if _landlock(READS, allowed, alone=False) else ["reading files"]
    return held if _seccomp() else [*held, "the network"]


def _devices(device: str) -> list[str]:
    return [place for form in DEVICES if device.startswith("cuda") for place in glob.glob(form)]


def _read_places() -> list[str]:
    """Folders that modules and shared libraries come from."""
    places = {*SYSTEM, *HARMLESS, sys.prefix, sys.base_prefix, *sys.path}
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            libraries = {line.split(maxsplit=5)[-1].strip() for line in maps if ".so" in line}
    except OSError:
        libraries = set()
    places |= {os.path.dirname(library) for library in libraries if library.startswith("/")}
    return sorted(place for place in places if place and os.path.exists(place))


def _landlock(rights: int, allowed: dict[str, int], *, alone: bool) -> int:
    """Take rights over files away from this thread and all that it starts, but for those allowed by file or folder.

    `alone` takes away TCP and signals to others too. Returns the kernel's version of Landlock; 0 where it has none or
    refuses.
    """
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1 or libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return 0
    rights &= KNOWN[min(version, max(KNOWN))]
    fields = [rights, TCP if alone else 0, SCOPES if alone else 0][: 1 if version < 4 else 2 if version < 6 else 3]
    asked = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = libc.syscall(CREATE_RULESET, asked, len(asked), 0)
    if ruleset < 0:
        return 0
    try:
        for place, kept in allowed.items():
            _allow(libc, ruleset, place, kept & rights)
        return int(version) if libc.syscall(RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, place: str, rights: int) -> None:
    """Leave rights to a file or a folder; what cannot be opened stays without them."""
    try:
        opened = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(place):
            rights &= ~READ_DIR
        libc.syscall(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


def _seccomp() -> bool:
    """Refuse the calls of this machine's list to every thread; False where that is impossible."""
    if sys.platform != "linux" or platform.machine() not in SECCOMP:
        return False
    architecture, number, column = SECCOMP[platform.machine()]
    numbers = [line.split()[column] for line in CALLS.split(",")]
    libc = ctypes.CDLL(None, use_errno=True)
    load, equal, above, give = 0x20, 0x15, 0x35, 0x06
    refuse, allow = 0x00050001, 0x7FFF0000
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, refuse), (load, 0, 0, 0)]
    # Numbers from here up are x86-64's second way to the same calls.
    steps += [(above, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    for call in (int(found) for found in numbers if found != "-"):
        steps += [(equal, 0, 1, call), (give, 0, 0, refuse)]
    steps.append((give, 0, 0, allow))
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    header = struct.pack("@HP", len(steps), ctypes.addressof(program))
    every_thread = 1
    return bool(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and libc.syscall(number, 1, every_thread, header) == 0)
