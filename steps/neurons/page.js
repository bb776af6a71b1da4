"use strict";
(() => {
  // Everything shown is made of elements and texts; no text is ever read as HTML.
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 25;
  const el = (name, options = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(options)) {
      if (key === "text") made.textContent = value;
      else if (value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  };
  const drawn = (name, options, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(options)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const byId = (id) => document.getElementById(id);
  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(1) : String(+value.toPrecision(3));
    return text.replace("-", "−");
  };
  const percent = (share) => share === null ? "–" : number(100 * share) + " %";
  const shown = (name, value) => name.startsWith("activation_frequency") ? percent(value)
    : name.endsWith("_k") && value !== null ? whole(value) : number(value);
  // In a column numbers keep their zeros, so that all show as many digits.
  const even = (value) => {
    const size = Math.abs(value ?? 0);
    return size >= 1e-3 && size < 999.5 ? value.toPrecision(3).replace("-", "−") : number(value);
  };
  const evenPercent = (share) => share === null ? "–" : even(100 * share) + " %";
  const listed = (name, value) => name.startsWith("activation_frequency") ? evenPercent(value) : even(value);
  const token = (id) => data.tokens[id] ?? `[${id}]`;
  const whole = (count) => count.toLocaleString("en");

  const total = data.neurons.length;
  const column = Object.fromEntries(data.statistics.map(([name], place) => [name, place]));
  const title = (model, layer, neuron) => `${data.models[model]} L${layer}.${neuron}`;
  const address = (model, layer, neuron) => `#${data.models[model]}/L${layer}.${neuron}`;
  const key = (model, layer, neuron) => `${model}/${layer}/${neuron}`;
  const place = new Map(data.neurons.map(([m, l, n], at) => [key(m, l, n), at]));
  const clusters = new Map();
  data.clusters.forEach((cluster, at) => {
    if (cluster !== null) clusters.set(cluster, [...(clusters.get(cluster) ?? []), at]);
  });
  const peaks = (at) => [...new Set(data.examples[at].map(([, strongest, ids]) => token(ids[strongest])))];
  const family = (at) => data.families ? data.families[at] : null;
  const searched = data.neurons.map(([m, l, n], at) =>
    [title(m, l, n), ...(family(at) ?? []), ...peaks(at)].join("\n").toLowerCase());

  // The table
  const state = { list: [], page: 0, sort: null, down: true, at: null };
  const heads = [
    { label: "neuron", kind: "name", of: (at) => { const [m, l, n] = data.neurons[at]; return (m * 1e4 + l) * 1e7 + n; } },
    { label: "fires on", kind: "on", of: (at) => peaks(at)[0] ?? null },
    ...(data.families ? [{ label: "family", kind: "family", of: (at) => family(at)?.[0] ?? null }] : []),
    ...data.statistics.filter(([, , inTable]) => inTable).map(([name, label]) => ({
      label, name, kind: "n", of: (at) => data.values[column[name]][at],
    })),
  ];
  const order = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const sign = a < b ? -1 : a > b ? 1 : 0;
    return state.down ? -sign : sign;
  };
  const select = () => {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const model = byId("model").value, layer = byId("layer").value, only = byId("universal").checked;
    state.list = [];
    for (let at = 0; at < total; at++) {
      const [m, l, , universal] = data.neurons[at];
      if (model !== "" && m !== +model || layer !== "" && l !== +layer || only && !universal) continue;
      if (words.every((word) => searched[at].includes(word))) state.list.push(at);
    }
    if (state.sort) {
      const of = state.sort.of;
      state.list.sort((a, b) => order(of(a), of(b)) || a - b);
    }
    state.page = 0;
    fill();
  };
  const cell = (head, at) => {
    const [m, l, n, universal] = data.neurons[at];
    if (head.kind === "name") {
      const link = el("a", { href: address(m, l, n), text: title(m, l, n) });
      return el("td", { class: "name", title: title(m, l, n) }, link, ...(universal ? [el("span", { class: "badge", text: "U", title: "universal" })] : []));
    }
    if (head.kind === "n") return el("td", { class: "n", text: listed(head.name, head.of(at)) });
    if (head.kind === "on") {
      const tokens = peaks(at).slice(0, 6);
      return el("td", { class: "on", title: tokens.join("  ") }, ...tokens.map((text) => el("span", { text })));
    }
    const text = head.of(at) ?? "–";
    return el("td", { class: head.kind, text, title: text });
  };
  const fill = () => {
    const pages = Math.max(1, Math.ceil(state.list.length / PAGE));
    const first = state.page * PAGE;
    const here = state.list.slice(first, first + PAGE);
    const rows = here.map((at) => {
      const row = el("tr", at === state.at ? { "aria-current": "true" } : {}, ...heads.map((head) => cell(head, at)));
      row.addEventListener("click", (event) => {
        if (!event.target.closest("a")) location.hash = address(...data.neurons[at]);
      });
      return row;
    });
    while (rows.length < PAGE) // the table keeps its height, so that nothing below it jumps
      rows.push(el("tr", { "aria-hidden": "true" }, el("td", { colspan: heads.length, text: "\u00a0" })));
    byId("rows").replaceChildren(...rows);
    byId("count").textContent = state.list.length
      ? `${whole(first + 1)}–${whole(first + here.length)} of ${whole(state.list.length)} neurons`
      : "no neuron fits";
    byId("back").disabled = state.page === 0;
    byId("forth").disabled = state.page >= pages - 1;
  };
  for (const head of heads) {
    const button = el("button", { type: "button", text: head.label });
    head.cell = el("th", { scope: "col", class: head.kind }, button);
    button.addEventListener("click", () => {
      const again = state.sort === head;
      state.down = again ? !state.down : head.kind === "n";
      state.sort = head;
      for (const other of heads) other.cell.removeAttribute("aria-sort");
      head.cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      select();
    });
    byId("heads").append(head.cell);
  }

  // One neuron
  const histogram = (at) => {
    const [first, counts] = data.histograms[at];
    const width = 560, height = 150, left = 44, bottom = 22, top = 8;
    const start = data.edge + (first - 1) * data.bar, end = start + counts.length * data.bar;
    const x = (value) => left + (value - start) / (end - start) * (width - left - 8);
    const most = Math.max(1, ...counts), levels = Math.log10(most + 1);
    const y = (count) => height - bottom - Math.log10(count + 1) / levels * (height - bottom - top);
    const picture = drawn("svg", {
      class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `Histogram of pre-activations from ${number(start)} to ${number(end)}`,
    });
    for (let power = 1; power <= most * 1.0001; power *= 10) {
      picture.append(drawn("line", { x1: left, x2: width - 8, y1: y(power), y2: y(power) }));
      picture.append(drawn("text", { x: left - 6, y: y(power) + 4, "text-anchor": "end" }, whole(power)));
    }
    let path = "";
    counts.forEach((count, bar) => {
      if (!count) return;
      const a = x(start + bar * data.bar), b = x(start + (bar + 1) * data.bar);
      path += `M${a.toFixed(1)} ${height - bottom}V${y(count).toFixed(1)}H${Math.max(a + 0.5, b - 0.6).toFixed(1)}V${height - bottom}Z`;
    });
    picture.append(drawn("path", { class: "bars", d: path }));
    const step = [0.2, 0.5, 1, 2, 5, 10].find((s) => (end - start) / s <= 9) ?? 20;
    for (let tick = Math.ceil(start / step); tick * step <= end; tick++)
      picture.append(drawn("text", { x: x(tick * step), y: height - 6, "text-anchor": "middle" }, number(tick * step)));
    if (start < 0 && end > 0)
      picture.append(drawn("line", { class: "zero", x1: x(0), x2: x(0), y1: top, y2: height - bottom }));
    return picture;
  };
  const shares = (at) => {
    const list = el("dl", { class: "shares" });
    const most = Math.max(...data.by_source.map((values) => values[at] ?? 0), 1e-12);
    data.sources.forEach((source, place) => {
      const value = data.by_source[place][at];
      const bar = el("span");
      bar.style.width = `${100 * (value ?? 0) / most}%`;
      list.append(el("dt", { text: source, title: source }), el("dd", { class: "rail" }, bar), el("dd", { text: evenPercent(value) }));
    });
    return list;
  };
  const snippet = ([value, strongest, ids, digits]) => {
    const text = el("span", { class: "snippet" });
    ids.forEach((id, position) => {
      const level = +digits[position];
      if (!level && position !== strongest) return text.append(token(id));
      const peak = position === strongest ? " peak" : "";
      text.append(el("mark", { class: `m${level}${peak}`, text: token(id) }));
    });
    return el("li", {}, el("span", { class: "v", text: even(value), title: "post-activation" }), text);
  };
  const other = ([m, l, n]) => place.has(key(m, l, n))
    ? el("a", { href: address(m, l, n), text: title(m, l, n) })
    : el("b", { text: title(m, l, n), title: "not on this page" });
  const effects = (at) => {
    const box = el("div", { class: "effects" });
    ["promotes", "suppresses"].forEach((name, side) => {
      const list = el("ol");
      for (const [id, value] of data.logits[at][side])
        list.append(el("li", {}, el("code", { text: token(id) }), el("span", { text: even(value) })));
      box.append(el("div", {}, el("h4", { text: name }), list));
    });
    return box;
  };
  const show = (at) => {
    state.at = at;
    const [m, l, n, universal] = data.neurons[at];
    const listed = state.list.indexOf(at);
    const step = (by, label) => {
      const next = state.list[listed + by];
      const button = el("button", { type: "button", text: label });
      button.disabled = listed < 0 || next === undefined;
      button.addEventListener("click", () => { location.hash = address(...data.neurons[next]); });
      return button;
    };
    const heading = el("h2", { text: title(m, l, n) });
    if (universal) heading.append(el("span", { class: "badge", text: "universal" }));
    const parts = [el("div", { class: "top" }, heading, el("div", {}, step(-1, "Previous"), step(1, "Next")))];
    if (family(at)) {
      const [name, why] = family(at);
      parts.push(el("p", {}, el("b", { text: name === "none" ? "No family" : `Family: ${name}` }), why ? `. ${why}` : ""));
    }
    const facts = el("dl", { class: "facts" });
    data.statistics.forEach(([name, label], which) => {
      const value = data.values[which][at], rank = data.percentiles[which]?.[at] ?? null;
      if (value === null) return;
      const fact = el("dd", { text: shown(name, value), title: name });
      if (rank !== null) fact.append(el("small", { text: `P${rank}`, title: "percentile within its layer" }));
      facts.append(el("div", {}, el("dt", { text: label }), fact));
    });
    parts.push(facts, el("h3", { text: "Top examples" }));
    parts.push(el("ol", { class: "examples" }, ...data.examples[at].map(snippet)));
    parts.push(el("h3", { text: "Pre-activations (tokens, log scale)" }), histogram(at));
    if (data.sources.length) parts.push(el("h3", { text: "Fires in" }), shares(at));
    if (data.logits) parts.push(el("h3", { text: "Effect on the logits" }), effects(at));
    parts.push(el("h3", { text: "In the other models" }));
    const partners = el("ul", { class: "partners" });
    for (const partner of data.partners[at])
      partners.append(el("li", {}, other(partner), el("span", { class: "c", text: `correlation ${even(partner[3])}` }),
        ...(partner[4] ? [el("span", { text: "each other's best match" })] : [])));
    parts.push(data.partners[at].length ? partners : el("p", { class: "none", text: "none known: no mutual best match" }));
    const listedPartners = new Set(data.partners[at].map((partner) => key(...partner)));
    const mates = (clusters.get(data.clusters[at]) ?? []).map((mate) => data.neurons[mate])
      .filter((mate) => key(...mate) !== key(m, l, n) && !listedPartners.has(key(...mate)));
    if (mates.length) {
      const list = el("ul", { class: "partners" }, ...mates.map((mate) => el("li", {}, other(mate))));
      parts.push(el("h3", { text: `Also in cluster ${data.clusters[at]}` }), list);
    }
    byId("neuron").setAttribute("aria-label", title(m, l, n));
    byId("neuron").replaceChildren(...parts);
    byId("neuron").scrollTop = 0;
  };

  const left = data.everything - total;
  // An address that names no neuron of the page opens none.
  const missing = (text, parts) => {
    state.at = null;
    const why = !parts ? "An address looks like #MODEL/L3.12, with a layer and a neuron."
      : !data.models.includes(parts[1]) ? `There is no model ${parts[1]} here; there are ${data.models.join(", ")}.`
      : `${parts[1]} has no neuron L${parts[2]}.${parts[3]} on this page` +
        (left ? `; it may be one of the ${whole(left)} that are left out.` : ".");
    byId("neuron").setAttribute("aria-label", "No such neuron");
    byId("neuron").replaceChildren(
      el("div", { class: "top" }, el("h2", { text: "No such neuron" })),
      el("p", {}, "The address asks for ", el("code", { text }), ". ", why, " Choose a neuron from the table."),
    );
  };

  // Which neuron the address names: #MODEL/L3.12
  const follow = () => {
    let text = location.hash.slice(1);
    try { text = decodeURIComponent(text); } catch { /* not encoded: as it is */ }
    const parts = /^(.*)\/L(\d+)\.(\d+)$/.exec(text);
    const at = parts ? place.get(key(data.models.indexOf(parts[1]), +parts[2], +parts[3])) : undefined;
    if (text && at === undefined) missing(text, parts);
    else show(at ?? state.list[0] ?? 0);
    const listed = state.list.indexOf(state.at);
    if (listed >= 0) state.page = Math.floor(listed / PAGE);
    fill();
    if (!text) return;
    const panel = byId("neuron"), box = panel.getBoundingClientRect();
    panel.focus({ preventScroll: true });
    if (box.top > innerHeight * 0.6 || box.bottom < 0) panel.scrollIntoView();
  };

  byId("about").textContent = `${whole(total)} neurons of ${data.models.join(", ")}` +
    (left ? `, ${whole(left)} more are left out: shown are the universal ones and those with the largest excess. ` : ". ") +
    `Marked U, ${data.set}. P is the percentile within a neuron's layer.`;
  data.models.forEach((name, at) => byId("model").append(el("option", { value: at, text: name })));
  for (const layer of [...new Set(data.neurons.map(([, l]) => l))].sort((a, b) => a - b))
    byId("layer").append(el("option", { value: layer, text: layer }));
  byId("search").addEventListener("input", select);
  for (const id of ["model", "layer", "universal"]) byId(id).addEventListener("change", select);
  byId("back").addEventListener("click", () => { state.page--; fill(); });
  byId("forth").addEventListener("click", () => { state.page++; fill(); });
  addEventListener("hashchange", follow);
  if (total) { select(); follow(); }
})();
