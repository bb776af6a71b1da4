#!/usr/bin/env bash
# Snakemake's benchmark misses a peak of memory between two samples. Says 1 if it no longer does. Takes a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/python -m pip install --quiet snakemake==9.27.1
PATH="$folder/environment/bin:$PATH"

cat > job.py <<'PYTHON'
import time

time.sleep(18)
block = b"x" * (400 * 2**20)
time.sleep(20)
del block
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).strip())
PYTHON
cat > Snakefile <<'SNAKEFILE'
rule job:
    output: "kernel.txt"
    benchmark: "benchmark.tsv"
    shell: "python job.py > {output}"
SNAKEFILE
snakemake --cores 1 --quiet all 2> said || { cat said; exit 1; }

sampled=$(awk -F '\t' 'NR == 2 { print $3 }' benchmark.tsv)
echo "snakemake $(snakemake --version): a job that held 400 MiB for 20 of its 38 seconds"
echo "    peak by the kernel:       $(cat kernel.txt)"
echo "    max_rss of the benchmark: $sampled MB"
awk -v sampled="$sampled" 'BEGIN { exit !(sampled < 200) }'
