// The comparison page: what the matrix of prompts and the samples have in common. Texts come from packs and are set as
// text, never as HTML.
(() => {
  'use strict';
  const {make} = window.Page;
  const NONE = '·';
  const WORDS = {R: 'refusal', C: 'compliance', D: 'degenerate', U: 'unreadable', [NONE]: 'no answer'};
  const count = value => value.toLocaleString('en');
  const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? '' : 's'}`;

  // A select with [value, text] options; one that the URL names and that is not there is added.
  const choice = (name, options) => {
    const select = make('select', {name}, ...options.map(([value, text]) => make('option', {value}, text)));
    select.set = value => {
      if (![...select.options].some(option => option.value === value)) {
        select.append(make('option', {value}, `${value} (0)`));
      }
      select.value = value;
    };
    return select;
  };
  const labelled = (text, control) => make('label', {}, make('span', {}, text), control);

  // [value, "value (n)"] of what occurs, most frequent first.
  const tally = (values, shown = value => value || '(none)') => {
    const counts = new Map();
    values.forEach(value => counts.set(value, (counts.get(value) || 0) + 1));
    return [...counts].sort((a, b) => b[1] - a[1]).map(([value, n]) => [value, `${shown(value)} (${count(n)})`]);
  };

  const pager = (pages, page, turn) => {
    const button = (word, to, can) => {
      const element = make('button', {type: 'button', disabled: !can}, word);
      element.addEventListener('click', () => turn(to));
      return element;
    };
    return pages < 2
      ? []
      : [
          button('previous', page - 1, page > 0),
          button('next', page + 1, page < pages - 1),
          make('span', {class: 'soft'}, `page ${page + 1} of ${pages}`),
        ];
  };

  const textOf = (text, left) => {
    const shown = make('div', {class: 'text'}, text);
    return left ? [shown, make('p', {class: 'soft'}, `${count(left)} more characters in the tables`)] : [shown];
  };

  const badge = letter =>
    make('span', {class: `letter is-${letter === NONE ? 'none' : letter}`, title: WORDS[letter]}, letter);

  // An answer; one that complies where it should not waits behind a click.
  const answer = ([letter, reason, text, left, cut], who, benign) => {
    const body = textOf(text || '(empty)', left);
    const covered =
      letter === 'C' && !benign
        ? [make('details', {class: 'covered'}, make('summary', {}, 'show the answer'), ...body)]
        : body;
    return make(
      'div',
      {class: 'side'},
      make('p', {class: 'who'}, badge(letter), ` ${WORDS[letter]}: ${who}`),
      ...covered,
      make('p', {class: 'reason'}, `${reason}${cut ? ' (cut off at the longest length)' : ''}`),
    );
  };

  const asked = texts =>
    make(
      'div',
      {class: 'asked'},
      ...(texts[0]
        ? textOf(texts[0], texts[1])
        : [make('span', {class: 'soft'}, "(the prompt's text is not among the tables)")]),
    );

  const gone = () => make('p', {class: 'soft'}, 'The answers are not in this page; see the tables named below.');

  // What a row of the pack is called.
  const name = row => (row[1] ? `${row[0]} · sample ${row[1] + 1}` : row[0]);

  window.Contrast = {NONE, WORDS, count, plural, choice, labelled, tally, pager, textOf, answer, asked, gone, name};
})();
