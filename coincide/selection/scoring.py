"""The scores artifact of a method: computed once for all budgets, and meant to be looked at.

A method that ranks examples has ``score(pool, seed)``. Each array that it returns is stored as
``<name>.npy``; ``score.npy`` float32 [N] is the ranking score (NaN: no score). ``scores.parquet``
holds it as a table with id and source. ``python -m coincide.scores`` plots and exports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coincide.data.columns import id_strings, source_strings
from coincide.protocols import HasScore, HasVersion
from coincide.schema import Dataset, DataSource, Method, UserError
from coincide.selection.pool import NeedSteps
from coincide.selection.scan import read_scan
from coincide.store import Build, Step, Store
from coincide.system.files import write_array, write_atomic

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
LATE = ("barred",)
"""Fields of the key that are only known once the rows have been scanned."""


def scores_step(
    method: Method,
    *,
    seed: int,
    source: DataSource,
    data: Step,
    needs: NeedSteps,
    scan: Step | None = None,
    barred: str = "",
) -> Step | None:
    """The step that computes the scores of ``method``; None for a method without ``score``.

    The key contains ``method.score_config(seed)``, what the scores depend on besides the signals,
    and ``barred``, the digest of the rows that ``scan`` excludes, if there are any.
    """
    if not isinstance(method, HasScore):
        return None
    scorer: HasScore = method

    def build(build: Build) -> Mapping[str, Any]:
        dataset = source.open(build.need(0).path)
        pool = needs.pool(build.store, dataset, barred=barred_rows(build.store, scan, barred))
        arrays = scorer.score(pool, seed)
        build.expect(sum(array.nbytes for array in arrays.values()))
        for name, array in arrays.items():
            write_array(build.dir / f"{name}.npy", array)
        write_atomic(
            build.dir / "scores.parquet", lambda path: _write_table(path, dataset, arrays["score"])
        )
        return _summary(arrays["score"])

    config = {"method": method.name, **own_class(method), **scorer.score_config(seed)}
    config |= {"barred": barred} if barred else {}
    name = f"{method.name}-{source.name}"
    needed, after = (data, *needs.steps()), (scan,) if scan else ()
    return Step("scores", name, VERSION, config, build, needed, after=after, late=LATE)


def barred_rows(store: Store, scan: Step | None, digest: str) -> dict[int, str]:
    """Row -> reason, for the rows that ``scan`` excludes.

    Raises :class:`UserError` if they do not have the ``digest`` that is part of the key.
    """
    if scan is None:
        return {}
    found = read_scan(store, scan)
    if found.digest != digest:
        raise UserError(f"{scan.folder} came after the plan was made; run the command again.")
    return found.barred


def own_class(method: Method) -> dict[str, Any]:
    """For the key: module and class of a method from outside this project, whose name may not be
    unique; and the version of its code, from the second on.
    """
    name = f"{type(method).__module__}.{type(method).__qualname__}"
    known = name.split(".")[0] in ("coincide", "baselines")
    version = method.version if isinstance(method, HasVersion) else 1
    return {**({} if known else {"class": name}), **({"code": version} if version != 1 else {})}


def _write_table(path: Any, dataset: Dataset, score: np.ndarray) -> None:
    import pandas as pd

    columns = {
        "row": range(len(dataset)),
        "id": pd.array(id_strings(dataset.examples), dtype="str"),
        "source": pd.array(source_strings(dataset.examples), dtype="str"),
        "score": score,
    }
    pd.DataFrame(columns).to_parquet(path, index=False)


def _summary(score: np.ndarray) -> dict[str, Any]:
    import numpy as np

    judged = score[~np.isnan(score)]
    if not len(judged):
        return {"judged": 0}
    names = ("min", "q1", "median", "q3", "max")
    quantiles = np.quantile(judged.astype(np.float64), [0, 0.25, 0.5, 0.75, 1])
    return {
        "judged": len(judged),
        "distinct": len(np.unique(judged)),
        **dict(zip(names, map(float, quantiles), strict=True)),
    }
