"""The `blockdiff` command. Ctrl-C is handled before anything slow is imported."""

# ruff: noqa: E402
import os
import sys

from blockdiff.system import search_path

search_path.leave_project()  # before anything is looked for there

from blockdiff.cli import interrupt

# Read once, when torch is loaded: its threads wait asleep, not spinning. Beside one other busy
# process a forward is several times faster so, see docs/LOG.md.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main() -> None:
    """Run the command line and exit with a status of `blockdiff.errors.ExitCode`."""
    try:
        interrupt.install()
        from blockdiff.cli.app import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # during the import itself
        status = interrupt.STATUS
    interrupt.restore()
    sys.exit(status)


if __name__ == "__main__":
    main()
