"""Plays steps of an attack, one after the other: `play.py ID STEP[,STEP...] FOLDER`.

An attack is `ID/attack.py` with some of these functions, each of which is given the attack's own folder:

prepare  makes files, as root and nobody's agent, before the profile is in force
beside   runs beside, as root and nobody's agent, until it is killed; calls `ready()` when it is there
before   what the attacker does while it is nobody's agent yet; `attack` is given what it returns as well
twin     an ordinary action that must go through
attack   the attack: raises PermissionError when it is refused, and anything else when it doesn't go as it should

For each step a line is printed: that it is ready, done or refused, and in the end that it is the end. Anything else is
a traceback.

`play.py serve SOCKET` plays for whoever connects and says the same words and a file for errors, each time in a child of
its own: to start Python takes an emulated machine most of a second.
"""

import errno
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def ready():
    """Says that the attack may go on, and waits for it to do so."""
    print("ready", flush=True)
    sys.stdin.readline()


def play(module, step, folder):
    """Plays one step."""
    if step == "prepare" and step not in module:
        return
    arguments = [folder]
    if step == "attack" and "before" in module:
        arguments.append(module["before"](folder))
        ready()
    try:
        module[step](*arguments)
        print(step, "done", flush=True)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        print(step, "refused", flush=True)


def main(identifier, steps, folder):
    path = os.path.join(HERE, identifier, "attack.py")
    module = {"__name__": "attack", "__file__": path, "ready": ready}
    with open(path, encoding="utf-8") as file:
        exec(compile(file.read(), path, "exec"), module)
    for step in steps.split(","):
        play(module, step, folder)
    print("end", flush=True)


def serve(path):
    """Plays for whoever connects."""
    import signal
    import socket
    import traceback

    import kernel  # so that no child has to load it

    del kernel
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        os.setsid()
        for number in (0, 1):
            os.dup2(connection.fileno(), number)
        connection.close()
        *words, errors = sys.stdin.readline().split()
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
        print("pid", os.getpid(), flush=True)
        try:
            main(*words)
        except BaseException:
            traceback.print_exc()
            print("failed", flush=True)
        os._exit(0)


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    main(*sys.argv[1:])
