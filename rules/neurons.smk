"""Universal neurons: which neurons of a language model come back when the seed changes.

Inputs: the models, tokenizer and packed rows of the language_models chapter. Steps, for each model:
dump activations, sum their moments; for each pair of models: correlate all neurons, cut into tiles of
the reference and, where ranges > 1, into token ranges whose products are merged; then the excess over
the rotated baseline, clusters, tables, figures and the report.
Outputs: results/neurons/STUDY/{neurons,examples,excess,clusters,edges,explanations,tokens}.parquet, figures,
galleries, metrics.json.
"""


rule neurons:
    """Universal neurons of the configured study: tables, figures, metrics and report."""
    input:
        lambda wildcards: chapters.neuron_files(settings),


localrules:
    neurons_plan,


rule neurons_plan:
    """Plan what the study takes."""
    input:
        chapters.local_configurations(settings),
    output:
        f"results/neurons/{settings.neurons.study}/plan.json",
    log:
        f"logs/neurons/plan/{settings.neurons.study}/plan.log",
    params:
        **step("neurons.plan"),
        study=lambda wildcards: chapters.neuron_study(settings).model_dump_json(),
    shell:
        "python -m steps.neurons.plan --study {params.study:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_dump:
    """Dump the activations of a model."""
    input:
        model=f"data/models/{settings.language_models.study}/{{model}}/ledger.json",
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
        rows=chapters.rows_ledger(settings),
    output:
        "results/neurons/{study}/activations/{model}/ledger.json",
    log:
        "logs/neurons/dump/{study}/{model}.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.dump.threads
    resources:
        **chapters.neuron_resources(settings, "dump"),
    params:
        **step("neurons.dump"),
    shell:
        "python -m steps.neurons.dump --model {input.model:q} --tokenizer {input.tokenizer:q}"
        " --rows {input.rows:q} --name {wildcards.model:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_moments:
    """Sum the moments of a model over a token range."""
    input:
        "results/neurons/{study}/activations/{model}/ledger.json",
    output:
        "results/neurons/{study}/moments/{model}/range-{range}.safetensors",
    log:
        "logs/neurons/moments/{study}/{model}/range-{range}.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.moments.threads
    resources:
        **chapters.neuron_resources(settings, "moments"),
    params:
        **step("neurons.moments"),
        ranges=settings.neurons.ranges,
    shell:
        "python -m steps.neurons.moments --activations {input:q} --ranges {params.ranges}"
        " --index {wildcards.range:q} --settings {params.settings:q} --out {output:q} --log {log:q}"


rule neurons_histograms:
    """Count every model's pre-activations into bins, by source of the text."""
    input:
        activations=chapters.activation_ledgers(settings),
        rows=chapters.rows_ledger(settings),
        parts=chapters.parts_of_models(settings, "histograms.safetensors"),
    output:
        "results/neurons/{study}/histograms/ledger.json",
    log:
        "logs/neurons/histograms/{study}/histograms.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.histograms.threads
    resources:
        **chapters.neuron_resources(settings, "histograms"),
    params:
        **step("neurons.histograms"),
    shell:
        "python -m steps.neurons.histograms --activations {input.activations:q} --rows {input.rows:q}"
        " --parts {input.parts:q} --settings {params.settings:q} --out {output:q} --log {log:q}"


rule neurons_histograms_part:
    """Count the pre-activations of some layers of a model."""
    input:
        activations="results/neurons/{study}/activations/{model}/ledger.json",
        rows=chapters.rows_ledger(settings),
    output:
        temp("results/neurons/{study}/parts/{model}/part-{part}/histograms.safetensors"),
    log:
        "logs/neurons/histograms_part/{study}/{model}/part-{part}.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.histograms.threads
    resources:
        **chapters.neuron_resources(settings, "histograms_part"),
    params:
        code=step("neurons.histograms_part")["code"],
        settings=step("neurons.histograms")["settings"],
        parts=settings.neurons.parts,
    shell:
        "python -m steps.neurons.histograms_part --activations {input.activations:q} --rows {input.rows:q}"
        " --parts {params.parts} --part {wildcards.part:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_products:
    """Sum the products of two models over a tile and a token range."""
    input:
        a="results/neurons/{study}/activations/{a}/ledger.json",
        b="results/neurons/{study}/activations/{b}/ledger.json",
    output:
        temp(
            "results/neurons/{study}/products/{a}/{b}/tile-{tile}/range-{range}.safetensors"
        ),
    log:
        "logs/neurons/products/{study}/{a}/{b}/tile-{tile}/range-{range}.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.products.threads
    resources:
        **chapters.neuron_resources(settings, "products"),
    params:
        **step("neurons.products"),
        tiles=settings.neurons.tiles,
        ranges=settings.neurons.ranges,
    shell:
        "python -m steps.neurons.products --a {input.a:q} --b {input.b:q} --tiles {params.tiles}"
        " --tile {wildcards.tile:q} --ranges {params.ranges} --index {wildcards.range}"
        " --settings {params.settings:q} --out {output:q} --log {log:q}"


rule neurons_correlate:
    """Correlate two models over a tile, and with rotations."""
    input:
        a="results/neurons/{study}/activations/{a}/ledger.json",
        b="results/neurons/{study}/activations/{b}/ledger.json",
        a_moments=expand(
            "results/neurons/{study}/moments/{a}/range-{range}.safetensors",
            range=chapters.ranges(settings),
            allow_missing=True,
        ),
        b_moments=expand(
            "results/neurons/{study}/moments/{b}/range-{range}.safetensors",
            range=chapters.ranges(settings),
            allow_missing=True,
        ),
        products=expand(
            "results/neurons/{study}/products/{a}/{b}/tile-{tile}/range-{range}.safetensors",
            range=chapters.product_ranges(settings),
            allow_missing=True,
        ),
    output:
        "results/neurons/{study}/correlations/{a}/{b}/tile-{tile}.safetensors",
    log:
        "logs/neurons/correlate/{study}/{a}/{b}/tile-{tile}.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.correlate.threads
    resources:
        **chapters.neuron_resources(settings, "correlate"),
    params:
        **step("neurons.correlate"),
        tiles=settings.neurons.tiles,
    shell:
        "python -m steps.neurons.correlate --a {input.a:q} --b {input.b:q}"
        " --a-moments {input.a_moments:q} --b-moments {input.b_moments:q} --products {input.products:q}"
        " --tiles {params.tiles} --tile {wildcards.tile:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_baseline:
    """Compare the reference's correlations with their rotated baseline."""
    input:
        chapters.correlation_files(settings, reference=True),
    output:
        "results/neurons/{study}/excess.parquet",
    log:
        "logs/neurons/baseline/{study}/baseline.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    resources:
        **chapters.neuron_resources(settings, "baseline"),
    params:
        **step("neurons.baseline"),
    shell:
        "python -m steps.neurons.baseline --correlations {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_clusters:
    """Find clusters of the same neuron across models."""
    input:
        correlations=chapters.correlation_files(settings),
        activations=chapters.activation_ledgers(settings),
    output:
        clusters="results/neurons/{study}/clusters.parquet",
        edges="results/neurons/{study}/edges.parquet",
    log:
        "logs/neurons/clusters/{study}/clusters.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.clusters.threads
    resources:
        **chapters.neuron_resources(settings, "clusters"),
    params:
        **step("neurons.clusters"),
    shell:
        "python -m steps.neurons.clusters --correlations {input.correlations:q}"
        " --activations {input.activations:q} --settings {params.settings:q}"
        " --clusters {output.clusters:q} --edges {output.edges:q} --log {log:q}"


rule neurons_table:
    """Gather what is known of every neuron."""
    input:
        activations=chapters.activation_ledgers(settings),
        moments=chapters.moment_files(settings),
        histograms="results/neurons/{study}/histograms/ledger.json",
        correlations=chapters.correlation_files(settings, reference=True),
        excess="results/neurons/{study}/excess.parquet",
        clusters="results/neurons/{study}/clusters.parquet",
        further=chapters.further_columns(settings),
    output:
        neurons="results/neurons/{study}/neurons.parquet",
        examples="results/neurons/{study}/examples.parquet",
    log:
        "logs/neurons/table/{study}/table.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    resources:
        **chapters.neuron_resources(settings, "table"),
    params:
        **step("neurons.table"),
    shell:
        "python -m steps.neurons.table --activations {input.activations:q} --moments {input.moments:q}"
        " --histograms {input.histograms:q} --correlations {input.correlations:q} --excess {input.excess:q}"
        " --clusters {input.clusters:q} --further {input.further:q} --neurons {output.neurons:q}"
        " --examples {output.examples:q} --log {log:q}"


rule neurons_weights:
    """Measure every neuron by the weights alone."""
    input:
        models=chapters.model_ledgers(settings),
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
    output:
        weights="results/neurons/{study}/weights.parquet",
        effects="results/neurons/{study}/logit_effects.parquet",
    log:
        "logs/neurons/weights/{study}/weights.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.weights.threads
    resources:
        **chapters.neuron_resources(settings, "weights"),
    params:
        **step("neurons.weights"),
    shell:
        "python -m steps.neurons.weights --models {input.models:q} --tokenizer {input.tokenizer:q}"
        " --settings {params.settings:q} --weights {output.weights:q}"
        " --effects {output.effects:q} --log {log:q}"


rule neurons_composition:
    """Measure how a model's neurons compose with its heads."""
    input:
        f"data/models/{settings.language_models.study}/{{model}}/ledger.json",
    output:
        "results/neurons/{study}/composition/{model}.safetensors",
    log:
        "logs/neurons/composition/{study}/{model}.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.composition.threads
    resources:
        **chapters.neuron_resources(settings, "composition"),
    params:
        **step("neurons.composition"),
    shell:
        "python -m steps.neurons.composition --model {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_cosines:
    """Summarise a model's cosines, with the vocabulary and between neurons."""
    input:
        f"data/models/{settings.language_models.study}/{{model}}/ledger.json",
    output:
        "results/neurons/{study}/cosines/{model}.safetensors",
    log:
        "logs/neurons/cosines/{study}/{model}.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.cosines.threads
    resources:
        **chapters.neuron_resources(settings, "cosines"),
    params:
        **step("neurons.cosines"),
    shell:
        "python -m steps.neurons.cosines --model {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_roles:
    """Tell prediction, suppression, partition and entropy neurons apart."""
    input:
        weights="results/neurons/{study}/weights.parquet",
        neurons=(
            ["results/neurons/{study}/neurons.parquet"]
            if settings.neurons.roles.activations
            else []
        ),
    output:
        roles="results/neurons/{study}/roles.parquet",
        depth="results/neurons/{study}/depth.parquet",
        figure="results/neurons/{study}/figures/roles.svg",
        data="results/neurons/{study}/figures/roles.json",
        depth_figure="results/neurons/{study}/figures/roles_by_depth.svg",
        depth_data="results/neurons/{study}/figures/roles_by_depth.json",
    log:
        "logs/neurons/roles/{study}/roles.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    resources:
        **chapters.neuron_resources(settings, "roles"),
    params:
        **step("neurons.roles"),
    shell:
        "python -m steps.neurons.roles --weights {input.weights:q} --neurons {input.neurons:q}"
        " --settings {params.settings:q} --table {output.roles:q} --depth {output.depth:q}"
        " --figure {output.figure:q} --data {output.data:q} --depth-figure {output.depth_figure:q}"
        " --depth-data {output.depth_data:q} --log {log:q}"


rule neurons_logit_histograms:
    """Draw what the clearest neurons of each role do to the logits."""
    input:
        model=chapters.model_ledgers(settings)[0],
        roles="results/neurons/{study}/roles.parquet",
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
    output:
        figure="results/neurons/{study}/figures/logit_histograms.svg",
        data="results/neurons/{study}/figures/logit_histograms.json",
    log:
        "logs/neurons/logit_histograms/{study}/logit_histograms.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    resources:
        **chapters.neuron_resources(settings, "logit_histograms"),
    params:
        **step("neurons.logit_histograms"),
    shell:
        "python -m steps.neurons.logit_histograms --model {input.model:q} --roles {input.roles:q}"
        " --tokenizer {input.tokenizer:q} --settings {params.settings:q} --out {output.figure:q}"
        " --data {output.data:q} --log {log:q}"


rule neurons_published:
    """Classify a neuron table that somebody published."""
    input:
        lambda wildcards: chapters.published_table(settings),
    output:
        "results/neurons/{study}/published.parquet",
    log:
        "logs/neurons/published/{study}/published.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    resources:
        **chapters.neuron_resources(settings, "published"),
    params:
        code=step("neurons.published")["code"],
    shell:
        "python -m steps.neurons.published --table {input:q} --out {output:q} --log {log:q}"


rule neurons_attention:
    """Find neurons that turn attention heads off or on."""
    input:
        model=chapters.model_ledgers(settings)[0],
        activations=chapters.activation_ledgers(settings)[0],
    output:
        heads="results/neurons/{study}/attention_heads.parquet",
        neurons="results/neurons/{study}/attention_neurons.parquet",
        pairs="results/neurons/{study}/attention_pairs.parquet",
        figure="results/neurons/{study}/figures/attention.svg",
        data="results/neurons/{study}/figures/attention.json",
        numbers="results/neurons/{study}/attention.json",
    log:
        "logs/neurons/attention/{study}/attention.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.attention.threads
    resources:
        **chapters.neuron_resources(settings, "attention"),
    params:
        **step("neurons.attention"),
    shell:
        "python -m steps.neurons.attention --model {input.model:q} --activations {input.activations:q}"
        " --settings {params.settings:q} --heads {output.heads:q} --neurons {output.neurons:q}"
        " --pairs {output.pairs:q} --figure {output.figure:q} --data {output.data:q}"
        " --numbers {output.numbers:q} --log {log:q}"


rule neurons_intervene:
    """Change single neurons and measure every prediction."""
    input:
        model=chapters.model_ledgers(settings)[0],
        activations=chapters.activation_ledgers(settings)[0],
        neurons="results/neurons/{study}/neurons.parquet",
        roles="results/neurons/{study}/roles.parquet",
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
    output:
        interventions="results/neurons/{study}/interventions.parquet",
        reversals="results/neurons/{study}/reversals.parquet",
        suppression="results/neurons/{study}/suppression.parquet",
        figure="results/neurons/{study}/figures/interventions.svg",
        data="results/neurons/{study}/figures/interventions.json",
        suppression_figure="results/neurons/{study}/figures/suppression.svg",
        suppression_data="results/neurons/{study}/figures/suppression.json",
    log:
        "logs/neurons/intervene/{study}/intervene.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.intervene.threads
    resources:
        **chapters.neuron_resources(settings, "intervene"),
    params:
        **step("neurons.intervene"),
    shell:
        "python -m steps.neurons.intervene --model {input.model:q} --activations {input.activations:q}"
        " --neurons {input.neurons:q} --roles {input.roles:q} --tokenizer {input.tokenizer:q}"
        " --settings {params.settings:q} --interventions {output.interventions:q}"
        " --reversals {output.reversals:q} --suppression {output.suppression:q}"
        " --figure {output.figure:q} --data {output.data:q}"
        " --suppression-figure {output.suppression_figure:q} --suppression-data {output.suppression_data:q}"
        " --log {log:q}"


rule neurons_figure:
    """Draw the figures."""
    input:
        excess="results/neurons/{study}/excess.parquet",
        clusters="results/neurons/{study}/clusters.parquet",
        correlations=chapters.correlation_files(settings, reference=True),
        neurons="results/neurons/{study}/neurons.parquet",
        beside=user_files.neurons["figure.beside"],
    output:
        figures=expand(
            "results/neurons/{study}/figures/{figure}.svg",
            figure=chapters.NEURON_FIGURES,
            allow_missing=True,
        ),
        data=expand(
            "results/neurons/{study}/figures/{figure}.json",
            figure=chapters.NEURON_FIGURES,
            allow_missing=True,
        ),
    log:
        "logs/neurons/figure/{study}/figure.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    resources:
        **chapters.neuron_resources(settings, "figure"),
    params:
        **step("neurons.figure"),
    shell:
        "python -m steps.neurons.figure --excess {input.excess:q} --clusters {input.clusters:q}"
        " --correlations {input.correlations:q} --neurons {input.neurons:q} --beside {input.beside:q}"
        " --settings {params.settings:q} --figures {output.figures:q} --data {output.data:q} --log {log:q}"


rule neurons_explain:
    """Explain what neurons fire on."""
    input:
        activations=chapters.activation_ledgers(settings),
        moments=chapters.moment_files(settings),
        models=expand(
            f"data/models/{settings.language_models.study}/{{model}}/ledger.json",
            model=chapters.compared_models(settings),
        ),
        rows=chapters.rows_ledger(settings),
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
        topics=user_files.neurons["explain.topics"],
        parts=chapters.parts_of_models(
            settings, "explanations.parquet", "tokens.parquet", "profiles.safetensors"
        ),
    output:
        explanations="results/neurons/{study}/explanations.parquet",
        tokens="results/neurons/{study}/tokens.parquet",
        profiles="results/neurons/{study}/profiles.safetensors",
    log:
        "logs/neurons/explain/{study}/explain.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.explain.threads
    resources:
        **chapters.neuron_resources(settings, "explain"),
    params:
        **step("neurons.explain"),
    shell:
        "python -m steps.neurons.explain --activations {input.activations:q} --moments {input.moments:q}"
        " --models {input.models:q} --rows {input.rows:q} --tokenizer {input.tokenizer:q}"
        " --parts {input.parts:q} --settings {params.settings:q} --explanations {output.explanations:q}"
        " --tokens {output.tokens:q} --profiles {output.profiles:q} --log {log:q}"


rule neurons_explain_part:
    """Explain some neurons of a model."""
    input:
        activations="results/neurons/{study}/activations/{model}/ledger.json",
        moments=expand(
            "results/neurons/{study}/moments/{model}/range-{range}.safetensors",
            range=chapters.ranges(settings),
            allow_missing=True,
        ),
        model=f"data/models/{settings.language_models.study}/{{model}}/ledger.json",
        rows=chapters.rows_ledger(settings),
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
        topics=user_files.neurons["explain.topics"],
    output:
        explanations=temp(
            "results/neurons/{study}/parts/{model}/part-{part}/explanations.parquet"
        ),
        tokens=temp("results/neurons/{study}/parts/{model}/part-{part}/tokens.parquet"),
        profiles=temp(
            "results/neurons/{study}/parts/{model}/part-{part}/profiles.safetensors"
        ),
    log:
        "logs/neurons/explain_part/{study}/{model}/part-{part}.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    threads: settings.neurons.explain.threads
    resources:
        **chapters.neuron_resources(settings, "explain_part"),
    params:
        code=step("neurons.explain_part")["code"],
        settings=step("neurons.explain")["settings"],
        parts=settings.neurons.parts,
    shell:
        "python -m steps.neurons.explain_part --activations {input.activations:q}"
        " --moments {input.moments:q} --model {input.model:q} --rows {input.rows:q}"
        " --tokenizer {input.tokenizer:q} --parts {params.parts} --part {wildcards.part:q}"
        " --settings {params.settings:q} --explanations {output.explanations:q}"
        " --tokens {output.tokens:q} --profiles {output.profiles:q} --log {log:q}"


rule neurons_gallery:
    """Draw the galleries, one for each family of neurons."""
    input:
        excess="results/neurons/{study}/excess.parquet",
        explanations="results/neurons/{study}/explanations.parquet",
        profiles="results/neurons/{study}/profiles.safetensors",
        histograms="results/neurons/{study}/histograms/ledger.json",
    output:
        figures=expand(
            "results/neurons/{study}/galleries/{family}.svg",
            family=chapters.GALLERIES,
            allow_missing=True,
        ),
        data=expand(
            "results/neurons/{study}/galleries/{family}.json",
            family=chapters.GALLERIES,
            allow_missing=True,
        ),
    log:
        "logs/neurons/gallery/{study}/gallery.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    resources:
        **chapters.neuron_resources(settings, "gallery"),
    params:
        **step("neurons.gallery"),
    shell:
        "python -m steps.neurons.gallery --excess {input.excess:q} --explanations {input.explanations:q}"
        " --profiles {input.profiles:q} --histograms {input.histograms:q} --settings {params.settings:q}"
        " --figures {output.figures:q} --data {output.data:q} --log {log:q}"


rule neurons_page:
    """Lay out all neurons on a page to search in."""
    input:
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
        activations=chapters.activation_ledgers(settings),
        neurons="results/neurons/{study}/neurons.parquet",
        examples="results/neurons/{study}/examples.parquet",
        edges="results/neurons/{study}/edges.parquet",
        histograms="results/neurons/{study}/histograms/ledger.json",
        logits=chapters.logit_effects(settings),
        families=chapters.family_tables(settings),
    output:
        "results/neurons/{study}/neurons.html",
    log:
        "logs/neurons/page/{study}/page.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    resources:
        **chapters.neuron_resources(settings, "page"),
    params:
        **step("neurons.page"),
    shell:
        "python -m steps.neurons.page --study {wildcards.study:q} --tokenizer {input.tokenizer:q}"
        " --activations {input.activations:q} --neurons {input.neurons:q} --examples {input.examples:q}"
        " --edges {input.edges:q} --histograms {input.histograms:q} --logits {input.logits:q}"
        " --families {input.families:q} --settings {params.settings:q} --out {output:q} --log {log:q}"


rule neurons_report:
    """Write the headline figures of the neurons chapter."""
    input:
        models=chapters.model_ledgers(settings),
        tokenizer=f"data/models/{settings.language_models.study}/tokenizer/ledger.json",
        activations=chapters.activation_ledgers(settings),
        correlations=chapters.correlation_files(settings, reference=True),
        excess="results/neurons/{study}/excess.parquet",
        clusters="results/neurons/{study}/clusters.parquet",
        examples="results/neurons/{study}/examples.parquet",
        page="results/neurons/{study}/neurons.html",
        explanations="results/neurons/{study}/explanations.parquet",
        roles="results/neurons/{study}/roles.parquet",
        attention="results/neurons/{study}/attention.json",
        figures=expand(
            "results/neurons/{study}/figures/{figure}.svg",
            figure=chapters.NEURON_FIGURES + chapters.STEP_FIGURES,
            allow_missing=True,
        ),
        galleries=expand(
            "results/neurons/{study}/galleries/{family}.svg",
            family=chapters.GALLERIES,
            allow_missing=True,
        ),
    output:
        metrics="results/neurons/{study}/metrics.json",
        report="results/neurons/{study}/report.json",
    log:
        "logs/neurons/report/{study}/report.log",
    wildcard_constraints:
        study=re.escape(settings.neurons.study),
    resources:
        **chapters.neuron_resources(settings, "report"),
    params:
        **step("neurons.report"),
        section=chapters.tracked(settings.neurons),
    shell:
        "python -m steps.neurons.report --study {wildcards.study:q} --section {params.section:q}"
        " --models {input.models:q} --tokenizer {input.tokenizer:q} --activations {input.activations:q}"
        " --correlations {input.correlations:q} --excess {input.excess:q} --clusters {input.clusters:q}"
        " --examples {input.examples:q} --explanations {input.explanations:q} --figures {input.figures:q}"
        " --galleries {input.galleries:q} --page {input.page:q} --roles {input.roles:q}"
        " --attention {input.attention:q}"
        " --settings {params.settings:q} --metrics-out {output.metrics:q} --report {output.report:q} --log {log:q}"


# Rules that are no part of the chapter's target, and are targets themselves: without wildcards.


rule neurons_similarity:
    """Compare the reference with its partners by other measures, and with other nulls."""
    input:
        expand(chapters.activation_ledgers(settings), study=settings.neurons.study),
    output:
        table=f"results/neurons/{settings.neurons.study}/similarity.parquet",
        figure=f"results/neurons/{settings.neurons.study}/figures/similarity.svg",
        data=f"results/neurons/{settings.neurons.study}/figures/similarity.json",
    log:
        f"logs/neurons/similarity/{settings.neurons.study}/similarity.log",
    threads: settings.neurons.similarity.threads
    resources:
        **chapters.neuron_resources(settings, "similarity"),
    params:
        **step("neurons.similarity"),
    shell:
        "python -m steps.neurons.similarity --activations {input:q} --settings {params.settings:q}"
        " --out {output.table:q} --figure {output.figure:q} --data {output.data:q} --log {log:q}"


rule neurons_checkpoints:
    """Follow universality and persistence over training."""
    input:
        models=chapters.model_ledgers(settings),
        activations=expand(
            chapters.activation_ledgers(settings)[0], study=settings.neurons.study
        ),
    output:
        table=f"results/neurons/{settings.neurons.study}/checkpoints.parquet",
        figure=f"results/neurons/{settings.neurons.study}/figures/checkpoints.svg",
        data=f"results/neurons/{settings.neurons.study}/figures/checkpoints.json",
    log:
        f"logs/neurons/checkpoints/{settings.neurons.study}/checkpoints.log",
    threads: settings.neurons.checkpoints.threads
    resources:
        **chapters.neuron_resources(settings, "checkpoints"),
    params:
        **step("neurons.checkpoints"),
    shell:
        "python -m steps.neurons.checkpoints --models {input.models:q} --activations {input.activations:q}"
        " --settings {params.settings:q} --out {output.table:q} --figure {output.figure:q}"
        " --data {output.data:q} --log {log:q}"
