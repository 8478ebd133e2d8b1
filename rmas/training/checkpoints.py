"""Checkpoints of a run: one module over Orbax's CheckpointManager.

A step holds the state (any pytree of arrays: links, optimizer, step), the state of the data
iterator, and a JSON dict that says what the state belongs to. It is written while training
continues, and committed by one rename: a kill during a save leaves the earlier steps as they were.
A step contains a list of every leaf's dtype, shape and checksum, and next to it lies a list of its
files (it is missing for the newest step if the process was killed before writing it): with several
processes a damaged file may be read by one of them only, so each checks all files first, and they
agree on the result. A step that does not match its lists, or cannot be read, is renamed with a
warning, and the step before it is used. A step may be restored by another number of processes, and
onto another mesh.
"""

import base64
import contextlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rmas import checksums
from rmas.errors import InputError
from rmas.files import report_full_disk
from rmas.parallel import all_reduce_max, barrier, is_first
from rmas.places import expanded
from rmas.training import orbax_errors
from rmas.training.checkpoint_files import SCORE, StepFiles, one_line

_log = logging.getLogger(__name__)
_OLD = "deleting"  # old steps are moved there first, so that a kill leaves no half-deleted step


class Checkpoints:
    """The checkpoints of one run, in one folder: it keeps the newest `keep` steps and the best one.

    All processes of a run make it, save and restore together. Making, using and closing it leaves
    logging, warnings and hooks of the process as they were. Steps that Orbax could not list are
    renamed first.

    Raises InputError where the folder cannot be made or read, or has no step that can be listed.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2) -> None:
        self.folder = expanded(folder).absolute()
        self._files, self._saved = StepFiles(self.folder), set[int]()
        policies = ocp.checkpoint_managers
        best = policies.BestN(
            get_metric_fn=_score, reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        kept = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept,
            best_fn=_score,
            best_mode="min",
            cleanup_tmp_directories=True,
            todelete_subdir=_OLD,
        )
        try:
            if is_first():
                self.folder.mkdir(parents=True, exist_ok=True)
                if not self._files.rename_unlisted():
                    raise self._none_left(self._files.steps())
            barrier("checkpoint folder")
        except OSError as error:
            raise InputError(
                f"checkpoint folder {self.folder} cannot be used: {error.strerror or error}"
            ) from None
        try:
            self._manager = _Manager(self.folder, options=options)
        except Exception as error:  # whatever listing damaged steps may raise
            raise InputError(
                f"checkpoint folder {self.folder} cannot be read ({one_line(error)}); use another "
                "--workdir, or delete the folder"
            ) from None
        self._delete_old()

    def save(
        self,
        step: int,
        state: Any,
        data_state: dict | bytes | None,
        meta: dict[str, Any],
        score: float = 0.0,
    ) -> None:
        """Starts to save one step, once the one before is on disk; `wait` returns when it is.

        Args:
          data_state: what Grain's `get_state()` returned: bytes, or a dict that JSON can hold.
          meta: a dict that JSON can hold.
          score: the step with the lowest one is the best, the newer of equal ones.

        Raises:
          ValueError: a step that is not newer than the latest, or a leaf that is not an array.
          InputError: an earlier step could not be written.
        """
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"step {step} is not newer than the latest checkpoint, {latest}")
        leaves = _leaves(state)
        for name, leaf in leaves.items():
            if not isinstance(leaf, jax.Array | np.ndarray):
                raise ValueError(f"{name} is {type(leaf).__name__}; a state must hold arrays only")
        info = {
            "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
            "data": _data_to_json(data_state),
            "meta": meta,
            SCORE: score,
        }
        info = json.loads(json.dumps(info))  # it is written later, when the caller's may differ
        self.wait()
        with self._writing():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves),
                    info=ocp.args.JsonSave(checksums.with_checksum(info)),
                ),
                metrics={SCORE: score},
                force=True,
            )
        if not saved:
            raise RuntimeError(f"the checkpoint of step {step} was refused by Orbax")
        self._saved.add(step)

    def wait(self) -> None:
        """Returns when every save is on disk; InputError where one cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()
            self._record_files()
        self._delete_old()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return report_full_disk(f"a checkpoint in {self.folder}")

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the lowest score, or None before the first."""
        self.wait()
        return self._manager.best_step()

    def restore(
        self, template: Any, step: int | None = None
    ) -> tuple[int, Any, dict | bytes | None, dict[str, Any]]:
        """The newest readable step (or `step`), as (step, state, data_state, meta).

        `template` is a pytree of the same structure (arrays, or ShapeDtypeStructs with a
        sharding); every restored leaf is a jax.Array with its template's dtype, shape and
        sharding, bit for bit as saved. Restored leaves are committed to their sharding: an initial
        state that the same executable is to accept must be put there by `jax.device_put`, too.

        Raises InputError where no step can be read, and where a step's leaves, dtypes or shapes
        are not the template's, naming the leaf.
        """
        wanted = _leaves(template)
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True) if step is None else [step]
        if not steps:
            raise InputError(f"no checkpoint in {self.folder}")
        damaged: list[int] = []
        for step in steps:
            wrong = self._files.find_damage(step)
            if wrong:
                _log.warning("checkpoint step %d cannot be read (%s)", step, wrong)
            # A step that one process finds damaged, none begins to read.
            found = None
            if not all_reduce_max(int(bool(wrong))):
                found = self._read(step, wanted)
            if all_reduce_max(int(found is None)):
                damaged.append(step)
                continue
            assert found is not None  # as in every process
            info, arrays = found
            self._rename_damaged(damaged, step)
            structure = jax.tree.structure(template)
            state = jax.tree.unflatten(structure, [arrays[name] for name in wanted])
            return step, state, _data_from_json(info["data"]), info["meta"]
        raise self._none_left(steps)

    def close(self) -> None:
        """Waits, and releases Orbax's threads; the object cannot be used after it."""
        with self._writing():
            self._manager.close()
            self._record_files()
        self._delete_old()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record_files(self) -> None:
        """Lists the files of steps that this object saved; older ones may be damaged already."""
        if is_first():
            self._files.record(self._saved)

    def _delete_old(self) -> None:
        if is_first():
            shutil.rmtree(self.folder / _OLD, ignore_errors=True)

    def _read(
        self, step: int, wanted: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, jax.Array]] | None:
        """What a step records, and its leaves by name; None, with a warning, for a damaged one.

        Raises InputError where a sound checkpoint is of something else: older ones are not tried.
        """
        try:
            info = self._info(step)
            _compare(f"checkpoint {self.folder / str(step)}", info["leaves"], wanted)
            return info, self._arrays(step, info["leaves"], wanted)
        except InputError:
            raise
        except Exception as error:  # whatever reading a damaged step may raise
            _log.warning("checkpoint step %d cannot be read (%s)", step, one_line(error))
        orbax_errors.forget_reads()
        return None

    def _info(self, step: int) -> dict[str, Any]:
        with orbax_errors.reading():
            args = ocp.args.Composite(info=ocp.args.JsonRestore())
            found = self._manager.restore(step, args=args)
        info = checksums.without_checksum(found.info)
        if SCORE in info and info[SCORE] != self._files.read_score(step):
            raise ValueError("its score is not what was saved")
        return {key: info[key] for key in ("leaves", "data", "meta")}

    def _arrays(
        self, step: int, saved: dict[str, dict], wanted: dict[str, Any]
    ) -> dict[str, jax.Array]:
        own_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        templates = {
            name: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or own_device
            )
            for name, leaf in wanted.items()
        }
        with orbax_errors.reading():
            args = ocp.args.Composite(state=ocp.args.StandardRestore(templates))
            found = self._manager.restore(step, args=args)
        for name, leaf in found.state.items():
            # Orbax casts silently, and the file may differ from the list. Arrays of which several
            # processes hold parts have no checksum.
            now, then = _describe(leaf), saved[name]
            known = [key for key in then if None not in (now[key], then[key])]
            if [now[key] for key in known] != [then[key] for key in known]:
                raise ValueError(f"{name} is not what was saved")
        return found.state

    def _none_left(self, tried: Collection[int]) -> InputError:
        steps = ", ".join(map(str, sorted(tried, reverse=True)))
        return InputError(
            f"no checkpoint in {self.folder} can be read (tried steps {steps}); use another "
            "--workdir, or delete the folder"
        )

    def _rename_damaged(self, damaged: list[int], used: int) -> None:
        """Renames unreadable newer steps, so that the resumed run can save these steps again."""
        if not damaged:
            return
        if is_first():
            for step in damaged:
                name = self._files.put_aside(step)
                _log.warning("checkpoint step %d is used; step %d is now %s", used, step, name)
            self._files.delete_lists(set(self._manager.all_steps()) - set(damaged))
        barrier("damaged checkpoints are renamed")
        self._manager.reload()


class _Manager(ocp.CheckpointManager):
    """Does not ask JAX whether the run is preempted: the training loop does that.

    JAX derives the step at which all processes stop from the last number that it was asked with.
    The loop asks with a count of its own (`StopSignal.reached`), which steps would confuse.
    """

    def reached_preemption(self, step: int) -> bool:
        """Never: see `StopSignal`."""
        return False


def _score(metrics: dict[str, float]) -> float:
    return metrics[SCORE]


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaf path -> leaf, as in `links/outer/planner->critic/kernel`, in the tree's own order."""
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    leaves = dict(named)
    if not leaves or len(leaves) < len(named):
        raise ValueError("a state needs leaves, and their paths must differ")
    return leaves


def _describe(leaf: Any) -> dict[str, Any]:
    """dtype, shape, and a checksum of the bytes (None where several processes hold parts)."""
    whole = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
    checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes()) if whole else None
    return {"dtype": np.dtype(leaf.dtype).name, "shape": list(leaf.shape), "crc32": checksum}


def _compare(where: str, saved: dict[str, dict], wanted: dict[str, Any]) -> None:
    for name in wanted:
        if name not in saved:
            raise InputError(f"{where} has no {name}; it was made by another config or version")
    for name, facts in saved.items():
        if name not in wanted:
            raise InputError(f"{where} has {name}, which this config does not train")
        leaf = wanted[name]
        there = (facts["dtype"], tuple(facts["shape"]))
        here = (np.dtype(leaf.dtype).name, tuple(leaf.shape))
        if there != here:
            raise InputError(
                f"{where}: {name} is {there[0]}{list(there[1])}, wanted {here[0]}{list(here[1])}"
            )


def _data_to_json(data_state: dict | bytes | None) -> dict | None:
    if isinstance(data_state, bytes):
        return {"bytes": base64.b64encode(data_state).decode("ascii")}
    return None if data_state is None else {"json": data_state}


def _data_from_json(stored: dict | None) -> dict | bytes | None:
    if stored is None:
        return None
    return base64.b64decode(stored["bytes"]) if "bytes" in stored else stored["json"]
