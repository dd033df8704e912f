# SPDX-License-Identifier: Apache-2.0
"""Build a ROS 2 interface package (msg, srv, action) as one wheel, without CMake or ament.

generate() calls the rosidl generators of the ROS wheels as Python functions, compile_package()
makes the six shared objects that rosidl_generate_interfaces would make (C only), and setup() packs
them in the layout of the ros-*-msgs wheels on PyPI. Needs g++, gcc and Python.h.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CC, CXX = os.environ.get("CC", "gcc"), os.environ.get("CXX", "g++")
EXTENSION_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
KINDS = ("msg", "srv", "action")
# Each generator writes into a folder of its own: some file names exist twice.
LIBRARIES = (
    "generator_c",
    "typesupport_fastrtps_c",
    "typesupport_introspection_c",
    "typesupport_c",
    "generator_py",
)


def ros_prefix() -> Path:
    """The prefix that holds the generators' templates; not sys.prefix in an isolated build."""
    import rosidl_generator_c

    site = Path(rosidl_generator_c.__file__).resolve().parents[1]
    for prefix in (site.parents[2], Path(sys.prefix)):
        if (prefix / "share/rosidl_generator_c/resource").is_dir():
            return prefix
    raise SystemExit(f"no share/rosidl_generator_c/resource above {site}: reinstall the ROS wheels")


def generate(
    package: str, root: Path, out: Path, depends: Sequence[str], prefix: Path
) -> tuple[list[Path], list[Path]]:
    """Generate all sources under out; return the interface and IDL files, relative."""
    import rosidl_typesupport_introspection_c as introspection
    from rosidl_adapter import convert_to_idl
    from rosidl_generator_c import generate_c
    from rosidl_generator_py import generate_py
    from rosidl_generator_type_description import generate_type_hash
    from rosidl_typesupport_c import generate_c as generate_dispatch
    from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c

    share, idl = prefix / "share", out / "idl"
    files = sorted(p.relative_to(root) for kind in KINDS for p in (root / kind).glob(f"*.{kind}"))
    idls = [
        Path(convert_to_idl(root, package, f, idl)).resolve().relative_to(idl.resolve())
        for f in files
    ]
    depend_idls = [f"{d}:{f}" for d in depends for f in sorted((share / d).glob("*/*.idl"))]

    def call(
        generator: Callable[..., object], name: str, template: str, *rest: object, **more: object
    ) -> None:
        target, resource = out / name / package, share / template / "resource"
        target.mkdir(parents=True)
        arguments = {
            "package_name": package,
            "output_dir": str(target),
            "template_dir": str(resource),
            "idl_tuples": [f"{idl}:{i}" for i in idls],
            "target_dependencies": [],
            "ros_interface_dependencies": depend_idls,
            "ros_interface_files": [str(root / f) for f in files],
            **more,
        }
        argument_file = out / f"{name}.json"
        argument_file.write_text(json.dumps(arguments))
        generator(str(argument_file), *rest)
        for source in resource.glob(f"{template}__visibility_control.h.in"):
            header = target / "msg" / source.stem
            header.parent.mkdir(exist_ok=True)
            text = source.read_text().replace("@PROJECT_NAME_UPPER@", package.upper())
            header.write_text(text.replace("@PROJECT_NAME@", package))

    call(
        generate_type_hash,
        "hash",
        "rosidl_generator_type_description",
        include_paths=[f"{d}:{share / d}" for d in depends],
    )
    hashes = [f"{i}:{out / 'hash' / package / i.with_suffix('.json')}" for i in idls]
    call(generate_c, "generator_c", "rosidl_generator_c", type_description_tuples=hashes)
    fast, intro = "typesupport_fastrtps_c", "typesupport_introspection_c"
    call(generate_typesupport_fastrtps_c, fast, f"rosidl_{fast}")
    call(introspection.generate_c, intro, f"rosidl_{intro}")
    # Without introspection_c, create_publisher fails: "failed to register type object".
    supports = [f"rosidl_{fast}", f"rosidl_{intro}"]
    call(generate_dispatch, "typesupport_c", "rosidl_typesupport_c", supports)
    call(generate_py, "generator_py", "rosidl_generator_py", ["rosidl_typesupport_c"])
    (out / "generator_py" / package / "__init__.py").touch()
    return files, idls


def compile_package(package: str, out: Path, depends: Sequence[str], prefix: Path) -> list[Path]:
    """Compile and link what generate() wrote; return the shared libraries."""
    import numpy

    include, lib = prefix / "include", out / "lib"
    lib.mkdir()
    paths = [out / name for name in LIBRARIES]
    paths += [Path(sysconfig.get_path("include")), Path(numpy.get_include()), include]
    paths += sorted(include.glob("*/"))
    flags = ["-O2", "-fPIC", "-w", "-DNDEBUG", *(f"-I{p}" for p in paths)]

    def compiled(source: Path) -> Path:
        target = source.with_name(source.name + ".o")
        driver = [CXX, "-std=c++17"] if source.suffix == ".cpp" else [CC, "-std=gnu11"]
        subprocess.run([*driver, *flags, "-c", str(source), "-o", str(target)], check=True)
        return target

    sources = {
        name: sorted(p for p in (out / name).rglob("*") if p.suffix in (".c", ".cpp"))
        for name in LIBRARIES
    }
    entry = out / "generator_py" / package / f"_{package}_s.ep.rosidl_typesupport_c.c"
    sources["generator_py"].remove(entry)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = {
            name: list(pool.map(compiled, files))
            for name, files in {**sources, "entry": [entry]}.items()
        }

    def link(target: Path, name: str, own: list[str], other: list[str], suffix: str) -> None:
        """own: libraries of this package; suffix: the like-named libraries of the dependencies."""
        inside = target.parent == lib
        libraries = [f"{package}__rosidl_{o}" for o in own] + other
        libraries += [
            f"{d}__rosidl_{s}"
            for d in depends
            for s in (suffix, "generator_c")
            if (prefix / "lib" / f"lib{d}__rosidl_{s}.so").exists()
        ]
        command = [CXX, "-shared", "-o", str(target), *map(str, objects[name])]
        command += [f"-L{lib}", f"-L{prefix / 'lib'}", "-Wl,--as-needed"]
        command += [f"-Wl,-rpath,{'$ORIGIN' if inside else '$ORIGIN/../../..'}"]
        command += ["-Wl,--allow-shlib-undefined"]
        command += [f"-Wl,-soname,{target.name}"] if inside else []
        subprocess.run([*command, *(f"-l{x}" for x in libraries)], check=True)

    def library(name: str) -> Path:
        return lib / f"lib{package}__rosidl_{name}.so"

    base = ["rosidl_runtime_c", "rosidl_typesupport_c", "rcutils"]
    beside = {  # own libraries and others, in the order in which they must be linked
        "generator_c": ([], base),
        "typesupport_fastrtps_c": (
            ["generator_c"],
            [*base, "rosidl_typesupport_fastrtps_c", "rosidl_typesupport_fastrtps_cpp", "fastcdr"],
        ),
        "typesupport_introspection_c": (
            ["generator_c"],
            [*base, "rosidl_typesupport_introspection_c"],
        ),
        "typesupport_c": (["generator_c"], base),
        "generator_py": (["generator_c", "typesupport_c"], base),
    }
    for name, (own, other) in beside.items():
        link(library(name), name, own, other, name)
    module = out / "generator_py" / package
    module /= f"{package}_s__rosidl_typesupport_c{EXTENSION_SUFFIX}"
    link(module, "entry", ["generator_py", "typesupport_c", "generator_c"], base, "typesupport_c")
    return sorted(lib.glob("*.so"))


def setup(package: str, version: str, depends: Sequence[str], root: Path) -> None:
    """setuptools.setup() of the package in root; sources are built only when a wheel is made."""
    import setuptools
    from setuptools.dist import Distribution

    prefix = ros_prefix()
    os.chdir(root)
    os.environ.setdefault("AMENT_PREFIX_PATH", str(prefix))
    out = root / "build" / "rosidl"
    building = sys.argv[1:2] and sys.argv[1] in ("bdist_wheel", "build", "install")
    data: list[tuple[str, list[str]]] = []
    packages: list[str] = []
    # egg_info asks for package_dir[''] before anything is built
    (out / "generator_py" / package).mkdir(parents=True, exist_ok=True)

    def relative(paths: Sequence[Path]) -> list[str]:
        return [os.path.relpath(p, root) for p in paths]

    if building:
        shutil.rmtree(out)
        out.mkdir(parents=True)
        files, idls = generate(package, root, out, depends, prefix)
        libraries = compile_package(package, out, depends, prefix)
        index = out / "index"
        interfaces = "\n".join(sorted(map(str, [*files, *idls])))
        for kind, text in (("packages", ""), ("rosidl_interfaces", interfaces)):
            marker = index / kind / package
            marker.parent.mkdir(parents=True)
            marker.write_text(text)
            data.append((f"share/ament_index/resource_index/{kind}", relative([marker])))
        data += [("lib", relative(libraries)), (f"share/{package}", ["package.xml"])]
        packages.append(package)
        for kind in sorted({i.parts[0] for i in idls}):
            packages.append(f"{package}.{kind}")
            described = sorted((out / "hash" / package / kind).glob("*.json"))
            of_kind = [root / f for f in files if f.parts[0] == kind]
            of_kind += [out / "idl" / i for i in idls if i.parts[0] == kind]
            data.append((f"share/{package}/{kind}", relative([*of_kind, *described])))

    class Binary(Distribution):
        def has_ext_modules(self) -> bool:
            return True

    setuptools.setup(
        name=package.replace("_", "-"),
        version=version,
        packages=packages,
        distclass=Binary,
        package_dir={"": os.path.relpath(out / "generator_py", root)},
        package_data={package: ["*.so"]},
        include_package_data=False,
        data_files=data,
        zip_safe=False,
    )
