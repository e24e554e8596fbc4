"""Build hook: compile the statistics kernel for CPUs where there is a C++ compiler, else make a plain wheel and say so.

`GRADFLOW_NATIVE=0` leaves it out; `GRADFLOW_NATIVE=require` makes a missing compiler an error.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD = Path("gradflow") / "instrument" / "native" / "build.py"


class NativeBuildHook(BuildHookInterface):
    """Put the compiled library into the wheel, and the platform into its name."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files are collected."""
        del version
        wanted = os.environ.get("GRADFLOW_NATIVE", "1")
        path = Path(self.root) / BUILD
        if self.target_name != "wheel" or wanted == "0" or not path.is_file():
            return
        spec = importlib.util.spec_from_file_location("gradflow_native_build", path)
        assert spec is not None
        assert spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            library = build.compile_library()
        except build.BuildError as error:
            if wanted == "require":
                raise
            self.app.display_warning(
                f"gradflow: statistics on CPUs are reduced by JAX, without a native kernel: {error}"
            )
            return
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")  # the kernels are for Linux alone
        build_data["tag"] = f"py3-none-{platform}"  # no Python's ABI is used: one wheel for all of them
        build_data["artifacts"].append(library.relative_to(self.root).as_posix())
