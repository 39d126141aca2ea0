"""Programs that try to pass without solving, or to do harm; by class.

The problem: ``f(n)`` is to return ``n * n + 7``. Those under ``FOOL_NAIVE`` pass where test and program run in one
process and the exit code decides, which a test proves first.
"""

CHECK = """
WANT = {0: 7, 1: 8, 2: 11}

def check(candidate):
    for n in range(3):
        want = WANT[n]
        got = candidate(n)
        assert abs(got - want) < 1e-6
        assert got == want
"""

SOLUTION = "def f(n):\n    return n * n + 7\n"

FOOL_NAIVE = {
    "early exit: sys.exit": "import sys\nsys.exit(0)\n",
    "early exit: raise SystemExit": "raise SystemExit\n",
    "early exit: os._exit": "import os\nos._exit(0)\n",
    "early exit: quit": "import site\nsite.main()\nquit()\n",
    "early exit: in the call": "import sys\ndef f(n):\n    sys.exit(0)\n",
    "early exit: os._exit in the call": "import os\ndef f(n):\n    os._exit(0)\n",
    "early exit: daemon thread": """
import os, threading, time
threading.Thread(target=lambda: (time.sleep(0.05), os._exit(0)), daemon=True).start()
def f(n):
    time.sleep(5)
""",
    "early exit: alarm": """
import os, signal, time
signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
signal.setitimer(signal.ITIMER_REAL, 0.05)
def f(n):
    time.sleep(5)
""",
    "early exit: excepthook": """
import os, sys
sys.excepthook = lambda *_: os._exit(0)
def f(n):
    raise ValueError
""",
    "early exit: atexit": """
import atexit, os
atexit.register(os._exit, 0)
def f(n):
    raise ValueError
""",
    "early exit: exec": "import os\nos.execv('/bin/true', ['true'])\n",
    "early exit: libc": "import ctypes\nctypes.CDLL(None)._exit(0)\n",
    "early exit: raised on return": """
class Exits:
    def __eq__(self, other): raise SystemExit(0)
    def __sub__(self, other): raise SystemExit(0)
def f(n):
    return Exits()
""",
    "tampering: always equal": """
class Any:
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
def f(n):
    return Any()
""",
    "tampering: int that is always equal": """
class Any(int):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    __hash__ = int.__hash__
def f(n):
    return Any(0)
""",
    "tampering: float that is always equal": """
class Any(float):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
def f(n):
    return Any(0)
""",
    "tampering: no rounds in the loop": "import builtins\nbuiltins.range = lambda *_: ()\ndef f(n):\n    return 0\n",
    "tampering: abs": """
import builtins
class Any:
    def __eq__(self, other): return True
    def __lt__(self, other): return True
    def __sub__(self, other): return self
builtins.abs = lambda x: Any()
def f(n):
    return Any()
""",
    "tampering: the caller's locals by trace": """
import sys
def f(n):
    class Any:
        def __sub__(self, other): return 0
        def __eq__(self, other): return True
    sys._getframe(1).f_globals["WANT"][n] = 0
    sys._getframe(1).f_globals["WANT"].update({1: 0, 2: 0})
    return Any()
""",
    "tampering: trace function": """
import os, sys
def leave(frame, event, argument):
    if frame.f_code.co_name == "check": os._exit(0)
sys.settrace(leave)
def f(n):
    return 0
""",
    "reading: the caller's frame": "import sys\ndef f(n):\n    return sys._getframe(1).f_locals['want']\n",
    "reading: the caller's globals": "import sys\ndef f(n):\n    return sys._getframe(1).f_globals['WANT'][n]\n",
    "reading: garbage collector": """
import gc
def f(n):
    for thing in gc.get_objects():
        if type(thing) is dict and type(thing.get("WANT")) is dict:
            return thing["WANT"][n]
""",
    "reading: the main module's file": """
import ast, sys
def f(n):
    text = open(sys.argv[0]).read()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and node.targets[0].id == "WANT":
            return ast.literal_eval(node.value)[n]
""",
    "reading: test functions in memory": """
import gc, types
def f(n):
    for thing in gc.get_objects():
        if isinstance(thing, types.FunctionType) and thing.__name__ == "check":
            return thing.__globals__["WANT"][n]
""",
    "forged: fork, the child fails": """
import os
def f(n):
    if os.fork() == 0:
        raise ValueError
    os._exit(0)
""",
    "forged: monkey-patched check": """
import sys
class Module(dict): pass
import builtins
real = builtins.__build_class__
def f(n):
    frame = sys._getframe(1)
    want = frame.f_locals["want"]
    return want
""",
}

TALK = """
import json, os, struct, sys
def frame(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<I", len(data)) + data
def everywhere(data):
    for file in range(3, 256):
        try:
            os.write(file, data)
        except OSError:
            pass
def local(name):
    frame = sys._getframe(1)
    while name not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals[name]
def number():
    return local("number")
def place():
    return local("place")
"""

FORGED = {
    "forged: says that it passed": "print('passed\\nOK\\n...\\n1 passed in 0.01s')\ndef f(n):\n    return 0\n",
    "forged: verdict on every descriptor": TALK
    + 'everywhere(frame({"t": ["passed", None, "", 3]}))\ndef f(n):\n    return 0\n',
    "forged: verdict in the call": TALK
    + 'def f(n):\n    everywhere(frame({"t": ["passed", None, "", 3]}))\n    os._exit(0)\n',
    "forged: answers in advance": TALK
    + "for value in (7, 8, 11):\n    everywhere(frame({'t': ['0' * 16, 0, 'value', value]}))\n"
    + "def f(n):\n    os._exit(0)\n",
    "forged: the right answer twice": TALK
    + "def f(n):\n    everywhere(frame({'t': [number(), place(), 'value', n * n + 7]}))\n    return n * n + 7\n",
    "forged: all answers at once": TALK
    + "def f(n):\n    for v in range(20): everywhere(frame({'t': [number(), place(), 'value', v]}))\n"
    + "    os._exit(0)\n",
    "forged: the end in advance": TALK
    + "def f(n):\n    everywhere(frame({'t': [number(), place(), 'value', 7]}))\n"
    + "    everywhere(frame({'t': [number(), place() + 1, 'value', None]}))\n"
    + "    os._exit(0)\n",
    "forged: every codec function": """
import openrlhf_pf.code_reward.judge.codec as codec
real = codec.encode
codec.encode = lambda value, *rest: real((*value[:2], "value", True), *rest)
def f(n):
    return True
""",
    "forged: an unknown tag": TALK
    + "def f(n):\n    everywhere(frame({'t': [number(), place(), 'value', {'z': [1]}]}))\n",
    "forged: two tags": TALK + "def f(n):\n    everywhere(frame({'t': [number(), place(), 'value'], 's': []}))\n",
    "forged: an unhashable key": TALK
    + "def f(n):\n    everywhere(frame({'t': [number(), place(), 'value', {'d': [[[1], 2]]}]}))\n",
    "forged: a pickle": TALK
    + "import pickle\ndef f(n):\n    everywhere(frame(pickle.dumps((number(), place(), 'value', 7))))\n",
    "forged: nested a million deep": TALK + "def f(n):\n    everywhere(frame(b'[' * 1000000))\n",
    "forged: digits without end": TALK + "def f(n):\n    everywhere(frame(b'9' * 4000000))\n",
    "forged: a length without end": TALK
    + "def f(n):\n    everywhere(struct.pack('<I', 0xffffffff) + b'x' * 5000000)\n",
    "forged: half a frame": TALK + "def f(n):\n    everywhere(struct.pack('<I', 1000) + b'x')\n    os._exit(0)\n",
    "forged: a numpy scalar of its own": """
class Any:
    shape = ()
    def item(self): return self
    def __eq__(self, other): return True
Any.__module__ = "numpy"
def f(n):
    return Any()
""",
}

_CALL = "def f(n):\n    {}\n    return 0\n"

HARM = {
    "processes: fork bomb": "import os\nwhile True:\n    os.fork()\n",
    "processes: fork bomb that swallows": """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "processes: threads": """
import threading, time
for _ in range(10000):
    threading.Thread(target=time.sleep, args=(60,)).start()
def f(n):
    return 0
""",
    "processes: subprocess": "import subprocess\nsubprocess.Popen(['/bin/sleep', '60'])\ndef f(n):\n    return 0\n",
    "processes: daemon": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(60)
def f(n):
    return 0
""",
    "processes: multiprocessing": """
import multiprocessing, time
multiprocessing.Process(target=time.sleep, args=(60,)).start()
def f(n):
    return 0
""",
    "memory: one block": _CALL.format("x = bytearray(1 << 40)"),
    "memory: little by little": _CALL.format("x = [bytearray(1 << 20) for _ in range(100000)]"),
    "memory: a string": _CALL.format("x = 'x' * (1 << 33)"),
    "memory: a power": _CALL.format("x = 10 ** (10 ** 10)"),
    "memory: swallowed": """
def f(n):
    kept = []
    while True:
        try: kept.append(bytearray(1 << 20))
        except MemoryError: pass
""",
    "memory: mapped": _CALL.format("import mmap; x = mmap.mmap(-1, 1 << 34); x.write(b'x' * (1 << 32))"),
    "disk: one file": _CALL.format("open('/tmp/x', 'wb').write(b'x' * (1 << 27))"),
    "disk: many files": _CALL.format("[open(f'/tmp/{i}', 'wb').write(b'x' * (1 << 20)) for i in range(1000)]"),
    "disk: inodes": _CALL.format("[open(f'/tmp/{i}', 'wb').close() for i in range(100000)]"),
    "disk: directories": """
import os
def f(n):
    while True:
        os.mkdir("d")
        os.chdir("d")
""",
    "disk: a file in memory": _CALL.format("import os; os.write(os.memfd_create('x'), b'x' * (1 << 28))"),
    "output: flood": "while True:\n    print('x' * 65536)\n",
    "output: flood of errors": "import sys\nwhile True:\n    sys.stderr.write('x' * 65536)\n",
    "signals: to the parent": _CALL.format("import os; os.kill(os.getppid(), 9)"),
    "signals: to all": _CALL.format("import os; os.kill(-1, 9)"),
    "signals: to its group": _CALL.format("import os; os.killpg(0, 9)"),
    "signals: stops itself": _CALL.format("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"),
    "signals: ignores all": """
import signal
for number in signal.valid_signals():
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f(n):
    while True: pass
""",
    "signals: crash": _CALL.format("import ctypes; ctypes.string_at(0)"),
    "hang: in C, a power": _CALL.format("return pow(3, 10 ** 9)"),
    "hang: in C, a sum": _CALL.format("sum(range(10 ** 12))"),
    "hang: in C, a regular expression": _CALL.format("import re; re.match(r'(a+)+$', 'a' * 60 + 'b')"),
    "hang: asleep": _CALL.format("import time; time.sleep(1e6)"),
    "hang: a lock": _CALL.format("import threading; x = threading.Lock(); x.acquire(); x.acquire()"),
    "hang: swallows everything": """
def f(n):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "hang: reads": _CALL.format("import os; r, w = os.pipe(); os.read(r, 1)"),
    "hang: while loading": "while True: pass\n",
    "recursion: endless": "def f(n):\n    return f(n)\n",
    "recursion: without limit": """
import sys
sys.setrecursionlimit(10 ** 9)
def f(n):
    return [f(n)] + sorted([n], key=f)
""",
    "recursion: in the parser": "def f(n):\n    return " + "(" * 50000 + ")" * 50000 + "\n",
    "recursion: in compile": _CALL.format("eval('-' * 1000000 + '1')"),
    "recursion: in the result": "def f(n):\n    x = []\n    for _ in range(100000): x = [x]\n    return x\n",
    "results: cyclic": "def f(n):\n    x = []\n    x.append(x)\n    return x\n",
    "results: huge text": _CALL.format("return 'x' * (1 << 26)"),
    "results: huge list": _CALL.format("return list(range(3000000))"),
    "results: huge number": _CALL.format("return 1 << (1 << 26)"),
    "results: a function": _CALL.format("return lambda: 7"),
    "results: a generator": _CALL.format("return (x for x in (7,))"),
    "results: a module": _CALL.format("import sys; return sys"),
    "results: reduce": "class X:\n    def __reduce__(self): return eval, ('7',)\ndef f(n):\n    return X()\n",
    "results: colliding keys": _CALL.format("return {i * ((1 << 61) - 1): 0 for i in range(1, 50000)}"),
    "results: not a number": _CALL.format("return float('nan')"),
    "results: an exception with a hostile text": """
class X(Exception):
    def __str__(self): raise SystemExit(0)
def f(n):
    raise X
""",
}

# What these do to the directory that is theirs must be gone with them.
LEFT_BEHIND = {
    "a file": "open('/tmp/left behind', 'w').write('x')",
    "a file, where it is": "open('left behind', 'w').write('x')",
    "a folder without rights": "os.mkdir('x'); os.chmod('x', 0)",
    "no rights": "os.chmod('/tmp', 0)",
    "a file and no rights": "open('x', 'w').write('x'); os.chmod('/tmp', 0)",
    "a link": "os.symlink('/', 'x')",
    "times": "os.utime('/tmp', (1, 1))",
}

# Each returns whether it got through; nothing may.
PROBES = {
    "network: connect": "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
    "network: listen": "import socket; socket.create_server(('127.0.0.1', 0))",
    "network: names": "import socket; socket.gethostbyname('localhost.localdomain')",
    "network: datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "network: netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "network: unix": "import socket; socket.socket(socket.AF_UNIX).connect('\\0' + 'code-reward-test')",
    "files: passwords": "open('/etc/passwd').read()",
    "files: home": "import os; assert os.listdir('/root') != ['.pyenv'] and os.listdir('/root')",
    "files: secret": "open(SECRET).read()",
    "files: secret's folder": "import os; os.listdir(os.path.dirname(SECRET))",
    "files: secret's permissions": "import os; os.chmod(SECRET, 0o640)",
    "files: secret's owner": "import os; os.chown(SECRET, os.getuid(), -1)",
    "files: secret's times": "import os; os.utime(SECRET, (0, 0))",
    "files: secret's attributes": "import os; os.setxattr(SECRET, 'user.seen', b'1')",
    "files: outside": "open('/etc/code-reward-test', 'w')",
    "files: in the root": "open('/code-reward-test', 'w')",
    "files: the library": "import json; open(json.__file__, 'a')",
    "files: the library's folder": "import json, os; open(os.path.join(os.path.dirname(json.__file__), 'x'), 'w')",
    "files: from the last program": "import os; assert os.path.exists('/tmp/left behind')",
    "files: from the last program, where it was": "import os; assert os.listdir('.')",
    "files: other packages": "import pip",
    "files: other packages' folder": "import os; assert os.listdir(f'{os.path.dirname(os.__file__)}/site-packages')",
    "files: devices": "import os; os.mknod('/tmp/d', 0o60600, os.makedev(254, 0))",
    "files: old root": "import os; assert os.listdir('/.old')",
    "environment": "import os; assert 'TEST_SECRET' in os.environ",
    "environment: of the parent": "open(f'/proc/{__import__(\"os\").getppid()}/environ', 'rb').read()",
    "environment: of others": "open('/proc/1/environ', 'rb').read()",
    "memory: its own": "open('/proc/self/mem', 'rb')",
    "group: new session": "import os; os.setsid()",
    "group: new group": "import os; os.setpgid(0, 0) or os.setpgid(0, os.getppid())",
    "group: fork": "import os; os.fork() or os._exit(0)",
    "group: vfork": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "group: exec": "import os; os.execv('/usr/bin/true', ['true'])",
    "group: namespaces": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "group: trace": "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "group: mount": "import ctypes; assert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0",
    "group: root": "import os; os.chroot('/tmp')",
    "group: user": "import os; os.setuid(0)",
    "group: old system calls": "import ctypes; assert ctypes.CDLL(None).syscall(57) > 0",
    "group: clone3": "import ctypes; assert ctypes.CDLL(None).syscall(435, bytes(64), 64) >= 0",
    "group: io_uring": "import ctypes; assert ctypes.CDLL(None).syscall(425, 1, bytes(120)) >= 0",
    "group: keys": "import ctypes; assert ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0",
    "limits: processor": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (999, 999))",
    "limits: memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "limits: by prlimit": "import os, resource; resource.prlimit(os.getpid(), resource.RLIMIT_AS, (-1, -1))",
    "signals: to others": "import os; os.kill(os.getppid(), 0)",
    "signals: to the first": "import os; os.kill(1, 0)",
    "signals: of a file": "import fcntl; fcntl.fcntl(3, 8, 1)",
    "signals: of a file, chosen": "import fcntl; fcntl.fcntl(3, 10, 9)",
    "signals: of a socket": "import fcntl, struct; fcntl.ioctl(3, 0x8901, struct.pack('i', 1))",
    "signals: a timer": "import ctypes; assert ctypes.CDLL(None).syscall(222, 0, None, bytes(8)) == 0",
    "network: a datagram's socket": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "network: a raw one, which is the same": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)",
    "network: a datagram with flags": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | 0x80800)",
    "locks: of a file": "import fcntl; fcntl.flock(0, fcntl.LOCK_EX)",
    "locks: of a library's file": "import fcntl, json; fcntl.flock(open(json.__file__), fcntl.LOCK_SH)",
    "locks: of an open file": "import fcntl, struct; fcntl.fcntl(0, 37, struct.pack('hhqqi', 0, 0, 0, 0, 0))",
    "locks: leases": "import fcntl, json; fcntl.fcntl(open(json.__file__), 1024, 0)",
    "watches: inotify": "import ctypes; assert ctypes.CDLL(None).inotify_init() >= 0",
    "watches: inotify1": "import ctypes; assert ctypes.CDLL(None).inotify_init1(0) >= 0",
    "asynchronous input": "import ctypes; assert ctypes.CDLL(None).syscall(206, 1, (ctypes.c_ulong * 1)()) == 0",
    "files: in memory": "import os; os.memfd_create('x')",
    "arguments of the worker": "import sys; assert len(sys.argv) > 1 or any('{' in word for word in sys.orig_argv)",
    "limits: the stack of others": "import os, resource as r; r.prlimit(os.getppid() or 1, r.RLIMIT_STACK, (1, 1))",
    "priority": "import os; os.nice(-5)",
    "priority: processors": "import os; os.sched_setaffinity(0, os.sched_getaffinity(0))",
}
