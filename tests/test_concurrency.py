"""Several threads at once, children of a fork, and the end of the interpreter.

What may deadlock runs in a process of its own, under a time limit: a hang is then a failure and not a hanging suite.
"""
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest
from strategies import Problem
from test_same_bits import assert_same, plain

SECONDS = 120
LAYERS = [
    Problem(17, 8, 14, 14, 24, 3, 3, padding=1, fft_size=16),
    Problem(17, 8, 14, 14, 24, 3, 3, padding=1, fft_size=16, seed=1),
    Problem(2, 3, 40, 33, 5, 5, 4, stride=(1, 2), fft_size=16),
    Problem(20, 4, 9, 9, 8, 3, 3, padding=1, groups=2, fft_size=12, dtype="float64"),
]

# The start of every script: `same` compares all three passes of a layer with what the first call gave.
PRELUDE = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
from strategies import Problem
from test_same_bits import plain

layer = Problem(17, 8, 14, 14, 24, 3, 3, padding=1, fft_size=16)

def bits():
    return [result.tobytes() for result in plain(layer).values()]

def child(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm({SECONDS // 4})
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return pid

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_alarm = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that interrupts")


def run(script: str, seconds: int = SECONDS, **environment: str) -> None:
    """The script ends by itself, with code 0 and nothing said on stderr."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + dedent(script)]
    options = {"capture_output": True, "text": True, "timeout": seconds, "check": False}
    done = subprocess.run(command, env={**os.environ, **environment}, **options)  # type: ignore[call-overload]
    assert (done.returncode, done.stderr) == (0, ""), f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def together(layers: list[Problem], rounds: int) -> None:
    """One thread for each layer, started at once; each result has the bits that the layer gives alone."""
    want = [plain(problem) for problem in layers]
    start = threading.Barrier(len(layers))

    def work(problem: Problem, expected: dict) -> None:
        start.wait(SECONDS)
        for _ in range(rounds):
            for name, result in plain(problem).items():
                assert_same(result, expected[name], f"{name} of {problem}")

    with ThreadPoolExecutor(len(layers)) as pool:
        for future in [pool.submit(work, *each) for each in zip(layers, want, strict=True)]:
            future.result(SECONDS)


def test_two_threads_with_equal_plans() -> None:
    together([LAYERS[0], LAYERS[1]], 30)


def test_two_threads_with_different_plans() -> None:
    together([LAYERS[0], LAYERS[2]], 30)


def test_more_threads_than_cores() -> None:
    together(LAYERS * 3, 8)


def test_one_plan_and_one_spectral_weight_in_many_threads() -> None:
    problem = LAYERS[0]
    plan, a = problem.plan(), problem.arrays()
    spectral, want = plan.transform_weight(a.w), plan.forward(a.x, a.w)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: plan.forward(a.x, spectral), range(60), timeout=SECONDS):
            assert_same(result, want, "forward")


def test_helpers_keep_no_arrays() -> None:
    """Those of the last call are freed with their last name, at the latest when a helper looks up from its work."""
    run("""
        import weakref
        import numpy as np
        from numba_fftconv import conv2d
        x = np.ones((17, 8, 14, 14), np.float32)
        held = weakref.ref(x)
        for _ in range(20):
            conv2d(x, np.ones((24, 8, 3, 3), np.float32))
        del x
        end = time.monotonic() + 5
        while held() is not None and time.monotonic() < end:
            time.sleep(0.001)
        assert held() is None
    """, NUMBA_NUM_THREADS="4")


def test_helpers_that_sleep_are_woken() -> None:
    """A pause is longer than they watch for the next call, or a bell without a job has made them look up."""
    run("""
        from numba_fftconv.cpu import threads
        begun = threading.Event()
        def work(worker):
            if worker > 0:
                begun.set()
            else:
                threads.bell()[0] += 1
                assert begun.wait(5), "no helper has begun"
        for pause in (0, 0.001, 0.02) * 5:
            time.sleep(pause)
            threads.bell()[0] += 1
            begun.clear()
            threads.together(work, 2)
    """, NUMBA_NUM_THREADS="2")


def test_the_cache_is_cleared_while_others_run() -> None:
    run("""
        from numba_fftconv import clear_cache
        want, stop, wrong = bits(), threading.Event(), []
        def work():
            while not stop.is_set():
                if bits() != want:
                    wrong.append(1)
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads: thread.start()
        for _ in range(200):
            clear_cache()
            time.sleep(0.005)
        stop.set()
        for thread in threads: thread.join()
        assert not wrong, f"{len(wrong)} results differ"
    """)


def test_first_calls_at_once(tmp_path: Path) -> None:
    """Nothing has been compiled yet when four threads ask for it: the cache folder is new."""
    run("""
        from numba.core import event
        small = Problem(3, 2, 6, 6, 3, 3, 3, fft_size=8)
        plan, a = small.plan(), small.arrays()
        got, start = [], threading.Barrier(4)
        def work():
            start.wait()
            got.append(plan.forward(a.x, a.w).tobytes())
        threads = [threading.Thread(target=work) for _ in range(4)]
        with event.install_recorder("numba:compile") as compiled:
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        assert compiled.buffer, "it was all in the cache"
        assert len(got) == 4 and all(each == got[0] for each in got)
        assert plan.forward(a.x, a.w).tobytes() == got[0]
    """, XDG_CACHE_HOME=str(tmp_path))


# ---- interrupts

# A pass of many stages; `after_interrupt` says what went wrong when one was raised out of a call that wrote to `out`.
INTERRUPTS = """
import numpy as np
from strategies import call
big = Problem(64, 16, 30, 30, 16, 3, 3, padding=1, fft_size=8)
plan, a = big.plan(workspace_limit=big.plan().workspace_size // 2), big.arrays()
want = {name: call(plan, a, name) for name in ("forward", "weight_grad")}

def interrupted(name):
    out = np.full_like(want[name], np.nan)
    try:
        call(plan, a, name, out=out)
    except KeyboardInterrupt:
        left = out.tobytes()
        time.sleep(0.02)
        assert out.tobytes() == left, "somebody writes to out after the exception"
        return True
    return False

def still_right():
    for name in want:
        assert call(plan, a, name).tobytes() == want[name].tobytes()
"""


@needs_alarm
def test_an_interrupt_at_any_moment() -> None:
    """The next call is right, nobody works on, and the process ends: no helper waits for what will never be done."""
    run(INTERRUPTS + dedent("""
        begin = time.perf_counter()
        call(plan, a, "weight_grad")
        seconds = time.perf_counter() - begin
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        raised = 0
        for n in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds * (0.02 + n % 50 / 50))
                raised += interrupted(("forward", "weight_grad")[n % 2])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:  # between a call and the line that stops the timer
                pass
        assert raised > 20, raised
        still_right()
    """), seconds=30, NUMBA_NUM_THREADS="4")


def test_an_interrupt_while_helpers_are_called() -> None:
    run(INTERRUPTS + dedent("""
        from numba_fftconv.cpu import threads
        real = threads._pool().submit
        def submit(*work):
            real(*work)
            if not raised:
                raise KeyboardInterrupt
        raised = False
        threads._pool().submit = submit
        raised = interrupted("forward")
        assert raised
        still_right()
    """), seconds=30, NUMBA_NUM_THREADS="4")


def test_a_second_interrupt() -> None:
    """Of an impatient user, while the first one waits for the helpers."""
    wait_and_interrupt(2)


def test_an_interrupt_while_the_caller_waits() -> None:
    """The caller has claimed a task and sleeps until the helpers have done what it needs; Ctrl-C wakes it."""
    wait_and_interrupt(1)


def wait_and_interrupt(times: int) -> None:
    run(INTERRUPTS + f"TIMES = {times}" + dedent("""
        from numba_fftconv.cpu import engine
        class Clock:
            perf_counter, sleeps = time.perf_counter, 0
            def sleep(seconds):
                if threading.current_thread() is threading.main_thread():
                    Clock.sleeps += 1
                    if Clock.sleeps <= TIMES:
                        raise KeyboardInterrupt
                time.sleep(seconds)
        engine.time = Clock
        raised = 0
        for n in range(300):
            Clock.sleeps = 0
            raised += interrupted(("forward", "weight_grad")[n % 2])
            if raised == 5:
                break
        assert raised, "the caller never waited"
        engine.time = time
        still_right()
    """), seconds=30, NUMBA_NUM_THREADS="8")


@needs_fork
def test_a_forked_child() -> None:
    """It finds the threads of its parent gone, and starts its own; the parent goes on."""
    run("""
        want = bits()
        for _ in range(3):
            pid = child(lambda: bits() == want)
            assert bits() == want
            assert ended(pid) == 0
        assert bits() == want
    """)


@needs_fork
def test_a_child_of_a_child() -> None:
    run("""
        want = bits()
        assert ended(child(lambda: bits() == want and ended(child(lambda: bits() == want)) == 0)) == 0
    """)


@needs_fork
def test_a_child_forked_before_the_first_call() -> None:
    run("""
        assert ended(child(lambda: bits() == bits())) == 0
        assert bits() == bits()
    """)


@needs_fork
def test_children_forked_while_another_thread_runs() -> None:
    """Whatever the other thread holds at that moment, the child has lost the thread but not what it held."""
    run("""
        want, stop, wrong = bits(), threading.Event(), []
        def work():
            while not stop.is_set():
                if bits() != want:
                    wrong.append(1)
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads: thread.start()
        codes = []
        for n in range(25):
            time.sleep(0.001 * (n % 5))
            codes.append(ended(child(lambda: bits() == want)))
        stop.set()
        for thread in threads: thread.join()
        assert not any(codes), codes
        assert not wrong, f"{len(wrong)} results of the parent differ"
    """)


@needs_fork
def test_worker_processes() -> None:
    """As a data loader makes them: a pool of forked processes that themselves use the library."""
    run("""
        import multiprocessing
        def work(_):
            return bits()
        want = bits()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert all(each == want for each in pool.map(work, range(6)))
    """)


def test_the_interpreter_ends() -> None:
    run("bits()")


def test_a_thread_outlives_the_main_thread() -> None:
    """The interpreter waits for a thread that is still convolving, and lets it finish."""
    run("""
        want = bits()
        def work():
            for _ in range(20):
                time.sleep(0.01)
                assert bits() == want
            print("finished")
        threading.Thread(target=work).start()
        # The main thread ends here.
    """)


def test_a_call_at_exit() -> None:
    run("""
        import atexit
        want = bits()
        atexit.register(lambda: bits() == want or os._exit(3))
    """)


def test_a_daemon_thread_is_running_at_the_end() -> None:
    """It is stopped wherever it is: nothing is said, nothing crashes."""
    run("""
        bits()
        def work():
            while True:
                bits()
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.3)
    """)
