from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithRecipes(build_py):
    """Copies configs/ into the package, as effdet/configs/; an editable install reads configs/ itself."""

    def recipes(self) -> dict[str, Path]:
        """The files of configs/ by where they are in the built package."""
        files = sorted(path for path in (ROOT / "configs").rglob("*") if path.suffix in (".yaml", ".json"))
        return {str(Path(self.build_lib, "effdet", path.relative_to(ROOT))): path for path in files}

    def run(self) -> None:
        """Builds the package, then copies the recipes into it."""
        super().run()
        if not self.editable_mode:
            for target, path in self.recipes().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(str(path), target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files of the built package, recipes included."""
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self.recipes())]


setup(cmdclass={"build_py": BuildWithRecipes})
