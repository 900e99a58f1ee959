// What every page can do beyond its HTML: unpack data, keep its state in the URL, sort tables, print whole. Plain
// script, no request; cards.js and figures.js add lists and plots. Everything shown comes from the page's own packs.
(() => {
  'use strict';

  // ---------------------------------------------------------------- data

  const packs = new Map();

  // The value of a pack (pack.py), by its element's id. A pack is decoded once.
  const unpack = id => {
    if (!packs.has(id)) packs.set(id, decode(id));
    return packs.get(id);
  };

  const decode = async id => {
    const element = document.getElementById(id);
    if (!element) throw new Error(`the page has no pack ${id}`);
    const bytes = Uint8Array.from(atob(element.textContent), character => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
    return JSON.parse(await new Response(stream).text());
  };

  // The twin of text.visible: what hides, reorders or commands is written out.
  const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
  const SHORT = {'\n': '\\n', '\r': '\\r', '\t': '\\t'};
  const visible = (text, {lines = false} = {}) =>
    String(text).replace(UNSEEN, character => {
      if (lines && (character === '\n' || character === '\t')) return character;
      const code = character.codePointAt(0);
      const hex = width => code.toString(16).padStart(width, '0');
      return SHORT[character] || (code < 0x100 ? `\\x${hex(2)}` : code < 0x10000 ? `\\u${hex(4)}` : `\\U${hex(8)}`);
    });

  // An element with attributes and children; texts become text nodes.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) element.setAttribute(name, '');
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };

  const shorten = (text, length = 60) => (text.length > length ? `${text.slice(0, length - 3)}...` : text);

  // ---------------------------------------------------------------- state in the URL: #name?key=value&key=value

  const listeners = [],
    printing = [],
    starting = [];
  const state = {
    read() {
      const hash = location.hash.slice(1);
      const at = hash.indexOf('?');
      const name = at < 0 ? hash : hash.slice(0, at);
      return {name, values: at < 0 ? {} : Object.fromEntries(new URLSearchParams(hash.slice(at + 1)))};
    },
    // The fragment for values; empty ones are left out.
    link(name, values = {}) {
      const said = Object.entries(values).filter(([, value]) => value !== '' && value != null);
      const query = said
        .map(pair => pair.map(part => encodeURIComponent(String(part).toWellFormed())).join('='))
        .join('&');
      return `#${name}${query ? `?${query}` : ''}`;
    },
    // A new entry of the history, or with `replace` the present one changed.
    write(name, values, {replace = false} = {}) {
      const link = state.link(name, values);
      if (link !== location.hash) history[replace ? 'replaceState' : 'pushState'](null, '', link);
    },
    // Calls `listener(name, values)` now and whenever the reader goes elsewhere on the page.
    follow(listener) {
      listeners.push(listener);
      const {name, values} = state.read();
      listener(name, values);
    },
  };
  addEventListener('hashchange', () => {
    const {name, values} = state.read();
    listeners.forEach(listener => listener(name, values));
  });

  // Opens every <details> around an element, so that it can be seen.
  const uncover = element => {
    for (let at = element.closest('details'); at; at = at.parentElement.closest('details')) at.open = true;
  };

  // Calls `act` once the element is in no closed <details>.
  const whenOpen = (element, act) => {
    const shut = () => {
      for (let at = element.parentElement?.closest('details'); at; at = at.parentElement.closest('details')) {
        if (!at.open) return at;
      }
      return null;
    };
    const closed = shut();
    if (!closed) return act();
    closed.addEventListener('toggle', () => whenOpen(element, act), {once: true});
    return undefined;
  };

  // ---------------------------------------------------------------- tables

  // Makes the headers of a table buttons that sort its rows: up, down, as it was. A row of class `reason` stays under
  // the one before it. A cell sorts by its data-value, else by its text; numbers by size, before texts.
  const sortable = table => {
    const body = table.tBodies[0];
    if (!body || body.rows.length < 2) return;
    const groups = [];
    for (const row of body.rows) {
      if (row.classList.contains('reason') && groups.length) groups.at(-1).push(row);
      else groups.push([row]);
    }
    const cell = (row, column) => {
      let at = 0;
      for (const item of row.cells) {
        at += item.colSpan;
        if (column < at) return item.dataset.value ?? (item.colSpan > 1 ? '' : item.textContent.trim());
      }
      return '';
    };
    const number = text => (text.trim() === '' ? NaN : Number(text.replace(/[,\u2009]/g, '').replace('−', '-')));
    const compare = (a, b) => {
      const [x, y] = [number(a), number(b)];
      if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
      return Number.isNaN(x) ? a.localeCompare(b, 'en') : x - y;
    };
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.textContent.trim() || head.hasAttribute('data-unsorted')) return;
      const button = make('button', {type: 'button', class: 'sort'});
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener('click', () => {
        const next = {none: 'ascending', ascending: 'descending', descending: 'none'}[head.ariaSort || 'none'];
        [...table.tHead.rows[0].cells].forEach(item => item.removeAttribute('aria-sort'));
        const sorted = [...groups];
        if (next !== 'none') {
          head.setAttribute('aria-sort', next);
          const sign = next === 'ascending' ? 1 : -1;
          sorted.sort((a, b) => {
            const [x, y] = [cell(a[0], column), cell(b[0], column)];
            return x === '' || y === '' ? (x === '') - (y === '') : sign * compare(x, y);
          });
        }
        body.append(...sorted.flat());
      });
    });
    table.classList.add('sortable');
  };

  // ---------------------------------------------------------------- the page

  // On paper nothing can be opened: all is open but what is covered, and what says that it stays shut.
  let reopened = [];
  addEventListener('beforeprint', () => {
    reopened = [...document.querySelectorAll('details:not([open]):not(.covered):not(.unprinted)')];
    reopened.forEach(item => {
      item.open = true;
    });
    printing.forEach(act => act(true));
  });
  addEventListener('afterprint', () => {
    reopened.splice(0).forEach(item => {
      item.open = false;
    });
    printing.forEach(act => act(false));
  });

  // The element that the URL names, by the browser's own rule.
  const anchor = () => {
    const hash = location.hash.slice(1);
    try {
      return hash ? document.getElementById(hash) || document.getElementById(decodeURIComponent(hash)) : null;
    } catch {
      return null; // no percent-encoding
    }
  };

  // Parts of the page that come in a pack, as HTML that the page's templates made: they are put in when the <details>
  // around them opens, or when `fill` is told to.
  const fill = element => {
    element.filled ||= unpack(element.dataset.body).then(html => {
      element.innerHTML = html;
      return begin(element);
    });
    return element.filled;
  };
  const begin = root => {
    root.querySelectorAll('table[data-sortable]').forEach(sortable);
    root.querySelectorAll('[data-body]').forEach(element => whenOpen(element, () => fill(element)));
    return Promise.all(starting.map(act => act(root)));
  };
  const fillAll = () => Promise.all([...document.querySelectorAll('[data-body]')].map(fill));

  const start = async () => {
    document.documentElement.classList.add('scripted');
    await begin(document);
    let at = '';
    state.follow(async name => {
      if (location.hash === at) return;
      at = location.hash;
      if (at && !at.includes('?') && !anchor()) await fillAll();
      const named = anchor();
      if (!named) return;
      uncover(named);
      if (!document.querySelector(`[data-list="${CSS.escape(name)}"]`)) named.scrollIntoView();
    });
    document.documentElement.dataset.ready = 'yes';
  };
  addEventListener('DOMContentLoaded', start);

  // onPrint(act): act(true) before the page is printed, act(false) after. onStart(act): act(document) when the page is
  // there, act(element) for what is put into it later; what it returns is waited for.
  const onPrint = act => printing.push(act);
  const onStart = act => starting.push(act);
  window.Page = {unpack, visible, shorten, make, state, sortable, uncover, whenOpen, fillAll, onPrint, onStart};
})();
