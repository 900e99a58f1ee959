// The comparison page: which prompts flipped when (#matrix?corpus=...&category=...&flip=...&pattern=...&id=...).
(() => {
  'use strict';
  const {unpack, make, state, onStart} = window.Page;
  const {NONE, WORDS, count, plural, choice, labelled, tally, pager, answer, asked, gone, name} = window.Contrast;
  const ROWS = 50;
  const PATTERNS = 200;

  const matrix = (element, blocks, texts) => {
    const holds = blocks.map((block, at) => ({
      block,
      texts: texts[at],
      rows: block.rows
        .map((row, index) => ({
          index,
          id: row[0],
          sample: row[1],
          category: row[2],
          letters: row[3],
          first: row[4],
          name: name(row),
        }))
        .filter(row => row.first >= 0),
    }));
    let chosen = {},
      page = 0;
    const controls = make('form', {class: 'controls', role: 'search', 'aria-label': 'filter: prompts'});
    const status = make('p', {class: 'soft', role: 'status'});
    const body = make('div', {
      class: 'scroll',
      tabindex: '0',
      role: 'region',
      'aria-label': 'labels by prompt and column',
    });
    const turns = make('nav', {class: 'pager', 'aria-label': 'pages: prompts'});
    const most = holds.reduce((best, item, at) => (item.rows.length > holds[best].rows.length ? at : best), 0);
    const now = () => holds.find(item => item.block.corpus === chosen.corpus) || holds[most];

    const build = () => {
      const {block, rows} = now();
      const corpus = choice(
        'corpus',
        holds.map(item => [item.block.corpus, `${item.block.corpus} (${count(item.rows.length)})`]),
      );
      const category = choice('category', [['', 'all'], ...tally(rows.map(row => row.category))]);
      const pattern = choice('pattern', [['', 'all'], ...tally(rows.map(row => row.letters)).slice(0, PATTERNS)]);
      const flip = choice('flip', [['', 'all'], ...tally(rows.map(row => block.sides[row.first].key))]);
      const search = make('input', {type: 'search', name: 'search', autocomplete: 'off', spellcheck: 'false'});
      corpus.set(block.corpus);
      category.set(chosen.category || '');
      pattern.set(chosen.pattern || '');
      flip.set(chosen.flip || '');
      search.value = chosen.search || '';
      controls.replaceChildren(
        labelled('corpus', corpus),
        labelled('category', category),
        labelled('first change in', flip),
        labelled('labels, left to right', pattern),
        labelled('search ids', search),
        make('button', {type: 'reset'}, 'clear'),
      );
    };

    const matching = () =>
      now().rows.filter(
        row =>
          (!chosen.category || row.category === chosen.category) &&
          (!chosen.pattern || row.letters === chosen.pattern) &&
          (!chosen.flip || now().block.sides[row.first].key === chosen.flip) &&
          (!chosen.search || row.name.toLowerCase().includes(chosen.search.toLowerCase())),
      );

    const draw = () => {
      const {block, rows} = now(),
        found = matching();
      const pages = Math.max(Math.ceil(found.length / ROWS), 1);
      page = Math.min(page, pages - 1);
      const head = make(
        'tr',
        {},
        make('th', {scope: 'col'}, 'prompt'),
        make('th', {scope: 'col'}, 'category'),
        ...block.sides.map(side =>
          make(
            'th',
            {scope: 'col', class: 'column'},
            make('span', {title: side.key}, side.key + (side.counts ? '' : ' (x)')),
          ),
        ),
      );
      const lines = found.slice(page * ROWS, (page + 1) * ROWS).map(row => line(row, block));
      body.replaceChildren(make('table', {class: 'matrix'}, make('thead', {}, head), make('tbody', {}, ...lines)));
      body.hidden = !found.length;
      const others = block.rows.length - rows.length;
      status.textContent =
        `${count(found.length)} of ${plural(rows.length, 'prompt')} whose label changed; ` +
        `${count(block.same)} did not.` +
        (others ? ` ${plural(others, 'prompt')} differ only in columns that are not comparable: see the samples.` : '');
      turns.replaceChildren(
        ...pager(pages, page, to => choose({...without('id', 'page'), page: to ? String(to + 1) : ''})),
      );
    };

    const line = (row, block) => {
      const button = make('button', {type: 'button', class: 'open', 'aria-expanded': 'false'}, row.name);
      const element = make(
        'tr',
        {'data-id': row.name},
        make('th', {scope: 'row'}, button),
        make('td', {}, row.category),
        ...[...row.letters].map((letter, at) =>
          make(
            'td',
            {
              title: `${block.sides[at].key}: ${WORDS[letter]}`,
              class: `letter is-${letter === NONE ? 'none' : letter}${at === row.first ? ' first' : ''}`,
            },
            letter,
          ),
        ),
      );
      button.addEventListener('click', () => {
        if (!toggle(element, row, block)) return;
        state.write('matrix', {...chosen, corpus: block.corpus, id: row.name}, {replace: true});
      });
      return element;
    };

    // Opens or closes the answers under a row; true where they are open now.
    const toggle = (element, row, block) => {
      const button = element.querySelector('button.open');
      const open = button.getAttribute('aria-expanded') !== 'true';
      button.setAttribute('aria-expanded', String(open));
      if (!open) {
        element.nextElementSibling.remove();
        return false;
      }
      const told = now().texts[row.index];
      const cell = make('td', {colspan: block.sides.length + 2});
      if (told) {
        const whose = told[2].map((_, at) =>
          block.sides.filter((__, side) => told[3][side] === at).map(side => side.key),
        );
        const answers = told[2].map((said, at) => answer(said, whose[at].join(', '), block.benign));
        cell.append(
          make('div', {class: 'beyond'}, make('div', {}, asked(told), make('div', {class: 'sides'}, ...answers))),
        );
      } else cell.append(gone());
      element.after(make('tr', {class: 'answers'}, cell));
      return true;
    };

    const without = (...names) => Object.fromEntries(Object.entries(chosen).filter(([key]) => !names.includes(key)));
    const settle = values => {
      chosen = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ''));
      page = Math.max((parseInt(chosen.page, 10) || 1) - 1, 0);
    };
    const choose = (values, {replace = false, rebuild = true} = {}) => {
      settle(values);
      if (rebuild) build();
      draw();
      state.write('matrix', chosen, {replace});
    };
    controls.addEventListener('submit', event => event.preventDefault());
    controls.addEventListener('reset', event => {
      event.preventDefault();
      choose({corpus: now().block.corpus});
    });
    controls.addEventListener('change', event => {
      if (event.target.name === 'search') return;
      const kept = event.target.name === 'corpus' ? {} : without('id', 'page');
      const focus = event.target.name;
      choose({...kept, [focus]: event.target.value});
      controls.elements[focus].focus();
    });
    controls.addEventListener('input', event => {
      if (event.target.name !== 'search') return;
      choose({...without('id', 'page'), search: event.target.value}, {replace: true, rebuild: false});
    });
    element.replaceChildren(controls, status, body, turns);
    build();
    draw();

    state.follow((named, values) => {
      if (named !== 'matrix') return;
      settle(values);
      if (chosen.corpus !== undefined && now().block.corpus !== chosen.corpus) chosen.unknown = chosen.corpus;
      const wanted = chosen.id === undefined ? -1 : matching().findIndex(row => row.name === chosen.id);
      if (wanted >= 0) page = Math.floor(wanted / ROWS);
      build();
      draw();
      if (chosen.unknown) status.textContent = `There is no corpus ${chosen.unknown}. ${status.textContent}`;
      else if (chosen.id !== undefined && wanted < 0)
        status.textContent = `No prompt ${chosen.id} here. ${status.textContent}`;
      const target = wanted >= 0 && [...body.querySelectorAll('tr[data-id]')].find(row => row.dataset.id === chosen.id);
      if (target) {
        toggle(target, matching()[wanted], now().block);
        target.querySelector('button').focus({preventScroll: true});
      }
      (target || controls).scrollIntoView({block: 'start'});
    });
  };

  onStart(async root => {
    const element = root === document && document.getElementById('matrix');
    if (!element) return;
    const [labels, answers] = await Promise.all(['labels', 'answers'].map(unpack));
    if (labels.length) matrix(element, labels, answers);
  });
})();
