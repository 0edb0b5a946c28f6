from .archives import simulate, simulate_archive, simulate_into
from .camera import Conditions, Scene
from .injection import CONTROL_KIND, NOISE_LEVEL, HostOptions, InjectionGrid, inject, paint
from .nights import ZERO_POINT, Night, calendar, simulate_nights, write_images
from .products import write_depot
from .sequences import LAYOUT, simulate_object, simulate_sequences
from .source import Sersic, Source
from .stamps import expose
from .streaks import KINDS, add_asteroid, simulate_cutout
from .surveys import SURVEYS, ObservingLog, Shift, SimulationError, get_survey
from .tasks import TASKS, get_task

__all__ = [
    "HostOptions",
    "InjectionGrid",
    "CONTROL_KIND",
    "Conditions",
    "KINDS",
    "LAYOUT",
    "NOISE_LEVEL",
    "Night",
    "ObservingLog",
    "SURVEYS",
    "Scene",
    "Sersic",
    "Shift",
    "SimulationError",
    "Source",
    "TASKS",
    "ZERO_POINT",
    "add_asteroid",
    "calendar",
    "expose",
    "get_survey",
    "get_task",
    "inject",
    "paint",
    "simulate",
    "simulate_archive",
    "simulate_cutout",
    "simulate_into",
    "simulate_nights",
    "simulate_object",
    "simulate_sequences",
    "write_depot",
    "write_images",
]
