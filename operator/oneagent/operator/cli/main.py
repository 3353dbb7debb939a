"""Command line of `kubectl oneagent`, which inspects a whole cluster and reads only.

Each command is a function that takes the parsed flags and returns the exit code. Imports that one of them needs are
in it, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from oneagent.common import distribution, printable, report_output, terminal
from oneagent.operator.cli import arguments, completion
from oneagent.operator.cli.arguments import PROGRAM, SAMPLE
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, KubectlUnusableError

CANNOT_TELL: Final = 3
"""Exit code of `why` for a pod if it cannot be known whether it has its agent."""
_INTERRUPTED: Final = 130
_CLEAR_SCREEN: Final = "\x1b[H\x1b[2J\x1b[3J"


def _kubectl(args: argparse.Namespace) -> Kubectl:
    passed = {"--context": args.context, "--kubeconfig": args.kubeconfig, "--as": args.user}
    kubectl_flags = tuple(f"{flag}={value}" for flag, value in passed.items() if value)
    client = Kubectl(args.kubectl, kubectl_flags, args.operator_namespace, args.timeout)
    if client.namespace:
        return client
    from oneagent.operator.cli import locate

    return locate.with_namespace(client)


def _is_structured(args: argparse.Namespace) -> bool:
    return args.output in report_output.FORMATS


def _print(lines: Iterator[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _status(args: argparse.Namespace) -> int:
    client = _kubectl(args)
    code = _print_status(args, client)
    while args.watch:
        sys.stdout.flush()
        time.sleep(args.interval)
        try:
            code = _print_status(args, client)
        except KubectlError as error:
            _print_error(args, f"no access to the cluster: {error}", "NoAccess")
    return code


def _print_status(args: argparse.Namespace, client: Kubectl) -> int:
    from oneagent.operator.cli import output, snapshot, status

    with output.progress("reading the cluster", is_shown=not args.watch) as (report_progress, add_steps):
        add_steps(len(status.FIELDS) + len(args.node))
        nodes = snapshot.NodeChoice(tuple(args.node))
        now = time.time()
        cluster = snapshot.read(client, now, report_progress, only=status.FIELDS, nodes=nodes, probes=False)
    summary = status.summarize(cluster, args.node)
    if args.watch and sys.stdout.isatty():
        sys.stdout.write(_CLEAR_SCREEN)
    if args.watch and not _is_structured(args):
        print(datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    if _is_structured(args):
        report_output.write(status.to_json(summary), args.output)
    else:
        screen = terminal.of_stream()
        _print(output.status_lines(summary, screen, is_wide=args.output == "wide", has_summary=not args.problems))
    return 0 if summary.is_healthy else 1


def _why(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import why
    from oneagent.operator.cli.why import text as why_text
    from oneagent.operator.cli.why import workload

    result = workload.diagnose_target(_kubectl(args), args.pod, args.namespace, now=time.time())
    if _is_structured(args):
        report_output.write(workload.to_json(result), args.output)
    else:
        _print(why_text.render_result(result, terminal.of_stream()))
    reasons = [diagnosis.reason for _, diagnosis in result.pods]
    if all(reason in why.AS_INTENDED for reason in reasons):
        return 0
    return CANNOT_TELL if all(reason in (*why.AS_INTENDED, *why.UNKNOWN) for reason in reasons) else 1


def _doctor(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import doctor, output, snapshot
    from oneagent.operator.cli.doctor import checks

    client = _kubectl(args)
    with output.progress("reading the cluster") as (report_progress, add_steps):
        add_steps(len(snapshot.FIELDS) + (len(args.node) or SAMPLE))
        nodes = snapshot.NodeChoice(tuple(args.node), SAMPLE)
        report = checks.run_checks(snapshot.read(client, time.time(), report_progress, nodes=nodes))
    if _is_structured(args):
        report_output.write(doctor.to_json(report), args.output)
    else:
        _print(output.doctor_lines(report, terminal.of_stream()))
    return 0 if report.healthy else 1


def _archive(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import output, snapshot, support_archive
    from oneagent.operator.cli.support_archive import collect

    now = time.time()
    stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    target = args.file or Path(f"oneagent-support-{stamp}.tar.gz")
    nodes = snapshot.NodeChoice(tuple(args.node), SAMPLE)
    options = collect.ArchiveOptions(tuple(args.pod), args.log_bytes)
    client = _kubectl(args)
    try:
        with (
            output.progress("collecting") as (report_progress, add_steps),
            support_archive.create(target, now, args.max_bytes) as file,
        ):
            cluster = snapshot.read(client, now, report_progress, nodes=nodes)
            add_steps(collect.count_steps(cluster, options))
            collect.collect_archive(file, client, cluster, options, report_progress)
    except OSError as error:
        _print_error(args, f"--file: {target} can't be written: {error.strerror}", "NotWritten")
        return 2
    if _is_structured(args):
        report_output.write(
            {"format": 1, "file": str(target), "members": file.members, "problems": file.problems}, args.output
        )
    else:
        missing = f"; {len(file.problems)} parts missing, see problems.txt in it" if file.problems else ""
        sys.stdout.write(f"{target}: {len(file.members)} files{missing}. Review it before you send it.\n")
    return 1 if file.problems else 0


def _version(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import versions

    found = versions.read(_kubectl(args), distribution.version())
    if _is_structured(args):
        report_output.write(versions.to_json(found), args.output)
    else:
        _print(versions.lines(found, terminal.of_stream()))
    return 1 if found.unread else 0


def _completion(args: argparse.Namespace) -> int:
    sys.stdout.write(completion.script(args.shell))
    return 0


def _help(args: argparse.Namespace) -> int:
    parser, topic = arguments.make_parser(), getattr(args, "topic", "")
    commands = completion.subcommands(parser)
    if topic and topic not in commands:
        parser.error(f"there is no command {topic!r}, of {', '.join(commands)}")
    (commands[topic] if topic else parser).print_help()
    return 0


_COMMANDS: Final[Mapping[str | None, Callable[[argparse.Namespace], int]]] = {
    "status": _status,
    "why": _why,
    "doctor": _doctor,
    "support-archive": _archive,
    "version": _version,
    "completion": _completion,
    "help": _help,
    None: _help,
}


def _print_error(args: argparse.Namespace, message: str, reason: str) -> None:
    """Print one line, or an object under `-o json` and `-o yaml`."""
    message = printable.mask(message)
    output_format = getattr(args, "output", "")
    if output_format in report_output.FORMATS:
        sys.stdout.write(report_output.render_error(reason, message, output_format))
    else:
        print(f"{PROGRAM}: {message}", file=sys.stderr)


def _hint(error: KubectlError) -> str:
    if not isinstance(error, KubectlUnusableError) or "--kubectl" in str(error):
        return ""
    return "; check --kubeconfig and --context, and that kubectl get nodes works"


def _parse() -> argparse.Namespace:
    parser = arguments.make_parser()
    args = parser.parse_args()
    if args.namespace and args.command in ("status", "doctor", "support-archive", "version"):
        parser.error(
            f"{args.command} has no --namespace: it is about the whole cluster. --operator-namespace names where "
            "oneagent-csi is installed"
        )
    if args.output == "wide" and args.command != "status":
        parser.error(f"{args.command} has no output format wide: give json or yaml")
    return args


def main() -> int:
    """Run `kubectl oneagent`; called as `kubectl_complete-oneagent` it prints completions."""
    if os.path.basename(sys.argv[0]).startswith(completion.PROGRAM):
        return completion.print_candidates(sys.argv[1:])
    if sys.argv[1:2] == [completion.COMMAND]:
        return completion.print_candidates(sys.argv[2:])
    args = _parse()
    exit_code = 2
    try:
        exit_code = _COMMANDS[args.command](args)
        sys.stdout.flush()
    except KubectlError as error:
        _print_error(args, f"no access to the cluster: {error}{_hint(error)}", "NoAccess")
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader, such as head, has seen enough. At exit Python would complain about output that is left to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
