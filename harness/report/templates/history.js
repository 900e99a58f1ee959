// The list of runs: filters whose state is in the URL (#runs?verdict=block&text=...), and a count of what is shown.
(() => {
  'use strict';
  const {make, state, onStart} = window.Page;
  const KEYS = ['verdict', 'candidate', 'policy', 'text'];
  const NAME = 'runs';
  const MOST = 300; // names of candidates that are offered

  const field = (label, control) => make('label', {}, make('span', {}, label), control);

  const select = (name, counts, shown) => {
    const element = make('select', {name}, make('option', {value: ''}, 'all'));
    for (const [value, number] of counts) {
      element.append(make('option', {value}, `${shown(value)} (${number.toLocaleString('en')})`));
    }
    return element;
  };

  const count = values => {
    const counts = new Map();
    values.forEach(value => counts.set(value, (counts.get(value) || 0) + 1));
    return [...counts].sort((a, b) => b[1] - a[1]);
  };

  const set = (control, value) => {
    if (control.tagName === 'SELECT' && ![...control.options].some(option => option.value === value)) {
      control.append(make('option', {value}, `${value} (0)`));
    }
    if (control.value !== value) control.value = value;
  };

  onStart(root => {
    if (root !== document) return;
    const table = document.getElementById(NAME),
      form = document.getElementById('filters');
    const status = document.getElementById('shown');
    if (!table) return;
    const rows = [...table.tBodies[0].rows].map(row => ({
      row,
      verdict: row.dataset.verdict,
      policy: row.dataset.policy || '',
      candidates: [...row.querySelectorAll('[data-label=candidates] i')].map(item => item.textContent),
      text: row.textContent.toLowerCase(),
    }));
    const policies = new Map(rows.map(item => [item.policy, item.row.querySelector('[data-label=policy]')]));
    const names = count(rows.flatMap(item => item.candidates)).map(([name]) => name);
    const known = make('datalist', {id: 'candidates'}, ...names.slice(0, MOST).map(value => make('option', {value})));
    const controls = {
      verdict: select('verdict', count(rows.map(item => item.verdict)), value => value),
      candidate: make('input', {name: 'candidate', list: 'candidates', autocomplete: 'off', spellcheck: 'false'}),
      policy: select('policy', count(rows.map(item => item.policy).filter(Boolean)), value =>
        policies.get(value).textContent.replace(/\s+/g, ' ').trim(),
      ),
      text: make('input', {name: 'text', type: 'search', autocomplete: 'off', spellcheck: 'false'}),
    };
    form.append(...KEYS.map(key => field(key, controls[key])), make('button', {type: 'reset'}, 'clear'), known);
    form.hidden = false;

    const apply = () => {
      const wanted = Object.fromEntries(KEYS.map(key => [key, controls[key].value]));
      const [name, text] = [wanted.candidate.toLowerCase(), wanted.text.toLowerCase()];
      let shown = 0;
      for (const item of rows) {
        item.row.hidden = !(
          (!wanted.verdict || item.verdict === wanted.verdict) &&
          (!wanted.policy || item.policy === wanted.policy) &&
          (!name || item.candidates.some(candidate => candidate.toLowerCase().includes(name))) &&
          (!text || item.text.includes(text))
        );
        if (!item.row.hidden) shown += 1;
      }
      status.textContent = `${shown.toLocaleString('en')} of ${rows.length.toLocaleString('en')} shown.`;
      return wanted;
    };
    form.addEventListener('submit', event => event.preventDefault());
    form.addEventListener('reset', event => {
      event.preventDefault();
      KEYS.forEach(key => set(controls[key], ''));
      state.write(NAME, apply());
    });
    form.addEventListener('change', event => {
      if (event.target.tagName === 'SELECT') state.write(NAME, apply());
    });
    form.addEventListener('input', event => {
      if (event.target.tagName === 'INPUT') state.write(NAME, apply(), {replace: true});
    });
    state.follow((name, values) => {
      KEYS.forEach(key => set(controls[key], name === NAME ? values[key] || '' : ''));
      apply();
    });
  });
})();
