"""The program `qtool`: its commands, and an exit code and a message for every error."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import tempfile
import traceback
import warnings
from inspect import cleandoc
from pathlib import Path
from typing import NoReturn

import click

from qtool import __version__
from qtool.cli.advise import advise
from qtool.cli.analyze import analyze
from qtool.cli.bench import bench
from qtool.cli.calibrate import calibrate
from qtool.cli.command import GUARDED
from qtool.cli.compare import compare
from qtool.cli.completion import completion
from qtool.cli.data import data
from qtool.cli.guard import END_SIGNALS, ignore_signals, ignored
from qtool.cli.inspect import inspect
from qtool.cli.profile import profile
from qtool.cli.quantize import quantize
from qtool.cli.report import report
from qtool.cli.standard_streams import repair_streams
from qtool.cli.sweep import sweep
from qtool.cli.tune import tune
from qtool.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EnvironmentFailure, QtoolError, printable
from qtool.runtime.tempdirs import lasting

# Errors of the machine and not of the program, such as a full disk behind stdout.
_ENVIRONMENT = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
)  # fmt: skip


class _Group(click.Group):
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in the order of their declaration, each with the first sentence of its help."""
        rows = [
            (name, cleandoc(command.help or "").partition("\n\n")[0].replace("\n", " "))
            for name, command in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="qtool")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Quantize ONNX models after training, and prove that the result still works.

    \b
    qtool advise model.onnx --calib samples/
    qtool quantize model.onnx -o int8.onnx --calib samples/
    qtool tune model.onnx --calib samples/ --svg front.svg
    qtool sweep models/*.onnx --configs configs.toml -o results/
    qtool compare model.onnx int8.onnx --data held_out/ --fail-if 'sqnr<20'
    qtool analyze model.onnx int8.onnx --data held_out/
    qtool report run.json --fail-if 'sqnr<25'
    qtool bench model.onnx int8.onnx --data held_out/
    qtool inspect model.onnx int8.onnx
    qtool data samples/ --model model.onnx

    \b
    Options without flags: QTOOL_MODE=static in the environment, or mode = "static" in qtool.toml, or in
    [tool.qtool] of pyproject.toml, in this folder. A flag wins over the environment, the environment
    over the file. qtool COMMAND --show-config prints each option with its origin.

    \b
    Exit codes: 0 done, every gate held; 1 a gate failed; 2 usage; 3 the model; 4 the data;
    5 the environment; 6 the runtime failed; 70 a bug in qtool; 130 interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


cli.add_command(advise)
cli.add_command(quantize)
cli.add_command(tune)
cli.add_command(sweep)
cli.add_command(calibrate)
cli.add_command(compare)
cli.add_command(analyze)
cli.add_command(report)
cli.add_command(inspect)
cli.add_command(bench)
cli.add_command(profile)
cli.add_command(data)
cli.add_command(completion)


def main() -> NoReturn:
    """Run the command line, and exit with the documented code."""
    repair_streams()
    # runtime/blas.py would leave a pool of threads idle, and each takes of the limited memory. numpy reads
    # this when it is imported. The results do not depend on it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for number in END_SIGNALS - {signal.SIGINT}:  # Python handles it
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _interrupt)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries; ours are in the report
    code = _run()
    for number in END_SIGNALS:  # the exit code is settled; Python would die of a signal while it shuts down
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _run() -> int:
    try:
        code = cli.main(standalone_mode=False, prog_name="qtool", obj=GUARDED)
        return code if isinstance(code, int) else EXIT_OK
    except QtoolError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail("interrupted", "", EXIT_INTERRUPTED)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "qtool"
        return _fail(error.format_message(), f"{command} --help", error.exit_code)
    except MemoryError:
        hint = "fewer threads, a larger --memory-limit, or a machine with more"
        return _fail("out of memory", hint, EnvironmentFailure.exit_code)
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_OK
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            return _bug(error)
        _drop_stdout()
        return _fail(f"the system refused: {error.strerror or error}", "", EnvironmentFailure.exit_code)
    except ImportError as error:
        # onnxruntime turns a KeyboardInterrupt that reaches it while it is imported into an ImportError.
        if signal.getsignal(signal.SIGTERM) is ignored:  # asked to stop: _interrupt ran
            return _fail("interrupted", "", EXIT_INTERRUPTED)
        return _bug(error)
    except Exception as error:
        return _bug(error)


def _fail(message: str, hint: str, code: int) -> int:
    with contextlib.suppress(OSError):  # stderr is closed; the exit code still counts
        click.echo(f"error: {printable(message, 600)}", err=True)
        if hint:
            click.echo(f"  hint: {printable(hint, 300)}", err=True)
    return code


def _bug(error: Exception) -> int:
    """Report a bug: one line on stderr, the trace in a file."""
    place = "the trace (it could not be written)"
    with (
        contextlib.suppress(OSError),
        tempfile.NamedTemporaryFile(
            "w",
            prefix="qtool-bug-",
            suffix=".txt",
            dir=lasting(Path(tempfile.gettempdir())),
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file,
    ):
        file.write("".join(traceback.format_exception(error)))
        place = file.name
    return _fail(
        f"a bug in qtool: {type(error).__name__}: {error}", f"please report it, with {place}", EXIT_BUG
    )


def _interrupt(number: int, frame: object) -> None:
    """End on SIGTERM as on Ctrl-C: every `finally` runs, and no file is left behind."""
    ignore_signals()
    raise KeyboardInterrupt


def _drop_stdout() -> None:
    """Send stdout to /dev/null after its reader has closed it, so that the interpreter can flush it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
