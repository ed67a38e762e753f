"""What pyproject.toml cannot say: the recorded runs of the book go into the package when it is built."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRuns(build_py):
    """Build the package, and put the runs where `course_lib.teaching.recorded` looks first."""

    def run(self) -> None:
        """Copy them; a checkout that is installed in place has them in book/reproductions."""
        super().run()
        if not self.editable_mode:
            target = f"{self.build_lib}/course_lib/teaching/runs"
            self.mkpath(target)
            for run in sorted(Path("book/reproductions").glob("*.json")):
                self.copy_file(str(run), target)


setup(cmdclass={"build_py": WithRuns})
