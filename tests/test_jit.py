"""The kernel cache and the choice of an instruction set, settled once per process: so in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

import slimtensors.errors
from slimtensors.kernels import instruction_set

KERNELS = Path(instruction_set.__file__).parent

THREE_KERNELS = """
import numpy as np
from slimtensors.kernels._jit import inlined, kernel

@inlined
def double(x):
    return 2 * x

@kernel
def double_all(numbers, doubled):
    for i in range(doubled.size):
        doubled[i] = double(numbers[i])

@kernel
def total(numbers):
    total = 0
    for number in numbers:
        total += number
    return total

@kernel
def twice_total(numbers):  # calls a kernel
    return double(total(numbers))

ALL = double_all, total, twice_total

def use():
    numbers = np.arange(10, dtype=np.int64)
    doubled = np.empty_like(numbers)
    double_all(numbers, doubled)
    assert doubled.tolist() == list(range(0, 20, 2))
    assert total(numbers) == 45
    assert twice_total(numbers) == 90
    return total(numbers.astype(np.uint8))  # a second set of argument types
"""

USE_THEM = """
import json, warnings
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    import three_kernels
    assert three_kernels.use() == 45
from slimtensors.kernels._jit import cache_folder
print(json.dumps({
    "compiled": sum(sum(kernel.stats.cache_misses.values()) for kernel in three_kernels.ALL),
    "loaded": sum(sum(kernel.stats.cache_hits.values()) for kernel in three_kernels.ALL),
    "folder": str(cache_folder()),
    "warnings": [str(each.message) for each in warned],
}))
"""
SPECIALISATIONS = 4  # what `use` needs: three kernels, one of them for two sets of argument types

FOLDER = """
import json, warnings
from slimtensors.kernels._jit import cache_folder
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    cache_folder()
print(json.dumps({"folder": str(cache_folder()), "warnings": [str(each.message) for each in warned]}))
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with three kernels and a copy of what they need, so that no edit of other kernels changes the hash."""
    return copied(tmp_path)


def copied(place: Path) -> Path:
    copy = place / "slimtensors" / "kernels"
    copy.mkdir(parents=True)
    for name in ("__init__.py", "_jit.py", "instruction_set.py"):
        shutil.copy(KERNELS / name, copy)
    shutil.copy(slimtensors.errors.__file__, copy.parent)
    (copy.parent / "__init__.py").touch()  # else an installed package would come before this one
    (place / "three_kernels.py").write_text(THREE_KERNELS)
    return place


def start(script: str, here: Path, **environment: str) -> subprocess.Popen[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "SLIMTENSORS_", "PYTHONWARN"))}
    environment = {
        **inherited,
        "PYTHONPATH": str(here),
        "SLIMTENSORS_CACHE_DIR": str(here / "cache"),
        **environment,
    }
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict:
    with process:
        try:
            output, _ = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 0
    return json.loads(output)


def run(script: str, here: Path, **options) -> dict:
    return result(start(script, here, **options))


# ---- what is kept, and for whom


def test_a_second_process_loads_what_the_first_compiled(here):
    cold, warm = run(USE_THEM, here), run(USE_THEM, here)
    assert (cold["compiled"], cold["loaded"]) == (SPECIALISATIONS, 0)
    assert (warm["compiled"], warm["loaded"]) == (0, SPECIALISATIONS)
    assert cold["warnings"] == warm["warnings"] == []


def test_a_warm_cache_takes_no_lock(here):
    run(USE_THEM, here)
    run("import filelock; filelock.FileLock = None\n" + USE_THEM, here)


COMPILE_ANOTHER = """
import json, sys
import three_kernels
from slimtensors.kernels._jit import kernel
three_kernels.use()
loaded = "numba.np.arraymath" in sys.modules

@kernel
def both(numbers):
    return three_kernels.total(numbers) + three_kernels.twice_total(numbers)

assert both(three_kernels.np.arange(10, dtype=three_kernels.np.int64)) == 135
print(json.dumps({"loaded": loaded, "compiled": "numba.np.arraymath" in sys.modules}))
"""


def test_loading_imports_none_of_what_only_compiling_needs(here):
    """It would take longer than all else. Numba's version may have another way to load, which does."""
    run(USE_THEM, here)
    assert run(COMPILE_ANOTHER, here) == {"loaded": False, "compiled": True}


def test_processes_on_a_cold_cache_compile_each_kernel_once(here):
    results = [result(process) for process in [start(USE_THEM, here) for _ in range(8)]]
    assert sum(each["compiled"] for each in results) == SPECIALISATIONS
    assert not any(each["warnings"] for each in results)


def test_who_waited_for_another_process_leaves_it_the_next_kernel(here):
    """That one has imported the compiler, which costs as much as some kernels."""
    folder = Path(run(USE_THEM, here)["folder"])
    compiled = shutil.move(folder, here / "compiled")

    def save(name: str) -> None:
        found = compiled.rglob(f"three_kernels.{name}-*")
        for path in sorted(found, key=lambda path: path.suffix == ".nbi"):  # the index last
            target = folder / path.relative_to(compiled)
            target.parent.mkdir(exist_ok=True, mode=0o700)
            shutil.copy(path, target)

    folder.mkdir(mode=0o700)
    first = filelock.FileLock(folder / "three_kernels.double_all.lock")
    ready = here / "ready"
    patient = f"import three_kernels; three_kernels.kernel.__globals__['PATIENCE'] = 60.0; open({str(ready)!r}, 'w')\n"
    with first:
        process = start(patient + USE_THEM, here)
        while not ready.exists():
            time.sleep(0.1)
        time.sleep(1)
        save("double_all")
    for name in ("total", "twice_total"):
        time.sleep(1)
        assert process.poll() is None
        save(name)
    assert result(process)["compiled"] == 0


def test_nobody_waits_long_for_a_kernel_that_nobody_compiles(here):
    follows = "from slimtensors.kernels import _jit\n_jit._follows = True\n"
    assert run(follows + USE_THEM, here)["compiled"] == SPECIALISATIONS


def test_kernels_work_without_locks(here):
    no_locks = """
import filelock
def fail(*arguments, **options): raise OSError("no locks here")
filelock.FileLock = fail
"""
    assert run(no_locks + USE_THEM, here)["compiled"] == SPECIALISATIONS
    assert run(USE_THEM, here)["compiled"] == 0


def test_a_failed_compilation_lets_go_of_the_lock(here):
    fails = """
import numba.core.errors, three_kernels
try: three_kernels.total(1)
except numba.core.errors.TypingError: pass
else: raise AssertionError
"""
    assert run(fails + USE_THEM, here)["compiled"] == SPECIALISATIONS + 1  # the failed one was tried


def test_a_change_in_any_kernel_source_makes_another_folder(here):
    before = run(FOLDER, here)["folder"]
    (here / "slimtensors" / "kernels" / "cpu").mkdir()
    (here / "slimtensors" / "kernels" / "cpu" / "another.py").write_text("answer = 42\n")
    added = run(FOLDER, here)["folder"]
    (here / "slimtensors" / "kernels" / "cpu" / "another.py").write_text("answer = 43\n")
    changed = run(FOLDER, here)["folder"]
    assert len({before, added, changed}) == 3


def test_bounds_checked_kernels_have_another_folder(here):
    checked, plain = run(USE_THEM, here, NUMBA_BOUNDSCHECK="1"), run(USE_THEM, here)
    assert checked["folder"] != plain["folder"]
    assert plain["compiled"] == SPECIALISATIONS


def test_damaged_files_are_replaced(here):
    run(USE_THEM, here)
    for path in (here / "cache").rglob("*.nb?"):
        path.write_bytes(path.read_bytes()[:100])
    repaired = run(USE_THEM, here)
    assert (repaired["compiled"], repaired["warnings"]) == (SPECIALISATIONS, [])
    assert run(USE_THEM, here)["compiled"] == 0


def test_the_folder_is_private(here):
    folder = Path(run(FOLDER, here)["folder"])
    assert folder.parent == here / "cache"
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(sys.platform != "linux", reason="the default is another elsewhere")
def test_the_default_folder_follows_xdg(here):
    default = run(FOLDER, here, SLIMTENSORS_CACHE_DIR="", XDG_CACHE_HOME=str(here / "xdg"))["folder"]
    assert Path(default).parent == here / "xdg" / "slimtensors"
    default = run(FOLDER, here, SLIMTENSORS_CACHE_DIR="", XDG_CACHE_HOME="", HOME=str(here / "home"))["folder"]
    assert Path(default).parent == here / "home" / ".cache" / "slimtensors"


def test_other_users_of_numba_keep_their_cache(here):
    (here / "other.py").write_text("import numba\n@numba.njit(cache=True)\ndef one(): return 1\n")
    script = """
import json, numba
settings = lambda: {name: repr(value) for name, value in vars(numba.config).items() if name.isupper()}
before = settings()
import other, three_kernels
three_kernels.use(); other.one()
print(json.dumps([settings() == before, other.one.stats.cache_path]))
"""
    same, path = run(script, here, NUMBA_CACHE_DIR=str(here / "theirs"))
    assert same
    assert Path(path).parent == here / "theirs"


def test_numba_locators_of_the_user_do_not_apply(here):
    assert run(USE_THEM, here, NUMBA_CACHE_LOCATOR_CLASSES="InTreeCacheLocator")["warnings"] == []
    assert not list((here / "__pycache__").glob("*.nbi"))


# ---- without a cache


def assert_compiled_in_memory(outcome: dict, because: str) -> None:
    assert outcome["folder"] == "None"
    [warning] = outcome["warnings"]
    assert because in warning
    assert "Set SLIMTENSORS_CACHE_DIR to" in warning


def test_an_impossible_folder_gives_one_warning(here):
    (here / "file").touch()
    below = str(here / "file" / "cache")
    assert_compiled_in_memory(run(USE_THEM, here, SLIMTENSORS_CACHE_DIR=below), because=below)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(here, mode):
    folder = here / "cache"
    folder.mkdir()
    folder.chmod(mode)
    assert_compiled_in_memory(run(FOLDER, here), because=f"others can write to {folder}")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_subfolder_that_others_can_write_to_is_refused(here):
    folder = Path(run(USE_THEM, here)["folder"])
    folder.chmod(0o777)
    outcome = run(USE_THEM, here)
    assert_compiled_in_memory(outcome, because=f"others can write to {folder}")
    assert (outcome["compiled"], outcome["loaded"]) == (SPECIALISATIONS, 0)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("link", [False, True])
def test_a_folder_that_others_can_replace_is_refused(here, link):
    """Its own mode does not matter then: what they put in its place would be loaded, also later in this process."""
    above = here / "open" / "inner"
    above.mkdir(parents=True)
    (here / "link").symlink_to(above, target_is_directory=True)
    place = (here / "link" if link else above) / "cache"
    assert run(USE_THEM, here, SLIMTENSORS_CACHE_DIR=str(place))["warnings"] == []
    above.parent.chmod(0o777)
    outcome = run(USE_THEM, here, SLIMTENSORS_CACHE_DIR=str(place))
    assert_compiled_in_memory(outcome, because=f"others can write to {above.parent} (chmod go-w would keep them out)")
    assert (outcome["compiled"], outcome["loaded"]) == (SPECIALISATIONS, 0)
    above.parent.chmod(0o1777)
    assert run(USE_THEM, here, SLIMTENSORS_CACHE_DIR=str(place))["loaded"] == SPECIALISATIONS


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_folders_made_on_the_way_are_for_nobody_else_to_write_to_whatever_the_umask(here):
    place = here / "some" / "where" / "cache"
    outcome = run("import os; os.umask(0)\n" + FOLDER, here, SLIMTENSORS_CACHE_DIR=str(place))
    assert Path(outcome["folder"]).parent == place
    assert place.parent.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs a folder of another user")
def test_a_folder_of_another_user_is_refused(here):
    folder = here / "cache"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)
    assert_compiled_in_memory(run(FOLDER, here), because="belongs to another user")


@pytest.fixture
def their_home(here: Path) -> Path:
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("needs a folder of another user")
    home = here / "theirs"
    home.mkdir()
    os.chown(home, 12345, 12345)
    return home


@pytest.mark.parametrize("place", ["theirs", "theirs/new", "theirs/new/cache", "link/cache"])
def test_nothing_is_left_where_a_folder_is_refused(here: Path, their_home: Path, place: str) -> None:
    """Its owner could not remove it."""
    (here / "link").symlink_to(their_home, target_is_directory=True)
    outcome = run(FOLDER, here, SLIMTENSORS_CACHE_DIR=str(here / place))
    assert_compiled_in_memory(outcome, because=f"{their_home} belongs to another user")
    assert not list(their_home.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="the default is another elsewhere")
def test_the_home_of_another_user_is_not_this_users(here: Path, their_home: Path) -> None:
    """HOME is left as it was by `sudo -E`, and by containers that run as root."""
    script = f"""
import pwd
from types import SimpleNamespace as As
pwd.getpwuid = lambda user: As(pw_name="root", pw_gid=0, pw_dir={str(here / "own")!r} if user == 0 else None)
"""
    default = {"SLIMTENSORS_CACHE_DIR": "", "XDG_CACHE_HOME": "", "HOME": str(their_home)}
    outcome = run(script + FOLDER, here, **default)
    assert outcome["warnings"] == []
    assert Path(outcome["folder"]).parent == here / "own" / ".cache" / "slimtensors"
    named = run(script + FOLDER, here, **default | {"XDG_CACHE_HOME": str(their_home)})
    assert_compiled_in_memory(named, because=f"{their_home} belongs to another user")
    assert not list(their_home.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_folder_among_the_temporary_ones_is_advised_where_it_would_do(here: Path) -> None:
    (here / "cache").mkdir()
    (here / "cache").chmod(0o777)
    temporary = here / "temporary"
    temporary.mkdir()
    temporary.chmod(0o1777)
    advised = str(temporary / f"slimtensors-{os.geteuid()}")
    outcome = run(FOLDER, here, TMPDIR=str(temporary))
    assert_compiled_in_memory(outcome, because=f"on a local disk that you own, such as {advised}, where")
    assert run(FOLDER, here, TMPDIR=str(temporary), SLIMTENSORS_CACHE_DIR=advised)["warnings"] == []
    temporary.chmod(0o777)
    assert_compiled_in_memory(run(FOLDER, here, TMPDIR=str(temporary)), because="on a local disk that you own, where")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can write everywhere")
def test_a_read_only_folder_gives_one_warning(here):
    (here / "cache").mkdir(mode=0o500)
    assert_compiled_in_memory(run(FOLDER, here), because=str(here / "cache"))


def test_kernels_of_an_archive_are_not_kept_and_no_folder_is_blamed(here):
    archive = shutil.make_archive(str(here / "zipped"), "zip", here, "slimtensors")
    (here / "outside").mkdir()
    shutil.move(here / "three_kernels.py", here / "outside")
    outcome = run(USE_THEM, here, PYTHONPATH=os.pathsep.join([archive, str(here / "outside")]))
    assert (outcome["folder"], outcome["compiled"]) == ("None", SPECIALISATIONS)
    [warning] = outcome["warnings"]
    assert "is run from an archive" in warning
    assert "SLIMTENSORS_CACHE_DIR" not in warning


# ---- a cache that can only be read

OWNER, READER, THIRD = 0, 12345, 12346

# Python itself may lie where only the superuser can read: all that is imported has to be there before.
LOOK = f"""
import os
from slimtensors.kernels import _jit
os.setgroups([]); os.setgid({READER}); os.setuid({READER})
"""
AS_READER = (
    """
import numba, three_kernels
numbers = three_kernels.np.arange(3)
numba.njit(three_kernels.double_all.py_func)(numbers, numbers)
numba.njit(three_kernels.total.py_func)(numbers)
"""
    + LOOK
)


@pytest.fixture(scope="module")
def images() -> Iterator[tuple[Path, Path]]:
    """A place as `here`, in which the superuser has compiled all kernels; and a copy of it."""
    if os.name != "posix" or os.geteuid() != OWNER:
        pytest.skip("needs several users")
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        place = copied(Path(name))
        assert run(USE_THEM, place)["compiled"] == SPECIALISATIONS
        yield place, Path(shutil.copytree(place, other, dirs_exist_ok=True))


@pytest.fixture
def image(images: tuple[Path, Path]) -> Path:
    """That place, as it was, for all users to read."""
    place, copy = images
    for each in place.iterdir():
        shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    shutil.copytree(copy, place, dirs_exist_ok=True)
    os.chown(place, OWNER, 0)
    for each in (place, *place.rglob("*")):
        each.chmod(0o755 if each.is_dir() else 0o644)
    return place


# What the system knows of users, without a list of all of them, as most directories answer.
USER = """
import grp, pwd
from types import SimpleNamespace as As
def unknown(_): raise KeyError
def refused(*_): raise AssertionError
ME = As(pw_name="me", pw_uid=12345, pw_gid=12345, pw_dir="/nowhere")
GROUPS = {12345: As(gr_name="me", gr_gid=12345, gr_mem=[]), 12346: As(gr_name="team", gr_gid=12346, gr_mem=[])}
pwd.getpwuid, pwd.getpwall, grp.getgrgid, grp.getgrall = lambda _: ME, refused, GROUPS.__getitem__, refused
"""


@pytest.mark.parametrize(
    ("group", "members", "because"),
    [
        (READER, "", None),
        (READER, "GROUPS[12345].gr_mem.append('me')", None),
        (READER, "GROUPS[12345].gr_mem.append('her')", "others can write to {}"),
        (READER, "GROUPS[12345].gr_name = 'users'", "others can write to {}"),
        (READER, "GROUPS.clear()", "others can write to {}"),
        (READER, "pwd.getpwuid = unknown", "others can write to {}"),
        (THIRD, "", "others can write to {}"),
        (THIRD, "GROUPS[12346].gr_name = 'me'", "others can write to {}"),
        (THIRD, "ME.pw_dir = '{}'", "others can write to {}"),
        (THIRD, "ME.pw_dir = '{}/home'", None),
    ],
    ids=[
        "own group",
        "listed in it",
        "with another",
        "main group of many",
        "nameless group",
        "nameless user",
        "team",
        "team of this name",
        "team's home",
        "team's above the home",
    ],
)
def test_ones_own_group_may_write_above_and_anybody_above_the_home(
    image: Path, group: int, members: str, because: str | None
) -> None:
    """With an umask of 002, which systems set that give each user a group of one's own, the home is such a folder."""
    team = image / "team"
    home = team / "home"
    home.mkdir(parents=True)
    for each, owned in ((team, group), (home, READER)):
        os.chown(each, READER, owned)
        each.chmod(0o775)
    script = LOOK + USER + members.format(team) + FOLDER
    outcome = run(script, image, SLIMTENSORS_CACHE_DIR=str(home / ".cache" / "slimtensors"))
    if because is None:
        assert outcome["warnings"] == []
    else:
        assert_compiled_in_memory(outcome, because.format(team))


def test_roots_group_may_not_write_above(image: Path) -> None:
    """Users of containers are in it whom the system does not know."""
    image.chmod(0o775)
    assert_compiled_in_memory(run(FOLDER, image), f"others can write to {image}")


def kept(place: Path) -> set[Path]:
    return set((place / "cache").rglob("*"))


def test_other_users_load_what_the_superuser_compiled(image):
    before = kept(image)
    outcome = run(AS_READER + USE_THEM, image)
    assert (outcome["compiled"], outcome["loaded"], outcome["warnings"]) == (0, SPECIALISATIONS, [])
    assert Path(outcome["folder"]).parent == image / "cache"
    assert kept(image) == before


def test_a_cache_of_ones_own_may_be_read_only(image):
    for each in ((image / "cache"), *kept(image)):
        os.chown(each, READER, READER)
        each.chmod(0o555 if each.is_dir() else 0o444)
    outcome = run(AS_READER + USE_THEM, image)
    assert (outcome["compiled"], outcome["loaded"], outcome["warnings"]) == (0, SPECIALISATIONS, [])


def test_what_a_cache_lacks_that_can_only_be_read_is_compiled_in_memory(image):
    [index] = (image / "cache").rglob("three_kernels.double_all-*.nbi")
    index.unlink()
    before = kept(image)
    outcome = run(AS_READER + USE_THEM, image)
    assert (outcome["compiled"], outcome["loaded"]) == (1, SPECIALISATIONS - 1)
    [warning] = outcome["warnings"]
    assert "is not writable, and does not give three_kernels.double_all" in warning
    assert kept(image) == before


def test_times_of_sources_do_not_matter(here):
    """Images of containers round them."""
    inside = here / "slimtensors" / "kernels" / "three_kernels.py"
    shutil.move(here / "three_kernels.py", inside)
    script = USE_THEM.replace("import three_kernels", "from slimtensors.kernels import three_kernels")
    assert run(script, here)["compiled"] == SPECIALISATIONS
    os.utime(inside, (0, 0))
    assert run(script, here)["compiled"] == 0


def test_a_cache_of_another_version_that_can_only_be_read_is_told_as_that(image):
    (image / "slimtensors" / "kernels" / "another.py").touch()
    because = f"{image / 'cache'} is not writable, and has no kernels of this version"
    assert_compiled_in_memory(run(LOOK + FOLDER, image), because)


@pytest.mark.parametrize("which", ["cache", "its subfolder"])
def test_a_cache_that_only_the_superuser_may_read_is_told_as_that(image, which):
    folder = image / "cache" if which == "cache" else Path(run(FOLDER, image)["folder"])
    folder.chmod(0o700)
    assert_compiled_in_memory(run(LOOK + FOLDER, image), f"{folder} cannot be read (chmod -R a+rX")


def _linked(path: Path) -> None:
    shutil.move(path, path.parent.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    ("which", "spoil", "because"),
    [
        ("*.nbc", lambda path: path.chmod(0o646), "others can write to {}"),
        ("*.nbi", lambda path: path.chmod(0o664), "others can write to {}"),
        ("*.nbi", lambda path: os.chown(path, THIRD, 0), "{} belongs to another user"),
        ("*.nbc", _linked, "{} is a link"),
        ("kernels-*", lambda path: path.chmod(0o757), "others can write to {}"),
        ("kernels-*", lambda path: path.chmod(0o1757), "others can write to {}"),
        ("kernels-*/*_*", lambda path: path.chmod(0o775), "others can write to {}"),
        ("kernels-*/*_*", lambda path: os.chown(path, THIRD, 0), "{} belongs to another user"),
        (".", lambda path: path.chmod(0o777), "others can write to {}"),
        (".", lambda path: os.chown(path, THIRD, 0), "{} belongs to another user"),
        ("..", lambda path: path.chmod(0o777), "others can write to {}"),
        ("..", lambda path: os.chown(path, THIRD, 0), "{} belongs to another user"),
    ],
)
def test_a_cache_that_a_third_user_could_change_is_refused(
    image: Path, which: str, spoil: Callable[[Path], None], because: str
) -> None:
    """It holds pickles and machine code."""
    cache = image / "cache"
    spoilt = {".": cache, "..": image}.get(which) or sorted(cache.rglob(which))[0]
    spoil(spoilt)
    assert_compiled_in_memory(run(LOOK + FOLDER, image), because.format(spoilt))


def test_nothing_is_loaded_from_a_cache_that_is_refused(image):
    [index] = (image / "cache").rglob("three_kernels.double_all-*.nbi")
    index.chmod(0o666)
    outcome = run(AS_READER + USE_THEM, image)
    assert (outcome["compiled"], outcome["loaded"]) == (SPECIALISATIONS, 0)


def test_folders_above_may_be_shared_where_nobody_can_move_what_others_have(image):
    """Whose group that is has not to be asked, which a directory may answer late."""
    os.chown(image, OWNER, READER)
    image.chmod(0o1777)
    unasked = USER + "grp.getgrgid = refused\n"
    assert run(AS_READER + unasked + USE_THEM, image)["loaded"] == SPECIALISATIONS


def test_a_link_to_a_cache_is_followed_once(image):
    """What it leads to is what was checked, whoever changes the link later."""
    (image / "theirs").symlink_to(image / "cache")
    outcome = run(AS_READER + USE_THEM, image, SLIMTENSORS_CACHE_DIR=str(image / "theirs"))
    assert Path(outcome["folder"]).parent == image / "cache"
    assert outcome["loaded"] == SPECIALISATIONS


def test_a_full_disk_gives_one_warning(here):
    full = """
from numba.core import caching
def fail(*arguments): raise OSError(28, "No space left on device")
caching.IndexDataCacheFile.save = fail
"""
    outcome = run(full + USE_THEM, here)
    [warning] = outcome["warnings"]
    assert "No space left" in warning


def test_without_jit_kernels_are_plain_functions(here):
    script = "import three_kernels as t, types; t.use(); print(int(isinstance(t.total, types.FunctionType)))"
    assert run(script, here, NUMBA_DISABLE_JIT="1") == 1
    assert not (here / "cache").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_during_a_compilation_can_compile(here):
    script = """
import os, threading, time, warnings
import three_kernels as t
t.total(t.np.arange(3, dtype=t.np.int32))  # Numba's late imports: a fork during an import in a thread is never safe
warnings.simplefilter("ignore")  # newer Pythons warn of every fork beside threads
compiling = threading.Thread(target=t.use)
compiling.start()
time.sleep(0.02)
child = os.fork()
if child == 0:
    t.use()
    os._exit(0)
compiling.join()
_, status = os.waitpid(child, 0)
print(status)
"""
    assert run(script, here) == 0


# ---- instruction sets

TARGET = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    from slimtensors.kernels import instruction_set
    early = "numba" in sys.modules
    forced, chosen = instruction_set.forced(), instruction_set.chosen()
    import three_kernels
three_kernels.use()
assembly = "".join(next(iter(three_kernels.double_all.inspect_asm().values())))
print(json.dumps({"forced": forced, "chosen": chosen, "early": early, "zmm": "%zmm" in assembly,
                  "ymm": "%ymm" in assembly, "warnings": [str(each.message) for each in warned]}))
"""


def possible() -> list[str]:
    if not instruction_set._on_x86():
        return ["portable"]
    features = instruction_set._processor_features()
    return ["portable", *(name for name, needed in instruction_set._NEEDED.items() if needed in features)]


@pytest.mark.parametrize("name", ["portable", "avx2", "avx512"])
def test_a_forced_instruction_set_is_what_kernels_get(here, name):
    if name not in possible():
        pytest.skip("not on this processor")
    outcome = run(TARGET, here, SLIMTENSORS_ISA=name)
    assert (outcome["forced"], outcome["chosen"]) == (name, name)
    assert not outcome["early"]
    assert outcome["warnings"] == []
    if instruction_set._on_x86():
        assert outcome["ymm"] == (name != "portable")
        assert not outcome["zmm"] or name == "avx512"


def test_left_alone_numba_takes_the_best(here):
    assert run(TARGET, here)["chosen"] == possible()[1 if len(possible()) > 1 else 0]


@pytest.mark.skipif("avx2" not in possible(), reason="needs AVX2")
def test_instruction_sets_share_a_folder_but_no_code(here):
    first = run(USE_THEM, here)
    other = run(USE_THEM, here, SLIMTENSORS_ISA="avx2" if "avx512" in possible() else "portable")
    assert first["folder"] == other["folder"]
    assert other["compiled"] == SPECIALISATIONS
    assert run(USE_THEM, here)["compiled"] == 0


@pytest.mark.skipif(not instruction_set._on_x86(), reason="portable is all there is")
def test_an_instruction_set_that_comes_too_late_gives_a_warning(here):
    late = "import numba\n" + TARGET
    outcome = run(late, here, SLIMTENSORS_ISA="portable")
    if len(possible()) > 1:
        assert outcome["chosen"] != "portable"
        [warning] = set(outcome["warnings"])
        assert "NUMBA_CPU_NAME=x86-64 and set NUMBA_CPU_FEATURES= " in warning
    in_time = run(late, here, SLIMTENSORS_ISA="portable", NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")
    assert (in_time["chosen"], in_time["warnings"]) == ("portable", [])


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("SLIMTENSORS_ISA", "sse9")
    with pytest.raises(slimtensors.errors.UsageError, match=r"sse9.*auto, avx512, avx2, portable"):
        instruction_set.forced()
    with pytest.raises(slimtensors.errors.UsageError, match="sse9"):
        instruction_set.force()


@pytest.mark.parametrize("name", ["avx2", "avx512"])
def test_an_instruction_set_that_the_processor_lacks_is_refused(monkeypatch, name):
    monkeypatch.setenv("SLIMTENSORS_ISA", name)
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(slimtensors.errors.UsageError, match="needs an x86-64 processor; this is arm64"):
        instruction_set.force()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(instruction_set, "_processor_features", set)
    with pytest.raises(slimtensors.errors.UsageError, match=f"needs a processor with {name}"):
        instruction_set.force()
