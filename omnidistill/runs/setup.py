"""From a configuration to objects: the names of the modules beside this one, together."""

from __future__ import annotations

from omnidistill.runs.configured import (
    check_guidance,
    device_named,
    device_of,
    guided,
    plain,
    sampler_of,
    settings_of,
    spec_of,
    task_of,
)
from omnidistill.runs.objectives import judged_by_rewards, objective_of, rewards_of
from omnidistill.runs.origins import fitted, origin_of, samples_of
from omnidistill.runs.student_options import adapter_of, chain_of, check_inference, is_told, policy_of
from omnidistill.runs.students import finished, forget, of_student, settle, student_of, wants_origin
from omnidistill.runs.teachers import teacher_of

__all__ = [
    "adapter_of",
    "chain_of",
    "check_guidance",
    "check_inference",
    "device_named",
    "device_of",
    "finished",
    "fitted",
    "forget",
    "guided",
    "is_told",
    "judged_by_rewards",
    "objective_of",
    "of_student",
    "origin_of",
    "plain",
    "policy_of",
    "rewards_of",
    "sampler_of",
    "samples_of",
    "settings_of",
    "settle",
    "spec_of",
    "student_of",
    "task_of",
    "teacher_of",
    "wants_origin",
]
