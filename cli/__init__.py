# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""The `flashsloth` command. Results go to standard output, everything else to standard error.

Exit status: 0 done, 2 bad input (one line names it and the remedy), 1 any other failure, and as the shell has it 130
interrupted, 143 terminated, 129 hung up, 141 if nobody reads the output.
Each command imports what it needs when it runs, so that `flashsloth --help` does not wait for torch. Output that
libraries write to standard output (the trainer's losses, DeepSpeed's greeting) is redirected to standard error.
"""

from flashsloth.cli.program import main


__all__ = ["main"]
