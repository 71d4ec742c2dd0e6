"""The strict engine behind every conversion: a table, our parameters and the published tensors become a plan, or one report.

Both directions come from the same table. The inverse transforms, run on our shapes, say which tensors a published checkpoint must
have; what is unknown, missing, misshapen, duplicate or left unfilled is collected, so that one error lists all of it and nothing is
written. A plan then streams: it touches one parameter at a time.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from flax import nnx

from .table import Rule, Transform, Unused

Table = Sequence[Rule | Unused]


class HasShape(Protocol):
    """What is known of a tensor before it is read: an array, a `jax.ShapeDtypeStruct`, or a file's header will do."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...


def nbytes(tensor: HasShape) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the tensor or parameter `name`."""

    what: str
    name: str
    detail: str = ""


class ConversionError(ValueError):
    """Everything that is wrong, as one report. Nothing has been written."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        lines = list(_lines(self.problems))
        super().__init__(
            f"{len(self.problems)} problem{'s' * (len(self.problems) != 1)}, nothing written:\n  " + "\n  ".join(lines)
        )


def _lines(problems: Sequence[Problem]) -> Iterator[str]:
    """One line a problem, but a problem that all of a range of numbered tensors share is one line with that range."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for problem in problems:
        groups.setdefault((problem.what, re.sub(r"\d+", "#", problem.name), problem.detail), []).append(problem.name)
    for (what, pattern, detail), names in groups.items():
        columns = [
            sorted(set(column)) for column in zip(*([int(n) for n in re.findall(r"\d+", name)] for name in names), strict=True)
        ]
        if len(names) > 4 and len(names) == math.prod(len(column) for column in columns):
            ranges = iter([_ranges(column) for column in columns])
            names = [re.sub("#", lambda _, ranges=ranges: next(ranges), pattern) + f" ({len(names)} tensors)"]
        yield from (f"{what}: {name}{detail and f' ({detail})'}" for name in names)


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] → "[0-2,5]", one number → itself."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spelled = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"[{spelled}]" if len(numbers) > 1 else spelled


@dataclasses.dataclass(frozen=True)
class Step:
    """One parameter: our path, the published names it is made of, and how."""

    path: str
    names: tuple[str, ...]
    transform: Transform


@dataclasses.dataclass(frozen=True)
class Plan:
    """What goes where. `unused` are published tensors that are carried verbatim."""

    steps: tuple[Step, ...]
    unused: tuple[str, ...]

    def to_ours(self, read: Callable[[str], np.ndarray]) -> Iterator[tuple[Step, np.ndarray]]:
        """Every parameter's array; `read(name)` is called once for every published tensor, in the plan's order."""
        for step in self.steps:
            yield step, step.transform.to_ours(*(read(name) for name in step.names))


def parameters(network: nnx.Module) -> dict[str, nnx.Variable]:
    """Dotted path → parameter, of a real network or of one made under `nnx.eval_shape`."""
    return {".".join(map(str, path)): value for path, value in nnx.to_flat_state(nnx.state(network, nnx.Param))}


def pattern_of(template: str) -> re.Pattern:
    """A regular expression for names that fit: `{name}` is any text, any other `{letter}` a number, the same wherever it stands."""
    seen: set[str] = set()

    def group(match: re.Match) -> str:
        letter = match[1]
        if letter in seen:
            return f"(?P={letter})"
        seen.add(letter)
        return f"(?P<{letter}>{'.+' if letter == 'name' else '[0-9]+'})"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", group, re.escape(template)))


def steps(table: Table, paths: Iterable[str]) -> tuple[list[Step], list[Problem]]:
    """The step of every path, and what is wrong with the table: parameters that no rule or several rules fill."""
    rules = [(pattern_of(rule.path), rule) for rule in table if isinstance(rule, Rule)]
    found: list[Step] = []
    problems: list[Problem] = []
    for path in paths:
        matches = [(rule, match.groupdict()) for pattern, rule in rules if (match := pattern.fullmatch(path))]
        if len(matches) == 1:
            rule, numbers = matches[0]
            found.append(Step(path, tuple(name.format(**numbers) for name in rule.names), rule.transform))
        else:
            problems.append(Problem(f"{'no rule fills' if not matches else 'several rules fill'} the parameter", path))
    return found, problems


def published_shapes(step: Step, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes that the published tensors of `step` have when our parameter has `shape`; computed without its memory."""
    parts = step.transform.to_published(np.broadcast_to(np.uint8(0), shape), len(step.names))
    return dict(zip(step.names, (part.shape for part in parts), strict=True))


def make_plan(
    table: Table,
    ours: Mapping[str, HasShape],
    published: Mapping[str, HasShape],
    duplicates: Mapping[str, Sequence[str]] | None = None,
) -> Plan:
    """Compare a network with a published checkpoint.

    Args:
        table: the network's rules.
        ours: path → parameter.
        published: name → tensor; its order becomes the plan's.
        duplicates: names that several files hold, with the files.

    Raises:
        ConversionError: all that does not fit.
    """
    found, problems = steps(table, ours)
    problems += [Problem("duplicate tensor", name, f"in {' and '.join(files)}") for name, files in (duplicates or {}).items()]
    expected: dict[str, tuple[int, ...]] = {}
    for step in found:
        shapes = published_shapes(step, tuple(ours[step.path].shape))
        problems += [Problem("two parameters are made of the tensor", name) for name in shapes if name in expected]
        expected |= shapes
        kinds = {str(published[name].dtype) for name in step.names if name in published}
        if len(kinds) > 1:
            problems.append(Problem("tensors of several dtypes make one parameter", step.path, ", ".join(sorted(kinds))))
    unused_patterns = [pattern_of(entry.published) for entry in table if isinstance(entry, Unused)]
    unused = [name for name in published if name not in expected and any(p.fullmatch(name) for p in unused_patterns)]
    carried = set(unused)
    problems += [Problem("unknown tensor", name) for name in published if name not in expected and name not in carried]
    problems += [Problem("missing tensor", name) for name in expected if name not in published]
    problems += [
        Problem("wrong shape", name, f"{list(published[name].shape)}, must be {list(shape)}")
        for name, shape in expected.items()
        if name in published and tuple(published[name].shape) != shape
    ]
    if problems:
        raise ConversionError(problems)
    order = {name: place for place, name in enumerate(published)}
    return Plan(tuple(sorted(found, key=lambda step: order[step.names[0]])), tuple(unused))


def load(network: nnx.Module, tensors: Mapping[str, np.ndarray], table: Table) -> None:
    """Set every parameter of `network` from published `tensors`, in memory; each is cast to the parameter's dtype.

    Raises:
        ConversionError: all that does not fit; the network is then as it was.
    """
    ours = parameters(network)
    for step, array in make_plan(table, ours, tensors).to_ours(tensors.__getitem__):
        ours[step.path].set_value(jnp.asarray(array).astype(ours[step.path].dtype))
    nnx.update(network, nnx.from_flat_state([(_keys(path), variable) for path, variable in ours.items()]))


def unload(network: nnx.Module, table: Table) -> dict[str, np.ndarray]:
    """The published tensors of `network`: the inverse of `load`, in the parameters' dtype.

    Raises:
        ConversionError: the table does not have a rule for every parameter.
    """
    ours = parameters(network)
    found, problems = steps(table, ours)
    if problems:
        raise ConversionError(problems)
    tensors: dict[str, np.ndarray] = {}
    for step in found:
        parts = step.transform.to_published(np.asarray(ours[step.path].get_value()), len(step.names))
        tensors |= zip(step.names, parts, strict=True)
    return tensors


def _keys(path: str) -> tuple[str | int, ...]:
    return tuple(int(key) if key.isdigit() else key for key in path.split("."))
