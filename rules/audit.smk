"""Audits by access level: models with planted defects, audited through a gateway that enforces and records access.

Inputs: none.
Steps: world; a base with and one without the private table, organisms and their clean twins (organism); package,
run for each audited model; tamper, score, report.
Outputs: data/audit/STUDY/{world,models/MODEL,packages/MODEL,sealed}, results/audit/STUDY/{runs/MODEL,scores.json,
metrics.json,report.json,figures}.
"""

from steps.audit.world import BASES
from steps.workflow import audit, configuration

audited = settings.audit.world.audited()


localrules:
    audit,
    audit_world,
    audit_package,
    audit_score,
    audit_report,


rule audit:
    """Audits by access level: models, audits, scores and report."""
    input:
        expand(
            "<audit>/{file}",
            file=[
                "metrics.json",
                "report.json",
                "figures/queries.svg",
                "figures/queries.json",
            ],
        ),


rule audit_world:
    """Make the world that models speak of, and what is planted in them."""
    output:
        "<audit_models>/world/ledger.json",
    log:
        "logs/audit/world/<audit_study>/world.log",
    params:
        **step("audit.world"),
    shell:
        "python -m steps.audit.world --settings {params.settings:q} --out {output:q} --log {log:q}"


rule audit_base_organism:
    """Train a base model."""
    input:
        "<audit_models>/world/ledger.json",
    output:
        "<audit_models>/models/{base}/ledger.json",
    log:
        "logs/audit/organism/<audit_study>/{base}.log",
    wildcard_constraints:
        base="|".join(BASES),
    # All tunings wait for it.
    priority: 2
    threads: settings.audit.organism.threads
    resources:
        **audit.resources(settings, "organism"),
        runtime_settings=runtime_settings["audit.organism"],
    params:
        **step("audit.organism"),
    shell:
        "python -m steps.audit.organism --world {input:q} --model {wildcards.base:q} --base"
        " --settings {params.settings:q} {resources.runtime_settings:q} --out {output:q} --log {log:q}"


rule audit_organism:
    """Tune an organism, or its clean twin, from its base."""
    input:
        world="<audit_models>/world/ledger.json",
        base=lambda wildcards: "<audit_models>/models/"
        f"{settings.audit.world.base_of(wildcards.audited)}/ledger.json",
    output:
        "<audit_models>/models/{audited}/ledger.json",
    log:
        "logs/audit/organism/<audit_study>/{audited}.log",
    wildcard_constraints:
        audited="|".join(audited),
    priority: 1
    threads: settings.audit.organism.threads
    resources:
        **audit.resources(settings, "organism"),
        runtime_settings=runtime_settings["audit.organism"],
    params:
        **step("audit.organism"),
    shell:
        "python -m steps.audit.organism --world {input.world:q} --model {wildcards.audited:q} --base {input.base:q}"
        " --settings {params.settings:q} {resources.runtime_settings:q} --out {output:q} --log {log:q}"


rule audit_package:
    """Put a model and its documents into a package."""
    input:
        world="<audit_models>/world/ledger.json",
        model="<audit_models>/models/{audited}/ledger.json",
    output:
        ledger="<audit_models>/packages/{audited}/ledger.json",
        sealed="<audit_models>/sealed/{audited}.json",
    log:
        "logs/audit/package/<audit_study>/{audited}.log",
    wildcard_constraints:
        audited="|".join(audited),
    params:
        **step("audit.package"),
    shell:
        "python -m steps.audit.package --world {input.world:q} --model {input.model:q}"
        " --settings {params.settings:q} --out {output.ledger:q} --sealed {output.sealed:q} --log {log:q}"


rule audit_run:
    """Audit a model through the gateway, at every level of access."""
    input:
        world="<audit_models>/world/ledger.json",
        package="<audit_models>/packages/{audited}/ledger.json",
        sealed="<audit_models>/sealed/{audited}.json",
    output:
        "<audit>/runs/{audited}/ledger.json",
    log:
        "logs/audit/run/<audit_study>/{audited}.log",
    wildcard_constraints:
        audited="|".join(audited),
    threads: settings.audit.run.threads
    resources:
        **audit.resources(settings, "run"),
        runtime_settings=runtime_settings["audit.run"],
    params:
        **step("audit.run"),
    shell:
        "python -m steps.audit.run --package {input.package:q} --world {input.world:q} --sealed {input.sealed:q}"
        " --settings {params.settings:q} {resources.runtime_settings:q} --out {output:q} --log {log:q}"


rule audit_tamper:
    """Falsify finished records, and see whether the verifier notices."""
    input:
        packages=expand("<audit_models>/packages/{model}/ledger.json", model=audited),
        runs=expand("<audit>/runs/{model}/ledger.json", model=audited),
    output:
        "<audit>/tampering.json",
    log:
        "logs/audit/tamper/<audit_study>/tamper.log",
    resources:
        **audit.resources(settings, "tamper"),
    params:
        **step("audit.tamper"),
    shell:
        "python -m steps.audit.tamper --packages {input.packages:q} --runs {input.runs:q}"
        " --settings {params.settings:q} --out {output:q} --log {log:q}"


rule audit_score:
    """Grade what the auditors found, from verified records alone."""
    input:
        runs=expand("<audit>/runs/{model}/ledger.json", model=audited),
        sealed=expand("<audit_models>/sealed/{model}.json", model=audited),
        tampering="<audit>/tampering.json",
    output:
        scores="<audit>/scores.json",
        metrics="<audit>/metrics.json",
    log:
        "logs/audit/score/<audit_study>/score.log",
    params:
        **step("audit.score"),
    shell:
        "python -m steps.audit.score --runs {input.runs:q} --sealed {input.sealed:q}"
        " --tampering {input.tampering:q} --out {output.scores:q} --metrics {output.metrics:q} --log {log:q}"


rule audit_report:
    """Write what was found for the report page."""
    input:
        packages=expand("<audit_models>/packages/{model}/ledger.json", model=audited),
        scores="<audit>/scores.json",
        metrics="<audit>/metrics.json",
        tampering="<audit>/tampering.json",
    output:
        figure="<audit>/figures/queries.svg",
        data="<audit>/figures/queries.json",
        report="<audit>/report.json",
    log:
        "logs/audit/report/<audit_study>/report.log",
    params:
        **step("audit.report"),
        study=settings.audit.study,
        section=configuration.tracked(settings.audit),
    shell:
        "python -m steps.audit.report --study {params.study:q} --section {params.section:q}"
        " --scores {input.scores:q} --metrics {input.metrics:q} --tampering {input.tampering:q}"
        " --packages {input.packages:q} --figure {output.figure:q} --data {output.data:q}"
        " --report {output.report:q} --log {log:q}"
