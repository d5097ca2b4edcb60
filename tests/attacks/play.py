"""Plays steps of an attack, one after the other: `play.py ID STEP[,STEP...] FOLDER`.

An attack is `ID/attack.py` with some of these functions, each of which is given the attack's own folder:

prepare  makes files, as root and nobody's agent, before the profile is in force
beside   runs beside, as root and nobody's agent, until it is killed; calls `ready()` when it is there
before   what the attacker does while it is nobody's agent yet; `attack` is given what it returns as well
twin     an ordinary action that must go through
attack   the attack: raises PermissionError when it is refused, and anything else when it doesn't go as it should

For each step a line is printed: that it is ready, done or refused. Anything else ends it with a traceback.
"""

import errno
import importlib.util
import os
import sys


def ready():
    """Says that the attack may go on, and waits for it to do so."""
    print("ready", flush=True)
    sys.stdin.readline()


def play(module, step, folder):
    """Plays one step."""
    if step == "prepare" and not hasattr(module, step):
        return
    arguments = [folder]
    if step == "attack" and hasattr(module, "before"):
        arguments.append(module.before(folder))
        ready()
    try:
        getattr(module, step)(*arguments)
        print(step, "done", flush=True)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        print(step, "refused", flush=True)


def main():
    identifier, steps, folder = sys.argv[1:]
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(here, identifier, "attack.py")
    spec = importlib.util.spec_from_file_location("attack", path)
    module = importlib.util.module_from_spec(spec)
    module.ready = ready
    spec.loader.exec_module(module)
    for step in steps.split(","):
        play(module, step, folder)


sys.dont_write_bytecode = True
main()
