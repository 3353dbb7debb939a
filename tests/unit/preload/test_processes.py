"""Processes that the library leaves alone, and processes that execute, fork and change what they were given."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import preload
from tests.preload import View


class TestUntouched:
    @pytest.mark.parametrize("name", ["other", "javac", "node-gyp", "python3-config", "pythonic", "python2.7"])
    def test_a_program_of_no_language_keeps_its_environment(self, view: View, programs: Path, name: str) -> None:
        view.configure("opentelemetry", "A=1\n")
        self._assert_untouched(view, programs / name)

    def test_so_does_one_that_the_library_is_switched_off_for(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", "A=1\n")
        self._assert_untouched(view, programs / "java", OTEL_INJECTOR_DISABLED="true")

    def test_so_does_one_of_a_language_that_the_package_lacks(self, view: View, programs: Path) -> None:
        shutil.rmtree(view.place / "agent/java")
        self._assert_untouched(view, programs / "java")

    def test_so_does_one_that_loads_the_library_from_another_place(self, view: View, programs: Path) -> None:
        copy = view.place / "agent/lib64/copy.so"
        copy.write_bytes(view.library.read_bytes())
        self._assert_untouched(view, programs / "java", LD_PRELOAD=str(copy))

    def _assert_untouched(self, view: View, program: Path, **variables: str) -> None:
        odd = {"EMPTY": "", "B": "1\n2", "A": "=x", "PATH": "/bin", "\udcff": "\udcfe"}
        given = {"LD_PRELOAD": str(view.library), **odd, **variables}
        run = subprocess.run([program], env=given, capture_output=True, check=True)
        bare = subprocess.run([program], env={**given, "LD_PRELOAD": ""}, capture_output=True, check=True)
        assert (run.stderr, run.stdout.split(b"\0")[0]) == (b"", b"same"), "the array of the kernel"
        assert run.stdout.replace(os.fsencode(given["LD_PRELOAD"]), b"") == bare.stdout, "bit for bit, in order"

    def test_an_environment_without_variables_is_left_so(self, view: View, programs: Path) -> None:
        # As `env -i` makes it: without LD_PRELOAD the library is not there at all.
        run = view.run("/usr/bin/env", "-i", str(programs / "java"))
        assert (run.returncode, run.stdout, run.stderr) == (0, b"same\0", b"")

    def test_one_whose_library_list_names_libc_first_is_not_harmed(self, view: View, programs: Path, libc: str) -> None:
        if libc == "musl":
            pytest.skip("musl's libc is its loader")
        found = next(Path("/").glob("lib/*-linux-gnu/libc.so.6"), None)
        if found is None:
            pytest.skip("there is no libc.so.6 below /lib")
        for libraries in (f"{found}:{view.library}", f"{view.library}:{found}"):
            assert view.run(programs / "java", LD_PRELOAD=libraries).returncode == 0


class TestOnce:
    def test_10000_executions_of_itself_add_nothing_to_the_first(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", "OTEL_RESOURCE_ATTRIBUTES=a=1,b=2\nOTEL_PROPAGATORS=baggage\n")
        first = view.environment(programs / "java", JAVA_TOOL_OPTIONS="-Xmx1g")
        assert view.environment(programs / "java", "again", "10000", JAVA_TOOL_OPTIONS="-Xmx1g") == first

    def test_the_second_has_the_kernels_array(self, view: View, programs: Path) -> None:
        run = view.run(programs / "java", "again", "1")
        assert run.stdout.startswith(b"same\0")

    def test_a_language_that_starts_another_gives_it_both(self, view: View, programs: Path) -> None:
        script = f"{programs / 'node'} again 0; exec {programs / 'java'}"
        found = view.run("/bin/sh", "-c", script).stdout
        node, java = (preload.entries(part)[1] for part in found.removeprefix(b"new\0").split(b"new\0"))
        assert "NODE_OPTIONS" in node
        assert "JAVA_TOOL_OPTIONS" in java
        assert "NODE_OPTIONS" not in java, "the shell between them has nothing to give"


class TestUse:
    def test_a_shell_that_executes_the_program_gives_it_the_agent(self, view: View, programs: Path) -> None:
        found = view.environment("/bin/sh", "-c", f'A=2 exec "{programs / "java"}"', A="1")
        found.pop("PWD", None)
        assert found == {"A": "2", "JAVA_TOOL_OPTIONS": view.java_option}

    def test_a_program_changes_its_variables(self, view: View, programs: Path) -> None:
        view.configure("container", "OTEL_SERVICE_NAME=shop\nOTEL_PROPAGATORS=baggage\n")
        assert view.environment(programs / "java", "change", A="1") == {
            "A": "1",
            "JAVA_TOOL_OPTIONS": "replaced",
            "OTEL_PROPAGATORS": "baggage",
            "PUT": "1",
            "SET": "1",
        }

    def test_threads_read_fork_and_execute(self, view: View, programs: Path) -> None:
        run = view.run(programs / "java", "threads")
        assert (run.stdout, run.stderr) == (b"ok\n", b"")

    @pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not on this machine, and zig makes no such program")
    def test_a_program_with_a_copy_of_the_variable_has_the_new_one(self, view: View, tmp_path: Path) -> None:
        # Compiled for one place in memory, it has `environ` in its own data: a copy relocation.
        command = [
            "gcc",
            "-fno-pic",
            "-no-pie",
            "-pthread",
            str(preload.SOURCES / "probe.c"),
            "-o",
            str(tmp_path / "java"),
        ]
        subprocess.run(command, check=True)
        assert view.environment(tmp_path / "java") == {"JAVA_TOOL_OPTIONS": view.java_option}

    @pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not on this machine")
    @pytest.mark.parametrize("name", ["java", "node", "python", "other"])
    def test_valgrind_finds_nothing(self, view: View, programs: Path, libc: str, name: str) -> None:
        if libc == "musl":
            pytest.skip("valgrind replaces the allocator of glibc only")
        view.configure("opentelemetry", "OTEL_RESOURCE_ATTRIBUTES=a=1,b=2\nA=1\n")
        command = ("-q", "--error-exitcode=9", "--leak-check=full", "--track-fds=yes", str(programs / name), "change")
        run = view.run(shutil.which("valgrind") or "", *command, OTEL_RESOURCE_ATTRIBUTES="b=own")
        assert run.returncode == 0, run.stderr.decode()
        assert ("OTEL_RESOURCE_ATTRIBUTES=b=own,a=1" in run.stdout.decode()) == (name != "other")


@pytest.mark.parametrize(
    ("name", "arguments", "variable"),
    [
        ("java", ("-XshowSettings:properties", "-version"), "JAVA_TOOL_OPTIONS"),
        ("node", ("-e", "console.log(process.env.NODE_OPTIONS, process.env.FROM_FILE)"), "NODE_OPTIONS"),
        ("python3", ("-c", "import os; print(os.environ['PYTHONPATH'], os.environ['FROM_FILE'])"), "PYTHONPATH"),
    ],
)
def test_a_real_runtime_has_its_agent(
    view: View, tmp_path: Path, name: str, arguments: tuple[str, ...], variable: str
) -> None:
    program = "/usr/bin/python3" if name == "python3" else shutil.which(name)
    if program is None or not os.path.exists(program):
        pytest.skip(f"{name} is not on this machine")
    view.configure("opentelemetry", "FROM_FILE=yes\n")
    if name == "java":
        _make_java_agent(view, tmp_path)
    run = view.run(program, *arguments, PATH=os.environ["PATH"])
    assert run.returncode == 0, run.stderr
    printed = run.stdout.decode() + run.stderr.decode()
    assert str(view.place / "agent") in printed, variable
    assert "yes" in printed


def _make_java_agent(view: View, place: Path) -> None:
    """A Java agent that prints a variable that it was given."""
    javac, jar = shutil.which("javac"), shutil.which("jar")
    if javac is None or jar is None:
        pytest.skip("there is no javac to make an agent with")
    source = (
        'public class A { public static void premain(String a) { System.out.println(System.getenv("FROM_FILE")); } }'
    )
    (place / "A.java").write_text(source)
    (place / "manifest").write_text("Premain-Class: A\n")
    subprocess.run([javac, "A.java"], cwd=place, check=True)
    agent = view.place / preload.JAVA_AGENT
    subprocess.run([jar, "cfm", agent, "manifest", "A.class"], cwd=place, check=True)
