"""Hands setuptools the metadata of settings.ini, which nbdev reads too."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
ini = ConfigParser(delimiters="=", interpolation=None)
ini.read(root / "settings.ini", encoding="utf-8")
settings = ini["DEFAULT"]
package = settings["lib_path"]

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=settings["keywords"].split(),
    author=settings["author"],
    author_email=settings["author_email"],
    license=settings["license"].upper(),
    license_files=["LICENSE"],
    python_requires=">=" + settings["min_python"],
    package_dir={"": "."},  # an editable install is then one line in a .pth file
    packages=find_packages(include=[package, package + ".*"]),
    install_requires=settings["requirements"].split(),
    extras_require={
        extra: settings[f"{extra}_requirements"].split()
        for extra in ("dev", "ray", "export", "heic")
    },
)
