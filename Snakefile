"""Reprise: machine-learning papers as one workflow. `snakemake --list-target-rules` lists its targets."""

import sys

sys.path.insert(0, workflow.basedir)

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from steps.core.errors import UserError
from steps.core.settings import require_unique_keys
from steps.workflow import configuration
from steps.workflow.section import NAME

min_version("9.27")


configfile: f"{workflow.basedir}/config/default.yaml"


try:
    require_unique_keys(workflow.configfiles)
    settings = configuration.configure(config)
    user_files = configuration.user_files(settings)
except UserError as error:
    raise WorkflowError(str(error)) from None

configuration.prepare_environment()
step = configuration.step_params(settings)
runtime_settings = configuration.runtime_settings(settings)


# Where studies lie, for paths in rules: "<neurons>/excess.parquet".
pathvars:
    **configuration.pathvars(settings),


wildcard_constraints:
    model=NAME,
    part=r"\d+",
    range=r"\d+",
    tile=r"\d+",


for chapter in settings.sections():

    include: f"rules/{chapter}.smk"


rule all:
    default_target: True
    input:
        rules.report.input,
        # what the page is made from, too: a table that was deleted is made again
        rules.corpus.input,
        *(getattr(rules, chapter).input for chapter in REPORTS),
