"""Treatment: remedies as data, tried for a short budget beside the untreated network and beside a random remedy."""

from gradflow.diagnosis.treatment.changes import CHANGES, Change
from gradflow.diagnosis.treatment.model_changes import MODEL_CHANGES, ModelChange
from gradflow.diagnosis.treatment.plan import Plan
from gradflow.diagnosis.treatment.therapy import Arm, Treatment, treat

__all__ = ["CHANGES", "MODEL_CHANGES", "Arm", "Change", "ModelChange", "Plan", "Treatment", "treat"]
