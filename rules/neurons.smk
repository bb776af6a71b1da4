"""Universal neurons: which neurons of a language model recur when the seed changes.

Inputs: the models, tokenizer and packed rows of the language_models chapter. Steps, for each model:
dump activations, sum their moments; for each pair of models: correlate all neurons, cut into tiles of
the reference and, where ranges > 1, into token ranges whose products are merged; then excess, clusters
and the neuron table; weights, roles, explanations, attention and interventions; figures, galleries, the
neuron page and the report.
Outputs: results/neurons/STUDY (docs/neurons.md lists the files).
"""

from steps.workflow import configuration, neurons


rule neurons:
    """Universal neurons of the configured study: tables, figures, metrics and report."""
    input:
        lambda wildcards: configuration.or_exit(neurons.files, settings),


localrules:
    neurons_plan,


rule neurons_plan:
    """Plan what the study takes."""
    input:
        neurons.local_configurations(settings),
    output:
        "<neurons>/plan.json",
    log:
        "logs/neurons/plan/<neurons_study>/plan.log",
    params:
        **step("neurons.plan"),
        study=lambda wildcards: neurons.study(settings).model_dump_json(),
    shell:
        "python -m steps.neurons.plan --study {params.study:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_dump:
    """Dump the activations of a model."""
    input:
        model="<models>/{model}/ledger.json",
        tokenizer="<models>/tokenizer/ledger.json",
        rows="<models>/rows/<corpus_study>/ledger.json",
    output:
        "<neurons>/activations/{model}/ledger.json",
    log:
        "logs/neurons/dump/<neurons_study>/{model}.log",
    # On the longest way to the report: the others fill what is left of the cores.
    priority: 1
    threads: settings.neurons.dump.threads
    resources:
        **neurons.resources(settings, "dump"),
    params:
        **step("neurons.dump"),
    shell:
        "python -m steps.neurons.dump --model {input.model:q} --tokenizer {input.tokenizer:q}"
        " --rows {input.rows:q} --name {wildcards.model:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_moments:
    """Sum the moments of a model over a token range."""
    input:
        "<neurons>/activations/{model}/ledger.json",
    output:
        "<neurons>/moments/{model}/range-{range}.safetensors",
    log:
        "logs/neurons/moments/<neurons_study>/{model}/range-{range}.log",
    priority: 1
    threads: settings.neurons.moments.threads
    resources:
        **neurons.resources(settings, "moments"),
    params:
        **step("neurons.moments"),
        ranges=settings.neurons.ranges,
    shell:
        "python -m steps.neurons.moments --activations {input:q} --ranges {params.ranges}"
        " --index {wildcards.range:q} --settings {params.settings:q} --out {output:q} --log {log:q}"


rule neurons_histograms:
    """Count a model's pre-activations into bins, by source of the text, over some layers."""
    input:
        activations="<neurons>/activations/{model}/ledger.json",
        rows="<models>/rows/<corpus_study>/ledger.json",
    output:
        temp("<neurons>/parts/{model}/part-{part}/histograms.safetensors"),
    log:
        "logs/neurons/histograms/<neurons_study>/{model}/part-{part}.log",
    priority: 1
    threads: settings.neurons.histograms.threads
    resources:
        **neurons.resources(settings, "histograms"),
    params:
        **step("neurons.histograms"),
        parts=settings.neurons.parts,
    shell:
        "python -m steps.neurons.histograms --activations {input.activations:q} --rows {input.rows:q}"
        " --parts {params.parts} --part {wildcards.part:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_merge_histograms:
    """Put the histograms of all models into one store."""
    input:
        activations=neurons.activation_ledgers(settings),
        parts=neurons.parts_of_models(settings, "histograms.safetensors"),
    output:
        "<neurons>/histograms/ledger.json",
    log:
        "logs/neurons/merge_histograms/<neurons_study>/merge_histograms.log",
    priority: 1
    resources:
        **neurons.resources(settings, "merge_histograms"),
    params:
        **step("neurons.merge_histograms"),
    shell:
        "python -m steps.neurons.merge_histograms --activations {input.activations:q}"
        " --parts {input.parts:q} --out {output:q} --log {log:q}"


rule neurons_products:
    """Sum the products of two models over a tile and a token range."""
    input:
        a="<neurons>/activations/{a}/ledger.json",
        b="<neurons>/activations/{b}/ledger.json",
    output:
        temp("<neurons>/products/{a}/{b}/tile-{tile}/range-{range}.safetensors"),
    log:
        "logs/neurons/products/<neurons_study>/{a}/{b}/tile-{tile}/range-{range}.log",
    threads: settings.neurons.products.threads
    resources:
        **neurons.resources(settings, "products"),
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
        a="<neurons>/activations/{a}/ledger.json",
        b="<neurons>/activations/{b}/ledger.json",
        a_moments=expand(
            "<neurons>/moments/{a}/range-{range}.safetensors",
            range=neurons.ranges(settings),
            allow_missing=True,
        ),
        b_moments=expand(
            "<neurons>/moments/{b}/range-{range}.safetensors",
            range=neurons.ranges(settings),
            allow_missing=True,
        ),
        products=expand(
            "<neurons>/products/{a}/{b}/tile-{tile}/range-{range}.safetensors",
            range=neurons.product_ranges(settings),
            allow_missing=True,
        ),
    output:
        "<neurons>/correlations/{a}/{b}/tile-{tile}.safetensors",
    log:
        "logs/neurons/correlate/<neurons_study>/{a}/{b}/tile-{tile}.log",
    priority: 1
    threads: settings.neurons.correlate.threads
    resources:
        **neurons.resources(settings, "correlate"),
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
        neurons.correlation_files(settings, reference=True),
    output:
        "<neurons>/excess.parquet",
    log:
        "logs/neurons/baseline/<neurons_study>/baseline.log",
    priority: 1
    resources:
        **neurons.resources(settings, "baseline"),
    params:
        **step("neurons.baseline"),
    shell:
        "python -m steps.neurons.baseline --correlations {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_clusters:
    """Find clusters of the same neuron across models."""
    input:
        correlations=neurons.correlation_files(settings),
        activations=neurons.activation_ledgers(settings),
    output:
        clusters="<neurons>/clusters.parquet",
        edges="<neurons>/edges.parquet",
    log:
        "logs/neurons/clusters/<neurons_study>/clusters.log",
    priority: 1
    threads: settings.neurons.clusters.threads
    resources:
        **neurons.resources(settings, "clusters"),
    params:
        **step("neurons.clusters"),
    shell:
        "python -m steps.neurons.clusters --correlations {input.correlations:q}"
        " --activations {input.activations:q} --settings {params.settings:q}"
        " --clusters {output.clusters:q} --edges {output.edges:q} --log {log:q}"


rule neurons_table:
    """Gather what is known of every neuron."""
    input:
        activations=neurons.activation_ledgers(settings),
        moments=neurons.moment_files(settings),
        histograms="<neurons>/histograms/ledger.json",
        correlations=neurons.correlation_files(settings, reference=True),
        excess="<neurons>/excess.parquet",
        clusters="<neurons>/clusters.parquet",
        further="<neurons>/weights.parquet",
    output:
        neurons="<neurons>/neurons.parquet",
        examples="<neurons>/examples.parquet",
    log:
        "logs/neurons/table/<neurons_study>/table.log",
    priority: 1
    resources:
        **neurons.resources(settings, "table"),
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
        models=neurons.model_ledgers(settings),
        tokenizer="<models>/tokenizer/ledger.json",
    output:
        weights="<neurons>/weights.parquet",
        effects="<neurons>/logit_effects.parquet",
    log:
        "logs/neurons/weights/<neurons_study>/weights.log",
    priority: 1
    threads: settings.neurons.weights.threads
    resources:
        **neurons.resources(settings, "weights"),
    params:
        **step("neurons.weights"),
    shell:
        "python -m steps.neurons.weights --models {input.models:q} --tokenizer {input.tokenizer:q}"
        " --settings {params.settings:q} --weights {output.weights:q}"
        " --effects {output.effects:q} --log {log:q}"


rule neurons_composition:
    """Measure how a model's neurons compose with its heads."""
    input:
        "<models>/{model}/ledger.json",
    output:
        "<neurons>/composition/{model}.safetensors",
    log:
        "logs/neurons/composition/<neurons_study>/{model}.log",
    threads: settings.neurons.composition.threads
    resources:
        **neurons.resources(settings, "composition"),
    params:
        **step("neurons.composition"),
    shell:
        "python -m steps.neurons.composition --model {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_cosines:
    """Summarise a model's cosines, with the vocabulary and between neurons."""
    input:
        "<models>/{model}/ledger.json",
    output:
        "<neurons>/cosines/{model}.safetensors",
    log:
        "logs/neurons/cosines/<neurons_study>/{model}.log",
    threads: settings.neurons.cosines.threads
    resources:
        **neurons.resources(settings, "cosines"),
    params:
        **step("neurons.cosines"),
    shell:
        "python -m steps.neurons.cosines --model {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_roles:
    """Tell prediction, suppression, partition and entropy neurons apart."""
    input:
        weights="<neurons>/weights.parquet",
        neurons=(
            ["<neurons>/neurons.parquet"] if settings.neurons.roles.activations else []
        ),
    output:
        roles="<neurons>/roles.parquet",
        depth="<neurons>/depth.parquet",
    log:
        "logs/neurons/roles/<neurons_study>/roles.log",
    priority: 1
    resources:
        **neurons.resources(settings, "roles"),
    params:
        **step("neurons.roles"),
    shell:
        "python -m steps.neurons.roles --weights {input.weights:q} --neurons {input.neurons:q}"
        " --settings {params.settings:q} --table {output.roles:q} --depth {output.depth:q} --log {log:q}"


rule neurons_logit_histograms:
    """Measure what the clearest neurons of each role do to the logits."""
    input:
        model=neurons.model_ledgers(settings)[0],
        roles="<neurons>/roles.parquet",
        tokenizer="<models>/tokenizer/ledger.json",
    output:
        "<neurons>/logit_histograms.safetensors",
    log:
        "logs/neurons/logit_histograms/<neurons_study>/logit_histograms.log",
    resources:
        **neurons.resources(settings, "logit_histograms"),
    params:
        **step("neurons.logit_histograms"),
    shell:
        "python -m steps.neurons.logit_histograms --model {input.model:q} --roles {input.roles:q}"
        " --tokenizer {input.tokenizer:q} --settings {params.settings:q} --out {output:q} --log {log:q}"


rule neurons_published:
    """Classify a published neuron table."""
    input:
        lambda wildcards: configuration.or_exit(neurons.published_table, settings),
    output:
        "<neurons>/published.parquet",
    log:
        "logs/neurons/published/<neurons_study>/published.log",
    resources:
        **neurons.resources(settings, "published"),
    params:
        code=step("neurons.published")["code"],
    shell:
        "python -m steps.neurons.published --table {input:q} --out {output:q} --log {log:q}"


rule neurons_attention:
    """Find neurons that turn attention heads off or on."""
    input:
        model=neurons.model_ledgers(settings)[0],
        activations=neurons.activation_ledgers(settings)[0],
    output:
        heads="<neurons>/attention_heads.parquet",
        neurons="<neurons>/attention_neurons.parquet",
        pairs="<neurons>/attention_pairs.parquet",
        points="<neurons>/attention.safetensors",
        numbers="<neurons>/attention.json",
    log:
        "logs/neurons/attention/<neurons_study>/attention.log",
    threads: settings.neurons.attention.threads
    resources:
        **neurons.resources(settings, "attention"),
    params:
        **step("neurons.attention"),
    shell:
        "python -m steps.neurons.attention --model {input.model:q} --activations {input.activations:q}"
        " --settings {params.settings:q} --heads {output.heads:q} --neurons {output.neurons:q}"
        " --pairs {output.pairs:q} --points {output.points:q}"
        " --numbers {output.numbers:q} --log {log:q}"


rule neurons_intervene:
    """Change single neurons and measure every prediction."""
    input:
        model=neurons.model_ledgers(settings)[0],
        activations=neurons.activation_ledgers(settings)[0],
        neurons="<neurons>/neurons.parquet",
        roles="<neurons>/roles.parquet",
        tokenizer="<models>/tokenizer/ledger.json",
    output:
        interventions="<neurons>/interventions.parquet",
        reversals="<neurons>/reversals.parquet",
        suppression="<neurons>/suppression.parquet",
        arrays="<neurons>/interventions.safetensors",
    log:
        "logs/neurons/intervene/<neurons_study>/intervene.log",
    priority: 1
    threads: settings.neurons.intervene.threads
    resources:
        **neurons.resources(settings, "intervene"),
    params:
        **step("neurons.intervene"),
    shell:
        "python -m steps.neurons.intervene --model {input.model:q} --activations {input.activations:q}"
        " --neurons {input.neurons:q} --roles {input.roles:q} --tokenizer {input.tokenizer:q}"
        " --settings {params.settings:q} --interventions {output.interventions:q}"
        " --reversals {output.reversals:q} --suppression {output.suppression:q}"
        " --arrays {output.arrays:q} --log {log:q}"


rule neurons_figure:
    """Draw the figures."""
    input:
        files=expand(
            "<neurons>/{file}",
            file=[
                *("excess.parquet", "clusters.parquet", "neurons.parquet"),
                *("roles.parquet", "depth.parquet", "logit_histograms.safetensors"),
                *("attention_heads.parquet", "attention_pairs.parquet"),
                *("attention.json", "attention.safetensors"),
                *(
                    "interventions.parquet",
                    "suppression.parquet",
                    "interventions.safetensors",
                ),
            ],
        ),
        correlations=neurons.correlation_files(settings, reference=True),
        beside=user_files["neurons"]["figure.beside"],
    output:
        figures=expand(
            "<neurons>/figures/{figure}.svg", figure=neurons.joint_figures(settings)
        ),
        data=expand(
            "<neurons>/figures/{figure}.json", figure=neurons.joint_figures(settings)
        ),
    log:
        "logs/neurons/figure/<neurons_study>/figure.log",
    priority: 1
    resources:
        **neurons.resources(settings, "figure"),
    params:
        **step("neurons.figure"),
    shell:
        "python -m steps.neurons.figure --files {input.files:q} --correlations {input.correlations:q}"
        " --beside {input.beside:q} --settings {params.settings:q} --figures {output.figures:q}"
        " --data {output.data:q} --log {log:q}"


rule neurons_single_figure:
    """Draw a figure that one table is enough for."""
    input:
        lambda wildcards: neurons.single_figures(settings)[wildcards.figure],
    output:
        figure="<neurons>/figures/{figure}.svg",
        data="<neurons>/figures/{figure}.json",
    log:
        "logs/neurons/figure/<neurons_study>/{figure}.log",
    wildcard_constraints:
        figure="|".join(neurons.single_figures(settings)),
    resources:
        **neurons.resources(settings, "figure"),
    params:
        **step("neurons.figure"),
        threshold=settings.neurons.checkpoints.threshold,
    shell:
        "python -m steps.neurons.figure --files {input:q} --correlations --beside"
        " --settings {params.settings:q} --threshold {params.threshold} --figures {output.figure:q}"
        " --data {output.data:q} --log {log:q}"


rule neurons_text:
    """Label the text that neurons are explained on."""
    input:
        activations=neurons.activation_ledgers(settings),
        models=neurons.model_ledgers(settings),
        rows="<models>/rows/<corpus_study>/ledger.json",
        tokenizer="<models>/tokenizer/ledger.json",
        topics=user_files["neurons"]["explain.topics"],
    output:
        temp("<neurons>/text.safetensors"),
    log:
        "logs/neurons/text/<neurons_study>/text.log",
    threads: settings.neurons.explain.threads
    resources:
        **neurons.resources(settings, "text"),
    params:
        code=step("neurons.text")["code"],
        settings=step("neurons.explain")["settings"],
    shell:
        "python -m steps.neurons.text --activations {input.activations:q} --models {input.models:q}"
        " --rows {input.rows:q} --tokenizer {input.tokenizer:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_explain:
    """Explain what some neurons of a model fire on."""
    input:
        activations="<neurons>/activations/{model}/ledger.json",
        moments=expand(
            "<neurons>/moments/{model}/range-{range}.safetensors",
            range=neurons.ranges(settings),
            allow_missing=True,
        ),
        text="<neurons>/text.safetensors",
    output:
        explanations=temp("<neurons>/parts/{model}/part-{part}/explanations.parquet"),
        tokens=temp("<neurons>/parts/{model}/part-{part}/tokens.parquet"),
        profiles=temp("<neurons>/parts/{model}/part-{part}/profiles.safetensors"),
    log:
        "logs/neurons/explain/<neurons_study>/{model}/part-{part}.log",
    threads: settings.neurons.explain.threads
    resources:
        **neurons.resources(settings, "explain"),
    params:
        **step("neurons.explain"),
        parts=settings.neurons.parts,
    shell:
        "python -m steps.neurons.explain --activations {input.activations:q}"
        " --moments {input.moments:q} --text {input.text:q} --parts {params.parts}"
        " --part {wildcards.part:q} --settings {params.settings:q} --explanations {output.explanations:q}"
        " --tokens {output.tokens:q} --profiles {output.profiles:q} --log {log:q}"


rule neurons_merge_explanations:
    """Put the explanations of all models together, and name the families of neurons."""
    input:
        activations=neurons.activation_ledgers(settings),
        parts=neurons.parts_of_models(
            settings, "explanations.parquet", "tokens.parquet", "profiles.safetensors"
        ),
    output:
        explanations="<neurons>/explanations.parquet",
        tokens="<neurons>/tokens.parquet",
        profiles="<neurons>/profiles.safetensors",
    log:
        "logs/neurons/merge_explanations/<neurons_study>/merge_explanations.log",
    resources:
        **neurons.resources(settings, "merge_explanations"),
    params:
        code=step("neurons.merge_explanations")["code"],
        settings=step("neurons.explain")["settings"],
    shell:
        "python -m steps.neurons.merge_explanations --activations {input.activations:q}"
        " --parts {input.parts:q} --settings {params.settings:q} --explanations {output.explanations:q}"
        " --tokens {output.tokens:q} --profiles {output.profiles:q} --log {log:q}"


rule neurons_gallery:
    """Draw the galleries, one for each family of neurons."""
    input:
        excess="<neurons>/excess.parquet",
        explanations="<neurons>/explanations.parquet",
        profiles="<neurons>/profiles.safetensors",
        histograms="<neurons>/histograms/ledger.json",
    output:
        figures=expand(
            "<neurons>/galleries/{family}.svg",
            family=neurons.GALLERIES,
        ),
        data=expand(
            "<neurons>/galleries/{family}.json",
            family=neurons.GALLERIES,
        ),
    log:
        "logs/neurons/gallery/<neurons_study>/gallery.log",
    resources:
        **neurons.resources(settings, "gallery"),
    params:
        **step("neurons.gallery"),
    shell:
        "python -m steps.neurons.gallery --excess {input.excess:q} --explanations {input.explanations:q}"
        " --profiles {input.profiles:q} --histograms {input.histograms:q} --settings {params.settings:q}"
        " --figures {output.figures:q} --data {output.data:q} --log {log:q}"


rule neurons_page:
    """Lay out all neurons on a page to search in."""
    input:
        tokenizer="<models>/tokenizer/ledger.json",
        activations=neurons.activation_ledgers(settings),
        neurons="<neurons>/neurons.parquet",
        examples="<neurons>/examples.parquet",
        edges="<neurons>/edges.parquet",
        histograms="<neurons>/histograms/ledger.json",
        logits="<neurons>/logit_effects.parquet",
        families="<neurons>/explanations.parquet",
    output:
        "<neurons>/neurons.html",
    log:
        "logs/neurons/page/<neurons_study>/page.log",
    resources:
        **neurons.resources(settings, "page"),
    params:
        **step("neurons.page"),
        study=settings.neurons.study,
    shell:
        "python -m steps.neurons.page --study {params.study:q} --tokenizer {input.tokenizer:q}"
        " --activations {input.activations:q} --neurons {input.neurons:q} --examples {input.examples:q}"
        " --edges {input.edges:q} --histograms {input.histograms:q} --logits {input.logits:q}"
        " --families {input.families:q} --settings {params.settings:q} --out {output:q} --log {log:q}"


rule neurons_report:
    """Write the headline figures of the neurons chapter."""
    input:
        models=neurons.model_ledgers(settings),
        tokenizer="<models>/tokenizer/ledger.json",
        activations=neurons.activation_ledgers(settings),
        correlations=neurons.correlation_files(settings, reference=True),
        excess="<neurons>/excess.parquet",
        clusters="<neurons>/clusters.parquet",
        examples="<neurons>/examples.parquet",
        page="<neurons>/neurons.html",
        explanations="<neurons>/explanations.parquet",
        roles="<neurons>/roles.parquet",
        attention="<neurons>/attention.json",
        figures=expand(
            "<neurons>/figures/{figure}.svg",
            figure=neurons.NEURON_FIGURES,
        ),
        galleries=expand(
            "<neurons>/galleries/{family}.svg",
            family=neurons.GALLERIES,
        ),
    output:
        metrics="<neurons>/metrics.json",
        report="<neurons>/report.json",
    log:
        "logs/neurons/report/<neurons_study>/report.log",
    resources:
        **neurons.resources(settings, "report"),
    params:
        **step("neurons.report"),
        study=settings.neurons.study,
        section=configuration.tracked(settings.neurons),
    shell:
        "python -m steps.neurons.report --study {params.study:q} --section {params.section:q}"
        " --models {input.models:q} --tokenizer {input.tokenizer:q} --activations {input.activations:q}"
        " --correlations {input.correlations:q} --excess {input.excess:q} --clusters {input.clusters:q}"
        " --examples {input.examples:q} --explanations {input.explanations:q} --figures {input.figures:q}"
        " --galleries {input.galleries:q} --page {input.page:q} --roles {input.roles:q}"
        " --attention {input.attention:q}"
        " --settings {params.settings:q} --metrics-out {output.metrics:q} --report {output.report:q} --log {log:q}"


# Rules that are no part of the chapter's target.


rule neurons_similarity:
    """Other measures of similarity and other nulls: table and figure."""
    input:
        "<neurons>/similarity.parquet",
        multiext("<neurons>/figures/similarity", ".svg", ".json"),


rule neurons_similarity_table:
    """Compare the reference with its partners by other measures, and with other nulls."""
    input:
        neurons.activation_ledgers(settings),
    output:
        "<neurons>/similarity.parquet",
    log:
        "logs/neurons/similarity/<neurons_study>/similarity.log",
    threads: settings.neurons.similarity.threads
    resources:
        **neurons.resources(settings, "similarity"),
    params:
        **step("neurons.similarity"),
    shell:
        "python -m steps.neurons.similarity --activations {input:q} --settings {params.settings:q}"
        " --out {output:q} --log {log:q}"


rule neurons_checkpoints:
    """Universality and persistence over training: table and figure."""
    input:
        "<neurons>/checkpoints.parquet",
        multiext("<neurons>/figures/checkpoints", ".svg", ".json"),


rule neurons_checkpoints_table:
    """Follow universality and persistence over training."""
    input:
        models=lambda wildcards: configuration.or_exit(
            neurons.checkpointed_models, settings
        ),
        activations=neurons.activation_ledgers(settings)[0],
    output:
        "<neurons>/checkpoints.parquet",
    log:
        "logs/neurons/checkpoints/<neurons_study>/checkpoints.log",
    threads: settings.neurons.checkpoints.threads
    resources:
        **neurons.resources(settings, "checkpoints"),
    params:
        **step("neurons.checkpoints"),
    shell:
        "python -m steps.neurons.checkpoints --models {input.models:q} --activations {input.activations:q}"
        " --settings {params.settings:q} --out {output:q} --log {log:q}"
