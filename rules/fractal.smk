"""Fractal generative models: small generators inside generators, down to the values of pixels.

Inputs: the digits that come with scikit-learn.
Steps: images; for each model and seed train, likelihood, sample; evaluate; figure; report.
Outputs: data/images/STUDY and data/fractal/STUDY/NAME-SEED, each described by its ledger.json, and
results/fractal/STUDY/{NAME-SEED,evaluations.json,metrics.json,report.json,figures}.
"""

import re

from steps.workflow import configuration, fractal


localrules:
    fractal,
    fractal_figure,
    fractal_images,
    fractal_report,


fractal_runs = settings.fractal.runs()


rule fractal:
    """Fractal generative models of the configured study: models, figures, metrics and report."""
    input:
        expand(
            "<fractal>/{file}",
            file=[
                "metrics.json",
                "report.json",
                *(f"figures/{name}.{kind}" for name, kind in fractal.FIGURES.items()),
                *(f"figures/{name}.json" for name in fractal.FIGURES),
            ],
        ),


rule fractal_images:
    """Take the images and split them."""
    output:
        "<fractal_images>/ledger.json",
    log:
        "logs/fractal/images/<fractal_study>/images.log",
    params:
        **step("fractal.images"),
    shell:
        "python -m steps.fractal.images --settings {params.settings:q} --out {output:q} --log {log:q}"


rule fractal_train:
    """Train a model from a seed."""
    input:
        "<fractal_images>/ledger.json",
    output:
        "<fractal_models>/{model}-{seed}/ledger.json",
    log:
        "logs/fractal/train/<fractal_study>/{model}-{seed}.log",
    wildcard_constraints:
        model="|".join(re.escape(model.name) for model in settings.fractal.models),
        seed="|".join(map(str, settings.fractal.seeds)),
    # The longest jobs first: the last of them would otherwise run alone at the end.
    priority: 2
    threads: settings.fractal.train.threads
    resources:
        **fractal.resources(settings, "train"),
        runtime_settings=runtime_settings["fractal.train"],
    params:
        **step("fractal.train"),
        model=lambda wildcards: settings.fractal.model(
            wildcards.model
        ).model_dump_json(),
    shell:
        "python -m steps.fractal.train --images {input:q} --model {params.model:q} --seed {wildcards.seed:q}"
        " --settings {params.settings:q} {resources.runtime_settings:q} --out {output:q} --log {log:q}"


rule fractal_likelihood:
    """Score the test images under a model."""
    input:
        model="<fractal_models>/{model}/ledger.json",
        images="<fractal_images>/ledger.json",
    output:
        "<fractal>/{model}/likelihood.safetensors",
    log:
        "logs/fractal/likelihood/<fractal_study>/{model}.log",
    threads: settings.fractal.likelihood.threads
    resources:
        **fractal.resources(settings, "likelihood"),
    params:
        **step("fractal.likelihood"),
    shell:
        "python -m steps.fractal.likelihood --model {input.model:q} --images {input.images:q}"
        " --settings {params.settings:q} --out {output:q} --log {log:q}"


rule fractal_sample:
    """Draw images from a model."""
    input:
        "<fractal_models>/{model}/ledger.json",
    output:
        "<fractal>/{model}/samples/ledger.json",
    log:
        "logs/fractal/sample/<fractal_study>/{model}.log",
    threads: settings.fractal.sample.threads
    resources:
        **fractal.resources(settings, "sample"),
    params:
        **step("fractal.sample"),
    shell:
        "python -m steps.fractal.sample --model {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule fractal_evaluate:
    """Measure the models beside histograms, real images and class-wise pixels."""
    input:
        images="<fractal_images>/ledger.json",
        likelihoods=expand(
            "<fractal>/{model}/likelihood.safetensors", model=fractal_runs
        ),
        samples=expand("<fractal>/{model}/samples/ledger.json", model=fractal_runs),
    output:
        "<fractal>/evaluations.json",
    log:
        "logs/fractal/evaluate/<fractal_study>/evaluate.log",
    threads: settings.fractal.evaluate.threads
    resources:
        **fractal.resources(settings, "evaluate"),
    params:
        **step("fractal.evaluate"),
    shell:
        "python -m steps.fractal.evaluate --images {input.images:q} --likelihoods {input.likelihoods:q}"
        " --samples {input.samples:q} --settings {params.settings:q} --out {output:q} --log {log:q}"


rule fractal_figure:
    """Draw the chapter's pictures and figures."""
    input:
        images="<fractal_images>/ledger.json",
        samples=f"<fractal>/{fractal_runs[0]}/samples/ledger.json",
        evaluations="<fractal>/evaluations.json",
    output:
        figures=[
            f"<fractal>/figures/{name}.{kind}"
            for name, kind in fractal.FIGURES.items()
        ],
        data=[f"<fractal>/figures/{name}.json" for name in fractal.FIGURES],
    log:
        "logs/fractal/figure/<fractal_study>/figure.log",
    params:
        **step("fractal.figure"),
    shell:
        "python -m steps.fractal.figure --images {input.images:q} --samples {input.samples:q}"
        " --evaluations {input.evaluations:q} --figures {output.figures:q} --data {output.data:q}"
        " --log {log:q}"


rule fractal_report:
    """Write the headline figures of the fractal models."""
    input:
        images="<fractal_images>/ledger.json",
        models=expand("<fractal_models>/{model}/ledger.json", model=fractal_runs),
        evaluations="<fractal>/evaluations.json",
    output:
        metrics="<fractal>/metrics.json",
        report="<fractal>/report.json",
    log:
        "logs/fractal/report/<fractal_study>/report.log",
    params:
        **step("fractal.report"),
        study=settings.fractal.study,
        section=configuration.tracked(settings.fractal),
    shell:
        "python -m steps.fractal.report --study {params.study:q} --section {params.section:q}"
        " --images {input.images:q} --models {input.models:q} --evaluations {input.evaluations:q}"
        " --metrics-out {output.metrics:q} --report {output.report:q} --log {log:q}"
