"""One call of a model for all that a step's objectives want to know about one noised copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnidistill.context import Context
from omnidistill.objectives.questions import Answer, Question, Seen, at_data

if TYPE_CHECKING:
    from omnidistill.objectives.step import Step


def ask(step: Step, question: Question) -> Answer:
    """Asks the model, of the noised rollout and, where it is to be told from something real, of that in one batch."""
    assert question.times is not None
    model = step[question.model]
    x_t, t = step.noised(question.times)
    context = step.without_condition(question.drop)
    told = step.told(question.model, question.times)
    if not question.features:
        return Answer(x_t, t, model(x_t, t, context, target_time=told))
    count, answered = len(x_t), None if question.belief else 0
    layers = tuple(model.feature_widths(question.layers))
    if not question.real:
        belief, found = model.examine(x_t, t, context, layers, answered=answered, target_time=told)
        return Answer(x_t, t, belief, found)
    data = _real(step, question, x_t, t, context)
    belief, found = model.examine(
        torch.cat((x_t, data.x.to(x_t.dtype))),
        torch.cat((t, data.t)),
        context.joined(data.context),
        layers,
        answered=count if question.belief else 0,
        target_time=None if told is None else torch.cat((told, told)),
    )
    model.count()  # two batches in one call
    fake = {name: value[:count] for name, value in found.items()}
    return Answer(x_t, t, belief, fake, {name: value[count:] for name, value in found.items()}, data)


def _real(step: Step, question: Question, x_t: Tensor, t: Tensor, context: Context) -> Seen:
    """Noised data, or the teacher's samples noised, for a discriminator to tell the rollout from."""
    assert question.times is not None
    path, (x0, context) = step.path, step.real(question.among, context)
    if question.paired:
        return Seen(at_data(path, x_t, step.rollout.x0, x0, t), t, context)
    later = step.draw(question.times, len(x0)).to(x_t.device)
    return Seen(path.corrupt(x0, later, context, g=step.g), later, context)


def read(step: Step, answer: Answer, question: Question) -> Answer:
    """The part of an answer that a question was about."""
    if not question.features:
        return answer
    model = step[question.model]
    names = tuple(model.feature_widths(question.layers))

    def means(found: Mapping[str, Tensor], context: Context) -> Tensor:
        return torch.cat([model.pool(found[name], context) for name in names], 1)

    features = means(answer.found, step.context)
    real = None if answer.data is None else means(answer.of_data, answer.data.context)
    return answer._replace(names=names, features=features, real=real)
