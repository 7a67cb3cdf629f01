"""Tiny encoder-decoder models with stochastic layers, and all their outcomes, exactly.

``Exact`` walks through outcomes one by one and shares with graph, decoding and criterion nothing
but the models' weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.models import FairseqDecoder, FairseqEncoder, FairseqIncrementalDecoder
from torch import Tensor, nn
from torch.distributions import Categorical, OneHotCategorical

from criterions.stochastic_graph import sample

BOS, PAD, EOS, UNK, WORD = range(5)
VOCAB, DIM, LATENTS = 5, 3, 2


class Encoder(FairseqEncoder):
    """Embeddings; with ``latent``, plus one of two vectors, drawn for each sentence."""

    def __init__(self, dictionary: Any, latent: bool) -> None:
        super().__init__(dictionary)
        self.embedding = nn.Embedding(VOCAB, DIM)
        self.latent = nn.Linear(DIM, LATENTS) if latent else None
        self.added = nn.Parameter(torch.randn(LATENTS, DIM))

    def forward(self, src_tokens: Tensor, src_lengths: Tensor) -> dict[str, Tensor]:
        padding = src_tokens.eq(PAD)
        memory = self.embedding(src_tokens)
        if self.latent is not None:
            logits = self.latent(memory.mean(1))
            which = sample("latent", Categorical(logits=logits, validate_args=False))
            memory = memory + self.added[which].unsqueeze(1)
        return {"memory": memory, "padding": padding}

    def reorder_encoder_out(self, encoder_out: Any, new_order: Tensor) -> dict[str, Tensor]:
        return {name: tensor.index_select(0, new_order) for name, tensor in encoder_out.items()}


class Weights(nn.Module):
    """Of one step: ``state = tanh(A state + E token)``, attention, ``state += context``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, DIM)
        self.recurrent = nn.Linear(DIM, DIM)
        self.query = nn.Linear(DIM, DIM, bias=False)
        self.output = nn.Linear(DIM, VOCAB)

    def before(self, state: Tensor, token: Tensor) -> Tensor:
        return torch.tanh(self.recurrent(state) + self.embedding(token))


class Recurrent:
    """Input feeding: what was attended to changes all later steps.  One node for each step."""

    def run(self, tokens: Tensor, encoder_out: Any, state: Tensor | None) -> tuple[Tensor, Tensor]:
        memory, padding = encoder_out["memory"], encoder_out["padding"]
        weights: Weights = self.weights
        if state is None:
            state = memory.new_zeros(memory.size(0), DIM)
        logits = []
        for step, token in enumerate(tokens.unbind(1)):
            state = weights.before(state, token)
            scores = torch.einsum("bsd,bd->bs", memory, weights.query(state))
            scores = scores.masked_fill(padding, -torch.inf)
            distribution = OneHotCategorical(logits=scores, validate_args=False)
            choice = sample("attention", distribution, step=step)
            state = state + torch.einsum("bs,bsd->bd", choice, memory)
            logits.append(weights.output(state))
        return torch.stack(logits, 1), state


class Parallel:
    """As a transformer: all steps' choices in one node, from the tokens alone."""

    def run(self, tokens: Tensor, encoder_out: Any, state: Tensor | None) -> tuple[Tensor, Tensor]:
        memory, padding = encoder_out["memory"], encoder_out["padding"]
        weights: Weights = self.weights
        if state is None:
            state = memory.new_zeros(memory.size(0), DIM)
        states = []
        for token in tokens.unbind(1):
            state = weights.before(state, token)
            states.append(state)
        stacked = torch.stack(states, 1)
        scores = torch.einsum("bsd,btd->bts", memory, weights.query(stacked))
        scores = scores.masked_fill(padding.unsqueeze(1), -torch.inf)
        choice = sample("attention", OneHotCategorical(logits=scores, validate_args=False))
        return weights.output(stacked + choice @ memory), state


class Incremental(FairseqIncrementalDecoder):
    def __init__(self, dictionary: Any) -> None:
        super().__init__(dictionary)
        self.weights = Weights()

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Any = None,
        incremental_state: Any = None,
        **unused: Any,
    ) -> tuple[Tensor, None]:
        state = None
        if incremental_state is not None:
            prev_output_tokens = prev_output_tokens[:, -1:]
            state = self.get_incremental_state(incremental_state, "state")
        logits, state = self.run(prev_output_tokens, encoder_out, state and state["state"])
        if incremental_state is not None:
            self.set_incremental_state(incremental_state, "state", {"state": state})
        return logits, None

    def reorder_incremental_state(self, incremental_state: Any, new_order: Tensor) -> None:
        state = self.get_incremental_state(incremental_state, "state")
        if state is not None:
            reordered = {"state": state["state"].index_select(0, new_order)}
            self.set_incremental_state(incremental_state, "state", reordered)


class FromTheStart(FairseqDecoder):
    """Not incremental: every step runs the whole prefix again."""

    def __init__(self, dictionary: Any) -> None:
        super().__init__(dictionary)
        self.weights = Weights()

    def forward(
        self, prev_output_tokens: Tensor, encoder_out: Any = None, **unused: Any
    ) -> tuple[Tensor, None]:
        return self.run(prev_output_tokens, encoder_out, None)[0], None


DECODERS: dict[str, type[nn.Module]] = {
    "recurrent": type("RecurrentDecoder", (Recurrent, Incremental), {}),
    "parallel": type("ParallelDecoder", (Parallel, Incremental), {}),
    "recurrent, not incremental": type("SlowRecurrent", (Recurrent, FromTheStart), {}),
    "parallel, not incremental": type("SlowParallel", (Parallel, FromTheStart), {}),
}


class Model(nn.Module):
    """What the criterion needs of a fairseq encoder-decoder model; float64, weights seeded."""

    def __init__(self, dictionary: Any, decoder: str = "recurrent", latent: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.feeds_choice = decoder.startswith("recurrent")
        self.encoder = Encoder(dictionary, latent)
        self.decoder = DECODERS[decoder](dictionary)
        self.double()

    def max_decoder_positions(self) -> int:
        return 100

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor) -> Any:
        return self.decoder(prev_output_tokens, encoder_out=self.encoder(src_tokens, src_lengths))


@dataclass(frozen=True)
class Outcome:
    """All that was drawn for one output, with its probability, differentiable."""

    latent: int | None
    attention: tuple[int, ...]
    tokens: tuple[int, ...]
    probability: Tensor
    log_likelihood: Tensor
    """Of ``tokens`` given the layers' outcomes, by the plain softmax."""


class Exact:
    """Every outcome of one source sentence without padding."""

    def __init__(self, model: Model, source: list[int]) -> None:
        self.model, self.source = model, source

    def _starts(self) -> Iterator[tuple[int | None, Tensor, Tensor]]:
        encoder = self.model.encoder
        memory = encoder.embedding.weight[self.source]
        if encoder.latent is None:
            yield None, memory, torch.ones((), dtype=torch.float64)
            return
        for which, p in enumerate(encoder.latent(memory.mean(0)).softmax(0)):
            yield which, memory + encoder.added[which], p

    def outcomes(
        self, longest: int, forced: list[int] | None = None, scored: list[int] | None = None
    ) -> list[Outcome]:
        """Of at most ``longest`` tokens.

        Args:
            longest: or fewer, where ``</s>`` is drawn earlier.
            forced: tokens that are fed in place of drawn ones: only the layers draw.
            scored: tokens whose likelihood is asked for in place of that of what was fed; the
                outcomes then have as many tokens.
        """
        found = []
        for latent, memory, p in self._starts():
            state = memory.new_zeros(DIM)
            nothing = Outcome(latent, (), (), p, memory.new_zeros(()))
            found.extend(self._continue(nothing, memory, state, longest, forced, scored))
        return found

    def _continue(
        self, so_far: Outcome, memory: Tensor, state: Tensor, longest: int, forced: Any, scored: Any
    ) -> Iterator[Outcome]:
        step = len(so_far.tokens)
        ended = forced is None and scored is None and EOS in so_far.tokens
        if step == longest or ended:
            yield so_far
            return
        weights = self.model.decoder.weights
        state = weights.before(state, torch.tensor(so_far.tokens[-1] if step else EOS))
        choices = (memory @ weights.query(state)).softmax(0)
        for position in range(len(choices)):
            attended = state + memory[position]
            logits = weights.output(attended)
            allowed = [v for v in range(VOCAB) if v != PAD and (step > 0 or v != EOS)]
            distribution = dict(zip(allowed, logits[allowed].softmax(0), strict=True))
            next_state = attended if self.model.feeds_choice else state
            for token in allowed if forced is None else [forced[step]]:
                p = so_far.probability * choices[position]
                longer = Outcome(
                    so_far.latent,
                    (*so_far.attention, position),
                    (*so_far.tokens, token),
                    p if forced is not None else p * distribution[token],
                    so_far.log_likelihood
                    + logits.log_softmax(0)[token if scored is None else scored[step]],
                )
                yield from self._continue(longer, memory, next_state, longest, forced, scored)


class Forced:
    """Makes distributions and decoding draw given outcomes, in order; one row for each outcome.

    ``probability``: with which they would have drawn them.
    ``in_one_pass``: whether a distribution of several steps draws all; else the last is new.
    """

    def __init__(self, monkeypatch: Any, in_one_pass: bool = False) -> None:
        self.in_one_pass = in_one_pass
        self.probability = 1.0
        self._rows: list[Outcome] = []
        self._attended = self._emitted = 0
        monkeypatch.setattr(OneHotCategorical, "sample", self._attend)
        monkeypatch.setattr(Categorical, "sample", self._choose_latent)
        monkeypatch.setattr("fairseq_plugins.decoding.draw", self._emit)

    def draw_next(self, *rows: Outcome) -> None:
        """Draw these from now on; past the end of a row, something."""
        self._rows = list(rows)
        self.probability = 1.0
        self._attended = self._emitted = 0

    def _column(self, values: list[tuple[int, ...]], step: int, probabilities: Tensor) -> Tensor:
        for value, row in zip(values, probabilities, strict=True):
            if step < len(value):
                self.probability *= float(row[value[step]])
        return torch.tensor([value[step] if step < len(value) else 0 for value in values])

    @property
    def _attend(self) -> Any:
        def attend(distribution: OneHotCategorical) -> Tensor:
            size, alignments = distribution.event_shape[0], [row.attention for row in self._rows]
            probabilities = distribution.probs.detach()
            if probabilities.dim() == 2:
                probabilities = probabilities.unsqueeze(1)
            time = probabilities.size(1)
            columns = []
            for column in range(0 if self.in_one_pass else time - 1, time):
                columns.append(self._column(alignments, self._attended, probabilities[:, column]))
                self._attended += 1
            columns = [columns[0]] * (time - len(columns)) + columns
            outcome = nn.functional.one_hot(torch.stack(columns, 1), size).double()
            return outcome if len(distribution.batch_shape) == 2 else outcome.squeeze(1)

        return attend

    @property
    def _choose_latent(self) -> Any:
        return lambda distribution: self._column(
            [(row.latent,) for row in self._rows], 0, distribution.probs
        )

    @property
    def _emit(self) -> Any:
        def emit(logits: Tensor, sampling: Any) -> Tensor:
            self._emitted += 1
            outputs = [row.tokens for row in self._rows]
            return self._column(outputs, self._emitted - 1, logits.softmax(1))

        return emit
