"""Losses for named roles: pure arithmetic on tensors. No optimiser, no trainer, no modality."""

from omnidistill.objectives.adversarial import Adversarial
from omnidistill.objectives.adversarial_jumps import AdversarialJumps
from omnidistill.objectives.adversarial_scores import AdversarialScores
from omnidistill.objectives.backtracking import Backtracking
from omnidistill.objectives.base import BankSpec, Losses, Objective, RoleSpec, StudentSpec
from omnidistill.objectives.bootstrap import Bootstrap
from omnidistill.objectives.cells import Cells
from omnidistill.objectives.consistency import Consistency
from omnidistill.objectives.cycle import Cycle
from omnidistill.objectives.denoising import Denoising
from omnidistill.objectives.features import Features
from omnidistill.objectives.flow_map import FlowMap
from omnidistill.objectives.guidance import Guidance
from omnidistill.objectives.jumps import Gap, Nodes
from omnidistill.objectives.latent_proxy import LatentProxy
from omnidistill.objectives.matching import Matching
from omnidistill.objectives.negative_aware import NegativeAware
from omnidistill.objectives.noise_consistency import NoiseConsistency
from omnidistill.objectives.on_policy import OnPolicy
from omnidistill.objectives.paired import Paired
from omnidistill.objectives.policy_flow import PolicyFlow
from omnidistill.objectives.policy_gradient import PolicyGradient
from omnidistill.objectives.preference import Preference
from omnidistill.objectives.reconstruction import Reconstruction
from omnidistill.objectives.reflow import Reflow
from omnidistill.objectives.regression import Regression
from omnidistill.objectives.reward import Reward
from omnidistill.objectives.segments import Segments
from omnidistill.objectives.solver_fit import SolverFit
from omnidistill.objectives.step import Step, reduce
from omnidistill.objectives.trajectories import Trajectories
from omnidistill.objectives.translation import Translation
from omnidistill.objectives.weighted import Weighted

__all__ = [
    "Adversarial",
    "AdversarialJumps",
    "AdversarialScores",
    "Backtracking",
    "BankSpec",
    "Bootstrap",
    "Cells",
    "Consistency",
    "Cycle",
    "Denoising",
    "Features",
    "FlowMap",
    "Gap",
    "Guidance",
    "LatentProxy",
    "Losses",
    "Matching",
    "NegativeAware",
    "Nodes",
    "NoiseConsistency",
    "Objective",
    "OnPolicy",
    "Paired",
    "PolicyFlow",
    "PolicyGradient",
    "Preference",
    "Reconstruction",
    "Reflow",
    "Regression",
    "Reward",
    "RoleSpec",
    "Segments",
    "SolverFit",
    "Step",
    "StudentSpec",
    "Trajectories",
    "Translation",
    "Weighted",
    "reduce",
]
