// Lists of cards: filtered, searched, paged, and reached by URL. The first cards stand in the HTML; the others, as the
// page's templates made and escaped them, in a pack.
(() => {
  'use strict';
  const {unpack, visible, shorten, make, state, uncover, whenOpen, fillAll, onStart} = window.Page;
  const ENTITIES = {'&amp;': '&', '&lt;': '<', '&gt;': '>', '&#34;': '"', '&#39;': "'"};
  const words = html =>
    html
      .replace(/<[^>]*>/g, '')
      .replace(/&(amp|lt|gt|#34|#39);/g, it => ENTITIES[it])
      .toLowerCase();
  const PER_PAGE = 5;
  const OWN = ['search', 'id', 'page']; // keys of every list, beside its filters
  const count = number => number.toLocaleString('en');

  // Replaces the first cards in `element` by the whole list, with filters, a search and pages.
  //   pack.name    of the list in the URL; pack.fixed  {key: value} that tells it from other lists of this name
  //   pack.keys    [key], each a filter where its values differ; pack.noun  one card, e.g. "flip"
  //   pack.cards   [[id, html, value of keys[0], ...]], html as the page's templates escaped it
  //   pack.more    what is not in the page and where it is, or ''
  const list = (element, pack) => {
    const {name, keys, cards, noun = 'item', fixed = {}, more = ''} = pack;
    const values = keys.map((_, at) => [...new Set(cards.map(card => card[at + 2]))]);
    let chosen = {},
      page = 0,
      texts = null;

    const called = visible([noun, ...Object.values(fixed)].join(', '));
    const controls = make('form', {class: 'controls', role: 'search', 'aria-label': `filter: ${called}`});
    const status = make('p', {class: 'soft status', role: 'status'});
    const body = make('div', {class: 'cards'});
    const pager = make('nav', {class: 'pager', 'aria-label': `pages: ${called}`});
    const selects = new Map();
    keys.forEach((key, at) => {
      if (values[at].length < 2) return;
      const select = make('select', {name: key});
      select.append(make('option', {value: ''}, `all (${count(cards.length)})`));
      const had = new Map();
      cards.forEach(card => had.set(card[at + 2], (had.get(card[at + 2]) || 0) + 1));
      [...had]
        .sort((a, b) => b[1] - a[1])
        .forEach(([value, number]) =>
          select.append(make('option', {value}, `${shorten(visible(value)) || '(none)'} (${count(number)})`)),
        );
      selects.set(key, select);
      controls.append(make('label', {}, make('span', {}, key), select));
    });
    const search = make('input', {type: 'search', name: 'search', autocomplete: 'off', spellcheck: 'false'});
    controls.append(make('label', {}, make('span', {}, 'search'), search));
    controls.append(make('button', {type: 'reset'}, 'clear'));
    if (cards.some(card => card[1].includes('class="covered"'))) controls.append(revealer(body));

    const matching = () => {
      const tests = Object.entries(chosen).filter(([key]) => !OWN.includes(key));
      let found = cards.map((_, at) => at);
      for (const [key, value] of tests) {
        const at = keys.indexOf(key);
        found = at < 0 ? [] : found.filter(index => cards[index][at + 2] === value);
      }
      if (chosen.search) {
        texts ||= cards.map(card => words(card[1]));
        const wanted = chosen.search.toLowerCase();
        found = found.filter(index => texts[index].includes(wanted));
      }
      return found;
    };

    const draw = () => {
      const found = matching();
      const pages = Math.max(Math.ceil(found.length / PER_PAGE), 1);
      page = Math.min(page, pages - 1);
      body.innerHTML = found
        .slice(page * PER_PAGE, (page + 1) * PER_PAGE)
        .map(index => cards[index][1])
        .join('');
      body.dispatchEvent(new CustomEvent('drawn', {bubbles: true}));
      const strange = Object.keys(chosen).filter(key => !keys.includes(key) && !OWN.includes(key));
      status.textContent =
        strange.map(key => `There is no filter ${visible(key)}. `).join('') +
        `${count(found.length)} of ${count(cards.length)}${pages > 1 ? `, page ${page + 1} of ${pages}` : ''}. ${more}`;
      pager.replaceChildren(turn('previous', page - 1, page > 0), turn('next', page + 1, page < pages - 1));
      pager.hidden = pages < 2;
      selects.forEach((select, key) => {
        const value = chosen[key] || '';
        if (![...select.options].some(option => option.value === value)) {
          select.append(make('option', {value}, `${shorten(visible(value))} (0)`));
        }
        select.value = value;
      });
      if (search.value !== (chosen.search || '')) search.value = chosen.search || '';
    };

    const turn = (word, to, can) => {
      const button = make('button', {type: 'button', disabled: !can}, word);
      button.addEventListener('click', () => {
        const {id: _, page: __, ...others} = chosen;
        choose(to ? {...others, page: String(to + 1)} : others);
        controls.scrollIntoView({block: 'start'});
        const same = [...pager.children].find(item => item.textContent === word && !item.disabled);
        (same || pager.querySelector('button:not(:disabled)'))?.focus({preventScroll: true});
      });
      return button;
    };

    const asked = () => Math.max((parseInt(chosen.page, 10) || 1) - 1, 0);
    const choose = (values_, {replace = false} = {}) => {
      chosen = Object.fromEntries(Object.entries(values_).filter(([, value]) => value !== ''));
      page = asked();
      draw();
      state.write(name, {...fixed, ...chosen}, {replace});
    };
    controls.addEventListener('submit', event => event.preventDefault());
    controls.addEventListener('reset', event => {
      event.preventDefault();
      choose({});
    });
    controls.addEventListener('change', event => {
      if (event.target === search) return;
      const {id: _, page: __, ...others} = chosen;
      choose({...others, [event.target.name]: event.target.value});
    });
    search.addEventListener('input', () => {
      const {id: _, page: __, ...others} = chosen;
      choose({...others, search: search.value}, {replace: true});
    });

    element.replaceChildren(controls, status, body, pager);
    draw();

    // Shows what the URL asks for.
    return {
      show(values_) {
        chosen = Object.fromEntries(Object.entries(values_).filter(([key]) => !Object.hasOwn(fixed, key)));
        page = asked();
        const wanted = chosen.id === undefined ? -1 : matching().findIndex(index => cards[index][0] === chosen.id);
        if (wanted >= 0) page = Math.floor(wanted / PER_PAGE);
        draw();
        uncover(element);
        if (wanted < 0) {
          if (chosen.id !== undefined) status.textContent = `No ${noun} ${visible(chosen.id)} is in this page. ${more}`;
          controls.scrollIntoView({block: 'start'});
          return;
        }
        const card = body.children[wanted % PER_PAGE];
        document.querySelectorAll('.item.target').forEach(item => item.classList.remove('target'));
        card.classList.add('target');
        card.tabIndex = -1;
        card.scrollIntoView({block: 'start'});
        card.focus({preventScroll: true});
      },
      has: id => cards.some(card => card[0] === id),
    };
  };

  // One switch for all answers that wait behind a click, those of other pages of the list too.
  const revealer = body => {
    const button = make('button', {type: 'button', 'aria-pressed': 'false'}, 'show all covered answers');
    const apply = () => {
      const open = button.getAttribute('aria-pressed') === 'true';
      body.querySelectorAll('details.covered').forEach(item => {
        item.open = open;
      });
    };
    button.addEventListener('click', () => {
      button.setAttribute('aria-pressed', String(button.getAttribute('aria-pressed') !== 'true'));
      apply();
    });
    body.addEventListener('drawn', apply);
    return button;
  };

  // Lists in the page: <div data-list="NAME" data-pack="ID">first cards</div>. One in a closed <details> waits for it.
  const lists = [];
  const prepare = element => {
    element.prepared ||= unpack(element.dataset.pack).then(pack => list(element, pack));
    return element.prepared;
  };
  const able = (name, values) =>
    lists
      .filter(element => element.dataset.list === name)
      .filter(element =>
        Object.entries(JSON.parse(element.dataset.fixed || '{}')).every(
          ([key, value]) => values[key] === undefined || values[key] === value,
        ),
      );
  const go = async (name, values) => {
    if (!able(name, values).length && name && location.hash.includes('?')) await fillAll();
    const found = able(name, values);
    let target = found[0];
    if (values.id !== undefined) {
      // of several lists, the first that has it
      for (const element of found) {
        if ((await prepare(element)).has(values.id)) {
          target = element;
          break;
        }
      }
    }
    if (target) (await prepare(target)).show(values);
  };

  onStart(async root => {
    const found = [...root.querySelectorAll('[data-list]')],
      open = [];
    lists.push(...found);
    found.forEach(element => whenOpen(element, () => open.push(prepare(element))));
    await Promise.all(open);
    if (root === document) state.follow((name, values) => go(name, values));
  });

  window.Page.list = list;
})();
