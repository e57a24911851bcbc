"""The third rung: the best of a predicted front are trained alike, and the losing ones are ended early.

Every shape sees the same text in the same order, with learning rates carried over from the space's reference
(CompleteP). Optuna's asynchronous successive halving ends a run after an eighth, a quarter or half of the
tokens where its score is in the worse half of those that came as far, but not while the reference has learned
little more than how often each word comes. The reference is trained first and whole, so that every score can
be against it. A second seed of the reference and of the two best tells the noise. Every run has a process of
its own.

The study "SPACE trained" holds it all. A run that was killed stands there as running and goes on from its
checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from hwsearch.errors import HwsearchError
from hwsearch.model.scaling import parameter_scales
from hwsearch.search.apart import train_apart
from hwsearch.search.candidates import Report, silent
from hwsearch.search.contest_recipe import STAGES
from hwsearch.search.contest_result import ContestResult, State, Trained, write_contest
from hwsearch.search.contest_score import Entrant, entrants, loss_weight, past_plateau, score
from hwsearch.search.contest_time import expected_time
from hwsearch.search.identity import identity
from hwsearch.search.leases import OWNER
from hwsearch.search.parameters import as_params
from hwsearch.search.result import RunResult
from hwsearch.search.run_folder import RunFolder, claim
from hwsearch.search.storage_url import is_one_file
from hwsearch.search.study import cannot_be_written, claimed_storage, open_study
from hwsearch.space.search_space import SearchSpace
from hwsearch.training import Recipe
from hwsearch.training.token_cache import token_cache
from hwsearch.training.unigram import unigram_loss

SEEDED_TWICE = 2  # besides the reference
STATES: dict[TrialState, State] = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
SHAPE_HASH, SEED, LOSSES, FAILURE = "shape_hash", "seed", "held_out_loss", "failure"


def hold_contest(
    predicted: RunResult,
    recipe: Recipe,
    data: Sequence[Path],
    *,
    tokenizer: Path | None = None,
    count: int = 8,
    storage: str | None = None,
    report: Report = silent,
    say: Callable[[str], None] = lambda line: None,
    warn: Callable[[str], None] = lambda message: None,
) -> ContestResult:
    """Train the reference and `count` shapes of a finished run's front; its folder gets the answer.

    Args:
        predicted: or what was measured of it, whose latencies and front are then measured ones.
        recipe: of one phase, kept after every eighth of its steps (`contest_recipe`); its learning rate is
            the reference's.
        data, tokenizer: as for `train`.
        storage: the predicted run's.
        say: takes a line about the time that all of it needs.

    Raises HwsearchError for a space whose losses cannot be compared, a study of other conditions, and where
    the reference cannot be trained. After Ctrl-C the same call goes on from the last checkpoint.
    """
    space = predicted.space
    _check_comparable(space, recipe)
    field = entrants(predicted, count)
    if len(sizes := {entrant.shape.head_size for entrant in field}) > 1:
        warn(f"head sizes {sorted(sizes)}: learning rates carry over across depth and width alone")
    for entrant in field:  # refuses what has no learning rates before anything is trained
        parameter_scales(entrant.shape, space.reference)
    text = token_cache(
        data,
        vocab_size=space.reference.vocab_size,
        tokenizer=tokenizer,
        tokens=recipe.phases[0].tokens,
        report=lambda line: None,
    )
    conditions = {
        "space": space.name,
        "data": text.source,
        "text": text.digest,
        "tokenizer": text.tokenizer.digest,
        "learning_rates_of": str(space.reference),
        "recipe": recipe.model_dump(mode="json", exclude={"save_every_seconds"}),
    }
    digest = hashlib.sha256(json.dumps([identity(space), conditions], sort_keys=True).encode())
    with ExitStack() as held:
        folder = held.enter_context(claim(predicted.folder.path, {}))
        store = held.enter_context(claimed_storage(storage or str(folder.journal), warn))
        try:
            study = open_study(
                store,
                f"{space.name} trained",
                digest.hexdigest()[:16],
                {"score": "minimize"},
                RandomSampler(),  # never asked
                SuccessiveHalvingPruner(min_resource=_steps(recipe) // STAGES, reduction_factor=2),
                of="other text, another tokenizer, --train-tokens or learning rate, or another space",
            )
            contest = _Contest(
                study=study,
                folder=folder,
                space=space,
                recipe=recipe,
                data=data,
                tokenizer=tokenizer,
                unigram_loss=unigram_loss(text),
                weight=loss_weight(predicted),
                owner=f"{platform.node()}:{folder.path.resolve()}",
                alone=storage is None or is_one_file(storage),
                report=report,
                warn=warn,
            )
            if left := contest.left(field):
                say(expected_time(field, left, SEEDED_TWICE, recipe, text))
            result = ContestResult(
                folder=folder,
                trained=contest.run(field),
                tokens=recipe.phases[0].tokens,
                unigram_loss=contest.unigram_loss,
                weight=contest.weight,
                conditions={**conditions, "latency_source": predicted.source},
            )
            write_contest(result)
        except OSError as error:
            raise HwsearchError(
                f"{folder.path}: cannot write: {error.strerror or error}; finished runs are kept"
            ) from error
        except OptunaError as error:
            raise cannot_be_written(error, "finished runs are kept") from error
    return result


@dataclass(frozen=True, eq=False)
class _Contest:
    """`alone`: no other process can use the storage, so every running trial is a killed one of ours."""

    study: Study
    folder: RunFolder
    space: SearchSpace
    recipe: Recipe
    data: Sequence[Path]
    tokenizer: Path | None
    unigram_loss: float
    weight: float
    owner: str
    alone: bool
    report: Report
    warn: Callable[[str], None]

    def left(self, field: list[Entrant]) -> list[Entrant]:
        """Those whose run with the recipe's seed has no end yet."""
        trials = [self._find(entrant, self.recipe.seed) for entrant in field]
        return [
            entrant
            for entrant, trial in zip(field, trials, strict=True)
            if trial is None or trial.state not in STATES
        ]

    def run(self, field: list[Entrant]) -> list[Trained]:
        """Every entrant with the recipe's seed, then the reference and the best with the next one."""
        seed = self.recipe.seed
        first = [self._settle(field[0], seed, may_end=False)]
        self._warn_of_plateau(first[0])
        first += [self._settle(entrant, seed, may_end=True) for entrant in field[1:]]
        whole = [run for run in first if run.state == "complete" and not run.entrant.is_reference]
        best = sorted(whole, key=lambda run: run.score or 0.0)[:SEEDED_TWICE]
        again = [field[0], *(run.entrant for run in best)]
        return first + [self._settle(entrant, seed + 1, may_end=False) for entrant in again]

    def _settle(self, entrant: Entrant, seed: int, *, may_end: bool) -> Trained:
        """The study's answer on an entrant, trained as far as that needs.

        Raises HwsearchError where it is the reference that fails, KeyboardInterrupt after Ctrl-C.
        """
        trial = self._find(entrant, seed)
        if trial is None or trial.state == TrialState.FAIL:
            trial = self._begin(entrant, seed)
        if trial.state == TrialState.RUNNING:
            self._train(Trial(self.study, trial._trial_id), entrant, seed, may_end)
            trial = self.study.get_trials(deepcopy=False)[trial.number]
        losses = _losses(trial)
        tokens_per_step = self.recipe.phases[0].tokens_per_step
        trained = Trained(
            entrant=entrant,
            seed=seed,
            state=STATES.get(trial.state, "failed"),
            losses={step * tokens_per_step: loss for step, loss in losses.items()},
            score=self._score(entrant, seed, losses),
            failure=trial.user_attrs.get(FAILURE),
        )
        if entrant.is_reference and trained.state == "failed":
            raise HwsearchError(f"the reference {entrant.shape} cannot be trained: {trained.failure}")
        return trained

    def _find(self, entrant: Entrant, seed: int) -> FrozenTrial | None:
        """The newest trial of this shape and seed."""
        mine = (entrant.shape.hash(), seed)
        for trial in reversed(self.study.get_trials(deepcopy=False)):
            if (trial.user_attrs.get(SHAPE_HASH), trial.user_attrs.get(SEED)) == mine:
                ours = self.alone or trial.user_attrs.get(OWNER) == self.owner
                if trial.state == TrialState.RUNNING and not ours:
                    raise HwsearchError(f"{entrant.shape}: another process is training it in this study")
                return trial
        return None

    def _begin(self, entrant: Entrant, seed: int) -> FrozenTrial:
        """A running trial, all of it in one write: a kill leaves none without its shape."""
        params = as_params(entrant.shape, self.space.file.shape)
        facts = {
            "shape": str(entrant.shape),
            SHAPE_HASH: entrant.shape.hash(),
            SEED: seed,
            "source": "trained",
            "basket_latency_ms": 1e3 * entrant.basket_latency_s,
            OWNER: self.owner,
        }
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params={name: value for name, (value, _) in params.items()},
                distributions={name: distribution for name, (_, distribution) in params.items()},
                user_attrs=facts,
            )
        )
        begun = self._find(entrant, seed)
        assert begun is not None
        return begun

    def _train(self, trial: Trial, entrant: Entrant, seed: int, may_end: bool) -> None:
        """Train to the end, or to where the pruner ends it, and tell the study."""
        steps = _steps(self.recipe)
        begun = trial._get_latest_trial()
        losses, reported = _losses(begun), set(begun.intermediate_values)
        first_seed = seed == self.recipe.seed

        def judge(step: int, loss: float) -> bool:
            self.report(f"training {entrant.shape}, seed {seed}", step, steps)
            if step in losses:  # decided before a kill, and let go on
                return False
            losses[step] = loss
            found = self._score(entrant, seed, losses)
            assert found is not None
            if step not in reported:
                trial.report(found, step)
            # Asked of the reference too: the others compete with it. Second seeds compete with nobody.
            competes = first_seed and step < steps and self._past_plateau(entrant, losses, step)
            ends = competes and trial.should_prune() and may_end
            # Last: what a kill leaves undecided is asked again.
            trial.set_user_attr(LOSSES, {str(at): each for at, each in losses.items()})
            return ends

        self.report(f"training {entrant.shape}, seed {seed}", max(losses, default=0), steps)
        out = self.folder.trained / f"{entrant.shape}-seed{seed}"
        try:
            result = train_apart(
                entrant.shape,
                self.data,
                out,
                self.recipe.model_copy(update={"seed": seed}),
                tokenizer=self.tokenizer,
                rates_of=self.space.reference,
                judge=judge,
            )
        except HwsearchError as error:
            trial.set_user_attr(FAILURE, str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            return
        if result.judged:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, self._score(entrant, seed, losses))
        shutil.rmtree(out / "checkpoints", ignore_errors=True)  # of many shapes they would fill a disk

    def _score(self, entrant: Entrant, seed: int, losses: dict[int, float]) -> float | None:
        """At the last of the steps, against the reference after as many."""
        if not losses:
            return None
        step = max(losses)
        if entrant.is_reference:
            return 0.0
        return score(entrant, losses[step], self._reference_losses(seed)[step], self.weight)

    def _reference_losses(self, seed: int) -> dict[int, float]:
        reference = self._find(Entrant(self.space.reference, 0.0, 0.0, is_reference=True), seed)
        assert reference is not None  # it is trained first
        return _losses(reference)

    def _past_plateau(self, entrant: Entrant, losses: dict[int, float], step: int) -> bool:
        """Of the reference after `step` steps; before that, ranks decide nothing."""
        of_reference = losses if entrant.is_reference else self._reference_losses(self.recipe.seed)
        return past_plateau(of_reference[step], self.unigram_loss)

    def _warn_of_plateau(self, reference: Trained) -> None:
        assert reference.loss is not None
        if not past_plateau(reference.loss, self.unigram_loss):
            self.warn(
                f"after {reference.tokens:,} tokens the reference's loss of {reference.loss:.2f} is not"
                f" clearly below {self.unigram_loss:.2f}, what the words' frequencies alone give: nobody is"
                " ended early, and the ranks say little; accepted: more --train-tokens"
            )


def _check_comparable(space: SearchSpace, recipe: Recipe) -> None:
    """Raise HwsearchError where the losses of two shapes would not mean the same."""
    vocabularies = sorted({*space.file.shape.vocab_size, space.reference.vocab_size})
    if len(vocabularies) > 1:
        sizes = ", ".join(map(str, vocabularies))
        raise HwsearchError(
            f"{space.name}: vocab_size: {sizes}: losses of several vocabularies cannot be compared;"
            " accepted: one, the reference's own"
        )
    length, most = recipe.phases[0].sequence_length, space.file.shape.max_position_embeddings
    most = min(most, space.reference.max_position_embeddings)
    if length > most:
        raise HwsearchError(f"--sequence-length: {length}; accepted: up to the shapes' {most} positions")


def _steps(recipe: Recipe) -> int:
    phase = recipe.phases[0]
    return phase.tokens // phase.tokens_per_step


def _losses(trial: FrozenTrial) -> dict[int, float]:
    """Held-out loss by steps done, as far as the study knows."""
    return {int(step): loss for step, loss in trial.user_attrs.get(LOSSES, {}).items()}
