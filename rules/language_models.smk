"""Language models: five small GPT-2 models that differ in their seed alone, or models of the user.

Inputs: the documents of the corpus; the folders of listed models (`language_models.models`), if any.
Steps: tokenizer, rows; for each model train (from a seed) or import (a listed one); evaluate;
ngrams; report.
Outputs: data/models/STUDY/{tokenizer,rows/CORPUS,MODEL}, each described by its ledger.json, and
results/language_models/STUDY/{metrics.json,report.json,figures}.
"""

import re

from steps.workflow import configuration, language_models

model_names = settings.language_models.names()


localrules:
    language_models,
    language_models_report,


if settings.language_models.shared_tokenizer().hub is not None:

    localrules:  # compute nodes have no network
        language_models_tokenizer,


if any(model.hub is not None for model in settings.language_models.models):

    localrules:
        language_models_import,


rule language_models:
    """Language models: tokenizer, models, held-out losses and report."""
    input:
        expand(
            "<language_models>/{file}",
            file=[
                "metrics.json",
                "report.json",
                "figures/loss.svg",
                "figures/loss.json",
            ],
        ),


rule language_models_tokenizer:
    """Make the tokenizer that all models share."""
    input:
        corpus=(
            []
            if settings.language_models.shared_tokenizer().user_supplied
            else "<corpus>/documents.parquet"
        ),
        files=lambda wildcards: user_files["language_models"]["tokenizer"],
    output:
        "<models>/tokenizer/ledger.json",
    log:
        "logs/language_models/tokenizer/<language_models_study>/tokenizer.log",
    threads: settings.language_models.tokenizer.threads
    resources:
        **language_models.resources(settings, "tokenizer"),
        runtime_settings=runtime_settings["language_models.tokenizer"],
    params:
        code=step("language_models.tokenizer")["code"],
        settings=configuration.tracked(settings.language_models.shared_tokenizer()),
    shell:
        "python -m steps.language_models.tokenizer --settings {params.settings:q}"
        " {resources.runtime_settings:q} --corpus {input.corpus:q} --out {output:q} --log {log:q}"


rule language_models_rows:
    """Pack the corpus into rows of tokens."""
    input:
        corpus="<corpus>/documents.parquet",
        tokenizer="<models>/tokenizer/ledger.json",
    output:
        "<models>/rows/<corpus_study>/ledger.json",
    log:
        "logs/language_models/rows/<language_models_study>/<corpus_study>.log",
    threads: settings.language_models.rows.threads
    resources:
        **language_models.resources(settings, "rows"),
        runtime_settings=runtime_settings["language_models.rows"],
    params:
        **step("language_models.rows"),
    shell:
        "python -m steps.language_models.rows --corpus {input.corpus:q} --tokenizer {input.tokenizer:q}"
        " --settings {params.settings:q} {resources.runtime_settings:q} --out {output:q} --log {log:q}"


if settings.language_models.models:

    rule language_models_import:
        """Bring an existing model."""
        input:
            files=lambda wildcards: user_files["language_models"].get(
                wildcards.model, []
            ),
            tokenizer="<models>/tokenizer/ledger.json",
        output:
            "<models>/{model}/ledger.json",
        log:
            "logs/language_models/import/<language_models_study>/{model}.log",
        wildcard_constraints:
            model="|".join(map(re.escape, model_names)),
        resources:
            **language_models.resources(settings, "import"),
        params:
            **step("language_models.import"),
            settings=lambda wildcards: settings.language_models.source(
                wildcards.model
            ).model_dump_json(),
            n_ctx=settings.language_models.rows.n_ctx,
        shell:
            "python -m steps.language_models.import --tokenizer {input.tokenizer:q}"
            " --n-ctx {params.n_ctx} --settings {params.settings:q} --out {output:q} --log {log:q}"

else:

    rule language_models_train:
        """Train the model of a seed."""
        input:
            rows="<models>/rows/<corpus_study>/ledger.json",
            tokenizer="<models>/tokenizer/ledger.json",
        output:
            "<models>/seed-{seed}/ledger.json",
        log:
            "logs/language_models/train/<language_models_study>/seed-{seed}.log",
        wildcard_constraints:
            seed="|".join(map(str, settings.language_models.seeds)),
        # The longest jobs first: the last of them would otherwise run alone at the end.
        priority: 2
        threads: settings.language_models.train.threads
        resources:
            **language_models.resources(settings, "train"),
            runtime_settings=runtime_settings["language_models.train"],
        params:
            **step("language_models.train"),
        shell:
            "python -m steps.language_models.train --rows {input.rows:q} --tokenizer {input.tokenizer:q}"
            " --seed {wildcards.seed:q} --settings {params.settings:q} {resources.runtime_settings:q}"
            " --out {output:q} --log {log:q}"


rule language_models_evaluate:
    """Evaluate the models on held-out text."""
    input:
        models=expand(
            "<models>/{model}/ledger.json",
            model=model_names,
        ),
        rows="<models>/rows/<corpus_study>/ledger.json",
    output:
        "<language_models>/evaluations.json",
    log:
        "logs/language_models/evaluate/<language_models_study>/evaluate.log",
    threads: settings.language_models.evaluate.threads
    resources:
        **language_models.resources(settings, "evaluate"),
    params:
        **step("language_models.evaluate"),
    shell:
        "python -m steps.language_models.evaluate --models {input.models:q} --rows {input.rows:q}"
        " --settings {params.settings:q} --out {output:q} --log {log:q}"


rule language_models_ngrams:
    """Measure what unigram and bigram counts predict."""
    input:
        "<models>/rows/<corpus_study>/ledger.json",
    output:
        "<language_models>/ngrams.json",
    log:
        "logs/language_models/ngrams/<language_models_study>/ngrams.log",
    resources:
        **language_models.resources(settings, "ngrams"),
    params:
        code=step("language_models.ngrams")["code"],
        settings=step("language_models.evaluate")["settings"],
    shell:
        "python -m steps.language_models.ngrams --rows {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule language_models_report:
    """Write the headline figures of the language models."""
    input:
        models=expand(
            "<models>/{model}/ledger.json",
            model=model_names,
        ),
        evaluations="<language_models>/evaluations.json",
        ngrams="<language_models>/ngrams.json",
        rows="<models>/rows/<corpus_study>/ledger.json",
        tokenizer="<models>/tokenizer/ledger.json",
    output:
        metrics="<language_models>/metrics.json",
        figure="<language_models>/figures/loss.svg",
        data="<language_models>/figures/loss.json",
        report="<language_models>/report.json",
    log:
        "logs/language_models/report/<language_models_study>/report.log",
    params:
        **step("language_models.report"),
        study=settings.language_models.study,
        section=configuration.tracked(settings.language_models),
    shell:
        "python -m steps.language_models.report --study {params.study:q} --section {params.section:q}"
        " --models {input.models:q} --evaluations {input.evaluations:q} --ngrams {input.ngrams:q}"
        " --rows {input.rows:q} --tokenizer {input.tokenizer:q} --metrics-out {output.metrics:q}"
        " --figure {output.figure:q} --data {output.data:q} --report {output.report:q} --log {log:q}"
