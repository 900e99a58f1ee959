// The comparison page: what differs between two columns that the reader chooses (#samples?a=...&b=...&corpus=...).
(() => {
  'use strict';
  const {unpack, make, state, onStart} = window.Page;
  const {NONE, WORDS, count, plural, choice, labelled, tally, pager, textOf, answer, asked, gone, name} =
    window.Contrast;
  const CARDS = 10;

  const samples = (element, labels, texts, scored) => {
    const blocks = [
      ...labels.map((block, at) => ({...block, texts: texts[at], kind: 'prompts'})),
      ...scored.map(block => ({...block, kind: 'pairs'})),
    ];
    const keys = blocks
      .reduce((most, block) => (block.sides.length > most.length ? block.sides : most), [])
      .map(it => it.key);
    let chosen = {},
      page = 0;
    const controls = make('form', {class: 'controls', 'aria-label': 'choose two columns'});
    const status = make('p', {role: 'status'});
    const body = make('div', {class: 'cards'});
    const turns = make('nav', {class: 'pager', 'aria-label': 'pages: samples'});
    const columns = keys.map(key => [key, key]);
    const a = choice('a', columns),
      b = choice('b', columns);
    const corpus = choice(
      'corpus',
      blocks.map(block => [
        block.corpus,
        `${block.corpus}: ${block.kind === 'prompts' ? 'answers' : 'log-probabilities'}`,
      ]),
    );
    const change = choice('change', [['', 'all']]);
    controls.append(labelled('from', a), labelled('to', b), labelled('corpus', corpus), labelled('change', change));

    const found = () => {
      const block = blocks.find(item => item.corpus === corpus.value);
      const at = [a, b].map(select => (block ? block.sides.findIndex(side => side.key === select.value) : -1));
      if (!block || at.includes(-1)) return {block, at, rows: []};
      const pick = block.kind === 'prompts' ? (row, side) => row[3][side] : (row, side) => row[2][side];
      const both = block.rows.map((row, index) => ({row, index, from: pick(row, at[0]), to: pick(row, at[1])}));
      if (block.kind === 'prompts') {
        return {block, at, rows: both.filter(it => it.from !== it.to && it.from !== NONE && it.to !== NONE)};
      }
      const rows = both.filter(it => it.from !== null && it.to !== null && it.from !== it.to);
      return {block, at, rows: rows.sort((x, y) => Math.abs(y.to - y.from) - Math.abs(x.to - x.from)).slice(0, 25)};
    };

    const draw = () => {
      const {block, at, rows: all} = found();
      const move = item =>
        block.kind === 'prompts'
          ? `${WORDS[item.from]} → ${WORDS[item.to]}`
          : item.to < item.from
            ? 'less likely'
            : 'more likely';
      change.replaceChildren(
        ...[['', `all (${count(all.length)})`], ...tally(all.map(move))].map(([value, text]) =>
          make('option', {value}, text),
        ),
      );
      change.set(chosen.change || '');
      const rows = all.filter(item => !chosen.change || move(item) === chosen.change);
      const pages = Math.max(Math.ceil(rows.length / CARDS), 1);
      page = Math.min(page, pages - 1);
      status.textContent = summary(block, at, rows);
      body.replaceChildren(
        ...rows
          .slice(page * CARDS, (page + 1) * CARDS)
          .map(item => (block.kind === 'prompts' ? prompt(block, item, move(item)) : pair(item))),
      );
      turns.replaceChildren(...pager(pages, page, to => choose({...chosen, page: to ? String(to + 1) : ''})));
    };

    const summary = (block, at, rows) => {
      if (!block || at.includes(-1)) return 'There is no such column or corpus in this comparison.';
      const [from, to] = at.map(side => block.sides[side]);
      const missing = [from, to].filter(side => side.missing).map(side => `${side.key}: ${side.missing}.`);
      if (missing.length) return missing.join(' ');
      if (at[0] === at[1]) return 'These are the same column: choose two.';
      const apart = [from, to]
        .filter(side => side.apart.length)
        .map(
          side => ` ${side.key} is not comparable with the basis (${side.apart.join('; ')}): it may not be the model.`,
        );
      if (block.kind === 'prompts')
        return `${plural(rows.length, 'prompt')} with another label in ${to.key} than in ${from.key}.${apart.join('')}`;
      const [low, high] = [Math.min(...at), Math.max(...at)];
      const [, , less, known] = block.lower.find(item => item[0] === low && item[1] === high) || [0, 0, 0, 0];
      const only = known
        ? ` Of ${plural(known, 'pair')}, the chosen answer is less likely in ${block.sides[high].key} than in ` +
          `${block.sides[low].key} for ${count(less)}.`
        : '';
      return `The ${plural(rows.length, 'pair')} that differ most in log π of the chosen answer.${only}${apart.join('')}`;
    };

    const card = (id, category, moved) =>
      make(
        'article',
        {class: 'item'},
        make(
          'header',
          {},
          make('span', {class: 'id'}, id),
          category ? make('span', {}, category) : '',
          make('span', {}, moved),
        ),
      );

    const prompt = (block, item, moved) => {
      const told = block.texts[item.index],
        element = card(name(item.row), item.row[2], moved);
      if (!told) element.append(gone());
      else {
        const sides = found().at.map((side, at) => answer(told[2][told[3][side]], [a, b][at].value, block.benign));
        element.append(asked(told), make('div', {class: 'sides'}, ...sides));
      }
      return element;
    };

    const pair = item => {
      const [id, category, chosenLogs, rejectedLogs, ...said] = item.row,
        {at} = found();
      const told = logs =>
        logs[at[0]] === null || logs[at[1]] === null
          ? 'n/a'
          : `${(logs[at[1]] - logs[at[0]]).toFixed(3)} (${logs[at[0]].toFixed(3)} → ${logs[at[1]].toFixed(3)} nats)`;
      const element = card(id, category, `Δ⁺ ${told(chosenLogs)}, Δ⁻ ${told(rejectedLogs)}`);
      const side = (word, text, left) =>
        make('div', {class: 'side'}, make('p', {class: 'who'}, word), ...textOf(text, left));
      if (!said[0]) element.append(make('p', {class: 'soft'}, "(the pair's texts are not among the tables)"));
      else {
        element.append(
          make('div', {class: 'asked'}, ...textOf(said[0], said[1])),
          make('div', {class: 'sides'}, side('chosen', said[2], said[3]), side('rejected', said[4], said[5])),
        );
      }
      return element;
    };

    const settle = values => {
      chosen = {...values};
      const basis =
        document.querySelector('table.pivot th .badge')?.parentElement.querySelector('.key').textContent || keys[0];
      a.set(chosen.a || basis);
      b.set(chosen.b || [...keys].reverse().find(key => key !== a.value) || keys[0]);
      corpus.set(
        chosen.corpus ||
          blocks.reduce(
            (best, block) => (block.rows.length > best.rows.length && block.kind === 'prompts' ? block : best),
            blocks[0],
          ).corpus,
      );
      page = Math.max((parseInt(chosen.page, 10) || 1) - 1, 0);
    };
    const choose = values => {
      settle(values);
      draw();
      state.write('samples', {a: a.value, b: b.value, corpus: corpus.value, change: chosen.change, page: chosen.page});
    };
    controls.addEventListener('submit', event => event.preventDefault());
    controls.addEventListener('change', event =>
      choose({a: a.value, b: b.value, corpus: corpus.value, change: event.target === change ? change.value : ''}),
    );
    element.replaceChildren(controls, status, body, turns);
    settle({});
    draw();
    state.follow((named, values) => {
      if (named !== 'samples' || !Object.keys(values).length) return;
      settle(values);
      draw();
      controls.scrollIntoView({block: 'start'});
    });
  };

  onStart(async root => {
    const element = root === document && document.getElementById('sides');
    if (!element) return;
    samples(element, ...(await Promise.all(['labels', 'answers', 'pairs'].map(unpack))));
  });
})();
