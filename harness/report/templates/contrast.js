// The comparison page: tips over the cells of the table, and each limit over the columns.
(() => {
  'use strict';
  const {unpack, make, shorten, onStart, figure} = window.Page;

  // ---------------------------------------------------------------- tips

  // What stands in an element's title, shown on hover and on keyboard focus alike.
  const tips = () => {
    const tip = make('div', {class: 'tip', role: 'tooltip', id: 'tip', hidden: true});
    document.body.append(tip);
    let over = null;
    const show = element => {
      over = element;
      tip.textContent = element.dataset.tip;
      tip.hidden = false;
      element.setAttribute('aria-describedby', 'tip');
      const box = element.getBoundingClientRect();
      const wide = document.documentElement.clientWidth;
      tip.style.left = `${Math.max(Math.min(box.left, wide - tip.offsetWidth - 8), 4) + scrollX}px`;
      const above = box.top - tip.offsetHeight - 6;
      tip.style.top = `${(above > 0 ? above : box.bottom + 6) + scrollY}px`;
    };
    const hide = () => {
      if (over) over.removeAttribute('aria-describedby');
      over = null;
      tip.hidden = true;
    };
    document.querySelectorAll('button.cell').forEach(element => {
      element.dataset.tip = element.title;
      element.removeAttribute('title');
      element.addEventListener('mouseenter', () => show(element));
      element.addEventListener('focus', () => show(element));
      element.addEventListener('mouseleave', hide);
      element.addEventListener('blur', hide);
      element.addEventListener('click', () => {
        const details = element.closest('tr').nextElementSibling.querySelector('details');
        details.open = !details.open;
      });
    });
    addEventListener('keydown', event => {
      if (event.key === 'Escape') hide();
    });
  };

  // ---------------------------------------------------------------- each limit over the columns

  const SIGN = {'-': '−', '+': '+', '~': '~', x: '×', '': '•'};
  const number = value =>
    value === null ? 'n/a' : Math.abs(value) >= 0.0005 || value === 0 ? value.toFixed(3) : value.toExponential(1);

  const course = (item, all) => (Plot, width) => {
    const points = item.points.filter(point => point.value !== null);
    const text = point =>
      [
        `${point.column}${all.byStep ? ` (step ${point.at})` : ''}`,
        `${number(point.value)} [${number(point.low)}, ${number(point.high)}], bound ${point.bound}: ${point.answer}`,
        `${SIGN[point.mark]} ${point.word}`,
        ...point.said,
      ].join('\n');
    const told = points.map(point => ({...point, sign: SIGN[point.mark], text: text(point)}));
    const joined = told.filter(point => point.mark !== 'x');
    const apart = told.filter(point => point.mark === 'x');
    const bounded = told.filter(point => point.low !== null && point.high !== null);
    const places = item.points.map(point => point.at);
    const narrow = all.byStep ? false : width / places.length < 110;
    const ends = told.flatMap(point => [point.value, point.low, point.high, point.bound]).filter(it => it !== null);
    const [low, high] = [Math.min(...ends, 0), Math.max(...ends, 0)];
    const pad = (high - low || 1) * 0.12;
    const edge = item.isMaximum ? high + pad : low - pad;
    const color = point => (point.answer === 'FAIL' ? 'var(--bad)' : 'var(--mark)');
    const plot = Plot.plot({
      width,
      height: 230 + (narrow ? 40 : 0),
      marginLeft: 52,
      marginBottom: narrow ? 80 : 36,
      marginTop: 22,
      ariaLabel: `${item.metric} by ${all.byStep ? 'training step' : 'column'}, with intervals and the bound`,
      style: {background: 'transparent', color: 'var(--ink)', fontSize: '11px'},
      x: {domain: all.byStep ? undefined : [0.5, places.length + 0.5], label: all.byStep ? 'training step' : null},
      y: {domain: [low - pad, high + pad], label: null, grid: true, ticks: 5},
      marks: [
        Plot.areaY(told, {x: 'at', y1: 'bound', y2: edge, curve: 'step', fill: 'var(--shade)'}),
        Plot.ruleY([0], {stroke: 'var(--soft)'}),
        Plot.lineY(told, {x: 'at', y: 'bound', curve: 'step', stroke: 'var(--bad)', strokeDasharray: '4 3'}),
        Plot.areaY(
          joined.filter(point => bounded.includes(point)),
          {x: 'at', y1: 'low', y2: 'high', fill: 'var(--mark)', fillOpacity: 0.16},
        ),
        Plot.ruleX(bounded, {x: 'at', y1: 'low', y2: 'high', stroke: color, strokeWidth: 1.4}),
        Plot.lineY(joined, {x: 'at', y: 'value', stroke: 'var(--mark)', strokeWidth: 1.6}),
        Plot.dot(joined, {x: 'at', y: 'value', r: 4, fill: color, stroke: 'var(--paper)'}),
        Plot.dot(apart, {x: 'at', y: 'value', r: 5, symbol: 'times', stroke: 'var(--open)', strokeWidth: 2}),
        Plot.text(told, {
          x: 'at',
          y: point => point.high ?? point.value,
          text: 'sign',
          dy: -9,
          fontSize: 13,
          fontWeight: 700,
          fill: 'var(--ink)',
          stroke: 'var(--paper)',
        }),
        all.byStep
          ? Plot.axisX({ticks: width / places.length > 36 ? places : 6, tickFormat: 'd', label: 'training step'})
          : Plot.axisX(places, {
              tickFormat: at => shorten(all.columns[at - 1], narrow ? 12 : 16),
              tickRotate: narrow ? -40 : 0,
              label: null,
            }),
        Plot.tip(
          told,
          Plot.pointer({
            x: 'at',
            y: 'value',
            title: 'text',
            fill: 'var(--paper)',
            stroke: 'var(--soft)',
            lineWidth: 34,
          }),
        ),
      ],
    });
    plot.setAttribute('role', 'img');
    plot.querySelectorAll('g[aria-label]').forEach(group => {
      // a name that a group without a role must not have
      group.dataset.mark = group.getAttribute('aria-label');
      group.removeAttribute('aria-label');
    });
    return {plot, points: told.map(point => ({x: point.at, y: point.value, text: point.text}))};
  };

  onStart(async root => {
    if (root !== document) return;
    tips();
    const all = await unpack('comparison');
    document.querySelectorAll('figure[data-course]').forEach(element => {
      figure(element, course(all.courses[element.dataset.course], all));
    });
  });
})();
