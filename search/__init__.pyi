from .campaign import Campaign as Campaign
from .campaign import Summary as Summary
from .campaign import run_campaign as run_campaign
from .evaluation import Evaluator as Evaluator
from .evaluation import Job as Job
from .evaluation import Subject as Subject
from .evaluation import objectives as objectives
