"""Statistics on CPUs by a kernel in C++: all numbers of an array in one pass, in place of a pass for each.

The reductions in JAX stay the reference. They run where there is no library (no compiler at installation,
`GRADFLOW_NATIVE=0`), on other platforms and several devices, and for what the kernel leaves to them (`calls.py`).
`GRADFLOW_NATIVE=require` makes a library that is missing an error. The environment is read once, at import.
"""

from gradflow.instrument.native import calls, library

if library.load():
    calls.install()
