"""The asynchronous search: a candidate is proposed whenever a worker is free, and its result is learnt at once.

The order in which results arrive depends on the machines, so the ledger records it: one line for each result that the
optimizer has learnt. A repeated command repeats these calls, and so brings the optimizer to the same state, before it
continues. The race decides again about candidates that were in work, with the scores that the ledger has by then.
"""

from collections.abc import Sequence

from evomerge.errors import RunError
from evomerge.ledger import Learnt
from evomerge.optimizers import AsynchronousOptimizer
from evomerge.searching.budget import RemainingBudget
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.leaderboard import Leaderboard, SearchCallback
from evomerge.searching.objective import FAILED, Fitness
from evomerge.searching.open_race import Entrant, OpenRace
from evomerge.searching.stages import Candidate
from evomerge.space import SearchSpace
from evomerge.workers import Job
from evomerge.workers.pools import DemandQueue


class AsynchronousSearch:
    """One search after its baselines: as many candidates are in work as there are workers.

    A worker keeps its candidate chunk after chunk, until the race has decided it. When no more candidates may be
    proposed, free workers score later chunks of the candidates that are left.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        space: SearchSpace,
        optimizer: AsynchronousOptimizer,
        remaining: RemainingBudget,
        board: Leaderboard,
        race: OpenRace,
        callbacks: Sequence[SearchCallback],
    ) -> None:
        self._evaluator, self._space, self._optimizer, self._remaining = evaluator, space, optimizer, remaining
        self._board, self._race, self._callbacks = board, race, callbacks
        self._queue = DemandQueue(self._supply)
        self._active: dict[int, Entrant] = {}  # number → a candidate without a result
        self._asked = 0
        self._budget_is_spent = self._is_dry = False
        self._generation, self._done = 1, 0
        self._scores: list[float] = []  # of the results since the last line of progress
        self._line_after = optimizer.population  # results

    def run(self) -> None:
        """Search until the budget is spent or the optimizer has no more points, and all results are learnt."""
        self._replay()
        for entrant in list(self._active.values()):
            self._advance(entrant)
        self._put()
        self._queue.fill()
        for job in self._evaluator.run_jobs(self._queue):
            self._complete(job)
        if self._scores:
            self._end_generation()

    def _replay(self) -> None:
        """Repeat what the ledger has recorded; a smaller budget ends it earlier."""
        for learnt in self._evaluator.learnt:
            while self._asked < learnt.asked and not self._ends_here():
                if self._propose() is None:
                    raise RunError(f"the ledger has {learnt.asked} candidates, and the optimizer proposes fewer")
            if (entrant := self._active.get(learnt.number)) is None:
                continue
            if entrant.key != learnt.key:
                raise RunError(
                    f"candidate {learnt.number} is another one than in the ledger; go back to the versions of the "
                    "libraries with which the search began, or start afresh"
                )
            self._learn(entrant, learnt)

    def _supply(self) -> bool:
        """Propose candidates until one needs a job; False if none may be proposed before the next result.

        In a small space many candidates need no job, because workers are scoring their recipe already. After a
        population of them, the next result comes first; otherwise the proposals would not end.
        """
        waiting = 0
        while waiting < self._optimizer.population and (entrant := self._next()) is not None:
            self._advance(entrant)  # as far as the ledger has its scores
            self._put()
            if self._queue.waiting():
                return True
            waiting += entrant.number in self._active
        self._is_dry = True
        self._put()
        return False

    def _next(self) -> Entrant | None:
        """The next candidate, or None if the budget is spent or the optimizer proposes none now."""
        if self._ends_here():
            return None
        entrant = self._propose()
        if entrant and not self._remaining.begins_in_time(self._asked - 1, [entrant.candidate], len(self._active)):
            self._withdraw(entrant)
            return None
        return entrant

    def _ends_here(self) -> bool:
        self._budget_is_spent = self._budget_is_spent or not self._remaining.next_generation_limit(self._asked)
        return self._budget_is_spent

    def _propose(self) -> Entrant | None:
        vector = self._optimizer.propose(self._board.surrogate)
        if vector is None:
            return None
        self._asked += 1
        candidate = Candidate.of(str(self._asked), self._space.decode(vector), vector)
        entrant = self._race.enter(self._asked, candidate, self._optimizer.population)
        self._active[entrant.number] = entrant
        self._remaining.count(1, {})
        return entrant

    def _withdraw(self, entrant: Entrant) -> None:
        """End the search before this candidate, because there is no time for it."""
        self._budget_is_spent = True
        self._asked -= 1
        del self._active[entrant.number]
        self._race.withdraw(entrant)
        self._remaining.count(-1, {})

    def _complete(self, job: Job) -> None:
        """Take a job whose outcome is in the ledger; several candidates may have the same recipe."""
        self._queue.done(job)
        self._done += 1
        for entrant in [one for one in self._active.values() if one.key == job.key]:
            self._advance(entrant)
        self._put()
        if self._done:
            self._evaluator.show_work(self._done, self._done + len(self._active))

    def _advance(self, entrant: Entrant) -> None:
        """Learn the result of a candidate if it has failed, is complete or is stopped by the race.

        The race decides after the last chunk only, as it has decided after those before when they arrived.
        """
        seen = self._evaluator.scored_chunks(entrant.key, entrant.chunks)
        if self._evaluator.error_on(entrant.key, entrant.chunks[: seen + 1]) is not None:
            self._record(entrant, seen + 1)
        elif seen == len(entrant.chunks):
            self._record(entrant, seen)
        elif seen > entrant.seen:
            entrant.seen = seen
            score = self._race.estimate_if_stopped(entrant, seen)
            if score is not None:
                self._record(entrant, seen, score)

    def _record(self, entrant: Entrant, chunks: int, score: float | None = None) -> None:
        learnt = Learnt(entrant.number, entrant.key, chunks, self._asked, score)
        self._evaluator.record_learnt(learnt)
        self._learn(entrant, learnt)

    def _learn(self, entrant: Entrant, learnt: Learnt) -> None:
        del self._active[entrant.number]
        self._evaluator.evaluated.add(entrant.key)
        chunks, is_whole = entrant.chunks[: learnt.chunks], learnt.score is None
        entrant.seen = learnt.chunks
        fitness = self._fitness(entrant, learnt)
        loss, population = self._evaluator.objective.loss(fitness), self._optimizer.population
        self._remaining.count(0, {entrant.key: sum(len(chunk.items) for chunk in chunks)})
        self._board.add([entrant.candidate], None if is_whole else ())
        if not self._evaluator.objective.front:
            assert entrant.candidate.vector is not None
            assert isinstance(loss, float)
            self._board.surrogate.tell([entrant.candidate.vector], [loss])
        self._optimizer.learn(entrant.number, loss)
        self._race.leave(entrant, fitness.score, is_whole, population)
        self._queue.reopen()
        self._is_dry = False
        self._scores.append(fitness.score)
        if len(self._scores) >= self._line_after:
            self._end_generation()

    def _fitness(self, entrant: Entrant, learnt: Learnt) -> Fitness:
        if learnt.score is not None:
            return Fitness(learnt.score)
        failed = self._evaluator.error_on(entrant.key, entrant.chunks[: learnt.chunks]) is not None
        return FAILED if failed else self._evaluator.fitness(entrant.key, "search")

    def _end_generation(self) -> None:
        """A population of results is a generation for the budget and the callbacks."""
        self._remaining.end_generation()
        for callback in self._callbacks:
            callback.generation(self._generation, self._board, self._scores)
        self._generation, self._done = self._generation + 1, 0
        self._scores, self._line_after = [], self._optimizer.population

    def _put(self) -> None:
        """Queue the next chunk of each candidate; later ones too when no more candidates are proposed."""
        needed, later = list[Job](), list[Job]()
        for entrant in self._active.values():
            needed.append(self._job(entrant, entrant.seen))
            if self._is_dry:
                later += [
                    self._job(entrant, after)
                    for after in range(entrant.seen + 1, len(entrant.chunks))
                    if not self._evaluator.is_known(entrant.key, entrant.chunks[after])
                ]
        self._queue.put(needed, later)

    def _job(self, entrant: Entrant, place: int) -> Job:
        return Job(entrant.key, entrant.candidate.recipe, entrant.chunks[place].id)
