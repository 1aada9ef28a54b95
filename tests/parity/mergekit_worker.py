"""Run by mergekit's own interpreter: mergekit-yaml's entry point, forked once per request.

Importing mergekit takes seconds and merging a tiny model takes milliseconds, so the imports are paid
once. Every request is one JSON line `{"arguments": [...], "log": path}` and is answered with the exit
status; a forked child runs it, so that no cache of mergekit's survives from one merge to the next.
"""

import json
import os
import sys
import traceback


def run(arguments: list[str], log: str) -> int:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        main.main(args=arguments, standalone_mode=False)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    from mergekit.scripts.run_yaml import main

    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(json.dumps(run(request["arguments"], request["log"])) + "\n")
        sys.stdout.flush()
