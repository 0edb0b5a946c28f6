from .campaign import execute, score
from .cascade import Cascade, cheapest_order
from .cluster import connect
from .decision import Decision, family_of
from .ensemble import Ensemble, Family, Member
from .heartbeat import MAX_HEARTBEAT_AGE, read_pulse
from .launcher import LaunchedCampaign, launched_campaigns, pause_campaign, start_campaign
from .networks import Networks
from .order import learn_order
from .plan import CampaignOptions, CampaignPlan, Mode, plan_campaign
from .runs import SHIPPED_ZOO, Remaining, Run, list_runs, open_run
from .status import Standing, run_status
from .threshold_sets import read_thresholds, save_thresholds, saved_thresholds, to_toml
from .triage import (
    Checked,
    Triage,
    calibrate_triage,
    choose_threshold,
    cutouts_needed,
    design_effect,
    losses_allowed,
    read_triage,
    write_triage,
)
from .worker import Outcome, Unit

__all__ = [
    "CampaignOptions",
    "CampaignPlan",
    "Cascade",
    "Checked",
    "Decision",
    "Ensemble",
    "Family",
    "LaunchedCampaign",
    "MAX_HEARTBEAT_AGE",
    "Member",
    "Mode",
    "Networks",
    "Outcome",
    "Remaining",
    "Run",
    "SHIPPED_ZOO",
    "Standing",
    "Triage",
    "Unit",
    "calibrate_triage",
    "cheapest_order",
    "choose_threshold",
    "connect",
    "cutouts_needed",
    "design_effect",
    "execute",
    "family_of",
    "launched_campaigns",
    "learn_order",
    "list_runs",
    "losses_allowed",
    "open_run",
    "pause_campaign",
    "plan_campaign",
    "read_pulse",
    "read_thresholds",
    "read_triage",
    "run_status",
    "save_thresholds",
    "saved_thresholds",
    "score",
    "start_campaign",
    "to_toml",
    "write_triage",
]
