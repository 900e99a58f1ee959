// Figures: Observable Plot where scripts run, with tips on hover and by the arrow keys.
(() => {
  'use strict';
  const {unpack, visible, make, whenOpen, onPrint} = window.Page;

  let library = null;
  // Runs D3 and Observable Plot from their packs; the page's policy lets these texts run and no others.
  const plotting = () => {
    library ||= (async () => {
      for (const name of ['lib-d3', 'lib-plot']) {
        const script = make('script');
        script.textContent = await unpack(name);
        document.head.append(script);
      }
      return window.Plot;
    })();
    return library;
  };

  const figures = [];
  const PAPER = 640; // pixels of a page of paper

  // Draws `element` (a <figure>) when it comes into sight, and again when its width changes, a <details> around it
  // opens or the page is printed. What stands in [data-static] is shown until then, and where scripts do not run.
  //   draw(Plot, width, data) -> a plot, or {plot, points: [{x, y, text, go}]}: where the arrow keys go, in the order of `order` or x,
  //   and the fragment that Enter leads to. A click leads to that of the datum under the pointer (its field `go`).
  const figure = (element, draw, data = () => null) => {
    const item = {element, draw, data: null, drawn: 0, Plot: null};
    figures.push(item);
    whenOpen(element, () =>
      new IntersectionObserver(
        (entries, observer) => {
          if (!entries.some(entry => entry.isIntersecting)) return;
          observer.disconnect();
          Promise.all([plotting(), data()]).then(([Plot, found]) => {
            [item.Plot, item.data] = [Plot, found];
            new ResizeObserver(() => redraw(item)).observe(element);
            redraw(item);
          });
        },
        {rootMargin: '300px'},
      ).observe(element),
    );
  };

  // Of a figure with a legend, the plot itself.
  const drawing = plot => (plot.tagName === 'svg' ? plot : plot.querySelector('svg:last-of-type'));

  const redraw = (item, width = item.element.clientWidth - 22) => {
    if (!item.Plot || width < 100 || Math.abs(width - item.drawn) < 2) return;
    item.drawn = width;
    const result = item.draw(item.Plot, width, item.data);
    const plot = result.plot || result;
    drawing(plot).setAttribute('role', 'img');
    for (const part of drawing(plot).querySelectorAll('[aria-label]')) {
      part.dataset.mark = part.getAttribute('aria-label'); // no role allows a label here
      part.removeAttribute('aria-label');
    }
    const holder = make('div', {class: 'plotted'}, plot);
    interact(holder, plot, result.points || []);
    const old = item.element.querySelector('.plotted, [data-static]');
    if (old) old.replaceWith(holder);
    else item.element.prepend(holder);
  };

  // Tips on focus: the arrow keys go from point to point, Enter follows its link.
  const interact = (holder, plot, points) => {
    plot.addEventListener('click', () => {
      if (plot.value?.go) location.hash = plot.value.go;
    });
    plot.addEventListener('input', () => {
      plot.style.cursor = plot.value?.go ? 'pointer' : '';
    });
    if (!points.length) return;
    const sorted = [...points].sort((a, b) => (a.order ?? a.x) - (b.order ?? b.x) || a.y - b.y);
    const svg = drawing(plot);
    const said = make('p', {class: 'unseen', 'aria-live': 'polite'});
    let at = -1;
    const along = (name, value, middle = 0.5) => {
      const scale = plot.scale(name);
      return scale.apply(value) + (scale.bandwidth || 0) * middle;
    };
    const show = () => {
      const place = ['x', 'y'].map(name => along(name, sorted[at][name]));
      if (sorted[at].fy !== undefined) place[1] += along('fy', sorted[at].fy, 0);
      const box = svg.getBoundingClientRect();
      const scale = box.width / svg.width.baseVal.value;
      const event = {clientX: box.left + place[0] * scale, clientY: box.top + place[1] * scale, pointerType: 'mouse'};
      for (const kind of ['pointerenter', 'pointermove']) svg.dispatchEvent(new PointerEvent(kind, event));
      said.textContent = visible(sorted[at].text);
    };
    const leave = () => svg.dispatchEvent(new PointerEvent('pointerleave', {pointerType: 'mouse'}));
    const steps = {ArrowRight: 1, ArrowLeft: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity};
    holder.tabIndex = 0;
    holder.setAttribute('role', 'group');
    holder.setAttribute('aria-roledescription', 'figure; arrow keys go from point to point');
    holder.setAttribute('aria-label', holder.querySelector('svg[aria-label]')?.getAttribute('aria-label') || 'figure');
    holder.append(said);
    holder.addEventListener('focus', () => {
      if (at < 0) at = 0;
      if (holder.matches(':focus-visible')) show();
    });
    holder.addEventListener('blur', leave);
    holder.addEventListener('keydown', event => {
      if (event.key === 'Enter' && at >= 0 && sorted[at].go) {
        location.hash = sorted[at].go;
        return;
      }
      if (event.key === 'Escape') {
        leave();
        return;
      }
      if (!(event.key in steps)) return;
      event.preventDefault();
      at = Math.min(Math.max(at + steps[event.key], 0), sorted.length - 1);
      show();
    });
  };

  onPrint(before => figures.forEach(item => (before ? redraw(item, PAPER) : redraw(item))));

  Object.assign(window.Page, {figure, plotting});
})();
