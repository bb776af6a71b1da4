"""Focused skill discovery: skills that control one state variable and leave the others as they were.

Inputs: none; the world is built in. Steps, for each seed: train VIC and DIAYN, focused and unfocused; evaluate
them, and sixteen random policies; learn a downstream task over them, and over single actions; then figures
and the report.
Outputs: data/skills/STUDY/fourrooms/BASE-MODE/seed-N, and results/skills/STUDY (docs/skills.md lists the files).
"""

from steps.workflow import configuration, skills


localrules:
    skills,
    skills_report,


SKILL_LEDGERS = expand(
    "<skill_sets>/{skills}/seed-{seed}/ledger.json",
    skills=skills.SETS,
    seed=settings.skills.seeds,
)


rule skills:
    """Focused skills of the configured study: skills, figures, metrics and report."""
    input:
        "<skills>/metrics.json",
        "<skills>/report.json",
        expand(
            "<skills>/figures/{figure}.{kind}",
            figure=skills.FIGURES,
            kind=["svg", "json"],
        ),


rule skills_train:
    """Learn a set of skills."""
    output:
        "<skill_sets>/{base}-{mode}/seed-{seed}/ledger.json",
    log:
        "logs/skills/train/<skills_study>/{base}-{mode}/seed-{seed}.log",
    wildcard_constraints:
        base="[a-z]+",
        mode="[a-z]+",
        seed=r"\d+",
    priority: 1
    resources:
        **skills.resources(settings, "train"),
        runtime_settings=runtime_settings["skills.train"],
    params:
        code=step("skills.train")["code"],
        settings=skills.train_settings(settings),
    shell:
        "python -m steps.skills.train --base {wildcards.base:q} --mode {wildcards.mode:q} --seed {wildcards.seed:q}"
        " --settings {params.settings:q} {resources.runtime_settings:q} --out {output:q} --log {log:q}"


rule skills_evaluate:
    """Judge a set of skills, or random policies."""
    input:
        skills.ledger,
    output:
        "<skills_results>/{skills}/seed-{seed}/evaluate.json",
    log:
        "logs/skills/evaluate/<skills_study>/{skills}/seed-{seed}.log",
    wildcard_constraints:
        skills="[a-z]+(-[a-z]+)?",
        seed=r"\d+",
    resources:
        **skills.resources(settings, "evaluate"),
    params:
        **step("skills.evaluate"),
        length=settings.skills.train.length,
    shell:
        "python -m steps.skills.evaluate --skills {input:q} --length {params.length} --seed {wildcards.seed:q}"
        " --settings {params.settings:q} --out {output:q} --log {log:q}"


rule skills_downstream:
    """Learn the downstream task over a set of skills, or over single actions."""
    input:
        skills.ledger,
    output:
        "<skills_results>/{skills}/seed-{seed}/downstream.json",
    log:
        "logs/skills/downstream/<skills_study>/{skills}/seed-{seed}.log",
    wildcard_constraints:
        skills="[a-z]+(-[a-z]+)?",
        seed=r"\d+",
    resources:
        **skills.resources(settings, "downstream"),
        runtime_settings=runtime_settings["skills.downstream"],
    params:
        **step("skills.downstream"),
    shell:
        "python -m steps.skills.downstream --skills {input:q} --seed {wildcards.seed:q}"
        " --settings {params.settings:q} {resources.runtime_settings:q} --out {output:q} --log {log:q}"


rule skills_figure:
    """Draw the figures of the skills."""
    input:
        skills=SKILL_LEDGERS,
        evaluations=skills.results(settings, "evaluate"),
        downstream=skills.results(settings, "downstream"),
    output:
        figures=expand("<skills>/figures/{figure}.svg", figure=skills.FIGURES),
        data=expand("<skills>/figures/{figure}.json", figure=skills.FIGURES),
    log:
        "logs/skills/figure/<skills_study>/figures.log",
    resources:
        **skills.resources(settings, "figure"),
    params:
        code=step("skills.figure")["code"],
    shell:
        "python -m steps.skills.figure --skills {input.skills:q} --evaluations {input.evaluations:q}"
        " --downstream {input.downstream:q} --figures {output.figures:q} --data {output.data:q} --log {log:q}"


rule skills_report:
    """Write the headline figures of the skills."""
    input:
        skills=SKILL_LEDGERS,
        evaluations=skills.results(settings, "evaluate"),
        downstream=skills.results(settings, "downstream"),
    output:
        metrics="<skills>/metrics.json",
        report="<skills>/report.json",
    log:
        "logs/skills/report/<skills_study>/report.log",
    params:
        code=step("skills.report")["code"],
        study=settings.skills.study,
        section=configuration.tracked(settings.skills),
    shell:
        "python -m steps.skills.report --study {params.study:q} --section {params.section:q}"
        " --skills {input.skills:q} --evaluations {input.evaluations:q} --downstream {input.downstream:q}"
        " --metrics-out {output.metrics:q} --report {output.report:q} --log {log:q}"
