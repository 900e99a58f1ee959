// The page of one run: what its figures are, and the tokens of a fallen pair.
(() => {
  'use strict';
  const {unpack, visible, state, figure, onStart} = window.Page;

  const KINDS = {
    // type of a pair -> colour and symbol, as in the static figures
    'both refuse': ['var(--refuse)', 'circle'],
    'both comply': ['var(--comply)', 'square'],
    mixed: ['var(--mixed)', 'times'],
    other: ['var(--others)', 'triangle'],
    '': ['var(--refuse)', 'circle'],
  };
  const RELATIONS = {opposite: 'var(--bad)', benign: 'var(--mark)', other: 'var(--others)'};
  const number = (value, digits = 3) => (value == null ? 'n/a' : value.toFixed(digits));
  const short = value => (value == null ? 'n/a' : Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(4));
  const style = {background: 'none', color: 'var(--ink)', fontSize: '12px', overflow: 'visible'};
  const tip = {fill: 'var(--paper)', stroke: 'var(--line)', fontSize: 12};
  // The range of values and zero, with a margin.
  const padded = values => {
    const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
    return [low - (high - low || 1) * 0.06, high + (high - low || 1) * 0.06];
  };
  const tall = width => Math.round(Math.min(Math.max(width * 0.75, 240), 420));

  // Δ⁺ against Δ⁻, the quadrants named.
  const scatter = (Plot, width, data) => {
    const rows = data.ids.map((id, at) => ({
      x: data.chosen[at],
      y: data.rejected[at],
      text: `${visible(id)}\nΔ⁺ ${number(data.chosen[at])}, Δ⁻ ` + `${number(data.rejected[at])} nats`,
      go: data.chosen[at] < 0 ? `#${data.link}&id=${encodeURIComponent(id)}` : null,
    }));
    const names = data.quadrants.map(([name, count]) => `${name}: ${count.toLocaleString('en')}`);
    const corner = (text, anchor) =>
      Plot.text([text], {
        frameAnchor: anchor,
        fill: 'var(--soft)',
        dx: anchor.endsWith('left') ? 4 : -4,
        dy: anchor.startsWith('top') ? 4 : -4,
        fontStyle: 'italic',
      });
    const [across, up] = [padded(data.chosen), padded(data.rejected)];
    const fell = {x1: across[0], x2: 0, y1: up[0], y2: 0};
    const plot = Plot.plot({
      width,
      height: tall(width),
      style,
      ariaLabel: data.label,
      marginBottom: 40,
      x: {label: 'Δ⁺, chosen (nats) →', domain: across},
      y: {label: '↑ Δ⁻, rejected (nats)', domain: up},
      marks: [
        Plot.rect([fell], {x1: 'x1', x2: 'x2', y1: 'y1', y2: 'y2', fill: 'var(--shade)'}),
        Plot.frame({stroke: 'var(--line)'}),
        Plot.ruleX([0], {stroke: 'var(--soft)'}),
        Plot.ruleY([0], {stroke: 'var(--soft)'}),
        Plot.dot(rows, {x: 'x', y: 'y', r: 2.5, fill: 'var(--mark)', fillOpacity: 0.5}),
        corner(names[0], 'bottom-left'),
        corner(names[1], 'top-left'),
        corner(names[2], 'bottom-right'),
        corner(names[3], 'top-right'),
        Plot.dot(rows, Plot.pointer({x: 'x', y: 'y', r: 5, stroke: 'var(--ink)', strokeWidth: 2})),
        Plot.tip(
          rows,
          Plot.pointer({x: 'x', y: 'y', title: row => row.text + (row.go ? '\nclick: see the pair' : ''), ...tip}),
        ),
      ],
    });
    return {plot, points: rows};
  };

  const histogram = (Plot, width, data) => {
    const rows = data.bins
      .filter(bin => bin[2])
      .map(([low, high, count]) => ({
        low,
        high,
        count,
        x: (low + high) / 2,
        y: count,
        text: `${count.toLocaleString('en')} pairs\nΔ⁺ from ${short(low)} to ${short(high)} nats`,
      }));
    const plot = Plot.plot({
      width,
      height: tall(width),
      style,
      ariaLabel: 'histogram of Δ⁺ over pairs',
      marginBottom: 40,
      x: {label: 'Δ⁺, chosen (nats) →'},
      y: {label: '↑ pairs', grid: true, insetTop: 6},
      marks: [
        Plot.rectY(rows, {
          x1: 'low',
          x2: 'high',
          y: 'count',
          fill: row => (row.high <= 0 ? 'var(--bad)' : 'var(--mark)'),
          insetLeft: 0.5,
          insetRight: 0.5,
        }),
        Plot.ruleX([0], {stroke: 'var(--soft)'}),
        Plot.ruleY([0], {stroke: 'var(--line)'}),
        Plot.tip(rows, Plot.pointerX({x: 'x', y: 'y', title: 'text', ...tip})),
      ],
    });
    return {plot, points: rows};
  };

  // The listed tokens by their rise; beside each its meaning and its place by the prediction.
  const tokens = (Plot, width, data) => {
    const most = Math.max(...data.map(row => Math.abs(row.rise)));
    const rows = data.map(row => ({
      ...row,
      x: row.rise,
      y: row.observed,
      text:
        `${row.token} (${row.relation})\n${number(row.reference)} → ${number(row.candidate)}, change ${number(row.rise)}\n` +
        `prediction ${short(row.prediction)}: place ${row.predicted} of ${data.length}; observed place ${row.observed}`,
    }));
    const plot = Plot.plot({
      width,
      height: 60 + 20 * rows.length,
      marginBottom: 40,
      marginLeft: 110,
      marginRight: 120,
      style,
      ariaLabel: 'change of the tokens that moved most',
      x: {
        label: 'change of probability →',
        domain: [
          Math.min(0, ...data.map(row => row.rise)) - most * 0.05,
          Math.max(0, ...data.map(row => row.rise)) + most * 0.05,
        ],
      },
      y: {
        domain: rows.map(row => row.observed),
        type: 'band',
        label: null,
        tickSize: 0,
        tickFormat: place => rows[place - 1].token,
      },
      marks: [
        Plot.barX(rows, {x: 'rise', y: 'y', fill: row => RELATIONS[row.relation], insetTop: 2, insetBottom: 2}),
        Plot.ruleX([0], {stroke: 'var(--soft)'}),
        Plot.text(rows, {
          y: 'y',
          frameAnchor: 'right',
          textAnchor: 'start',
          dx: 6,
          fill: 'var(--ink)',
          text: row => `${row.relation}, pred. ${row.predicted}`,
        }),
        Plot.tip(rows, Plot.pointerY({x: 'rise', y: 'y', title: 'text', ...tip})),
      ],
    });
    return {plot, points: rows.map(row => ({...row, order: row.observed}))};
  };

  // A score against Δ⁺, a mark for each type; the first score by its value, the others by their percentile.
  const trained = (Plot, width, data, element) => {
    const score = Number(element.dataset.score);
    const name = score ? `percentile by ${data.scores[score]}` : `${data.scores[0]} (units of h²)`;
    const rows = data.change.map((change, at) => ({
      x: score ? data.places[at][score] : data.score[at],
      y: change,
      type: data.type[at],
      text: `${data.type[at] ? `${data.type[at]}\n` : ''}${data.scores[0]} ${short(data.score[at])}\nΔ⁺ ${number(change, 2)} nats`,
    }));
    const types = [...new Set(data.type)];
    const plot = Plot.plot({
      width,
      height: tall(width),
      style,
      ariaLabel: `${name} against Δ⁺`,
      marginBottom: 40,
      x: {label: `${name} →`, inset: 6},
      y: {label: '↑ Δ⁺, chosen (nats per response)', domain: padded(data.change)},
      symbol: {domain: types, range: types.map(type => KINDS[type][1])},
      marks: [
        Plot.rect([0], {y1: padded(data.change)[0], y2: 0, fill: 'var(--shade)'}),
        Plot.frame({stroke: 'var(--line)'}),
        Plot.ruleY([0], {stroke: 'var(--soft)'}),
        Plot.dot(rows, {x: 'x', y: 'y', symbol: 'type', r: 2.6, stroke: row => KINDS[row.type][0], strokeOpacity: 0.8}),
        Plot.text(['chosen fell'], {
          frameAnchor: 'bottom-right',
          dx: -4,
          dy: -4,
          fill: 'var(--soft)',
          fontStyle: 'italic',
        }),
        Plot.tip(rows, Plot.pointer({x: 'x', y: 'y', title: 'text', ...tip})),
      ],
    });
    return {plot, points: rows};
  };

  const scores = (Plot, width, data) => {
    const types = data.types.length ? data.types : [''];
    const rows = types.flatMap(type =>
      data.bins
        .filter(bin => bin[2][type])
        .map(([low, high, counts]) => ({
          low,
          high,
          type,
          count: counts[type],
          x: (low + high) / 2,
          y: counts[type],
          fy: type,
          text: `${counts[type].toLocaleString('en')} ${type || 'pairs'}\nfrom ${short(low)} to ${short(high)}`,
        })),
    );
    const most = Object.fromEntries(
      types.map(type => [type, Math.max(1, ...rows.filter(row => row.type === type).map(row => row.count))]),
    );
    rows.forEach(row => {
      row.y = row.count / most[row.type];
    });
    const plot = Plot.plot({
      width,
      height: 70 + 70 * types.length,
      marginBottom: 40,
      marginLeft: 84,
      style,
      ariaLabel: 'distribution of CHES by type of pair',
      x: {label: 'length-normalised CHES (units of h²) →'},
      y: {axis: null, domain: [0, 1.1]},
      fy: {label: null, domain: types, padding: 0.1, axis: 'left'},
      marks: [
        Plot.rectY(rows, {
          fy: 'fy',
          x1: 'low',
          x2: 'high',
          y: 'y',
          fill: row => KINDS[row.type][0],
          insetLeft: 0.5,
          insetRight: 0.5,
        }),
        Plot.ruleY([0], {stroke: 'var(--line)'}),
        Plot.ruleX([0], {stroke: 'var(--soft)'}),
        Plot.tip(rows, Plot.pointerX({fy: 'fy', x: 'x', y: 'y', title: 'text', ...tip})),
      ],
    });
    return {plot, points: rows};
  };

  const course = (Plot, width, data) => {
    const rows = data.points.map(point => ({
      ...point,
      x: point.step,
      y: point.value,
      text:
        `${point.candidate}, step ${point.step}\n${number(point.value)} ` +
        `[${number(point.low)}, ${number(point.high)}] ${data.unit}\n${point.answer}: ${point.meaning}`,
    }));
    const all = rows
      .flatMap(row => [row.value, row.low, row.high])
      .filter(Number.isFinite)
      .concat(data.bound);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const pad = (high - low) * 0.06 || 1;
    const band = data.maximum ? {y1: data.bound, y2: high + pad} : {y1: low - pad, y2: data.bound};
    const plot = Plot.plot({
      width,
      height: Math.round(tall(width) * 0.8),
      style,
      ariaLabel: `${data.name} over the training steps`,
      marginBottom: 40,
      x: {label: 'training step →', inset: 8},
      y: {label: data.unit ? `↑ ${data.unit}` : null, domain: [low - pad, high + pad]},
      marks: [
        Plot.rect([band], {y1: 'y1', y2: 'y2', fill: 'var(--shade)'}),
        Plot.frame({stroke: 'var(--line)'}),
        Plot.areaY(
          rows.filter(row => row.low != null && row.high != null),
          {x: 'x', y1: 'low', y2: 'high', fill: 'var(--mark)', fillOpacity: 0.18},
        ),
        Plot.ruleY([data.bound], {stroke: 'var(--bad)', strokeWidth: 1.6, strokeDasharray: '4 3'}),
        Plot.line(rows, {x: 'x', y: 'y', stroke: 'var(--mark)', strokeWidth: 2}),
        Plot.dot(rows, {
          x: 'x',
          y: 'y',
          r: 4,
          strokeWidth: 2,
          symbol: row => (row.answer === 'FAIL' ? 'times' : 'circle'),
          stroke: row => (row.answer === 'FAIL' ? 'var(--bad)' : 'var(--mark)'),
          fill: row => (row.answer === 'PASS' ? 'var(--mark)' : 'var(--paper)'),
        }),
        Plot.tip(rows, Plot.pointerX({x: 'x', y: 'y', title: 'text', ...tip})),
      ],
    });
    return {plot, points: rows};
  };

  const DASHES = {opposite: '', benign: '6 3', other: '2 3'};
  const mass = (Plot, width, data) => {
    const names = ['opposite', 'benign', 'other'];
    const rows = names.flatMap(name =>
      data.points.map(point => ({
        name,
        x: point.step,
        y: point[name],
        text: `${point.candidate}, step ${point.step}\n${name} ${number(point[name])}\nreference ${number(data.reference[name])}`,
      })),
    );
    const last = names.map(name => rows.filter(row => row.name === name).at(-1));
    const plot = Plot.plot({
      width,
      height: tall(width),
      marginRight: 64,
      style,
      ariaLabel: 'mean probability by meaning over the training steps',
      marginBottom: 40,
      x: {label: 'training step →', inset: 8},
      y: {label: '↑ mean probability', domain: [0, 1], grid: true},
      marks: [
        ...names.map(name =>
          Plot.line(
            rows.filter(row => row.name === name),
            {x: 'x', y: 'y', stroke: RELATIONS[name], strokeWidth: 2.2, strokeDasharray: DASHES[name]},
          ),
        ),
        Plot.dot(rows, {x: 'x', y: 'y', r: 3, fill: row => RELATIONS[row.name]}),
        Plot.text(last, {x: 'x', y: 'y', text: 'name', textAnchor: 'start', dx: 7, fill: 'var(--ink)'}),
        Plot.tip(rows, Plot.pointer({x: 'x', y: 'y', title: 'text', ...tip})),
      ],
    });
    return {plot, points: rows};
  };

  const DRAW = {scatter, histogram, tokens, trained, scores, course, mass};
  onStart(root =>
    root.querySelectorAll('figure[data-figure]').forEach(element => {
      const {figure: kind, pack, key} = element.dataset;
      figure(
        element,
        (Plot, width, data) => DRAW[kind](Plot, width, data, element),
        async () => (await unpack(pack))[key],
      );
    }),
  );

  // A response token by token: the number of the one under the pointer, or that the arrow keys are at.
  const point = (strip, token) => {
    strip.querySelector('.at')?.classList.remove('at');
    const line = strip.parentElement.querySelector('.pointed');
    if (token) token.classList.add('at');
    line.textContent = token ? ` · this token: ${token.title}` : '';
  };
  const strip = event => event.target.closest?.('div.tokens');
  addEventListener('pointerover', event => {
    if (strip(event)) point(strip(event), event.target.closest('span[title]'));
  });
  addEventListener('focusin', event => {
    if (strip(event)) point(strip(event), strip(event).querySelector('span[title]'));
  });
  addEventListener('focusout', event => {
    if (strip(event)) point(strip(event), null);
  });
  addEventListener('keydown', event => {
    const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!by || !strip(event)) return;
    event.preventDefault();
    const all = [...strip(event).querySelectorAll('span[title]')];
    const at = all.findIndex(token => token.classList.contains('at'));
    point(strip(event), all[Math.min(Math.max(at + by, 0), all.length - 1)]);
  });
})();
