"""The variables that a process of each language gets, under glibc and under musl."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests import preload
from tests.preload import View

ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"


class TestAgent:
    def test_java_gets_the_agent(self, view: View, programs: Path) -> None:
        assert view.environment(programs / "java") == {"JAVA_TOOL_OPTIONS": view.java_option}

    def test_node_gets_the_agent(self, view: View, programs: Path) -> None:
        assert view.environment(programs / "node") == {"NODE_OPTIONS": view.node_option}

    @pytest.mark.parametrize("name", ["python", "python3.12"])
    def test_python_gets_the_packages_for_its_libc(self, view: View, programs: Path, libc: str, name: str) -> None:
        packages = str(view.place / preload.PYTHON_AGENTS[libc])
        assert view.environment(programs / name) == {"PYTHONPATH": packages}

    def test_options_of_the_image_come_before(self, view: View, programs: Path) -> None:
        assert view.environment(programs / "java", JAVA_TOOL_OPTIONS="-Xmx1g -javaagent:/own.jar") == {
            "JAVA_TOOL_OPTIONS": f"-Xmx1g -javaagent:/own.jar {view.java_option}"
        }
        assert view.environment(programs / "node", NODE_OPTIONS="--require /own.js") == {
            "NODE_OPTIONS": f"--require /own.js {view.node_option}"
        }

    def test_directories_of_the_image_come_after_so_that_the_agents_sitecustomize_is_found(
        self, view: View, programs: Path, libc: str
    ) -> None:
        packages = view.place / preload.PYTHON_AGENTS[libc]
        found = view.environment(programs / "python", PYTHONPATH="/own:/other")
        assert found == {"PYTHONPATH": f"{packages}:/own:/other"}

    @pytest.mark.parametrize("name", ["JAVA_TOOL_OPTIONS", "OTHER"])
    def test_an_empty_variable_counts_as_none(self, view: View, programs: Path, name: str) -> None:
        found = view.environment(programs / "java", **{name: ""})
        assert found == {name: "", "JAVA_TOOL_OPTIONS": view.java_option}

    def test_an_option_that_only_begins_like_ours_is_another_one(self, view: View, programs: Path) -> None:
        own = f"{view.java_option}=debug"
        assert view.environment(programs / "java", JAVA_TOOL_OPTIONS=own) == {
            "JAVA_TOOL_OPTIONS": f"{own} {view.java_option}"
        }

    def test_a_list_of_libraries_may_name_others(self, view: View, programs: Path) -> None:
        # The loader takes colons and blanks; what it can't load it passes over, with a message.
        run = view.run(programs / "java", LD_PRELOAD=f"/absent/libotelinject.so /absent/other.so:{view.library}")
        assert preload.entries(run.stdout)[1]["JAVA_TOOL_OPTIONS"] == view.java_option

    def test_an_option_too_long_for_a_variable_is_not_added(self, view: View, programs: Path) -> None:
        own = "x" * (128 * 1024 - len("JAVA_TOOL_OPTIONS=") - 1)
        assert view.environment(programs / "java", JAVA_TOOL_OPTIONS=own) == {"JAVA_TOOL_OPTIONS": own}


class TestVariables:
    def test_both_files_are_read_and_the_containers_comes_first(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318\nOTEL_SERVICE_NAME=all\n")
        view.configure("container", "OTEL_SERVICE_NAME=shop\n")
        assert view.environment(programs / "java") == {
            "JAVA_TOOL_OPTIONS": view.java_option,
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
            "OTEL_SERVICE_NAME": "shop",
        }

    def test_a_variable_of_the_pod_stays_even_if_it_is_empty(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", "A=file\nB=file\nC=file\n")
        found = view.environment(programs / "java", A="pod", B="")
        assert (found["A"], found["B"], found["C"]) == ("pod", "", "file")

    def test_a_value_goes_to_the_end_of_its_line(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", 'A= x=y # no comment \r\n# a comment\n\nB="quoted"\n 9=x\nC-D=x\n=x\nE\nF=end')
        found = view.environment(programs / "java")
        assert {name: found[name] for name in found if name != "JAVA_TOOL_OPTIONS"} == {
            "A": " x=y # no comment ",
            "B": '"quoted"',
            "F": "end",
        }

    def test_options_of_a_file_are_extended_too(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", "JAVA_TOOL_OPTIONS=-Xmx1g\n")
        assert view.environment(programs / "java") == {"JAVA_TOOL_OPTIONS": f"-Xmx1g {view.java_option}"}

    @pytest.mark.parametrize("kind", ["missing", "large", "fifo", "directory", "loop", "endless"])
    def test_a_file_that_is_no_use_is_passed_over(self, view: View, programs: Path, kind: str) -> None:
        path = view.place / "agent/conf/opentelemetry.env"
        view.configure("container", "A=1\n")
        if kind == "large":
            view.configure("opentelemetry", "B=1\n".ljust(32 * 1024 + 1, "#"))
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "endless":
            path.symlink_to("/dev/zero")
        assert view.environment(programs / "java") == {"JAVA_TOOL_OPTIONS": view.java_option, "A": "1"}

    def test_the_largest_file_is_read(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", "B=1\n".ljust(32 * 1024, "#"))
        assert view.environment(programs / "java")["B"] == "1"

    def test_more_variables_than_it_takes_are_left_out(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", "".join(f"A{number}=1\n" for number in range(300)))
        found = view.environment(programs / "java", JAVA_TOOL_OPTIONS="-Xmx1g")
        assert found["JAVA_TOOL_OPTIONS"] == f"-Xmx1g {view.java_option}"
        assert len(found) == 257


class TestOwnCollector:
    """A process that names a collector itself gets nothing that is meant for another one."""

    ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

    @pytest.fixture
    def configured(self, view: View) -> View:
        exporter = {"ENDPOINT": "http://a:4318", "HEADERS": "token=secret", "PROTOCOL": "http/protobuf"}
        lines = [f"OTEL_EXPORTER_OTLP_{name}={value}\n" for name, value in exporter.items()]
        view.configure("opentelemetry", "".join(lines) + "OTEL_TRACES_SAMPLER=always_on\n")
        (view.place / "agent/conf/exporter-ca.crt").write_text("x")
        return view

    @pytest.mark.parametrize("name", [ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
    def test_has_its_own_exporter_only(self, configured: View, programs: Path, name: str) -> None:
        assert configured.environment(programs / "java", **{name: "http://b:4317"}) == {
            "JAVA_TOOL_OPTIONS": configured.java_option,
            name: "http://b:4317",
            "OTEL_TRACES_SAMPLER": "always_on",
        }

    @pytest.mark.parametrize("own", [{ENDPOINT: ""}, {"OTEL_EXPORTER_OTLP_TIMEOUT": "1000"}, {"ENDPOINT": "http://b"}])
    def test_is_none_without_an_endpoint(self, configured: View, programs: Path, own: dict[str, str]) -> None:
        found = configured.environment(programs / "java", **own)
        assert found["OTEL_EXPORTER_OTLP_HEADERS"] == "token=secret"
        assert found["OTEL_EXPORTER_OTLP_CERTIFICATE"].endswith("exporter-ca.crt")


class TestExportersAuthority:
    VARIABLE = "OTEL_EXPORTER_OTLP_CERTIFICATE"

    def file(self, view: View) -> Path:
        return view.place / "agent/conf/exporter-ca.crt"

    @pytest.mark.parametrize("name", ["java", "node", "python3.12"])
    def test_a_process_with_an_agent_gets_the_path_in_its_own_view(self, view: View, programs: Path, name: str) -> None:
        self.file(view).write_text("-----BEGIN CERTIFICATE-----\n")
        assert view.environment(programs / name)[self.VARIABLE] == str(self.file(view))

    def test_another_process_gets_nothing(self, view: View, programs: Path) -> None:
        self.file(view).write_text("-----BEGIN CERTIFICATE-----\n")
        assert view.environment(programs / "other") == {}

    @pytest.mark.parametrize("value", ["/own.crt", ""])
    def test_what_the_pod_or_a_file_says_stays(self, view: View, programs: Path, value: str) -> None:
        self.file(view).write_text("x")
        assert view.environment(programs / "java", **{self.VARIABLE: value})[self.VARIABLE] == value
        view.configure("opentelemetry", f"{self.VARIABLE}=/file.crt\n")
        assert view.environment(programs / "java")[self.VARIABLE] == "/file.crt"

    @pytest.mark.parametrize("kind", ["missing", "empty", "fifo", "directory", "loop"])
    def test_without_certificates_it_is_not_set(self, view: View, programs: Path, kind: str) -> None:
        file = self.file(view)
        if kind == "empty":
            file.touch()  # A mount point
        elif kind == "fifo":
            os.mkfifo(file)
        elif kind == "directory":
            file.mkdir()
        elif kind == "loop":
            file.symlink_to(file)
        assert view.environment(programs / "java") == {"JAVA_TOOL_OPTIONS": view.java_option}


class TestResourceAttributes:
    def test_the_pods_own_keys_win_and_the_containers_come_before_those_of_all(
        self, view: View, programs: Path
    ) -> None:
        view.configure("container", f"{ATTRIBUTES}=k8s.pod.name=p, team = container,x=1\n")
        view.configure("opentelemetry", f"{ATTRIBUTES}=team=all,region=eu,pod=all\n")
        found = view.environment(programs / "java", **{ATTRIBUTES: "pod=own, x = own"})
        assert found[ATTRIBUTES] == "pod=own, x = own,k8s.pod.name=p,team = container,region=eu"

    def test_a_key_that_only_begins_like_another_is_added(self, view: View, programs: Path) -> None:
        view.configure("container", f"{ATTRIBUTES}=k8s.pod=1,k8s.pod.name.x=2,name=3\n")
        found = view.environment(programs / "java", **{ATTRIBUTES: "k8s.pod.name=own"})
        assert found[ATTRIBUTES] == "k8s.pod.name=own,k8s.pod=1,k8s.pod.name.x=2,name=3"

    def test_what_is_no_attribute_is_left_out(self, view: View, programs: Path) -> None:
        view.configure("container", f"{ATTRIBUTES}=,, =1,a,b=,=,c=d=e,\n")
        assert view.environment(programs / "java")[ATTRIBUTES] == "b=,c=d=e"

    def test_a_service_that_the_pod_names_by_an_attribute_keeps_that_name(self, view: View, programs: Path) -> None:
        view.configure("container", "OTEL_SERVICE_NAME=workload\n")
        found = view.environment(programs / "java", **{ATTRIBUTES: "service.name=own"})
        assert "OTEL_SERVICE_NAME" not in found


class TestSwitches:
    @pytest.mark.parametrize("value", ["true", "TRUE", "True"])
    def test_the_pod_switches_it_off(self, view: View, programs: Path, value: str) -> None:
        view.configure("opentelemetry", "A=1\n")
        found = view.environment(programs / "java", OTEL_INJECTOR_DISABLED=value)
        assert found == {"OTEL_INJECTOR_DISABLED": value}

    def test_a_file_switches_it_off(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", "A=1\nOTEL_INJECTOR_DISABLED=true\n")
        assert view.environment(programs / "java") == {}

    def test_the_pod_switches_on_what_a_file_switches_off(self, view: View, programs: Path) -> None:
        view.configure("opentelemetry", "OTEL_INJECTOR_DISABLED=true\n")
        found = view.environment(programs / "java", OTEL_INJECTOR_DISABLED="false")
        assert found["JAVA_TOOL_OPTIONS"] == view.java_option

    @pytest.mark.parametrize("value", ["", "1", "truely", "tru"])
    def test_other_values_do_not(self, view: View, programs: Path, value: str) -> None:
        found = view.environment(programs / "java", OTEL_INJECTOR_DISABLED=value)
        assert found["JAVA_TOOL_OPTIONS"] == view.java_option

    @pytest.mark.parametrize(
        ("languages", "injected"),
        [("java,python", {"java", "python"}), ("node", {"node"}), ("nodejs", {"node"}), ("", set()), ("ruby", set())],
    )
    def test_languages_that_are_not_listed_get_nothing(
        self, view: View, programs: Path, languages: str, injected: set[str]
    ) -> None:
        view.configure("opentelemetry", f"OTEL_INJECTOR_LANGUAGES={languages}\n")
        assert {name for name in ("java", "node", "python") if view.environment(programs / name)} == injected

    @pytest.mark.parametrize("name", ["java", "node", "python"])
    def test_a_language_that_the_package_lacks_gets_nothing(self, view: View, programs: Path, name: str) -> None:
        view.configure("opentelemetry", "A=1\n")
        shutil.rmtree(view.place / "agent" / name)
        assert view.environment(programs / name) == {}
