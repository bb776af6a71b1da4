"""Reprise: five machine-learning papers as one workflow. `snakemake --list-target-rules` lists them."""

import sys

sys.path.insert(0, workflow.basedir)

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from steps import workflow as chapters

min_version("9.27")


configfile: f"{workflow.basedir}/config/default.yaml"


try:
    chapters.require_unique_keys(workflow.configfiles)
    settings = chapters.configure(config)
    user_files = chapters.user_files(settings)
    chapters.require_sizes(settings)
except chapters.UserError as error:
    raise WorkflowError(str(error)) from None

chapters.prepare_environment()
step = chapters.step_params(settings)
aside = chapters.settings_aside(settings)


# Where studies lie, for paths in rules: "<neurons>/excess.parquet".
pathvars:
    **chapters.pathvars(settings),


wildcard_constraints:
    model=chapters.NAME,
    part=r"\d+",
    range=r"\d+",
    tile=r"\d+",


include: "rules/corpus.smk"
include: "rules/language_models.smk"
include: "rules/neurons.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.input,
        # what the page is made from, too: a table that was deleted is made again
        rules.corpus.input,
        *(getattr(rules, chapter).input for chapter in REPORTS),
